"""PixelCNNs train on real digits, alike on every implementation, compiled and under autocast."""

from __future__ import annotations

import copy
import io
import json
from dataclasses import replace

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dgm_fast.families import FAMILIES as MODELS_BY_NAME
from dgm_fast.families import family_of
from dgm_fast.training import train
from dgm_fast.training.data import load_digits
from dgm_fast.training.metrics import baselines_nats, mean_nll_nats
from dgm_fast.training.protocol import DensityModel
from dgm_fast.training.recipes import find_recipe
from tests.families.gradients import loss_and_gradients
from tests.families.pixel_models import FAMILIES, MODELS, make_model, small

every = pytest.mark.parametrize("family", FAMILIES)
# A kind of every output, and of every option that the network sees.
VARIANTS = {
    "pixelcnn": small("pixelcnn", (5, 6)),
    "pixelcnn, colours": small("pixelcnn", (3, 5, 6), output="categorical", levels=4),
    "pixelcnn, mixture": small("pixelcnn", (5, 6), output="logistic_mixture", dropout=0.2),
    "gated": small("gated", (5, 6), output="categorical", levels=4, flip=True),
    "gated, labels": small("gated", (3, 5, 6), classes=3, dropout=0.2),
    "pp": small("pp", (3, 5, 6)),
    "pp, labels": small("pp", (5, 6), output="bernoulli", classes=3, dropout=0.2, scales=1),
}
variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


def example(config, batch=8):
    generator = torch.Generator().manual_seed(1)
    levels = config.make_output().levels
    x = torch.randint(levels, (batch, *config.event_shape), generator=generator).float()
    return (x, torch.arange(batch) % config.classes) if getattr(config, "classes", 0) else (x,)


# The recipes' own models, for a fraction of their time.
@pytest.mark.parametrize(
    ("family", "epochs"), [("pixelcnn", 3), ("gated_pixelcnn", 6), ("pixelcnn_pp", 3)]
)
def test_the_recipe_beats_both_baselines_on_digits(tmp_path, family, epochs):
    recipe, digits = find_recipe(family, "digits"), load_digits("none")
    torch.manual_seed(0)
    model = MODELS_BY_NAME[family](recipe.model)
    training = replace(recipe.train, epochs=epochs, ema_decay=0.9, tensorboard=False, device="cpu")

    train(model, digits, training, tmp_path)

    best = MODELS_BY_NAME[family].from_pretrained(tmp_path)
    nats = mean_nll_nats(best, *digits.split("test"))
    assert nats < min(baselines_nats(digits).values())

    context = torch.arange(20) % 10 if best.classes else None
    samples = best.sample(20, context, torch.Generator().manual_seed(0))
    # The border columns of the digits are empty, the middle is inked: noise has neither.
    assert float(samples[:, :, 0].mean()) < 1 < 4 < float(samples[:, 2:6, 2:6].mean())


@variants
def test_fits_the_training_loop(config):
    assert isinstance(make_model(config), DensityModel)


@variants
def test_loss_is_the_mean_negative_log_likelihood(config):
    model, inputs = make_model(config).eval(), example(config)
    assert torch.equal(model.loss(*inputs), -model.log_prob(*inputs).mean())
    assert model.log_prob(*inputs).shape == (8,)


@variants
def test_saves_and_loads(tmp_path, config):
    model, inputs = make_model(config).eval(), example(config)

    model.save_pretrained(tmp_path)
    loaded = MODELS[type(config)].from_pretrained(tmp_path, impl="reference")

    assert family_of(tmp_path) == model.family
    assert loaded.config == config
    assert loaded.impl == "reference"
    torch.testing.assert_close(loaded.log_prob(*inputs), model.log_prob(*inputs))
    content = json.loads((tmp_path / "config.json").read_text())
    assert set(content["config"]) == set(vars(config))


