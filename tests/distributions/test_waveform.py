"""Outputs of signals pick each level as often as they say it is likely."""

from __future__ import annotations

import pytest
import torch

from dgm_fast.distributions import DiscretizedLogistic, Quantizer, make_waveform_output
from dgm_fast.distributions.discretized_logistic import lowest_log_scale

OUTPUTS = ("categorical", "logistic_mixture")
every = pytest.mark.parametrize("name", OUTPUTS)


def output_of(name, levels=9):
    return make_waveform_output(name, Quantizer("linear", levels), components=2)


def probabilities(output, parameters):
    """Of every level under parameters (P,), (L,)."""
    levels = torch.arange(output.quantizer.levels)[:, None]
    return output.log_prob(parameters.expand(len(levels), -1)[:, :, None], levels).exp()


@every
def test_levels_sum_to_one_and_are_picked_as_often(name):
    output = output_of(name)
    generator = torch.Generator().manual_seed(0)
    parameters = torch.randn(output.parameters, generator=generator, dtype=torch.float64)
    p = probabilities(output, parameters)
    assert abs(p.sum().item() - 1) < 1e-12

    # Uniforms on a grid: a level's share of them is its probability, to a cell for each border.
    n = 400
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    noise = grid[:, None] if name == "categorical" else torch.cartesian_prod(grid, grid)
    picked = output.pick(parameters.expand(len(noise), -1), noise)
    shares = picked.bincount(minlength=9) / len(noise)
    torch.testing.assert_close(shares.double(), p, rtol=0, atol=4 / n)


@every
def test_log_prob_adds_up_over_time(name):
    output = output_of(name)
    parameters = torch.randn(2, output.parameters, 5, dtype=torch.float64)
    levels = torch.randint(9, (2, 5))
    each = [output.log_prob(parameters[..., t : t + 1], levels[:, t : t + 1]) for t in range(5)]
    torch.testing.assert_close(output.log_prob(parameters, levels), torch.stack(each).sum(0))


@every
def test_low_precision_is_computed_in_float32(name):
    output = output_of(name, 256)
    parameters = torch.randn(2, output.parameters, 5).bfloat16()
    levels = torch.randint(256, (2, 5))
    log_p = output.log_prob(parameters, levels)
    assert log_p.dtype is torch.float32
    torch.testing.assert_close(log_p, output.log_prob(parameters.float(), levels))


def test_a_temperature_narrows_categories():
    output = output_of("categorical")
    logits = torch.arange(9.0)[None].expand(1000, -1) / 2
    noise = ((torch.arange(1000) + 0.5) / 1000)[:, None]
    for temperature in (0.5, 2.0):
        shares = output.pick(logits, noise, temperature).bincount(minlength=9) / 1000
        expected = (logits[0] / temperature).softmax(0)
        torch.testing.assert_close(shares, expected, rtol=0, atol=2e-3)
    assert output.pick(logits, noise, 0.0).unique().tolist() == [8]


def test_a_level_of_16_bits_can_have_all_the_mass():
    levels = 65536
    assert lowest_log_scale(256) == lowest_log_scale(2) == -7
    # As many scales wide as a level of 256 is.
    ratio = 2 / (levels - 1) / torch.tensor(lowest_log_scale(levels)).exp().item()
    assert ratio == pytest.approx(2 / 255 * torch.tensor(7.0).exp().item(), rel=1e-6)

    loc = torch.tensor(2 * 40000 / (levels - 1) - 1, dtype=torch.float64)
    logistic = DiscretizedLogistic(loc, torch.tensor(-30.0, dtype=torch.float64), levels)
    p = logistic.log_prob(torch.arange(39998.0, 40003.0, dtype=torch.float64)).exp()
    assert p[2].item() > 0.97
    assert p.sum().item() == pytest.approx(1, abs=1e-9)
