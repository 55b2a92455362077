"""The mathematics of `invertible_1x1`, on every implementation that runs here."""

from __future__ import annotations

import math

import pytest
import torch

from dgm_fast.ops import PLU, actnorm, batched_log_abs_det, invertible_1x1
from tests.contract.subjects import CASES, each_subject

OP = CASES["invertible_1x1"]
UNIT = 2.0**-24
implementations = each_subject(op="invertible_1x1")


def draw_weight(channels, generator):
    rotation = torch.linalg.qr(torch.randn(channels, channels, generator=generator)).Q
    return rotation + 0.1 * torch.randn(channels, channels, generator=generator) / channels


def draw(shape, seed=0):
    """Draw x, a weight, a log-scale and a shift."""
    generator = torch.Generator().manual_seed(seed)
    channels = shape[1]
    x = torch.randn(shape, generator=generator)
    vectors = 0.3 * torch.randn(2, channels, generator=generator)
    return x, draw_weight(channels, generator), *vectors


def on(device, *tensors):
    return tuple(each.to(device) for each in tensors)


@pytest.mark.parametrize("factored", [True, False], ids=["factors", "full"])
@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
@pytest.mark.parametrize("shape", [(2, 1), (2, 5), (2, 4, 3), (2, 3, 2, 2), (1, 2, 2, 1, 3)])
def test_log_det_is_that_of_the_jacobian(shape, inverse, factored):
    x, weight, log_scale, shift = (each.double() for each in draw(shape))
    weight = PLU.from_weight(weight) if factored else weight

    def one(sample):
        y, _ = invertible_1x1(sample[None], weight, log_scale, shift, inverse=inverse)
        return y[0]

    _, log_det = invertible_1x1(x, weight, log_scale, shift, inverse=inverse)
    for sample, found in zip(x, log_det, strict=True):
        jacobian = torch.func.jacrev(one)(sample).reshape(sample.numel(), sample.numel())
        torch.testing.assert_close(found, torch.linalg.slogdet(jacobian).logabsdet)


@implementations
@pytest.mark.parametrize("shape", [(3, 1, 4, 4), (3, 7, 5, 3), (4, 96, 4, 4), (33, 12)])
def test_multiplies_what_is_normalised(subject, shape):
    x, weight, log_scale, shift = draw(shape)
    each = (-1, *[1] * (len(shape) - 2))
    normalised = log_scale.double().exp().view(each) * (x.double() + shift.double().view(each))
    expected = torch.einsum("oc,bc...->bo...", weight.double(), normalised)

    for given in (weight, PLU.from_weight(weight)):
        moved = given._make(on(subject.device, *given)) if isinstance(given, PLU) else given
        x, log_scale, shift = on(subject.device, x, log_scale, shift)
        moved = moved if isinstance(moved, PLU) else moved.to(subject.device)
        y, _ = invertible_1x1(x, moved, log_scale, shift, impl=subject.implementation.name)
        torch.testing.assert_close(y.cpu().double(), expected, rtol=1e-5, atol=1e-5)


def rounding(x, factors, log_scale, shift, inverse=False):
    """Return how far a result may be from the exact one, as the contract derives it."""
    tensors = {"log_scale": log_scale, "shift": shift} if shift is not None else {}
    if shift is None and log_scale is not None:
        tensors = {"log_scale": log_scale}
    given = {"x": x, **factors._asdict(), **tensors}
    given = {
        name: each.cpu().double() if each.is_floating_point() else each.cpu()
        for name, each in given.items()
    }
    terms, _ = OP.terms({"x": x, "inverse": inverse})
    y, log_det = OP.magnitude(**given, inverse=inverse)
    return terms * UNIT * y, terms * UNIT * log_det


