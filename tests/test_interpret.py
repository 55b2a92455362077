"""What every Triton kernel stands on: the interpreter's bfloat16, and the noise at its corners."""

import math

import pytest
import torch

pytest.importorskip(
    "triton", reason="interpret tier: Triton is not installed: `pip install 'triton>=3.6'`"
)

import triton
import triton.language as tl

from dgm_fast._core import triton_compile  # noqa: F401 (repairs the interpreter)
from dgm_fast._core.triton_random import interleave, word_to_uniform, words_to_normals

pytestmark = pytest.mark.interpret

# Words at both ends, and on both sides of every eighth of a turn, where the angle changes octant.
CORNERS = sorted({(eighth * 2**29 + step) % 2**32 for eighth in range(8) for step in (-1, 0, 1)})


@triton.jit
def _product_kernel(a_ptr, b_ptr, out_ptr, SIZE: tl.constexpr):
    row = tl.arange(0, SIZE)[:, None]
    place = row * SIZE + tl.arange(0, SIZE)[None, :]
    product = tl.dot(tl.load(a_ptr + place), tl.load(b_ptr + place))
    tl.store(out_ptr + place, product.to(out_ptr.dtype.element_ty))


@triton.jit
def _noise_kernel(even_ptr, odd_ptr, uniform_ptr, normal_ptr, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    even = tl.load(even_ptr + place).to(tl.uint32)
    odd = tl.load(odd_ptr + place).to(tl.uint32)
    tl.store(uniform_ptr + place, word_to_uniform(even))

    cos, sin = words_to_normals(even, odd)
    values = interleave(cos, sin, cos, sin)
    tl.store(normal_ptr + tl.arange(0, 4 * SIZE), values)


def _padded(words):
    size = triton.next_power_of_2(len(words))
    return torch.tensor(words + words[:1] * (size - len(words)))


def test_interpreted_bfloat16_is_multiplied_and_rounded_as_a_gpu_does():
    a, b = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    out = torch.full((32, 32), torch.nan, dtype=torch.bfloat16)

    _product_kernel[(1,)](a, b, out, 32)
    exact = a.double() @ b.double()

    # Half an ulp of bfloat16; 32 roundings of float32 can only matter where it is a tie.
    assert ((out.double() - exact).abs() <= 2**-8 * exact.abs() * 1.001 + 32 * 2**-23).all()


@pytest.mark.parametrize("even", [0, 1, 2**31, 2**32 - 2, 2**32 - 1])
def test_noise_is_exact_at_the_corners_of_every_octant(even):
    odd = _padded(CORNERS)
    even = torch.full_like(odd, even)
    uniform, normal = torch.empty(odd.numel()), torch.empty(odd.numel(), 4)

    _noise_kernel[(1,)](even, odd, uniform, normal, odd.numel())
    assert torch.equal(uniform, (even >> 8).float() * 2.0**-24)
    assert (uniform < 1).all()

    signed = (odd + 2**31) % 2**32 - 2**31
    angle = 2 * math.pi * 2.0**-32 * signed.double()
    # The uniform is rounded to float32, which is part of its definition: 1 at the last words.
    radius = (-2 * (even.float() * 2.0**-32 + 2.0**-33).double().log()).sqrt()
    expected = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)

    # Four half ulps of the radius each for the series, the logarithm and the root.
    assert (normal[:, :2] - expected).abs().max() <= 12 * 2**-24 * radius.max()
    assert torch.equal(normal[:, :2], normal[:, 2:])
