"""PixelCNNs are densities, and their samples follow them, around given pixels too."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from dgm_fast.distributions import LogisticMixture
from dgm_fast.families import PixelCNN, PixelCNNConfig
from dgm_fast.families.autoregressive import convolutional_pixel_model
from tests.families.pixel_models import (
    FAMILIES,
    MODELS,
    all_images,
    make_model,
    order_of,
    small,
)

every = pytest.mark.parametrize("family", FAMILIES)
# Events small enough to sum over all images: shape, output, levels.
EVENTS = {
    "binary": ((2, 3), "bernoulli", 2),
    "upside down": ((3, 2), "bernoulli", 2),
    "levels": ((2, 2), "categorical", 5),
    "binary colours": ((3, 1, 2), "bernoulli", 2),
    "colours": ((3, 1, 2), "categorical", 3),
    "mixture": ((2, 2), "logistic_mixture", 4),
    "mixture of colours": ((3, 1, 2), "logistic_mixture", 3),
}
SAMPLES = 8000


def pairs(events):
    """Every family with every event: PixelCNN++ does not order channels."""
    cases = [
        (family, event)
        for family in FAMILIES
        for event in events
        if not (family == "pp" and event in ("binary colours", "colours"))
    ]
    return pytest.mark.parametrize(("family", "event"), cases)


def make(family, event, **changes):
    shape, output, levels = EVENTS[event]
    flip = event == "upside down"
    config = small(family, shape, output=output, levels=levels, flip=flip, **changes)
    return make_model(config, gain=1.5).eval()


@pairs(EVENTS)
@torch.no_grad()
def test_all_images_sum_to_one(family, event):
    model = make(family, event).double()
    images = all_images(model.event_shape, model.levels)

    total = model.log_prob(images).logsumexp(0)

    # Each of at most 1,000 terms sums 6 log-probabilities of order 10 in float64.
    assert abs(total.item()) < 1e-13


@every
@torch.no_grad()
def test_the_256_levels_of_the_op_sum_to_one(family):
    config = small(family, (1, 2), output="logistic_mixture", levels=256)
    model = make_model(config).eval()
    values = torch.arange(256.0).view(256, 1, 1)

    # Whatever the first pixel is, what remains of its probability is that of all second ones.
    for first in (0, 7, 255):
        images = torch.cat([torch.full_like(values, first), values], dim=2)
        parameters = model(images[:1])[:, :, :, 0]
        of_first = LogisticMixture(parameters, 1).log_prob(torch.full((1, 1, 1), first / 127.5 - 1))
        total = model.log_prob(images).logsumexp(0)
        # 256 float32 terms of order ten.
        torch.testing.assert_close(total, of_first[0], rtol=0, atol=2e-5)


def conditional_of(model, parameters, x, feature):
    """The log-probability of one feature, by torch's own functions: parameters (D, P)."""
    mine = parameters[feature]
    output = model.config.output
    if output == "bernoulli":
        return -F.binary_cross_entropy_with_logits(mine[0], x[feature, 0])
    if output == "categorical":
        return mine.log_softmax(0)[int(x[feature, 0])]
    value = x[feature] * (2 / (model.levels - 1)) - 1
    return LogisticMixture(mine[None, :, None], len(value), model.levels).log_prob(
        value[None, :, None]
    )[0]


@pairs(EVENTS)
@torch.no_grad()
def test_log_prob_is_the_sum_of_the_conditionals(family, event):
    """Each of them from an image in which everything not yet drawn is something else."""
    model = make(family, event).double()
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(model.levels, (1, *model.event_shape), generator=generator).double()
    features = model.output.to_features(x.view(1, *model.config.image_shape))[0]

    total, seen = 0.0, torch.zeros_like(features)
    for feature in order_of(model):
        junk = torch.randint(model.levels, features.shape, generator=generator).double()
        mixed = torch.where(seen.bool(), features, junk)
        images = model.output.to_images(mixed[None], *model.config.image_shape[1:])
        parameters = model.output.to_features(model(images.reshape(x.shape)))[0]
        total += conditional_of(model, parameters, features, feature)
        seen[feature] = 1

    torch.testing.assert_close(model.log_prob(x)[0], total)


