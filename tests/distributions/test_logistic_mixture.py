from __future__ import annotations

import pytest
import torch

from dgm_fast.distributions import LogisticMixture
from dgm_fast.distributions.logistic_mixture import plain_log_prob


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_grey_samples_have_the_probabilities_of_their_values():
    params = draw(1, 9, 1, seed=1)
    values = torch.arange(256).view(-1, 1, 1) / 127.5 - 1
    p = LogisticMixture(params.expand(256, -1, -1), 1).log_prob(values).exp()

    count = 40_000
    x = LogisticMixture(params.expand(count, -1, -1), 1).sample(seed=2)
    found = torch.bincount(((x + 1) * 127.5).round().long().flatten(), minlength=256)
    # Pearson's statistic over values that are expected often enough; its deviation is sqrt(2 n).
    often = p * count > 5
    chi_square = ((found - p * count).square() / (p * count))[often].sum()
    degrees = int(often.sum())
    assert abs(chi_square - degrees) < 5 * (2 * degrees) ** 0.5
    assert often.sum() > 50


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_any_number_of_levels_sums_to_one(levels):
    values = torch.arange(levels).double().view(-1, 1, 1) / ((levels - 1) / 2) - 1
    params = 3 * draw(1, 9, 1, seed=1).double()

    log_p = LogisticMixture(params.expand(levels, -1, -1), 1, levels).log_prob(values)

    assert log_p.logsumexp(0).abs() < 1e-13


def test_256_levels_in_plain_pytorch_are_those_of_the_op():
    """The other branch, reached by hand: bins of the same width."""
    x = torch.randint(256, (5, 3, 4), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    params = 2 * draw(5, 20, 4, seed=3)
    expected = LogisticMixture(params, 3).log_prob(x)

    log_p = plain_log_prob(x, params, 256)

    # Sums over 12 values of order ten.
    torch.testing.assert_close(log_p, expected, rtol=1e-5, atol=1e-4)
    assert plain_log_prob(x[:0], params[:0], 256).shape == (0,)


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_of_few_levels_follow_their_probabilities(channels):
    levels, count = 3, 20_000
    values = torch.cartesian_prod(*[torch.arange(3)] * channels).view(-1, channels, 1) - 1.0
    params = draw(1, 2 * (1 + channels * (2 if channels == 1 else 3)), 1, seed=6)
    p = LogisticMixture(params.expand(len(values), -1, -1), channels, levels).log_prob(values).exp()

    x = LogisticMixture(params.expand(count, -1, -1), channels, levels).sample(seed=7)

    found = (x[:, None] == values[None]).all(-1).all(-1).sum(0)
    assert int(found.sum()) == count
    often = p * count > 5
    chi_square = ((found - p * count).square() / (p * count))[often].sum()
    assert chi_square < int(often.sum()) + 5 * (2 * int(often.sum())) ** 0.5


def test_colours_follow_the_channels_before():
    # Red is spread out; green is exactly red's coefficient of it, and blue the sum of both's.
    params = torch.zeros(500, 10, 2)
    params[:, 1] = 0.1  # mean of red
    params[:, 2] = -1.5  # its log-scale
    params[:, 3], params[:, 6], params[:, 9] = 0.5, -0.4, 0.3  # alpha_1, alpha_2, alpha_3
    params[:, 5] = params[:, 8] = -7.0
    a, b, c = torch.tensor([0.5, -0.4, 0.3]).tanh()

    red, green, blue = LogisticMixture(params, 3).sample(seed=3).unbind(1)
    assert red.std() > 0.2
    # A scale of e^-7 seldom moves a value by more than one step.
    for found, expected in ((green, a * red), (blue, b * red + c * green)):
        assert ((found - expected).abs() < 2 / 255).float().mean() > 0.95


def test_samples_are_values_of_eight_bits_and_split_over_ranks():
    params = 3 * draw(6, 20, 4, 3, seed=4)
    whole = LogisticMixture(params, 3).sample(seed=5, sample_offset=7)
    parts = [
        LogisticMixture(params[i:j], 3).sample(seed=5, sample_offset=7 + i)
        for i, j in ((0, 2), (2, 3), (3, 6))
    ]
    assert torch.equal(torch.cat(parts), whole)
    levels = (whole + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-4
    assert whole.min() == -1
    assert whole.max() == 1


def test_temperature_zero_gives_the_heaviest_components_means():
    params = torch.zeros(1, 6, 1)
    params[:, 1] = 2.0  # the second component
    params[:, 2], params[:, 3] = -0.5, 25 / 127.5
    x = LogisticMixture(params, 1).sample(seed=0, temperature=0)
    torch.testing.assert_close(x, torch.full((1, 1, 1), 25 / 127.5), atol=1 / 255, rtol=0)


def test_extreme_uniforms_give_the_outermost_values():
    mixture = LogisticMixture(torch.zeros(2, 3, 1), 1)
    noise = torch.tensor([[0.0, 0.0], [0.0, 1 - 2**-24]]).view(2, 2, 1)
    assert mixture.pick(noise).flatten().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("shape", "channels", "message"),
    [
        ((2, 4, 3), 1, r"params must have shape \(B, K \(1 \+ 1 \* 2\), \*\); got \(2, 4, 3\)"),
        ((2, 12, 3), 3, r"params must have .* \(1 \+ 3 \* 3\), \*\); got \(2, 12, 3\)"),
        ((2, 10, 3), 2, "channels must be 1 or 3; got 2"),
        ((10,), 3, r"got \(10,\)"),
    ],
)
def test_other_shapes_are_refused(shape, channels, message):
    with pytest.raises(ValueError, match=message):
        LogisticMixture(torch.zeros(shape), channels)


def test_too_few_levels_are_refused():
    with pytest.raises(ValueError, match="levels must be at least 2; got 1"):
        LogisticMixture(torch.zeros(1, 3, 1), 1, levels=1)


def test_a_negative_temperature_is_refused():
    with pytest.raises(ValueError, match=r"temperature must be at least 0; got -1"):
        LogisticMixture(torch.zeros(1, 3, 1), 1).sample(temperature=-1)