@implementations
@pytest.mark.parametrize("shape", [(3, 1, 4, 4), (3, 7, 5, 3), (4, 96, 4, 4), (33, 12)])
@pytest.mark.parametrize("factored", [True, False], ids=["factors", "full"])
def test_the_inverse_undoes_it(subject, shape, factored):
    x, weight, log_scale, shift = on(subject.device, *draw(shape))
    factors = PLU.from_weight(weight)
    weight = factors if factored else weight
    impl = subject.implementation.name

    y, log_det = invertible_1x1(x, weight, log_scale, shift, impl=impl)
    back, negative = invertible_1x1(y, weight, log_scale, shift, inverse=True, impl=impl)

    # The error of y goes through the inverse, which adds its own. A weight in full is undone by its
    # rounded factors, whose product is within 3 u of it, of more than 2 C that a product may err.
    ahead, of_log_det = rounding(x, factors, log_scale, shift)
    allowed = rounding(y, factors, log_scale, shift, inverse=True)[0]
    terms, _ = OP.terms({"x": x, "inverse": True})
    allowed += rounding(ahead, factors, log_scale, None, inverse=True)[0] / (terms * UNIT)
    assert ((back - x).cpu().double().abs() <= allowed).all()
    # log_det of a weight in full is not the factors' sum, but as exact.
    assert ((negative + log_det).cpu().double().abs() <= 2 * of_log_det).all()


@implementations
@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
@pytest.mark.parametrize("factored", [True, False], ids=["factors", "full"])
@pytest.mark.parametrize("shape", [(1, 5), (1, 4, 3), (1, 3, 2, 3)], ids=str)
def test_every_log_det_is_that_of_the_kernels_jacobian(subject, shape, factored, inverse):
    _, weight, log_scale, shift = draw(shape)
    factors = PLU.from_weight(weight)
    count = math.prod(shape[1:])
    x = torch.cat((torch.eye(count), torch.zeros(1, count))).view(-1, *shape[1:])
    given = (factors._make(on(subject.device, *factors)), *on(subject.device, log_scale, shift))
    given = given if factored else (weight.to(subject.device), *given[1:])
    impl = subject.implementation.name

    # The map is affine: columns of its Jacobian are the images of unit vectors less that of 0.
    y, log_det = invertible_1x1(x.to(subject.device), *given, inverse=inverse, impl=impl)
    y = y.cpu().double().flatten(1)
    jacobian = (y[:-1] - y[-1]).t()
    errors, of_log_det = rounding(x, factors, log_scale, shift, inverse)
    errors = errors.flatten(1)

    # d log |det J| = tr(J^-1 dJ).
    slopes = torch.linalg.inv(jacobian).t().abs()
    allowed = (slopes * (errors[:-1] + errors[-1]).t()).sum() + of_log_det.max()
    expected = torch.linalg.slogdet(jacobian).logabsdet
    assert ((log_det.cpu().double() - expected).abs() <= allowed).all()


@implementations
@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
@pytest.mark.parametrize("shape", [(3, 7, 5, 3), (2, 40, 3), (33, 12)], ids=str)
def test_a_normalisation_folded_in_is_one_before(subject, shape, inverse):
    x, weight, log_scale, shift = on(subject.device, *draw(shape))
    factors, impl = PLU.from_weight(weight), subject.implementation.name

    folded, log_det = invertible_1x1(x, factors, log_scale, shift, inverse=inverse, impl=impl)
    if inverse:
        y, of_weight = invertible_1x1(x, factors, inverse=True, impl=impl)
        y, of_scale = actnorm(y, log_scale, shift, inverse=True, impl="reference")
    else:
        y, of_scale = actnorm(x, log_scale, shift, impl="reference")
        y, of_weight = invertible_1x1(y, factors, impl=impl)

    # Both round, the normalisation by itself a sum, an exponential and a product.
    allowed, of_log_det = rounding(x, factors, log_scale, shift, inverse)
    assert ((folded - y).cpu().double().abs() <= 2 * allowed).all()
    parts = (of_weight + of_scale).cpu()
    assert ((log_det.cpu() - parts).double().abs() <= 2 * of_log_det).all()


@implementations
@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
def test_a_permutation_with_signs_is_exact(subject, inverse):
    channels = 37
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(channels, generator=generator)
    sign = torch.randint(2, (channels,), generator=generator) * 2.0 - 1
    zeros = torch.zeros(channels, channels)
    factors = PLU(order, zeros, zeros, torch.zeros(channels), sign)
    factors = factors._make(on(subject.device, *factors))
    x = torch.randn(3, channels, 5, generator=generator)

    given = x.to(subject.device)
    y, log_det = invertible_1x1(given, factors, inverse=inverse, impl=subject.implementation.name)
    signed = sign[:, None] * x
    expected = sign[:, None] * x[:, order.argsort()] if inverse else signed[:, order]
    assert torch.equal(y.cpu(), expected)
    assert log_det.abs().max() == 0


