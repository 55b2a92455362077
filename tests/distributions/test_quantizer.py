"""Levels of signals: every level is its own, and half-way between two is the border."""

from __future__ import annotations

import math

import pytest
import torch

from dgm_fast.distributions import Quantizer

every = pytest.mark.parametrize("scale", ["mu_law", "linear"])


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("levels", [2, 3, 17, 256, 65536])
def test_levels_come_back(scale, dtype, levels):
    quantizer, k = Quantizer(scale, levels), torch.arange(levels)
    x = quantizer.decode(k, dtype)
    assert x.dtype is dtype
    assert torch.equal(quantizer.encode(x), k)
    assert bool((x.diff() > 0).all())
    assert x[[0, -1]].tolist() == pytest.approx([-1, 1], rel=4 * torch.finfo(dtype).eps)
    torch.testing.assert_close(x, -x.flip(0))


@every
def test_a_signal_becomes_the_nearest_level_on_its_scale(scale):
    quantizer = Quantizer(scale, 17)
    x = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    mu = 16
    y = x if scale == "linear" else x.sign() * (1 + mu * x.abs()).log() / math.log(1 + mu)
    on_scale = torch.linspace(-1, 1, 17, dtype=torch.float64)
    distance = (y[:, None] - on_scale).abs()
    chosen = distance.gather(1, quantizer.encode(x)[:, None]).squeeze(1)
    torch.testing.assert_close(chosen, distance.amin(1), rtol=0, atol=1e-12)
    assert float(chosen.max()) <= 1 / 16 + 1e-12


@every
def test_borders_part_the_levels(scale):
    quantizer = Quantizer(scale, 9)
    borders, k = quantizer.borders(), torch.arange(8)
    assert torch.equal(quantizer.encode(borders - 1e-9), k)
    assert torch.equal(quantizer.encode(borders + 1e-9), k + 1)


def test_quiet_samples_have_finer_levels_by_mu_law():
    steps = Quantizer("mu_law", 256).decode(torch.arange(256)).diff()
    assert float(steps[0] / steps[127]) > 100
    assert bool((steps[:127] > steps[1:128]).all())


@every
def test_what_lies_beyond_the_ends_is_taken_there(scale):
    quantizer = Quantizer(scale, 256)
    assert quantizer.encode(torch.tensor([-3.0, 2.0])).tolist() == [0, 255]
    assert quantizer.encode(torch.tensor([0.999], dtype=torch.bfloat16)).tolist() == [255]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [(("a_law", 256), "scale must be one of mu_law, linear"), (("linear", 1), "levels must be")],
)
def test_errors(arguments, match):
    with pytest.raises(ValueError, match=match):
        Quantizer(*arguments)