def chi_square_ok(samples, states, log_prob):
    """Whether counts of states fit their probabilities, rare ones pooled, at five deviations."""
    expected = log_prob.double().exp() * len(samples)
    counts = (samples.flatten(1)[:, None] == states.flatten(1)[None]).all(-1).sum(0).double()
    assert int(counts.sum()) == len(samples)
    often = expected > 5
    expected, counts = (torch.cat([v[often], v[~often].sum()[None]]) for v in (expected, counts))
    statistic = float(((counts - expected) ** 2 / expected.clamp(min=1)).sum())
    degrees = len(expected) - 1
    return statistic < degrees + 5 * math.sqrt(2 * degrees) + 5


@pairs(EVENTS)
@torch.no_grad()
def test_samples_follow_the_probabilities(family, event):
    model = make(family, event)
    states = all_images(model.event_shape, model.levels).float()

    samples = model.sample(SAMPLES, generator=torch.Generator().manual_seed(0))

    log_prob = model.log_prob(states)
    assert chi_square_ok(samples, states, log_prob)
    assert not chi_square_ok(samples, states, log_prob.roll(1))


@pairs(["binary", "upside down", "mixture of colours"])
@torch.no_grad()
def test_completions_follow_the_conditional_probabilities(family, event):
    model = make(family, event)
    C, H, W = model.config.image_shape
    states = all_images(model.event_shape, model.levels).float()
    mask = torch.zeros(H, W, dtype=torch.bool)
    if event == "upside down":
        mask[-1] = True
    else:
        mask.view(-1)[: W - 1] = True
    given = states[len(states) // 3]

    x = model.sample(
        SAMPLES, generator=torch.Generator().manual_seed(1), given=given, given_mask=mask
    )

    whole = mask.expand(C, H, W).reshape(model.event_shape)
    assert torch.equal(x[:, whole], given[whole].expand(SAMPLES, -1))
    fits = (states == given)[:, whole].all(1)
    log_prob = model.log_prob(states[fits]).log_softmax(0)
    assert chi_square_ok(x, states[fits], log_prob)
    assert not chi_square_ok(x, states[fits], log_prob.roll(1))


@pairs(EVENTS)
def test_given_pixels_stay_and_later_ones_do_not_reach_back(family, event):
    model = make(family, event)
    C, H, W = model.config.image_shape
    n, generator = 6, torch.Generator().manual_seed(2)
    given = torch.randint(model.levels, (n, *model.event_shape), generator=generator).float()
    mask = torch.rand(n, H, W, generator=generator) < 0.5
    # Anything may stand where nothing is given.
    whole = mask[:, None].expand(n, C, H, W).reshape(given.shape)
    filled = torch.where(whole, given, -3.0)

    def draw(**options):
        return model.sample(n, generator=torch.Generator().manual_seed(5), **options)

    x, free = draw(given=filled, given_mask=mask), draw()

    assert torch.equal(x[whole], given[whole])
    assert bool((x >= 0).all())
    rows = [H - 1 - i for i in range(H)] if model.config.flip else range(H)
    for sample in range(n):
        places = [(r, c) for r in rows for c in range(W)]
        known = [bool(mask[sample, r, c]) for r, c in places]
        before_any = places[: known.index(True)] if True in known else places
        for r, c in before_any:
            assert torch.equal(x[sample, ..., r, c], free[sample, ..., r, c])
    assert torch.equal(draw(given=given, given_mask=torch.ones(H, W, dtype=torch.bool)), given)


@every
def test_noise_decides_the_sample(family):
    model = make(family, "levels")
    noise = model.draw_noise(6, torch.Generator().manual_seed(4))

    x = model.sample(6, noise=noise)

    assert torch.equal(model.sample((2, 3), noise=noise).flatten(0, 1), x)
    assert torch.equal(model.sample(2, noise=noise[2:4]), x[2:4])
    assert torch.equal(x, model.sample(6, generator=torch.Generator().manual_seed(4)))
    assert not torch.equal(x, model.sample(6, generator=torch.Generator().manual_seed(5)))
    # A sample's noise is its own, whatever the size of its batch.
    assert torch.equal(model.draw_noise(2, torch.Generator().manual_seed(4)), noise[:2])


@every
def test_torch_seeds_govern_and_progress_is_told(family, monkeypatch):
    model, told = make(family, "upside down"), []
    torch.manual_seed(3)
    first = model.sample(4, progress=lambda done, of: told.append((done, of)))
    assert told == [(4, 12), (8, 12), (12, 12)]
    # The images one after another.
    monkeypatch.setattr(convolutional_pixel_model, "_TOGETHER", 1)
    torch.manual_seed(3)
    assert torch.equal(first, model.sample(4, progress=lambda done, of: told.append((done, of))))
    assert told[3:] == [(row, 12) for row in range(1, 13)]


@pytest.mark.parametrize("family", ["gated", "pp"])
@torch.no_grad()
def test_labels_decide_the_density(family):
    config = small(family, (2, 2), output="bernoulli", classes=2)
    model = make_model(config, gain=2.5).eval()
    states = all_images((2, 2), 2).float()
    labels = torch.tensor([0, 1])

    x = model.sample((SAMPLES, 2), labels, torch.Generator().manual_seed(0))

    of_class = [model.log_prob(states, torch.full((16,), k)) for k in range(2)]
    for k in range(2):
        assert abs(of_class[k].logsumexp(0).item()) < 1e-5
        assert chi_square_ok(x[:, k], states, of_class[k])
        assert not chi_square_ok(x[:, k], states, of_class[1 - k])


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_samples_have_the_dtype_of_the_parameters(family, dtype):
    model = make(family, "mixture").to(dtype)
    x = model.sample((2, 3))

    assert x.dtype is dtype
    assert x.shape == (2, 3, 2, 2)
    log_prob = model.log_prob(x.flatten(0, 1))
    assert log_prob.dtype is torch.promote_types(dtype, torch.float32)
    assert bool(log_prob.isfinite().all())


@every
def test_no_samples_and_an_empty_batch(family):
    model = make(family, "mixture")
    empty = torch.zeros(0, 2, 2)
    assert model.sample(0).shape == (0, 2, 2)
    assert model.sample(()).shape == (2, 2)
    assert model.log_prob(empty).shape == (0,)
    assert model.log_prob(empty.long()).shape == (0,)


def test_values_of_any_dtype_and_a_channel_spelt_out():
    model = make("pixelcnn", "levels")
    x = torch.randint(5, (3, 2, 2))
    expected = model.log_prob(x.float())
    assert torch.equal(model.log_prob(x), expected)
    assert torch.equal(model.log_prob(x.to(torch.uint8)), expected)

    twin = PixelCNN(PixelCNNConfig(**(vars(model.config) | {"event_shape": (1, 2, 2)}))).eval()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.log_prob(x[:, None]), expected)
    assert twin.sample(2).shape == (2, 1, 2, 2)


