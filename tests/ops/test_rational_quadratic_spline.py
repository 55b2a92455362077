"""The mathematics of the spline, and its peers'; what every op owes is in the contract."""

from __future__ import annotations

import importlib
import math
import sys

import pytest
import torch
import torch.nn.functional as F

from dgm_fast import ops
from dgm_fast.ops.rational_quadratic_spline import rounding
from dgm_fast.ops.rational_quadratic_spline.cases import CASES
from tests.contract.budget import budget
from tests.contract.inputs import make
from tests.contract.measures import assert_within_budget, backward
from tests.contract.subjects import each_subject, find_case

implementations = each_subject(op="rational_quadratic_spline")
kernels = each_subject(op="rational_quadratic_spline", reference=False)


def parameters(*sizes, bins=8, scale=1.0, ends=-1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shape = (*sizes, 3 * bins + ends)
    drawn = scale * torch.randn(shape, generator=generator)
    return drawn.to(dtype).split((bins, bins, bins + ends), dim=-1)


def spread(rows, columns):
    # Numbers of float32, whatever the dtype.
    return torch.linspace(-4, 4, rows * columns).double().reshape(rows, columns)


def named(x, widths, heights=None, derivatives=None, **options):
    tensors = {"x": x, "widths": widths, "heights": heights, "derivatives": derivatives}
    return tensors | options


def run(subject, *tensors, **options):
    """Call it on the subject's device, with results and gradients that come back from there."""
    moved = (each.to(subject.device) for each in tensors)
    return tuple(each.cpu() for each in subject.run(named(*moved, **options)))


@pytest.mark.parametrize("bins", [1, 2, 5, 8])
@pytest.mark.parametrize("parametrization", ["nflows", "zuko"])
def test_log_det_is_the_log_slope_and_the_inverse_undoes_it(bins, parametrization):
    x = spread(40, 3).requires_grad_()
    given = parameters(40, 3, bins=bins)
    y, log_det = ops.rational_quadratic_spline(x, *given, parametrization=parametrization)

    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (slope > 0).all()
    torch.testing.assert_close(log_det, slope.log().sum(1), atol=1e-9, rtol=0)

    back, minus = ops.rational_quadratic_spline(
        y.detach(), *given, parametrization=parametrization, inverse=True
    )
    torch.testing.assert_close(back, x.detach(), atol=1e-9, rtol=0)
    torch.testing.assert_close(minus, -log_det.detach(), atol=1e-7, rtol=0)


def test_outside_the_bound_it_is_the_identity():
    x = torch.tensor([[-7.0, -3.0, 3.0, 8.5]], dtype=torch.float64)
    y, log_det = ops.rational_quadratic_spline(x, *parameters(1, 4))
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(log_det, torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("tails", ["linear", None])
@pytest.mark.parametrize("inverse", [False, True])
def test_log_det_is_the_jacobians(tails, inverse):
    ends = 1 if tails is None else -1
    x, given = spread(4, 5), parameters(4, 5, bins=5, ends=ends)
    _, log_det = ops.rational_quadratic_spline(x, *given, tails=tails, inverse=inverse)

    for sample in range(4):
        one = [each[sample : sample + 1] for each in given]
        jacobian = torch.autograd.functional.jacobian(
            lambda x, one=one: ops.rational_quadratic_spline(x, *one, tails=tails, inverse=inverse)[
                0
            ],
            x[sample : sample + 1],
        )
        _, expected = torch.linalg.slogdet(jacobian.reshape(5, 5))
        torch.testing.assert_close(log_det[sample], expected)


@pytest.mark.parametrize("tails", ["linear", None])
@pytest.mark.parametrize("inverse", [False, True])
@implementations
def test_gradients_are_finite_at_beyond_and_on_the_bounds(subject, inverse, tails):
    # Without tails what is far beyond has gradients as large.
    far = 1e4 if tails is None else 1e30
    x = torch.tensor([[-far, -3.0, 0.0, 3.0, far]]).requires_grad_()
    ends = 1 if tails is None else -1
    drawn = parameters(1, 5, scale=5.0, ends=ends, dtype=torch.float32)
    given = [each.clone().requires_grad_() for each in drawn]
    y, log_det = run(subject, x, *given, inverse=inverse, tails=tails)
    for gradient in torch.autograd.grad(y.sum() + log_det.sum(), (x, *given)):
        assert gradient.isfinite().all()


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
@implementations
def test_outside_linear_tails_nothing_of_a_spline_comes_through(subject):
    x = torch.tensor([[-7.0, 8.5, -torch.inf, torch.inf]])
    # However wrong its parameters.
    widths, heights, derivatives = parameters(1, 4, dtype=torch.float32)
    given = [torch.full_like(each, torch.nan) for each in (widths, heights, derivatives)]
    y, log_det = run(subject, x, *given)
    assert torch.equal(y, x)
    assert torch.equal(log_det, torch.zeros(1))


@pytest.mark.parametrize("parametrization", ["nflows", "zuko"])
@implementations
def test_float32_returns_within_1e_5(subject, parametrization):
    x = spread(64, 16).float()
    # Rounding y moves x by 1 / slope as much: slopes here are above 0.1.
    given = parameters(64, 16, scale=0.2, dtype=torch.float32)
    options = {"parametrization": parametrization}
    y, log_det = run(subject, x, *given, **options)
    back, minus = run(subject, y, *given, inverse=True, **options)
    assert (back - x).abs().max() < 1e-5
    torch.testing.assert_close(minus, -log_det, atol=1e-4, rtol=0)


def _segment(x, x0, y0, w, h, d0, d1):
    """Equations 4 and 5 of Durkan et al., as they stand."""
    s, xi = h / w, (x - x0) / w
    denominator = s + (d1 + d0 - 2 * s) * xi * (1 - xi)
    y = y0 + h * (s * xi**2 + d0 * xi * (1 - xi)) / denominator
    numerator = s**2 * (d1 * xi**2 + 2 * s * xi * (1 - xi) + d0 * (1 - xi) ** 2)
    return y, math.log(numerator / denominator**2)


def nflows_spline(x, widths, heights, derivatives, bound):
    """What nflows' unconstrained_rational_quadratic_spline computes, an element at a time."""
    bins = widths.shape[-1]
    shares = [1e-3 + (1 - 1e-3 * bins) * F.softmax(each, -1) for each in (widths, heights)]
    w, h = (2 * bound * each for each in shares)
    # Its padding of the derivatives makes the outermost slopes 1.
    edge = math.log(math.expm1(1 - 1e-3))
    d = 1e-3 + F.softplus(F.pad(derivatives, (1, 1), value=edge))

    y, log_slope = x.clone(), torch.zeros_like(x)
    for place in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        at = tuple(place)
        if abs(x[at]) > bound:
            continue
        x0, y0, k = -bound, -bound, 0
        while k < bins - 1 and x[at] >= x0 + w[at][k]:
            x0, y0, k = x0 + w[at][k], y0 + h[at][k], k + 1
        ends = (x0, y0, w[at][k], h[at][k], d[at][k], d[at][k + 1])
        y[at], log_slope[at] = _segment(float(x[at]), *map(float, ends))

    return y, log_slope.sum(1)


@pytest.mark.parametrize("bins", [1, 5, 8])
@implementations
def test_it_is_what_nflows_computes(subject, bins):
    x, given = spread(12, 3), parameters(12, 3, bins=bins)
    expected, log_slopes = nflows_spline(x, *given, bound=3.0)
    y, log_det = ops.rational_quadratic_spline(x, *given)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_det, log_slopes, atol=1e-11, rtol=0)

    _assert_within_rounding(subject, (expected, log_slopes), x, *given)


def _assert_within_rounding(subject, expected, *tensors, **options):
    """Hold an implementation in float32 to what a peer gives for the same numbers in float64."""
    terms, _ = CASES.terms(named(*tensors, **options))
    bounds = rounding.magnitude(*tensors, **options)
    found = run(subject, *(each.float() for each in tensors), **options)
    for each, exactly, bound in zip(found, expected, bounds, strict=True):
        assert budget(exactly, None, bound, terms, torch.float32).worst(each) <= 1


def test_it_is_nflows_by_name():
    reason = "nflows is not installed: `pip install nflows`"
    name = "nflows.transforms.splines.rational_quadratic"
    pytest.importorskip(name, reason=reason)
    peer = sys.modules[name].unconstrained_rational_quadratic_spline
    x, given = spread(20, 3), parameters(20, 3)

    for inverse in (False, True):
        expected, log_slopes = peer(x, *given, inverse=inverse, tails="linear", tail_bound=3.0)
        y, log_det = ops.rational_quadratic_spline(x, *given, inverse=inverse)
        torch.testing.assert_close(y, expected, atol=1e-9, rtol=0)
        torch.testing.assert_close(log_det, log_slopes.sum(1), atol=1e-8, rtol=0)


@implementations
def test_it_is_zukos_by_name(subject):
    transforms = pytest.importorskip("zuko.transforms", reason="zuko is not installed")
    x, given = spread(20, 3), parameters(20, 3)
    peer = transforms.MonotonicRQSTransform(*given, bound=3.0, slope=1e-3)
    expected, log_slopes = peer.call_and_ladj(x)

    options = {"parametrization": "zuko"}
    y, log_det = ops.rational_quadratic_spline(x, *given, **options)
    torch.testing.assert_close(y, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(log_det, log_slopes.sum(1), atol=1e-8, rtol=0)

    back, log_slopes_back = peer.inv.call_and_ladj(x)
    z, minus = ops.rational_quadratic_spline(x, *given, inverse=True, **options)
    torch.testing.assert_close(z, back, atol=1e-9, rtol=0)
    torch.testing.assert_close(minus, log_slopes_back.sum(1), atol=1e-8, rtol=0)

    _assert_within_rounding(subject, (expected, log_slopes.sum(1)), x, *given, **options)
    options |= {"inverse": True}
    _assert_within_rounding(subject, (back, log_slopes_back.sum(1)), x, *given, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@implementations
def test_parameters_that_samples_share_are_those_of_each(subject, dtype):
    x, *shared = (each.to(subject.device, dtype) for each in (spread(21, 3), *parameters(3)))
    expanded = [each.expand(21, 3, -1) for each in shared]
    one, each = (subject.run(named(x, *given)) for given in (shared, expanded))
    assert all(map(torch.equal, one, each))


@implementations
def test_parameters_side_by_side_are_the_same_apart(subject):
    x, whole = spread(6, 3), torch.cat(parameters(6, 3), dim=-1)
    x, whole = (each.to(subject.device, torch.float32) for each in (x, whole))
    apart = [each.detach().requires_grad_() for each in whole.split((8, 8, 7), dim=-1)]
    whole.requires_grad_()
    together, each = (subject.run(named(x, *given)) for given in ((whole,), apart))
    assert all(map(torch.equal, together, each))

    (gradient,) = torch.autograd.grad(together[0].sum() + together[1].sum(), whole)
    expected = torch.autograd.grad(each[0].sum() + each[1].sum(), apart)
    assert torch.equal(gradient, torch.cat(expected, dim=-1))


@kernels
def test_a_program_sums_many_blocks_of_samples_within_the_contracts_budget(subject, monkeypatch):
    case = find_case(CASES, "shared-many")
    inputs = make(case, subject.device, torch.float32)
    result = subject.run(inputs)
    if subject.implementation.name == "triton":
        # As where there are more samples than programs for them.
        launchers = importlib.import_module(subject.implementation.launchers)
        monkeypatch.setattr(launchers, "_PROGRAMS", 2)

    _, terms = CASES.terms(inputs)
    got = backward(result, inputs, case)
    assert_within_budget(got, subject, case, inputs, backward, terms)
