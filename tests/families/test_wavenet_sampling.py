"""WaveNet's samples are drawn from its conditionals, window by window, and go on from a prefix."""

from __future__ import annotations

import pytest
import torch

from dgm_fast.sampling import naive_sample
from tests.families.wavenet_models import (
    MIXTURE,
    VARIANTS,
    condition_of,
    example,
    make_model,
    small,
)

variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
# Longer than any of the receptive fields, the longest of which is 30.
T = 40


@variants
@torch.no_grad()
def test_windows_give_what_whole_signals_give(config):
    assert config.receptive_field < T - 5
    model = make_model(config).double()
    condition = condition_of(example(config, batch=3, length=T, dtype=torch.float64))
    noise = model.draw_noise(3, T, torch.Generator().manual_seed(0))

    def parameters_of(levels):
        x = model.quantizer.decode(levels, torch.float64)
        return model(x, **condition).transpose(1, 2)

    start = torch.zeros(3, T, dtype=torch.int64)
    expected = naive_sample(parameters_of, model.output.pick, noise, range(T), start)
    x = model.sample(3, length=T, noise=noise, **condition)

    assert torch.equal(model.quantizer.encode(x), expected)
    assert torch.equal(x, model.quantizer.decode(expected, torch.float64))
    assert len(expected.unique()) > 3


@variants
def test_a_beginning_comes_back_and_goes_on(config):
    model, inputs = make_model(config).double(), example(config, 3, T, dtype=torch.float64)
    condition, noise = condition_of(inputs), model.draw_noise(3, T)
    free = model.sample(3, length=T, noise=noise, **condition)

    # Not of the levels, yet it comes back as it is.
    given = inputs["x"][:, :17]
    x = model.sample(3, length=T, noise=noise, given=given, **condition)
    assert torch.equal(x[:, :17], given)
    assert not torch.equal(x[:, 17:], free[:, 17:])
    # A signal's own beginning leads to its own end.
    again = model.sample(3, length=T, noise=noise, given=free[:, :17], **condition)
    assert torch.equal(again, free)
    assert torch.equal(model.sample(3, length=T, given=inputs["x"], **condition), inputs["x"])


@torch.no_grad()
def test_samples_follow_the_probabilities():
    model = make_model(small(levels=4))
    given = torch.tensor([0.3, -0.2, 0.9])
    x = model.sample(20_000, generator=torch.Generator().manual_seed(0), length=4, given=given)

    levels = model.quantizer.decode(torch.arange(4))
    states = torch.cat([given.expand(4, -1), levels[:, None]], dim=1)
    expected = model.log_prob(states).softmax(0)
    counts = model.quantizer.encode(x[:, 3]).bincount(minlength=4)
    # Five standard deviations of a share.
    deviation = 5 * (expected * (1 - expected) / 20_000).sqrt()
    assert bool(((counts / 20_000 - expected).abs() < deviation).all())
    assert float(expected.max() - expected.min()) > 0.1


@variants
def test_noise_decides_the_sample(config):
    model = make_model(config)
    condition = condition_of(example(config, 6, 9))
    noise = model.draw_noise(6, 9, torch.Generator().manual_seed(4))

    x = model.sample(6, length=9, noise=noise, **condition)

    seeded = [torch.Generator().manual_seed(seed) for seed in (4, 5)]
    assert torch.equal(x, model.sample(6, generator=seeded[0], length=9, **condition))
    assert not torch.equal(x, model.sample(6, generator=seeded[1], length=9, **condition))
    # A signal's noise is its own, whatever the size of its batch.
    assert torch.equal(model.draw_noise(2, 9, torch.Generator().manual_seed(4)), noise[:2])


def test_leading_dims_labels_and_progress():
    model, told = make_model(VARIANTS["labels"]), []
    x = model.sample(
        (2, 3),
        torch.tensor([0, 1, 2]),
        length=5,
        given=torch.zeros(2, 1, 2),
        progress=lambda done, of: told.append((done, of)),
    )
    assert x.shape == (2, 3, 5)
    assert told == [(3, 5), (4, 5), (5, 5)]
    assert model.sample((), torch.tensor(0), length=3).shape == (3,)
    assert model.sample(0, torch.zeros(0).long(), length=3).shape == (0, 3)


@pytest.mark.parametrize("options", [{}, MIXTURE], ids=["categorical", "mixture"])
@torch.no_grad()
def test_a_temperature_of_zero_leaves_no_chance(options):
    model = make_model(small(**options))
    cold = [model.sample(4, length=12, temperature=0.0) for _ in range(2)]
    assert torch.equal(cold[0], cold[1])
    assert torch.equal(cold[0], cold[0][:1].expand(4, -1))
    noise = model.draw_noise(50, 12)
    warm, cool = (
        model.sample(50, length=12, noise=noise, temperature=temperature)
        for temperature in (1.0, 0.2)
    )
    assert float(model.log_prob(cool).mean()) > float(model.log_prob(warm).mean())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_samples_are_at_least_float32(dtype):
    model = make_model(VARIANTS["categorical"]).to(dtype)
    x = model.sample(2, length=6, given=torch.full((1, 2), 0.3))
    assert x.dtype is torch.promote_types(dtype, torch.float32)
    assert bool(model.log_prob(x).isfinite().all())


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"shape": -1}, ValueError, "shape must not hold negative sizes"),
        ({"length": 0}, ValueError, "length must be positive; got 0"),
        ({"temperature": -0.5}, ValueError, "temperature must be at least 0; got -0.5"),
        ({"given": torch.zeros(4, 6)}, ValueError, "given must have at most length = 5 samples"),
        ({"given": torch.zeros(3, 2)}, ValueError, r"given must have dims .* got \(3, 2\)"),
        ({"given": torch.full((2,), 2.0)}, ValueError, r"given must hold samples in \[-1, 1\]"),
        ({"given": torch.zeros(2).long()}, TypeError, "given must be"),
        ({"noise": torch.rand(4, 4, 1)}, ValueError, r"noise must have shape \(n, T, N\) = \(4, 5"),
        ({"context": torch.zeros(3).long()}, ValueError, "context must have dims that broadcast"),
        ({"features": torch.zeros(3, 2, 5)}, ValueError, "features must have dims before the last"),
        ({"features": torch.zeros(2, 1)}, ValueError, "features must have shape"),
    ],
)
def test_sampling_errors_name_the_argument(options, error, match):
    model = make_model(VARIANTS["both"])
    good = {"shape": 4, "length": 5, "context": torch.tensor(0), "features": torch.zeros(2, 2)}
    with pytest.raises(error, match=match):
        model.sample(**(good | options))
