"""The mathematics of `gaussian_rsample_kl`: its divergence in both forms, and its noise."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from dgm_fast import ops
from tests.contract.subjects import each_subject

implementations = each_subject(op="gaussian_rsample_kl")
kernels = each_subject(op="gaussian_rsample_kl", reference=False)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
priors = pytest.mark.parametrize("prior", ["none", "own", "shared"])

UNIT = 2.0**-24  # half an ulp of 1 in float32
NAMES = ("mean", "log_var", "prior_mean", "prior_log_var")


def draw(subject, shape, prior, dtype=torch.float32):
    """Return inputs of order one; a shared prior has the event's shape."""
    generator = torch.Generator().manual_seed(4)
    shapes = {"none": [shape] * 2, "own": [shape] * 4, "shared": [shape] * 2 + [shape[1:]] * 2}
    return {
        name: torch.randn(each, generator=generator).to(subject.device, dtype)
        for name, each in zip(NAMES, shapes[prior], strict=False)
    }


def in_float64(inputs):
    """Return mean, log_var, prior_mean and prior_log_var, those of N(0, I) where there is none."""
    given = [inputs[name].double() for name in NAMES if name in inputs]
    return given if len(given) == 4 else [*given, *(torch.zeros_like(given[0]),) * 2]


def normals(mean, log_var, prior_mean, prior_log_var):
    return Normal(mean, (0.5 * log_var).exp()), Normal(prior_mean, (0.5 * prior_log_var).exp())


def philox(subject, shape, **where):
    drawn = ops.philox_normal(
        (shape[0], math.prod(shape[1:])),
        **where,
        device=subject.device,
        impl=subject.implementation.name,
    )
    return drawn.view(shape)


@priors
@dtypes
@implementations
def test_kl_of_equal_gaussians_is_exactly_zero(subject, dtype, prior):
    inputs = draw(subject, (6, 37), prior, dtype)
    if prior == "none":
        inputs = {name: torch.zeros_like(each) for name, each in inputs.items()}
    else:
        inputs |= {name: inputs[f"prior_{name}"].expand(6, 37) for name in NAMES[:2]}

    _, kl = subject.run({**inputs, "seed": 1})
    assert torch.equal(kl, torch.zeros_like(kl))


def _of_close_and_far_variances(subject, prior):
    """Return Gaussians of equal means whose log-variances are up to 50 apart, one a sample.

    Many are on both sides of where formulas change, and without a prior from 2^-60 on.
    """
    sizes = torch.cat((2 ** torch.linspace(-60, 5.6, 2000), torch.linspace(0.6, 0.8, 501)))
    log_ratio = torch.cat((-sizes, sizes)).to(subject.device)[:, None]
    zeros = torch.zeros_like(log_ratio)
    if prior == "none":
        return {"mean": zeros, "log_var": log_ratio, "seed": 1}

    prior_log_var = zeros + 1.7
    inputs = {"log_var": prior_log_var + log_ratio, "prior_log_var": prior_log_var, "seed": 1}
    return {"mean": zeros, "prior_mean": zeros, **inputs}


@pytest.mark.parametrize("prior", ["none", "own"])
@implementations
def test_no_kl_is_below_zero(subject, prior):
    _, kl = subject.run(_of_close_and_far_variances(subject, prior))
    assert kl.min() >= 0


# Half ulps of an element's kl, as the README derives them for kernels, less what log_ratio's own
# rounding adds.
WITHOUT_A_PRIOR, WITH_A_PRIOR = 43, 97


@pytest.mark.parametrize("prior", ["none", "own"])
@kernels
def test_kl_keeps_its_digits_however_close_the_gaussians_are(subject, prior):
    inputs = _of_close_and_far_variances(subject, prior)
    _, log_var, _, prior_log_var = in_float64(inputs)
    a = (log_var - prior_log_var)[:, 0]
    # float64 itself cancels where a is small: there the series, less than a^3 / 60 of it away.
    series = a.square() * (0.5 + a * (1 / 6 + a / 24))
    exact = 0.5 * torch.where(a.abs() < 1e-3, series, torch.expm1(a) - a)

    _, kl = subject.run(inputs)
    units = WITHOUT_A_PRIOR if prior == "none" else WITH_A_PRIOR + a.abs().clamp(min=3)
    # Subnormal results may be zero.
    assert ((kl - exact).abs() <= units * UNIT * exact + 2.0**-126).all()


