"""The mathematics of the spline; what every op owes is in the contract."""

from __future__ import annotations

import pytest
import torch

from dgm_fast import ImplementationUnavailable, ops


def parameters(*sizes, bins=8, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    shape = (*sizes, 3 * bins - 1)
    drawn = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    return drawn.split((bins, bins, bins - 1), dim=-1)


def spread(rows, columns):
    return torch.linspace(-4, 4, rows * columns, dtype=torch.float64).reshape(rows, columns)


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


@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_are_finite_at_beyond_and_on_the_bounds(impl, inverse):
    x = torch.tensor([[-1e30, -3.0, 0.0, 3.0, 1e30]]).requires_grad_()
    given = [each.float().requires_grad_() for each in parameters(1, 5, scale=5.0)]
    y, log_det = ops.rational_quadratic_spline(x, *given, inverse=inverse, impl=impl)
    for gradient in torch.autograd.grad(y.sum() + log_det.sum(), (x, *given)):
        assert gradient.isfinite().all()


def test_float32_returns_within_1e_5(impl):
    x = spread(64, 16).float()
    # Rounding y moves x by 1 / slope as much: slopes here are above 0.1.
    given = [each.float() for each in parameters(64, 16, scale=0.2)]
    y, _ = ops.rational_quadratic_spline(x, *given, impl=impl)
    back, _ = ops.rational_quadratic_spline(y, *given, inverse=True, impl=impl)
    assert (back - x).abs().max() < 1e-5


def test_it_is_zukos_by_name():
    transforms = pytest.importorskip("zuko.transforms", reason="zuko is not installed")
    x, (widths, heights, derivatives) = spread(20, 3), parameters(20, 3)
    peer = transforms.MonotonicRQSTransform(widths, heights, derivatives, bound=3.0, slope=1e-3)
    expected, log_slopes = peer.call_and_ladj(x)

    y, log_det = ops.rational_quadratic_spline(
        x, widths, heights, derivatives, parametrization="zuko"
    )
    torch.testing.assert_close(y, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(log_det, log_slopes.sum(1), atol=1e-8, rtol=0)


def test_parameters_that_samples_share_are_those_of_each():
    x, shared = spread(6, 3), parameters(3)
    expanded = [each.expand(6, 3, -1) for each in shared]
    for found, expected in zip(
        ops.rational_quadratic_spline(x, *shared),
        ops.rational_quadratic_spline(x, *expanded),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)

    with pytest.raises(ImplementationUnavailable, match="parameters that samples share"):
        ops.rational_quadratic_spline(x, *shared, impl="cpp")
