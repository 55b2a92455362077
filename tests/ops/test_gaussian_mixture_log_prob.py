"""The mathematics of `gaussian_mixture_log_prob`, on every implementation that runs here."""

from __future__ import annotations

import importlib
import itertools
import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from dgm_fast.ops import gaussian_mixture_log_prob
from tests.contract.subjects import CASES, each_subject

NAMES = ("z", "means", "log_vars", "log_weights")
UNIT = 2.0**-24
implementations = each_subject(op="gaussian_mixture_log_prob")
kernels = each_subject(op="gaussian_mixture_log_prob", reference=False)


def draw(rows, components, dims, seed=0):
    """Draw z, means, log-variances and normalised log-weights."""
    generator = torch.Generator().manual_seed(seed)
    z, means, log_vars = (
        torch.randn(count, dims, generator=generator) for count in (rows, components, components)
    )
    weights = torch.randn(components, generator=generator).log_softmax(dim=0)
    return z, means, 0.5 * log_vars, weights


def run(subject, *tensors):
    moved = (each.to(subject.device) for each in tensors)
    return gaussian_mixture_log_prob(*moved, impl=subject.implementation.name)


def by_torch(z, means, log_vars, log_weights):
    scales = (0.5 * log_vars.double()).exp().expand_as(means)
    components = Independent(Normal(means.double(), scales), 1)
    mixture = MixtureSameFamily(Categorical(logits=log_weights.double()), components)
    return mixture.log_prob(z.double())


@implementations
@pytest.mark.parametrize("sizes", [(5, 1, 1), (9, 7, 3), (40, 70, 33), (3, 600, 5)], ids=str)
def test_equals_torchs_mixture(subject, sizes):
    given = draw(*sizes)
    found = run(subject, *given).cpu()
    torch.testing.assert_close(found.double(), by_torch(*given), rtol=1e-5, atol=1e-5)


@implementations
@pytest.mark.parametrize("dims", [1, 3, 70])
def test_one_component_is_a_gaussian(subject, dims):
    z, mean, log_var, _ = draw(9, 1, dims)
    found = run(subject, z, mean, log_var, torch.zeros(1)).cpu().double()

    normal = Normal(mean.double(), (0.5 * log_var.double()).exp())
    terms = normal.log_prob(z.double())
    # A sum of dims terms, each of a distance and a constant; their roundings as the cases count.
    counted, _ = CASES["gaussian_mixture_log_prob"].terms({"z": z, "means": mean})
    distances = (z - mean).double().square() * (-log_var.double()).exp()
    absolute = 0.5 * (distances + log_var.double().abs() + math.log(2 * math.pi)).sum(dim=1)
    assert ((found - terms.sum(dim=1)).abs() <= counted * UNIT * (1 + absolute)).all()


@implementations
@pytest.mark.parametrize("distance", [1e2, 1e6, 1e15])
def test_far_from_every_component_it_is_finite_and_right(subject, distance):
    # Densities there are 0 in any arithmetic; their logarithms are not.
    z, means, log_vars, log_weights = draw(5, 40, 3)
    given = (distance + z, means, log_vars, log_weights)
    leaves = tuple(each.to(subject.device).requires_grad_() for each in given)
    found = gaussian_mixture_log_prob(*leaves, impl=subject.implementation.name)

    expected = by_torch(*given)
    counted, _ = CASES["gaussian_mixture_log_prob"].terms({"z": z, "means": means})
    assert ((found.cpu().double() - expected) / expected).abs().max() <= 2 * counted * UNIT
    for gradient in torch.autograd.grad(found.sum(), leaves):
        assert gradient.isfinite().all()


@implementations
def test_the_shares_of_a_row_add_to_its_gradient(subject):
    given = [each.to(subject.device).requires_grad_() for each in draw(70, 150, 5)]
    grad = torch.linspace(-1, 2, 70, device=subject.device)
    log_p = gaussian_mixture_log_prob(*given, impl=subject.implementation.name)
    (of_weights,) = torch.autograd.grad(log_p, given[3], grad)

    # Each share is within its exponent's rounding, and the rest are sums of 70 and of 150.
    counted, _ = CASES["gaussian_mixture_log_prob"].terms({"z": given[0], "means": given[1]})
    largest = (1 + log_p.abs().max()).item()
    allowed = (2 * counted * largest + 220) * UNIT * grad.abs().sum().item()
    assert (of_weights.double().sum() - grad.double().sum()).abs().item() <= allowed


@kernels
def test_pieces_of_the_rows_add_to_the_gradients_of_all(subject, monkeypatch):
    if subject.implementation.name != "triton":
        pytest.skip("the C++ kernel keeps the shares of a block of rows alone")

    one = (each.to(subject.device) for each in draw(1, 1, 1))
    subject.run(dict(zip(NAMES, one, strict=True)))
    launchers = importlib.import_module("dgm_fast.ops.gaussian_mixture_log_prob.kernels")
    given = [each.to(subject.device).requires_grad_() for each in draw(50, 30, 4)]

    def gradients():
        log_p = gaussian_mixture_log_prob(*given, impl="triton")
        return torch.autograd.grad(log_p.sum(), given)

    at_once = gradients()
    monkeypatch.setattr(launchers, "_SHARES", 30 * 7)
    # The same terms in another order.
    for one, other in zip(at_once, gradients(), strict=True):
        torch.testing.assert_close(one, other)