@priors
@implementations
def test_kl_is_that_of_torch_distributions(subject, prior):
    inputs = draw(subject, (9, 7, 5), prior)
    q, p = normals(*in_float64(inputs))
    exact = kl_divergence(q, p).sum((1, 2))

    _, kl = subject.run({**inputs, "seed": 1})
    mean, log_var, prior_mean, prior_log_var = in_float64(inputs)
    a = log_var - prior_log_var
    # The reference subtracts a from e^a - 1, and rounds both.
    excess = torch.expm1(a).abs() + a.abs() if subject.is_reference else torch.expm1(a) - a
    magnitude = 0.5 * (excess + ((mean - prior_mean) / p.stddev).square())
    units = WITH_A_PRIOR + a.abs().max() + 35  # one for each term of the sum
    assert ((kl - exact).abs() <= units * UNIT * magnitude.sum((1, 2))).all()


@priors
@implementations
def test_monte_carlo_is_the_difference_of_log_probabilities(subject, prior):
    inputs = draw(subject, (9, 7, 5), prior)
    noise = philox(subject, (9, 7, 5), seed=3)
    mean, log_var, *rest = in_float64(inputs)
    q, p = normals(mean, log_var, *rest)
    z = mean + q.stddev * noise.double()
    exact = (q.log_prob(z) - p.log_prob(z)).sum((1, 2))

    _, kl = subject.run({**inputs, "noise": noise, "kl": "monte_carlo"})
    # Both factors of the squares' difference are below this and within 10 half ulps of it.
    sides = noise.abs() + ((mean - rest[0]).abs() + q.stddev * noise.abs()) / p.stddev
    magnitude = sides.square() + (log_var - rest[1]).abs()
    assert ((kl - exact).abs() <= (24 + 35) * UNIT * 0.5 * magnitude.sum((1, 2))).all()


@priors
@implementations
def test_the_mean_of_monte_carlo_is_the_analytic_kl(subject, prior):
    samples = 20_000
    one = draw(subject, (1, 3), prior)
    inputs = {name: each.expand(samples, 3) for name, each in one.items()}
    q, p = normals(*in_float64(one))

    _, kl = subject.run({**inputs, "seed": 5, "kl": "monte_carlo"})
    # With o = (mean - prior_mean) / prior_std and r = std / prior_std a term is half of
    # (o + r eps)^2 - eps^2 less a constant, and Var eps^2 = 2.
    o, r = (q.mean - p.mean) / p.stddev, q.stddev / p.stddev
    variance = (0.5 * (r.square() - 1).square() + (o * r).square()).sum()
    error = float(kl.double().mean() - kl_divergence(q, p).sum())
    assert abs(error) < 4 * math.sqrt(variance / samples)
    spread = float(kl.double().var())
    # A quarter is far more than 20,000 draws can err by, and far less than a term left out.
    assert spread == pytest.approx(float(variance), rel=0.25)


@priors
@implementations
def test_free_bits_count_each_element_at_least_and_give_it_no_gradient_below(subject, prior):
    bits, shape = 0.5, (40, 7)
    inputs = draw(subject, shape, "none" if prior == "none" else "own")
    each = {name: value.reshape(-1, 1) for name, value in inputs.items()}
    _, parts = subject.run({**each, "seed": 1})
    below = (parts < bits).view(shape)
    assert 0.2 < below.float().mean() < 0.8
    leaves = [value.requires_grad_() for value in inputs.values()]

    _, kl = subject.run({**inputs, "seed": 1, "free_bits": bits})
    _, free = subject.run({**inputs, "seed": 1})
    expected = parts.double().clamp(min=bits).view(shape).sum(1)
    assert ((kl - expected).abs() <= 7 * UNIT * expected).all()

    grads = torch.autograd.grad(kl.sum(), leaves)
    unbounded = torch.autograd.grad(free.sum(), leaves)
    for grad, other in zip(grads, unbounded, strict=True):
        assert torch.equal(grad, other.masked_fill(below, 0))


@implementations
def test_the_noise_is_that_of_philox_normal(subject):
    zeros = torch.zeros(3, 2, 5, device=subject.device)

    for where in ({"seed": 9}, {"seed": -1, "sample_offset": 2**33 - 2, "stream": 2**32 - 1}):
        z, _ = subject.run({"mean": zeros, "log_var": zeros, **where})
        assert torch.equal(z, philox(subject, (3, 2, 5), **where))


