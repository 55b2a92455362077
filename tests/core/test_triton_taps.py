"""What Triton's sums over taps do with images beside the products."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip(
    "triton", reason="interpret tier: Triton is not installed: `pip install 'triton>=3.6'`"
)

from dgm_fast._core.triton_taps import launch

pytestmark = pytest.mark.interpret

# More pixels than a tile has, and pieces of several tiles of which the last is shorter.
SIZES = [(3, 37, 7, 9), (5, 3, 25, 17), (13, 136, 4, 4), (1, 1, 1, 1), (7, 5, 1, 1)]


def _planes(t):
    return t.contiguous()


def _rows(t):
    return t.contiguous(memory_format=torch.channels_last)


def _apart(t):
    """Return images between which others lie."""
    return torch.stack((t, torch.full_like(t, torch.nan)), 1)[:, 0]


def _expanded(t):
    return t[:1, :1, :1, :1].expand_as(t)


def _whole_numbers(*shape):
    values = torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(0))
    return values.float()


@pytest.mark.parametrize("arrange", [_planes, _rows, _apart, _expanded])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sums_over_pixels_of_whole_numbers_are_exact(size, arrange):
    given = arrange(_whole_numbers(*size))
    result = torch.full((size[1],), torch.nan)

    launch.sum_pixels(given, result)

    assert torch.equal(result, given.sum((0, 2, 3)))


def test_sums_are_stored_in_their_dtype_and_of_nothing_zero():
    given, result = _whole_numbers(5, 9, 30, 40).bfloat16(), torch.ones(9, dtype=torch.bfloat16)
    launch.sum_pixels(given, result)
    assert torch.equal(result, given.double().sum((0, 2, 3)).bfloat16())

    launch.sum_pixels(given[:0], result)
    assert torch.equal(result, torch.zeros_like(result))


@pytest.mark.parametrize(
    ("arrange", "dtype"),
    [
        (_planes, torch.float16),
        (_rows, torch.bfloat16),
        (_rows, torch.float32),
        (_apart, torch.float32),
    ],
)
def test_gradient_of_a_gate_and_its_sums(arrange, dtype):
    generator = torch.Generator().manual_seed(0)
    for batch, channels, *size in SIZES:
        above = arrange(torch.randn(batch, channels, *size, generator=generator).to(dtype))
        h = 4 * torch.randn(batch, 2 * channels, *size, generator=generator)
        # Around 0 tanh is taken otherwise.
        h[:, : channels // 2] *= 1e-3
        h = arrange(h.to(dtype))
        grads = [arrange(torch.zeros_like(h)) for _ in range(2)]
        grad_bias = torch.full((2 * channels,), torch.nan, dtype=dtype)

        launch.gate_backward(above, h, grads[0], grad_bias)
        launch.gate_backward(above, h, grads[1])

        leaf = h.double().requires_grad_()
        a, b = leaf.chunk(2, 1)
        (exact,) = torch.autograd.grad(a.tanh() * b.sigmoid(), leaf, above.double())
        unit = max(2.0**-19, torch.finfo(dtype).eps / 2 + 2.0**-16)
        error = (grads[0].double() - exact).abs()
        assert (error <= unit * exact.abs() + 2.0**-25).all()
        assert torch.equal(*grads)

        error = (grad_bias.double() - exact.sum((0, 2, 3))).abs()
        # What is summed has not been rounded to 16 bits.
        terms = 2.0**-15 * exact.abs().sum((0, 2, 3)) + 2.0**-25
        assert (error <= terms + torch.finfo(dtype).eps * exact.sum((0, 2, 3)).abs()).all()


def test_sums_of_a_gate_on_nothing_are_zero():
    nothing, grad_bias = torch.empty(0, 4, 2, 2), torch.ones(4)
    launch.gate_backward(nothing[:, :2], nothing, torch.empty_like(nothing), grad_bias)
    assert torch.equal(grad_bias, torch.zeros(4))
