"""WaveNet is a distribution of levels, given labels and features too."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from dgm_fast.distributions import LogisticMixture
from dgm_fast.families import WaveNet
from tests.families.wavenet_models import (
    MIXTURE,
    VARIANTS,
    condition_of,
    example,
    make_model,
    small,
)

variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


@pytest.mark.parametrize("scale", ["mu_law", "linear"])
@pytest.mark.parametrize("options", [{}, {"input": "scalar"}, MIXTURE], ids=["1", "scalar", "mix"])
@torch.no_grad()
def test_all_signals_sum_to_one(scale, options):
    model = make_model(small(levels=4, scale=scale, **options)).double()
    levels = torch.tensor(list(itertools.product(range(4), repeat=4)))
    x = model.quantizer.decode(levels, torch.float64)

    # 256 terms, each of four log-probabilities of order one.
    assert abs(model.log_prob(x).logsumexp(0).item()) < 1e-13


@pytest.mark.parametrize(("levels", "dtype"), [(256, torch.float32), (65536, torch.float64)])
@torch.no_grad()
def test_all_levels_of_a_mixture_sum_to_one(levels, dtype):
    config = small(**MIXTURE, levels=levels, scale="linear", stacks=1, layers=1, channels=2)
    model = make_model(config).to(dtype)
    model.last.bias.chunk(3)[2].fill_(-6.0)
    last = model.quantizer.decode(torch.arange(levels), dtype)
    x = torch.stack([torch.full_like(last, 0.1), last], dim=1)

    total = model.log_prob(x).logsumexp(0)

    # Of the same batch: scales this small show how the parameters were rounded.
    parameters = model(x)[:1, :, 0]
    first = LogisticMixture(parameters, 1, levels).log_prob(
        model.quantizer.scaled(model.quantizer.encode(x[:1, :1]), dtype)
    )
    torch.testing.assert_close(total, first[0], rtol=0, atol=2e-5 if levels == 256 else 1e-9)


@variants
@torch.no_grad()
def test_log_prob_is_the_sum_of_the_conditionals(config):
    """Each of them from a signal in which everything from its sample on is something else."""
    model, inputs = make_model(config).double(), example(config, dtype=torch.float64)
    x, condition = inputs["x"], condition_of(inputs)
    levels = model.quantizer.encode(x)

    total = torch.zeros(len(x), dtype=torch.float64)
    for t in range(x.shape[1]):
        junk = torch.rand(x.shape, dtype=torch.float64) * 2 - 1
        mixed = torch.where(torch.arange(x.shape[1]) < t, x, junk)
        parameters = model(mixed, **condition)[..., t]
        if config.output == "categorical":
            of_level = parameters.log_softmax(1).gather(1, levels[:, t : t + 1])[:, 0]
        else:
            value = model.quantizer.scaled(levels[:, t : t + 1], torch.float64)
            of_level = LogisticMixture(parameters, 1, config.levels).log_prob(value)
        total += of_level

    torch.testing.assert_close(model.log_prob(**inputs), total)


@variants
@torch.no_grad()
def test_rows_in_parts_are_the_rows_at_once(config, monkeypatch):
    model, inputs = make_model(config), example(config)
    whole = model.log_prob(**inputs)
    for places in (1, 2 * 21, 4 * 21):
        monkeypatch.setattr("dgm_fast.families.autoregressive.wavenet._PLACES", places)
        torch.testing.assert_close(model.log_prob(**inputs), whole)


@variants
def test_a_signal_counts_as_its_levels(config):
    model, inputs = make_model(config), example(config)
    rounded = inputs | {"x": model.quantizer.decode(model.quantizer.encode(inputs["x"]))}
    assert torch.equal(model.log_prob(**inputs), model.log_prob(**rounded))
    assert model.log_prob(**inputs).dtype is torch.float32


def test_labels_reach_every_sample():
    config = VARIANTS["labels"]
    model, (x, _) = make_model(config), example(config).values()
    first, second = (model(x, torch.full((6,), label)) for label in (0, 1))
    assert bool((first != second).any(1).all())


@torch.no_grad()
def test_a_label_is_features_that_do_not_change():
    by_label = make_model(small(classes=3))
    by_features = WaveNet(small(features=3, hop=4, upsampling="repeat"))
    weights = by_label.state_dict()
    for name in list(weights):
        if name.endswith("label.weight"):
            moved = weights.pop(name).T.unsqueeze(2)
            weights[name.replace("label", "features")] = moved
    by_features.load_state_dict(weights)
    x, labels = example(by_label.config).values()
    features = torch.nn.functional.one_hot(labels, 3).float()[:, :, None].expand(-1, -1, 6)

    torch.testing.assert_close(by_features(x, features=features), by_label(x, labels))
    # And a change of the features in time does change the parameters.
    assert not torch.allclose(
        by_features(x, features=features * torch.arange(6.0)), by_label(x, labels)
    )


@torch.no_grad()
def test_a_learned_upsampling_begins_as_a_repetition():
    config = small(features=2, hop=4, upsampling="transposed")
    learned, repeating = make_model(config), WaveNet(small(**VARIANTS["features"].__dict__))
    learned.upsample = WaveNet(config).upsample
    weights = {k: v for k, v in learned.state_dict().items() if not k.startswith("upsample")}
    repeating.load_state_dict(weights)
    inputs = example(config)
    torch.testing.assert_close(learned(**inputs), repeating(**inputs))


def test_an_untrained_model_is_broad():
    for config in (VARIANTS["categorical"], VARIANTS["mixture of 256"]):
        torch.manual_seed(0)
        inputs = example(config)
        bits = -WaveNet(config).log_prob(**inputs) / (21 * math.log(2))
        # Near the uniform distribution's, of uniform signals.
        assert abs(bits.mean().item() - math.log2(config.levels)) < 1.5


def test_an_empty_batch():
    model = make_model(small())
    assert model.log_prob(torch.zeros(0, 4)).shape == (0,)
    assert model.log_prob(torch.zeros(0, 4)).requires_grad
    with torch.no_grad():
        assert model.log_prob(torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize(
    ("inputs", "error", "match"),
    [
        ({"x": torch.zeros(5)}, ValueError, r"x must have shape \(B, T\) with T > 0; got \(5,\)"),
        ({"x": torch.zeros(5, 0)}, ValueError, r"x must have shape .* got \(5, 0\)"),
        ({"x": torch.zeros(6, 21).long()}, TypeError, "x must be"),
        ({"x": torch.full((6, 21), 1.5)}, ValueError, r"x must hold samples in \[-1, 1\]; got 1.5"),
        ({"x": torch.full((6, 21), float("nan"))}, ValueError, "x must hold samples"),
        ({"context": None}, ValueError, "context must hold labels of 3 classes; got None"),
        ({"context": torch.zeros(6)}, TypeError, "context must be int64 labels"),
        ({"context": torch.full((6,), 3)}, ValueError, r"context must hold values in 0 \.\. 2"),
        ({"features": None}, ValueError, "features must hold 2 features of each frame; got None"),
        ({"features": torch.zeros(6, 2, 6)}, ValueError, r"features .* at least 7\); got \(6, 2"),
        ({"features": torch.zeros(6, 3, 7)}, ValueError, r"features must have .* got \(6, 3, 7\)"),
        ({"features": torch.zeros(6, 2, 7).long()}, TypeError, "features must be"),
    ],
)
def test_input_errors_name_the_argument(inputs, error, match):
    config = VARIANTS["both"]
    with pytest.raises(error, match=match):
        make_model(config).log_prob(**(example(config) | inputs))


def test_conditions_that_a_model_does_not_have_are_refused():
    model, x = make_model(small()), torch.zeros(2, 5)
    with pytest.raises(ValueError, match="context must be None without classes"):
        model.log_prob(x, torch.zeros(2).long())
    with pytest.raises(ValueError, match="features must be None"):
        model.log_prob(x, features=torch.zeros(2, 2, 5))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"output": "gaussian"}, "output must be one of categorical, logistic_mixture"),
        ({"input": "spectrum"}, "input must be one of one_hot, scalar"),
        ({"upsampling": "linear"}, "upsampling must be one of repeat, transposed"),
        ({"scale": "a_law"}, "scale must be one of mu_law, linear"),
        ({"levels": 1}, "levels must be at least 2"),
        ({"kernel": 1}, "kernel must be at least 2"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"classes": -1}, "classes must be at least 0"),
        ({"hop": 0}, "hop must be at least 1"),
    ],
)
def test_config_errors_name_the_field(options, match):
    with pytest.raises(ValueError, match=match):
        small(**options)
