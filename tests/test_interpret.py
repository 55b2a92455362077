"""What every Triton kernel stands on: the interpreter's bfloat16, noise, elementary functions."""

import math

import pytest
import torch

pytest.importorskip(
    "triton", reason="interpret tier: Triton is not installed: `pip install 'triton>=3.6'`"
)

import triton
import triton.language as tl

from dgm_fast._core import (
    triton_compile,  # noqa: F401 (repairs the interpreter)
    triton_interpreter,
    triton_math,
)
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


def test_the_language_is_patched_once_a_kernel_and_restored(monkeypatch):
    patched = []
    patch = triton_interpreter._patch_always

    def counting(function):
        patched.append(triton_interpreter._languages(function))
        return patch(function)

    monkeypatch.setattr(triton_interpreter, "_patch_always", counting)
    words, uniform, normal = torch.arange(4), torch.empty(4), torch.empty(4, 4)
    for count in (1, 2):
        _noise_kernel[(3,)](words, words, uniform, normal, 4)
        # Triton's own functions see the language as another module.
        assert patched.count(frozenset([tl])) == count
        assert len(patched) <= 2 * count
        assert tl.core.is_builtin(tl.load)


@triton.jit
def _function_kernel(x_ptr, out_ptr, NAME: tl.constexpr, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    x = tl.load(x_ptr + place)

    if NAME == "exp":
        y = triton_math.exp(x)
    elif NAME == "expm1":
        y = triton_math.expm1(x)
    elif NAME == "log":
        y = triton_math.log(x)
    elif NAME == "log1p_of_unit":
        y = triton_math.log1p_of_unit(x)
    elif NAME == "softplus":
        y = triton_math.softplus(x)
    elif NAME == "log_sigmoid":
        y = triton_math.log_sigmoid(x)
    elif NAME == "sigmoid":
        y = triton_math.sigmoid(x)
    elif NAME == "tanh":
        y = triton_math.tanh(x)
    else:
        y = triton_math.atan(x)

    tl.store(out_ptr + place, y)


# Units of 2^-24 that triton_math promises, and the function in float64.
FUNCTIONS = {
    "exp": (3, torch.exp),
    "expm1": (4, torch.expm1),
    "log": (3, torch.log),
    "log1p_of_unit": (3, torch.log1p),
    "softplus": (5, lambda x: x.clamp(min=0) + (-x.abs()).exp().log1p()),
    "log_sigmoid": (5, lambda x: x.clamp(max=0) - (-x.abs()).exp().log1p()),
    "sigmoid": (6, torch.sigmoid),
    "tanh": (8, torch.tanh),
    "atan": (5, torch.atan),
}


def _evaluate(name, x):
    y = torch.full_like(x, torch.nan)
    _function_kernel[(1,)](x, y, name, x.numel())
    return y


def _spread(name, count=2**16):
    """Return arguments dense around 0 and 1 and spread over all magnitudes."""
    generator = torch.Generator().manual_seed(0)
    uniform, exponent = torch.rand(2, count // 2, generator=generator)
    if name == "log1p_of_unit":
        return torch.cat((uniform, 2 ** (-30 * exponent)))

    scaled = (2 * uniform - 1) * 2 ** (250 * exponent - 125)
    near = 4 * torch.randn(count // 2, generator=generator)
    x = torch.cat((scaled, near))
    return x.abs() if name == "log" else x


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementary_functions_keep_their_bounds(name):
    units, exactly = FUNCTIONS[name]
    x = _spread(name)

    y, exact = _evaluate(name, x), exactly(x.double())
    stored = exact.float()
    tiny = stored.abs() < 2.0**-126
    error = (y.double() - exact).abs() / exact.abs().clamp(min=2.0**-126)

    # Subnormal results may be zero.
    assert error[stored.isfinite() & ~tiny].max() <= units * 2.0**-24
    assert (y[tiny].abs() <= 2.0**-126).all()
    assert torch.equal(y[stored.isinf()], stored[stored.isinf()])


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementary_functions_at_nan_zero_and_infinity(name):
    x = torch.tensor([torch.nan, 0.0, torch.inf, -torch.inf])
    if name == "log1p_of_unit":
        x = x[:2].repeat(2)

    y, exact = _evaluate(name, x), FUNCTIONS[name][1](x.double()).float()
    torch.testing.assert_close(y, exact, rtol=2.0**-22, atol=1e-30, equal_nan=True)


@triton.jit
def _gate_kernel(above_ptr, a_ptr, b_ptr, grad_a_ptr, grad_b_ptr, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    above, a, b = tl.load(above_ptr + place), tl.load(a_ptr + place), tl.load(b_ptr + place)
    grad_a, grad_b = triton_math.gate_gradients(above, a, b)
    tl.store(grad_a_ptr + place, grad_a)
    tl.store(grad_b_ptr + place, grad_b)


def _gate_gradients(above, a, b):
    found = torch.full_like(a, torch.nan), torch.full_like(a, torch.nan)
    _gate_kernel[(1,)](above, a, b, *found, a.numel())
    return found


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_gradients_of_a_gate_keep_their_bounds():
    a, b = _spread("tanh"), _spread("sigmoid").flip(0)
    above = torch.linspace(-2, 2, a.numel())
    x, y = a.double(), b.double()
    e, s = (-2 * x.abs()).exp(), y.sigmoid() * above.double()
    exact = s * 4 * e / (1 + e) ** 2, s * x.tanh() * (-y).sigmoid()

    for found, expected in zip(_gate_gradients(above, a, b), exact, strict=True):
        # A factor that is not normal may be zero.
        error = (found.double() - expected).abs()
        assert (error <= 32 * 2.0**-24 * expected.abs() + 2.0**-124).all()


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_gradients_of_a_gate_that_is_open_shut_or_no_number():
    infinity, nan = torch.inf, torch.nan
    a = torch.tensor([0.0, infinity, -infinity, 1.0, 1.0, nan, 1.0, nan])
    b = torch.tensor([0.0, 1.0, 1.0, infinity, -infinity, 1.0, nan, nan])

    grad_a, grad_b = _gate_gradients(torch.ones(8), a, b)

    closed = torch.tensor([0.5, 0.0, 0.0, 1 - math.tanh(1) ** 2, 0.0, nan, nan, nan])
    rise = math.exp(-1) / (1 + math.exp(-1)) ** 2
    of_b = torch.tensor([0.0, rise, -rise, 0.0, 0.0, nan, nan, nan])
    torch.testing.assert_close(grad_a, closed, rtol=2.0**-19, atol=1e-30, equal_nan=True)
    torch.testing.assert_close(grad_b, of_b, rtol=2.0**-19, atol=1e-30, equal_nan=True)