@every
def test_input_errors(family):
    model = make(family, "binary")
    x = torch.zeros(4, 2, 3)
    for wrong, match in (
        (torch.zeros(4, 6), r"x must have shape \(B, \*event_shape = \(2, 3\)\); got \(4, 6\)"),
        (x + 2, r"x must hold values in 0 \.\. 1; got 2"),
        (x + 0.5, "x must hold integers"),
    ):
        with pytest.raises(ValueError, match=match):
            model.log_prob(wrong)
    with pytest.raises(ValueError, match="context must be None without classes"):
        model.log_prob(x, torch.zeros(4).long())


def test_label_errors():
    model = make_model(small("gated", (2, 3), classes=3))
    x = torch.zeros(4, 2, 3)
    with pytest.raises(ValueError, match="context must hold labels of 3 classes; got None"):
        model.sample(4)
    with pytest.raises(TypeError, match="context must be int64 labels"):
        model.log_prob(x, torch.zeros(4))
    with pytest.raises(ValueError, match=r"context must hold values in 0 \.\. 2; got 3"):
        model.log_prob(x, torch.full((4,), 3))
    with pytest.raises(ValueError, match="context must have dims that broadcast"):
        model.sample(4, torch.zeros(3).long())


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"given": torch.zeros(2, 3)}, ValueError, "given_mask must not be None"),
        ({"given_mask": torch.ones(2, 3).bool()}, ValueError, "given must not be None"),
        (
            {"given": torch.zeros(2, 3), "given_mask": torch.ones(2, 3)},
            TypeError,
            "given_mask must be bool; got torch.float32",
        ),
        (
            {"given": torch.zeros(3, 3), "given_mask": torch.ones(2, 3).bool()},
            ValueError,
            r"given must have a shape that broadcasts to \(4, 2, 3\); got \(3, 3\)",
        ),
        (
            {"given": torch.zeros(2, 3), "given_mask": torch.ones(5, 2, 3).bool()},
            ValueError,
            r"given_mask must have a shape that broadcasts to \(4, 2, 3\); got \(5, 2, 3\)",
        ),
        (
            {"given": torch.full((2, 3), 2.0), "given_mask": torch.ones(2, 3).bool()},
            ValueError,
            r"given must hold values in 0 \.\. 1; got",
        ),
        ({"noise": torch.rand(3, 6, 1)}, ValueError, r"noise must have shape \(n, D, N\) with n ="),
        ({"shape": -1}, ValueError, "shape must not hold negative sizes"),
    ],
)
def test_sampling_errors_name_the_argument(options, error, match):
    model = make("pixelcnn", "binary")
    with pytest.raises(error, match=match):
        model.sample(**({"shape": 4} | options))