@variants
def test_every_implementation_trains_alike(config, impl):
    config, inputs = replace(config, dropout=0.0), example(config, batch=16)
    losses = {}
    for name in ("reference", impl):
        torch.manual_seed(0)
        model = MODELS[type(config)](config, impl=name)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        losses[name] = []
        for _ in range(6):
            loss = model.loss(*inputs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.detach())

    assert losses["reference"][-1] < losses["reference"][0]
    torch.testing.assert_close(losses[impl], losses["reference"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["pixelcnn, mixture", "gated, labels", "pp, labels"])
def test_fullgraph_equals_eager(name):
    torch._dynamo.reset()
    config = VARIANTS[name]
    model, inputs = make_model(config), example(config)
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True)

    expected = loss_and_gradients(model, *inputs)
    actual = loss_and_gradients(model, *inputs, function=compiled)

    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@variants
def test_autocast_keeps_likelihoods_in_float32(config):
    model, inputs = make_model(replace(config, dropout=0.0)), example(config)
    exact, _ = loss_and_gradients(model, *inputs)

    with torch.autocast("cpu", torch.bfloat16):
        assert model(*inputs).dtype is torch.bfloat16
        loss, gradients = loss_and_gradients(model, *inputs)

    assert loss.dtype is torch.float32
    assert all(g.dtype is torch.float32 and bool(g.isfinite().all()) for g in gradients)
    # Parameters carry a few bfloat16 roundings each into a mean over pixels.
    torch.testing.assert_close(loss, exact, rtol=4 * 2**-8, atol=0)


@every
def test_dropout_acts_in_training_only(family):
    config = small(family, (5, 6), output="bernoulli", dropout=0.5)
    model, (x,) = make_model(config), example(config)

    assert not torch.equal(model.log_prob(x), model.log_prob(x))
    model.eval()
    assert torch.equal(model.log_prob(x), model.log_prob(x))


@variants
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_are_equal_and_independent(config, way):
    model, inputs = make_model(config).eval(), example(config)
    expected = model.log_prob(*inputs)

    if way == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)

    assert torch.equal(twin.log_prob(*inputs), expected)
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert torch.equal(model.log_prob(*inputs), expected)


@every
def test_an_average_of_the_weights_is_a_model(family):
    config = small(family, (5, 6), output="bernoulli")
    model, (x,) = make_model(config), example(config)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    average.update_parameters(model)
    twin = average.module.eval()

    assert torch.equal(twin.log_prob(x), model.eval().log_prob(x))
    assert twin.sample(2).shape == (2, 5, 6)


@every
def test_device_and_dtype_of_construction(family):
    config = small(family, (5, 6), output="bernoulli")
    on_meta = MODELS[type(config)](config, device="meta", dtype=torch.float64)
    with torch.device("meta"):
        by_default = MODELS[type(config)](config)

    assert {p.dtype for p in on_meta.parameters()} == {torch.float64}
    for model in (on_meta, by_default):
        assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}


@every
def test_the_state_dict_is_the_same_for_all_implementations(family):
    config = small(family, (5, 6))
    names = [list(make_model(config, impl=impl).state_dict()) for impl in ("auto", "reference")]
    assert names[0] == names[1]
    assert all(name.endswith(("weight", "bias")) for name in names[0])


@pytest.mark.parametrize("data", ["digits", "mnist"])
@pytest.mark.parametrize("family", ["pixelcnn", "gated_pixelcnn", "pixelcnn_pp"])
def test_recipes_have_an_output_for_every_view_of_integers(family, data):
    levels = {"digits": 17, "mnist": 256}[data]
    for view, expected in (("static", 2), ("dynamic", 2), ("none", levels)):
        recipe = find_recipe(family, data, view)
        assert recipe.data.binarization == view
        assert recipe.model.make_output().levels == expected
    with pytest.raises(ValueError, match="binarization must not be dequantized"):
        find_recipe(family, data, "dequantized")