@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
@pytest.mark.parametrize("elements", [3, 40, 5000])
@implementations
def test_ranks_with_their_offsets_make_the_batch_of_one(subject, elements, kl):
    inputs = draw(subject, (7, elements), "own")
    whole = subject.run({**inputs, "seed": 5, "sample_offset": 11, "kl": kl})

    parts = [
        subject.run(
            {name: each[i:j] for name, each in inputs.items()}
            | {"seed": 5, "sample_offset": 11 + i, "kl": kl}
        )
        for i, j in ((0, 3), (3, 4), (4, 7))
    ]
    z, kl = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    assert torch.equal(z, whole[0])
    if subject.is_reference and subject.device_type == "cuda":
        # The order of torch's own sums there depends on the size of the batch.
        torch.testing.assert_close(kl, whole[1])
    else:
        assert torch.equal(kl, whole[1])


@dtypes
@implementations
def test_given_noise_is_taken_in_its_own_dtype(subject, dtype):
    noise = philox(subject, (5, 13), seed=2)
    zeros = torch.zeros(5, 13, device=subject.device, dtype=dtype)

    z, kl = subject.run({"mean": zeros, "log_var": zeros, "noise": noise})
    assert torch.equal(z, noise.to(dtype))
    assert torch.equal(kl, torch.zeros_like(kl))

    # Were it rounded to 16 bits, so would this be, to 2^-9 of a noise and more.
    _, kl = subject.run({"mean": zeros + 1, "log_var": zeros, "noise": noise, "kl": "monte_carlo"})
    expected = (0.5 + noise.double()).sum(1)
    assert ((kl - expected).abs() <= 24 * UNIT * (1 + noise.abs()).sum(1)).all()


@implementations
def test_given_noise_is_a_constant(subject):
    noise = torch.ones(2, 3, device=subject.device, requires_grad=True)
    mean = torch.zeros(2, 3, device=subject.device)

    z, kl = subject.run({"mean": mean, "log_var": mean, "noise": noise, "kl": "monte_carlo"})
    assert not z.requires_grad
    assert not kl.requires_grad


@priors
@dtypes
@implementations
def test_log_variances_from_minus_30_to_20_are_finite(subject, dtype, prior):
    spread = torch.linspace(-30, 20, 51, device=subject.device).to(dtype)
    log_var, prior_log_var = torch.broadcast_tensors(spread[:, None], spread)
    ones = torch.ones_like(log_var)
    inputs = {"mean": ones, "log_var": log_var}
    if prior != "none":
        inputs |= {"prior_mean": -ones, "prior_log_var": prior_log_var}
    if prior == "shared":
        inputs |= {name: inputs[name][0] for name in NAMES[2:]}
    leaves = [value.clone().requires_grad_() for value in inputs.values()]
    inputs = dict(zip(inputs, leaves, strict=True))

    for form in ("analytic", "monte_carlo"):
        # float16 ends at 65504, three times e^10.
        z, kl = subject.run({**inputs, "noise": 2 * ones, "kl": form})
        assert z.isfinite().all()
        assert kl.isfinite().all()
        if dtype is not torch.float16:
            grads = torch.autograd.grad(z.float().sum() + kl.sum(), leaves)
            assert all(each.isfinite().all() for each in grads)