@implementations
def test_integrates_to_one(subject):
    _, means, log_vars, log_weights = draw(1, 9, 1)
    step = 0.01
    z = torch.arange(-20, 20, step)[:, None]
    total = run(subject, z, means, log_vars, log_weights).exp().sum() * step
    assert total.item() == pytest.approx(1, abs=1e-5)


@implementations
def test_weights_are_taken_as_they_are(subject):
    z, means, log_vars, log_weights = draw(6, 5, 3)
    lifted = run(subject, z, means, log_vars, log_weights + 2.5)
    plain = run(subject, z, means, log_vars, log_weights)
    torch.testing.assert_close(lifted, plain + 2.5)


@implementations
def test_a_component_of_no_weight_is_left_out(subject):
    z, means, log_vars, log_weights = draw(6, 5, 3)
    log_weights[2] = -math.inf
    kept = [0, 1, 3, 4]

    found = run(subject, z, means, log_vars, log_weights)
    without = run(subject, z, means[kept], log_vars[kept], log_weights[kept])
    torch.testing.assert_close(found, without)


@implementations
def test_gradients_are_the_responsibilities(subject):
    z, means, log_vars, log_weights = (
        each.to(subject.device).requires_grad_() for each in draw(7, 11, 4)
    )
    name = subject.implementation.name
    log_p = gaussian_mixture_log_prob(z, means, log_vars, log_weights, impl=name)
    of_z, of_means, of_weights = torch.autograd.grad(log_p.sum(), (z, means, log_weights))

    # By Bayes' rule, from the components one at a time.
    with torch.no_grad():
        joint = torch.stack(
            [
                gaussian_mixture_log_prob(
                    z, means[k : k + 1], log_vars[k : k + 1], log_weights[k : k + 1], impl=name
                )
                for k in range(11)
            ],
            dim=1,
        )
        shares = joint.softmax(dim=1)
        pulls = (means - z[:, None]) * (-log_vars).exp()

    torch.testing.assert_close(of_weights, shares.sum(dim=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_z, (shares[..., None] * pulls).sum(dim=1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        of_means, -(shares[..., None] * pulls).sum(dim=0), rtol=1e-4, atol=1e-4
    )


@kernels
@pytest.mark.parametrize("offset", [100.0, 10_000.0])
def test_a_common_shift_moves_nothing(subject, offset):
    z, means, log_vars, log_weights = draw(6, 20, 8)
    # Multiples of 1/64 keep their differences exact after the shift.
    z, means = ((64 * each).round() / 64 for each in (z, means))

    near = run(subject, z, means, log_vars, log_weights)
    far = run(subject, z + offset, means + offset, log_vars, log_weights)
    assert torch.equal(near, far)


@pytest.mark.parametrize("shape", [(1, 3), (5, 1), (1, 1)], ids=str)
def test_shared_variances_are_those_repeated(shape):
    z, means, log_vars, log_weights = draw(6, 5, 3)
    shared = log_vars[: shape[0], : shape[1]].clone().requires_grad_()
    repeated = shared.detach().expand(5, 3).clone().requires_grad_()

    results = [gaussian_mixture_log_prob(z, means, v, log_weights) for v in (shared, repeated)]
    torch.testing.assert_close(*results)
    of_shared = torch.autograd.grad(results[0].sum(), shared)[0]
    of_repeated = torch.autograd.grad(results[1].sum(), repeated)[0].sum_to_size(shape)
    torch.testing.assert_close(of_shared, of_repeated)


@pytest.mark.parametrize("place", range(4))
def test_a_wider_argument_widens_the_result(place):
    given = list(draw(3, 4, 2))
    given[place] = given[place].double()
    assert gaussian_mixture_log_prob(*given).dtype == torch.float64
    assert gaussian_mixture_log_prob(*(each.bfloat16() for each in draw(3, 4, 2))).dtype == (
        torch.float32
    )


def test_expectation_maximisation_climbs():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-3.0, 0.0], [3.0, 1.0], [0.0, 4.0]])
    labels = torch.randint(3, (300,), generator=generator)
    z = centres[labels] + torch.randn(300, 2, generator=generator)
    means = z[:3].clone().requires_grad_()
    log_weights = torch.full((3,), -math.log(3)).requires_grad_()
    found = []

    for _ in range(10):
        log_p = gaussian_mixture_log_prob(z, means, torch.zeros(1, 1), log_weights)
        found.append(log_p.mean().item())
        counts, pulls = torch.autograd.grad(log_p.sum(), (log_weights, means))
        # At unit variance, the mean of a component's share is its old mean and its pull's.
        means = (means + pulls / counts[:, None]).detach().requires_grad_()
        log_weights = (counts / 300).log().detach().requires_grad_()

    assert all(later >= sooner - 1e-5 for sooner, later in itertools.pairwise(found))
    assert found[-1] > found[0]
