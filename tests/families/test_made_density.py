"""A MADE is a density, and its samples follow it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dgm_fast.families import MADE, MADEConfig

C = 2
BINARY = MADEConfig(10, (24, 24), activation="tanh")
MIXED = replace(BINARY, order="random", num_masks=3, random_connectivity=True, direct=True)

# Each of 1024 terms sums 10 log-probabilities of order 10 in float64: 1e-15 relative each, and
# errors of equal sign at worst.
FLOAT64_ATOL = 1e-13


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden": ()},
        {"direct": True},
        {"hidden": (12, 9, 12), "residual": True},
        {"order": "random"},
        {"order": (4, 9, 0, 3, 1, 8, 2, 7, 5, 6)},
        {"random_connectivity": True},
        {"context_features": C},
    ],
    ids=lambda changes: " ".join(changes) or "plain",
)
def test_all_binary_vectors_sum_to_one(make_model, all_states, changes):
    model = make_model(replace(BINARY, **changes), gain=2.0).double().eval()
    context = torch.randn(C, dtype=torch.float64) if model.config.context_features else None

    total = model.log_prob(all_states(10), context).logsumexp(0)

    assert abs(total.item()) < FLOAT64_ATOL


def test_every_mask_set_and_their_mixture_sum_to_one(make_model, all_states):
    model = make_model(MIXED, gain=2.0).double()
    x = all_states(10)

    model.train()
    of_sets = []
    for step in range(MIXED.num_masks):
        model.training_step_begin(step)
        of_sets.append(model.log_prob(x))
        assert abs(of_sets[-1].logsumexp(0).item()) < FLOAT64_ATOL

    model.eval()
    mixture = model.log_prob(x)
    assert abs(mixture.logsumexp(0).item()) < FLOAT64_ATOL
    torch.testing.assert_close(mixture.exp(), torch.stack(of_sets).exp().mean(0))
    assert all(not torch.allclose(mixture, one) for one in of_sets)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_float32_and_bfloat16_sum_to_one(make_model, all_states, dtype):
    model = make_model(BINARY, gain=2.0).to(dtype).eval()

    log_prob = model.log_prob(all_states(10, dtype=dtype))

    # Whatever a bfloat16 network puts out, the likelihood made of it is float32: sums of 1024
    # terms, each off by about 10 roundings of size 2^-24.
    assert log_prob.dtype is torch.float32
    assert abs(log_prob.double().logsumexp(0).item()) < 1e-5


def test_categorical_sums_to_one(make_model, all_states):
    config = MADEConfig(4, (16,), "categorical", categories=5, order="random", activation="tanh")
    model = make_model(config, gain=2.0).double().eval()
    x = all_states(4, base=5)

    assert abs(model.log_prob(x).logsumexp(0).item()) < FLOAT64_ATOL
    assert torch.equal(model.log_prob(x.long()), model.log_prob(x))
    assert torch.equal(model.log_prob(x.to(torch.uint8)), model.log_prob(x))


@pytest.mark.parametrize("features", [1, 2])
@pytest.mark.parametrize("output", ["gaussian", "gaussian_mixture"])
def test_continuous_densities_integrate_to_one(make_model, output, features):
    config = MADEConfig(features, (8,), output, components=3, order="random", activation="tanh")
    model = make_model(config).double().eval()
    # tanh bounds the parameters: scales stay within e^±2, so steps are a third of the finest
    # scale or less, where the trapezoid rule is exact to 1e-9, and the tails are 6 scales away.
    axis = torch.arange(-45, 45, 0.05 if features == 1 else 0.125, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * features).view(-1, features)

    with torch.no_grad():
        parameters = model(grid)
        total = model.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** features

    log_scale = parameters[..., -(1 if output == "gaussian" else 3) :]
    assert float(log_scale.abs().max()) < (2.9 if features == 1 else 1.9)
    assert total.item() == pytest.approx(1, abs=1e-7)


def test_probabilities_as_data_give_the_expected_log_likelihood(make_model, all_states):
    model = make_model(replace(BINARY, features=1, hidden=())).double()
    certain = model.log_prob(all_states(1))

    blend = model.log_prob(torch.tensor([[0.25]], dtype=torch.float64))

    torch.testing.assert_close(blend[0], 0.75 * certain[0] + 0.25 * certain[1])


def test_loss_is_the_mean_negative_log_likelihood(make_model):
    model = make_model(BINARY)
    x = torch.rand(7, 10).round()

    assert torch.equal(model.loss(x), -model.log_prob(x).mean())
    assert model.loss(x).shape == ()


def test_leading_dims_and_broadcast_context(make_model):
    model = make_model(replace(BINARY, context_features=C)).eval()
    x, context = torch.rand(3, 4, 10).round(), torch.randn(4, C)

    together = model.log_prob(x, context)

    assert model(x, context).shape == (3, 4, 10, 1)
    assert together.shape == (3, 4)
    for i in range(3):
        torch.testing.assert_close(together[i], model.log_prob(x[i], context))
    assert model.sample((3, 4), context).shape == (3, 4, 10)
    assert model.log_prob(x[0, 0], context[0]).shape == ()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((torch.zeros(3, 9),), r"x must have shape \(\*, features = 10\); got \(3, 9\)"),
        ((torch.full((3, 10), 2.0),), r"x must hold values in \[0, 1\]; got 2.0 to 2.0"),
        ((torch.zeros(3, 10), torch.zeros(3, 2)), "context_features = 0 columns"),
    ],
    ids=["width", "range", "context"],
)
def test_input_errors(arguments, match):
    with pytest.raises(ValueError, match=match):
        MADE(BINARY).log_prob(*arguments)


def test_context_errors():
    model = MADE(replace(BINARY, context_features=C))
    x = torch.zeros(3, 10)

    with pytest.raises(ValueError, match="context_features = 2 columns; got None"):
        model.log_prob(x)
    with pytest.raises(ValueError, match=r"\(\*, context_features = 2\); got \(3, 1\)"):
        model.log_prob(x, torch.zeros(3, 1))


SAMPLES = 20_000
# A chi-square of 15 degrees of freedom is above this once in a million seeds.
CHI_SQUARE_15 = 56.5


def chi_square(samples, states, log_prob):
    expected = log_prob.detach().double().exp() * len(samples)
    assert float(expected.min()) > 5
    counts = (samples[:, None] == states[None]).all(-1).sum(0)
    assert int(counts.sum()) == len(samples)
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(
    "config",
    [
        MADEConfig(4, (16,), order="random", activation="tanh"),
        MADEConfig(4, (16,), order="random", num_masks=5, activation="tanh"),
        MADEConfig(2, (16,), "categorical", categories=4, activation="tanh"),
    ],
    ids=["bernoulli", "mixture of mask sets", "categorical"],
)
def test_samples_follow_the_probabilities(make_model, all_states, config):
    model = make_model(config, gain=2.0).eval()
    states = all_states(config.features, 2 if config.output == "bernoulli" else 4, torch.float32)

    samples = model.sample(SAMPLES, generator=torch.Generator().manual_seed(0))

    uniform = torch.full((16,), -math.log(16))
    assert chi_square(samples, states, model.log_prob(states)) < CHI_SQUARE_15
    assert chi_square(samples, states, uniform) > CHI_SQUARE_15


def test_samples_respect_their_context(make_model, all_states):
    config = MADEConfig(4, (16,), context_features=C, activation="tanh")
    model = make_model(config, gain=2.0).eval()
    states = all_states(4, dtype=torch.float32)
    contexts = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])

    samples = model.sample((SAMPLES, 2), contexts, torch.Generator().manual_seed(0))

    for i in range(2):
        own, other = (model.log_prob(states, contexts[j]) for j in (i, 1 - i))
        assert chi_square(samples[:, i], states, own) < CHI_SQUARE_15
        assert chi_square(samples[:, i], states, other) > CHI_SQUARE_15


@pytest.mark.parametrize("output", ["gaussian", "gaussian_mixture"])
def test_continuous_samples_have_uniform_ranks(make_model, output):
    config = MADEConfig(2, (16,), output, components=3, order="random", activation="tanh")
    model = make_model(config).eval()

    x = model.sample(SAMPLES, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        ranks = model.conditional.distribution(model(x)).base_dist.cdf(x)
    for d in range(2):
        counts = torch.histc(ranks[:, d], 16, 0, 1)
        assert float(((counts - SAMPLES / 16) ** 2 / (SAMPLES / 16)).sum()) < CHI_SQUARE_15
    assert abs(float(torch.corrcoef(ranks.T)[0, 1])) < 5 / math.sqrt(SAMPLES)


@pytest.mark.parametrize("config", [BINARY, MIXED], ids=["one set", "mixture"])
def test_a_generator_makes_samples_reproducible(config):
    model = MADE(config).eval()

    def draw(seed):
        return model.sample(50, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))

    torch.manual_seed(3)
    first, second = model.sample(50), model.sample(50)
    torch.manual_seed(3)
    assert torch.equal(first, model.sample(50))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("output", ["bernoulli", "categorical", "gaussian", "gaussian_mixture"])
def test_samples_have_the_dtype_of_the_parameters(output, dtype):
    model = MADE(MADEConfig(3, (8,), output, categories=4), dtype=dtype).eval()
    x = model.sample((2, 3))

    assert x.dtype is dtype
    assert x.shape == (2, 3, 3)
    assert not x.requires_grad
    assert bool(model.log_prob(x).isfinite().all())


def test_no_samples(make_model):
    assert make_model(MIXED).eval().sample(0).shape == (0, 10)
    assert make_model(BINARY).sample(()).shape == (10,)


def test_training_mode_samples_from_the_active_set(make_model, all_states):
    config = MADEConfig(4, (16,), order="random", num_masks=3, activation="tanh", seed=1)
    model = make_model(config, gain=3.0)
    model.training_step_begin(2)
    states = all_states(4, dtype=torch.float32)

    samples = model.sample(SAMPLES, generator=torch.Generator().manual_seed(0))

    assert chi_square(samples, states, model.log_prob(states)) < CHI_SQUARE_15
    assert chi_square(samples, states, model.eval().log_prob(states)) > CHI_SQUARE_15