@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
@implementations
def test_the_backward_draws_the_same_noise_again(subject, kl):
    where = {"seed": 9, "sample_offset": 2**33 - 2, "stream": 7}
    inputs = draw(subject, (5, 3, 7), "own")
    mean, log_var = (inputs[name].requires_grad_() for name in NAMES[:2])
    eps = philox(subject, (5, 3, 7), **where).double()
    of_z, of_kl = torch.linspace(-2, 2, 105, device=subject.device), torch.arange(5.0) - 1
    of_z, of_kl = of_z.view(5, 3, 7), of_kl.to(subject.device)

    results = subject.run({**inputs, **where, "kl": kl})
    got = torch.autograd.grad(results, (mean, log_var), (of_z, of_kl))

    m, v, pm, pv = (each.detach() for each in in_float64(inputs))
    std, offset, ratio = (0.5 * v).exp(), (m - pm) * (-0.5 * pv).exp(), (0.5 * (v - pv)).exp()
    g, k = of_z.double(), of_kl.double()[:, None, None]
    x = offset + ratio * eps if kl == "monte_carlo" else offset
    slope = x * ratio * eps - 1 if kl == "monte_carlo" else ratio.square() - 1
    expected = (g + k * x * (-0.5 * pv).exp(), 0.5 * (g * std * eps + k * slope))

    size = offset.abs() + ratio * eps.abs() + 1
    magnitudes = (
        g.abs() + k.abs() * size * (-0.5 * pv).exp(),
        0.5 * (g * std * eps).abs() + 0.5 * k.abs() * (size * ratio * (eps.abs() + ratio) + 1),
    )
    # ratio is within 7 half ulps, x within 9 of its terms, and the product of the two within 18.
    for each, exact, magnitude in zip(got, expected, magnitudes, strict=True):
        assert ((each - exact).abs() <= 24 * UNIT * magnitude).all()


@kernels
def test_nothing_is_saved_but_the_arguments(subject):
    inputs = draw(subject, (5, 13), "own")
    seed = torch.tensor(3, device=subject.device)
    for each in inputs.values():
        each.requires_grad_()

    _, kl = subject.run({**inputs, "seed": seed})
    given = {each.data_ptr() for each in (*inputs.values(), seed)}
    saved = [each.data_ptr() for each in kl.grad_fn.saved_tensors if each is not None]
    assert sorted(saved) == sorted(given)


@priors
@kernels
def test_the_gradient_of_the_analytic_kl_alone_does_not_look_at_noise(subject, prior):
    inputs = draw(subject, (5, 700), prior)
    leaves = [each.requires_grad_() for each in inputs.values()]
    noise = torch.full((5, 700), torch.nan, device=subject.device)

    got = [subject.run({**inputs, **source})[1].sum() for source in ({"noise": noise}, {"seed": 1})]
    for each, same in zip(*(torch.autograd.grad(kl, leaves) for kl in got), strict=True):
        assert torch.equal(each, same)
        assert each.isfinite().all()


@pytest.mark.parametrize("kl", ["analytic", "monte_carlo"])
@pytest.mark.parametrize("shape", [(1100, 600), (5, 5000), (3000, 3)], ids=str)
@implementations
def test_a_shared_priors_gradients_are_the_sums_of_the_samples_own(subject, shape, kl, monkeypatch):
    # Rows longer than the C++ kernel draws at a time and than its tasks, and several of Triton's
    # tiles of elements and of samples.
    if subject.is_interpreted:
        # Fewer samples, in more parts than are added at a time, or in parts of several tiles.
        shape = (min(shape[0], 90_000 // shape[1]), shape[1])
        launchers = importlib.import_module("dgm_fast.ops.gaussian_rsample_kl.kernels")
        monkeypatch.setattr(launchers, "_PROGRAMS", 100 if kl == "analytic" else 10)

    inputs = draw(subject, shape, "shared")
    leaves = [inputs[name].requires_grad_() for name in NAMES[2:]]
    weights = torch.linspace(-1, 1, shape[0], device=subject.device)
    _, divergence = subject.run({**inputs, "seed": 8, "kl": kl})
    got = torch.autograd.grad(divergence, leaves, weights)

    eps = philox(subject, shape, seed=8).double()
    m, v, pm, pv = (each.detach() for each in in_float64(inputs))
    offset, ratio, scale = (m - pm) * (-0.5 * pv).exp(), (0.5 * (v - pv)).exp(), (-0.5 * pv).exp()
    k, of_noise = weights.double()[:, None], ratio * eps if kl == "monte_carlo" else 0 * eps
    x = offset + of_noise
    square = x.square() + (0 if kl == "monte_carlo" else ratio.square())
    own = (-k * x * scale, 0.5 * k * (1 - square))

    size = offset.abs() + of_noise.abs()
    sizes = (k.abs() * size * scale, 0.5 * k.abs() * (1 + ratio.square() + size.square()))
    for each, terms, magnitude in zip(got, own, sizes, strict=True):
        # An element's as above, and one for each term of the sum.
        allowed = (24 + shape[0]) * UNIT * magnitude.sum(0)
        assert ((each - terms.sum(0)).abs() <= allowed).all()