@pytest.mark.parametrize(
    ("family", "changes", "match"),
    [
        ("pixelcnn", {"event_shape": (4,)}, r"event_shape must be \(H, W\) or \(C, H, W\).*\(4,\)"),
        ("pixelcnn", {"event_shape": (0, 4)}, "event_shape must be"),
        ("pixelcnn", {"output": "poisson"}, "output must be one of bernoulli.*'poisson'"),
        ("pixelcnn", {"levels": 1}, "levels must be at least 2; got 1"),
        ("pixelcnn", {"dropout": 1.0}, r"dropout must be in \[0, 1\); got 1.0"),
        ("pixelcnn", {"first_kernel": 4}, "first_kernel must be odd; got 4"),
        ("pixelcnn", {"channels": 7}, "channels must be a multiple of 2 for 1 ordered"),
        (
            "pixelcnn",
            {"event_shape": (3, 4, 4), "channels": 8},
            "channels must be a multiple of 6 for 3 ordered channels; got 8",
        ),
        ("gated", {"event_shape": (3, 4, 4), "head_channels": 8}, "head_channels must be a mult"),
        ("gated", {"kernel": 1}, "kernel must be at least 3; got 1"),
        ("gated", {"classes": -1}, "classes must be at least 0; got -1"),
        (
            "pixelcnn",
            {"event_shape": (2, 4, 4), "output": "logistic_mixture"},
            "output must not be logistic_mixture for 2 channels",
        ),
        (
            "pp",
            {"event_shape": (3, 4, 4), "output": "bernoulli"},
            "output must be logistic_mixture for 3 channels.*'bernoulli'",
        ),
        ("pp", {"scales": 0}, "scales must be at least 1; got 0"),
        ("pp", {"components": 0}, "components must be at least 1; got 0"),
    ],
)
def test_configuration_errors(family, changes, match):
    with pytest.raises(ValueError, match=match):
        small(family, **({"event_shape": (4, 4)} | changes))


def test_every_family_has_its_class():
    assert [MODELS[kind].config_class for kind in FAMILIES.values()] == list(FAMILIES.values())