@implementations
def test_factors_and_the_full_weight_train_alike(subject):
    x, weight, log_scale, shift = on(subject.device, *draw((3, 6, 4, 5)))
    gradients = []

    for factored in (True, False):
        full = weight.clone().requires_grad_()
        given = PLU.from_weight(full) if factored else full
        impl = subject.implementation.name
        y, log_det = invertible_1x1(x, given, log_scale, shift, impl=impl)
        loss = (y.square().sum(dim=(1, 2, 3)) / 2 - log_det).mean()
        gradients.append(torch.autograd.grad(loss, full)[0])

    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


def test_a_singular_direction_of_the_factors_takes_an_infinite_log_diag():
    weight = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    assert PLU.from_weight(weight).log_diag.min() == -torch.inf


@pytest.mark.parametrize("channels", [1, 2, 5, 12, 96])
def test_factors_multiply_to_the_weight(channels):
    weight = draw_weight(channels, torch.Generator().manual_seed(0)).double()
    factors = PLU.from_weight(weight)

    torch.testing.assert_close(factors.weight(), weight)
    expected = torch.linalg.slogdet(weight)
    torch.testing.assert_close(factors.log_diag.sum(), expected.logabsdet)
    assert factors.lower.triu().abs().max() == 0
    assert factors.upper.tril().abs().max() == 0
    assert sorted(factors.permutation.tolist()) == list(range(channels))


def test_what_the_factors_do_not_read_has_no_gradient():
    x, weight, *_ = draw((2, 4, 3))
    factors = PLU.from_weight(weight)
    lower, upper = (each + 7 * torch.ones(4, 4) for each in (factors.lower, factors.upper))
    lower, upper = (each.requires_grad_() for each in (lower, upper))
    y, _ = invertible_1x1(x, factors._replace(lower=lower, upper=upper))

    of_lower, of_upper = torch.autograd.grad(y.sum(), (lower, upper))
    assert of_lower.triu().abs().max() == 0
    assert of_upper.tril().abs().max() == 0


def test_log_determinants_of_many_weights_are_each_ones():
    generator = torch.Generator().manual_seed(0)
    weights = [draw_weight(size, generator).requires_grad_() for size in (3, 12, 3, 1, 12)]
    found = batched_log_abs_det(weights)
    alone = torch.stack([torch.linalg.slogdet(each.double()).logabsdet for each in weights])

    torch.testing.assert_close(found.double(), alone)
    for gradients in zip(
        torch.autograd.grad(found.sum(), weights),
        torch.autograd.grad(alone.sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(*gradients)


def test_log_determinants_take_one_factorisation_for_each_size(monkeypatch):
    calls = []
    slogdet = torch.linalg.slogdet
    monkeypatch.setattr(torch.linalg, "slogdet", lambda a: calls.append(a.shape) or slogdet(a))

    batched_log_abs_det([torch.eye(size) for size in (3, 5, 3, 3, 5)])
    assert sorted(calls) == [(2, 5, 5), (3, 3, 3)]
    assert batched_log_abs_det([]).shape == (0,)


def test_a_known_log_determinant_is_not_computed_again(monkeypatch):
    x, weight, *_ = draw((2, 4, 3, 3))
    monkeypatch.setattr(torch.linalg, "slogdet", None)
    _, log_det = invertible_1x1(x, weight, log_abs_det=torch.tensor(0.5))
    assert log_det.tolist() == [4.5, 4.5]


@implementations
def test_the_log_determinant_of_many_pixels_keeps_its_digits(subject):
    size, channels = 256, 3
    log_diag = torch.full((channels,), math.log(1.1))
    eye = torch.eye(channels)
    factors = PLU(torch.arange(channels), eye * 0, eye * 0, log_diag, torch.ones(channels))
    factors = factors._make(on(subject.device, *factors))
    x = torch.zeros(1, channels, size, size, device=subject.device)

    _, log_det = invertible_1x1(x, factors, impl=subject.implementation.name)
    expected = size**2 * log_diag.double().sum()
    torch.testing.assert_close(log_det.cpu().double()[0], expected, rtol=3e-7, atol=0)
