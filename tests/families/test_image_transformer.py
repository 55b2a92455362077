"""The transformer over pixels is a density of images, and its cached samples are the naive ones."""

from __future__ import annotations

import pytest
import torch

from dgm_fast.families import FAMILIES, ImageTransformer, ImageTransformerConfig
from dgm_fast.training.data import load_digits
from tests.families.pixel_models import all_images, before, naive, order_of

SIZES = {"layers": 2, "heads": 2, "width": 8}
VARIANTS = {
    "levels": ImageTransformerConfig((2, 3), "categorical", 3, **SIZES),
    "binary, upside down": ImageTransformerConfig((3, 2), flip=True, dropout=0.3, **SIZES),
    "colours": ImageTransformerConfig((3, 1, 2), "categorical", 3, **SIZES),
    "labels": ImageTransformerConfig((2, 3), "categorical", 3, classes=2, **SIZES),
}
variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


def make_model(config, **options):
    torch.manual_seed(0)
    model = ImageTransformer(config, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=float("norm" in name), std=0.3 if "norm" in name else 0.5)
    return model.eval()


def labels(config, batch):
    return torch.arange(batch) % config.classes if config.classes else None


def images(config, batch, seed=1):
    generator = torch.Generator().manual_seed(seed)
    levels = 2 if config.output == "bernoulli" else config.levels
    return torch.randint(levels, (batch, *config.event_shape), generator=generator)


@variants
@torch.no_grad()
def test_all_images_sum_to_one(config):
    model = make_model(config).double()
    states = all_images(config.event_shape, model.levels)
    for label in range(max(1, config.classes)):
        context = torch.full((len(states),), label) if config.classes else None
        assert model.log_prob(states, context).exp().sum().item() == pytest.approx(1, abs=1e-9)


@variants
@torch.no_grad()
def test_pixels_depend_on_all_pixels_before_and_on_no_other(config):
    model, context = make_model(config).double(), labels(config, 4)
    C, H, W = config.image_shape
    x = images(config, 4).view(4, C, H, W).double()
    expected = before(H, W, C, C)
    order = torch.tensor(order_of(model))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))

    def features_of(x):
        return model.output.to_features(model._run(x, context))

    base, seen = features_of(x), model.output.to_features(x)
    for changed in range(C * H * W):
        other = seen.clone()
        other[:, changed] = (other[:, changed] + 1) % model.levels
        moved = (features_of(model.output.to_images(other, H, W)) != base).any(2).any(0)
        assert torch.equal(moved[order], expected[:, place[changed]])


@variants
@torch.no_grad()
def test_the_cache_draws_what_passes_of_the_network_draw(config):
    model, context = make_model(config), labels(config, 6)
    noise = model.draw_noise(6, torch.Generator().manual_seed(0))
    told = []
    x = model.sample(6, context, noise=noise, progress=lambda *done: told.append(done))
    assert torch.equal(x, naive(model, noise, context).reshape(x.shape))
    assert told == [(t, model._features) for t in range(1, model._features + 1)]
    assert len(x.unique()) == model.levels
    # A sample is its own in a batch of any size.
    some = None if context is None else context[:2]
    assert torch.equal(model.sample(2, some, noise=noise[:2]), x[:2])


@variants
@torch.no_grad()
def test_given_pixels_stay_and_the_others_follow_them(config):
    model, context = make_model(config), labels(config, 6)
    _C, H, W = config.image_shape
    noise, given = model.draw_noise(6), images(config, 6)
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(6, H, W, generator=generator) < 0.5
    # One that is given to all, in the midst, and what is not given may hold anything.
    mask[:, 0, W // 2] = True
    anything = given.float().where(mask.view(6, *[1] * (given.ndim - 3), H, W), torch.nan)
    x = model.sample(6, context, given=anything, given_mask=mask, noise=noise)

    images_given = anything.reshape(6, *config.image_shape)
    expected = naive(model, noise, context, images_given, mask)
    assert torch.equal(x, expected.reshape(x.shape))
    kept = mask.view(6, *[1] * (given.ndim - 3), H, W).expand_as(given)
    assert torch.equal(x[kept].long(), given[kept])
    assert not torch.equal(x, model.sample(6, context, noise=noise))


@torch.no_grad()
def test_a_temperature_sharpens_every_pixel():
    model = make_model(VARIANTS["levels"])
    noise = model.draw_noise(6, torch.Generator().manual_seed(0))
    for temperature in (0.0, 0.5):
        x = model.sample(6, noise=noise, temperature=temperature)
        assert torch.equal(x, naive(model, noise, temperature=temperature).reshape(x.shape))


@variants
def test_gradients_reach_every_parameter(config):
    model, x = make_model(config).train(), images(config, 5)
    model.loss(x, labels(config, 5)).backward()
    for name, parameter in model.named_parameters():
        assert bool((parameter.grad != 0).any()), name


@variants
def test_saved_and_loaded_it_is_the_same(config, tmp_path):
    model, x, context = make_model(config), images(config, 3), labels(config, 3)
    model.save_pretrained(tmp_path)
    again = FAMILIES["image_transformer"].from_pretrained(tmp_path)
    assert again.config == config
    assert torch.equal(again.log_prob(x, context), model.log_prob(x, context))


def test_256_levels_of_narrow_weights_are_told_apart():
    config = ImageTransformerConfig((1, 2), "categorical", 256, **SIZES)
    model = make_model(config).bfloat16()
    x = torch.arange(256)[:, None, None].expand(-1, 1, 2)
    logits = model(x)[..., 1]
    assert len(logits.unique(dim=0)) == 256
    assert model.log_prob(x).dtype is torch.float32


def test_a_few_digits_are_learnt_by_heart():
    digits = load_digits("none")
    torch.manual_seed(0)
    config = ImageTransformerConfig((8, 8), "categorical", 17, classes=10, **SIZES | {"width": 32})
    model = ImageTransformer(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows, of_rows = digits.split("train", 5)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = model.loss(rows.view(-1, 8, 8), of_rows)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(64 * 2.83, rel=0.02)
    assert losses[-1] < 0.5 * losses[0]


def test_a_sampler_filters_logits_alone():
    grey, binary = make_model(VARIANTS["levels"]), make_model(VARIANTS["binary, upside down"])
    sampler = grey.sampler()
    cold = sampler.draw(sampler.start(4), 6, temperature=0.0)[0]
    assert torch.equal(cold, cold[:1].expand(4, -1))
    with pytest.raises(ValueError, match="must not be given without logits of all 2 tokens"):
        binary.sampler().draw(binary.sampler().start(4), 6, top_k=1)


def test_pixels_are_tokens_of_one_value_each():
    with pytest.raises(ValueError, match="output must be bernoulli or categorical"):
        ImageTransformerConfig((4, 4), "logistic_mixture")
    with pytest.raises(ValueError, match="width must be a multiple of heads = 4; got 30"):
        ImageTransformerConfig((4, 4), width=30)
    with pytest.raises(ValueError, match="classes must be at least 0; got -1"):
        ImageTransformerConfig((4, 4), classes=-1)
