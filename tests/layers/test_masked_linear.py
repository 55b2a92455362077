from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dgm_fast import ops
from dgm_fast.layers import MaskedLinear

IN, OUT = 12, 20


def staircase() -> ops.MaskStructure:
    return ops.MaskStructure.from_degrees(torch.arange(IN), torch.arange(OUT) % IN)


def irregular() -> torch.Tensor:
    return torch.rand(OUT, IN, generator=torch.Generator().manual_seed(3)) < 0.5


@pytest.fixture(params=[staircase, irregular], ids=["staircase", "irregular"])
def mask(request):
    return request.param()


def dense(layer: MaskedLinear) -> torch.Tensor:
    return layer.mask.mask.to(layer.weight.dtype)


@pytest.mark.parametrize("shape", [(), (5,), (3, 1, 4), (0,), (2, 0)], ids=str)
def test_any_leading_dims(mask, impl, shape):
    torch.manual_seed(0)
    layer = MaskedLinear(mask, impl=impl)
    x = torch.randn(*shape, IN)

    y = layer(x)

    assert y.shape == (*shape, OUT)
    # Sums of 12 products in another order: a few float32 roundings.
    torch.testing.assert_close(y, F.linear(x, layer.weight * dense(layer), layer.bias))


def test_state_dict_is_that_of_linear(mask):
    torch.manual_seed(0)
    plain = nn.Linear(IN, OUT)
    torch.manual_seed(0)
    layer = MaskedLinear(mask)

    assert list(layer.state_dict()) == list(plain.state_dict()) == ["weight", "bias"]
    assert torch.equal(layer.weight, plain.weight)
    assert torch.equal(layer.bias, plain.bias)
    assert list(MaskedLinear(mask, bias=False).state_dict()) == ["weight"]


def test_loads_a_linear_checkpoint(mask, impl):
    plain = nn.Linear(IN, OUT)
    layer = MaskedLinear(mask, impl=impl)

    layer.load_state_dict(plain.state_dict(), strict=True)

    x = torch.randn(4, IN)
    torch.testing.assert_close(layer(x), F.linear(x, plain.weight * dense(layer), plain.bias))


def test_masked_gradient_is_exactly_zero_and_weight_is_never_edited(mask, impl):
    torch.manual_seed(0)
    layer = MaskedLinear(mask, impl=impl)
    before = layer.weight.detach().clone()
    live = layer.mask.mask

    layer(torch.randn(64, IN)).square().sum().backward()

    assert torch.equal(layer.weight, before)
    assert bool((before[~live] != 0).all())
    assert bool((layer.weight.grad[~live] == 0).all())
    assert bool((layer.weight.grad[live] != 0).all())


def test_masked_weights_survive_an_optimizer_step(mask, impl):
    layer = MaskedLinear(mask, impl=impl)
    before = layer.weight.detach().clone()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)

    layer(torch.randn(64, IN)).square().sum().backward()
    optimizer.step()

    live = layer.mask.mask
    assert torch.equal(layer.weight[~live], before[~live])
    assert bool((layer.weight[live] != before[live]).all())


def test_another_mask_for_one_call(mask, impl):
    layer = MaskedLinear(mask, impl=impl)
    other = ops.MaskStructure.from_mask(torch.ones(OUT, IN))
    x = torch.randn(4, IN)

    torch.testing.assert_close(layer(x, other), F.linear(x, layer.weight, layer.bias))
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight * dense(layer), layer.bias))

    with pytest.raises(ValueError, match="weight"):
        layer(x, ops.MaskStructure.from_mask(torch.ones(OUT + 1, IN)))


def test_swapping_the_mask_for_good(mask, impl):
    layer = MaskedLinear(mask, impl=impl)
    layer.mask = ops.MaskStructure.from_mask(torch.zeros(OUT, IN))

    torch.testing.assert_close(layer(torch.randn(4, IN)), layer.bias.expand(4, OUT))


@pytest.mark.parametrize("clone", [copy.deepcopy, "pickle"], ids=["deepcopy", "pickle"])
def test_copies_are_equal_and_independent(mask, impl, clone):
    layer = MaskedLinear(mask, impl=impl)
    x = torch.randn(4, IN)
    expected = layer(x)

    if clone == "pickle":
        buffer = io.BytesIO()
        torch.save(layer, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    else:
        twin = clone(layer)

    assert torch.equal(twin(x), expected)
    assert twin.impl == impl
    with torch.no_grad():
        twin.weight.zero_()
    assert torch.equal(layer(x), expected)


def test_autocast(mask, impl):
    torch.manual_seed(0)
    layer = MaskedLinear(mask, impl=impl)
    x = torch.randn(8, IN)

    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        expected = F.linear(x, layer.weight * dense(layer), layer.bias)
    y.float().sum().backward()

    assert y.dtype is torch.bfloat16
    assert layer.weight.grad.dtype is torch.float32
    # Both sum bfloat16 products in float32 and round once: at most neighbouring bfloat16 values.
    torch.testing.assert_close(y, expected, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_dtype_of_the_parameters(mask, impl, dtype):
    if impl == "cpp" and dtype is torch.float64:
        pytest.skip("the C++ kernels have no float64")

    made = MaskedLinear(mask, impl=impl, dtype=dtype)
    moved = MaskedLinear(mask, impl=impl).to(dtype)

    for layer in (made, moved):
        assert layer.mask.mask.dtype is torch.bool
        assert layer(torch.randn(3, IN, dtype=dtype)).dtype is dtype


def test_training_after_a_look_in_inference_mode(mask, impl):
    layer = MaskedLinear(mask, impl=impl)
    x = torch.randn(4, IN)

    with torch.inference_mode():
        layer(x)

    layer(x).sum().backward()
    assert layer.weight.grad is not None


def test_fullgraph(mask, impl):
    torch._dynamo.reset()
    layer = MaskedLinear(mask, impl=impl)
    x = torch.randn(4, IN, requires_grad=True)
    expected = layer(x)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), x)

    y = torch.compile(layer, backend="aot_eager", fullgraph=True)(x)

    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), x)[0], expected_grad)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: MaskedLinear([[1, 0]]), TypeError, "mask must be a torch.Tensor; got list"),
        (lambda: MaskedLinear(torch.ones(3)), ValueError, r"mask must be \(out, in\).*\(3,\)"),
        (lambda: MaskedLinear(torch.full((2, 2), 2.0)), ValueError, "only 0 and 1"),
        (
            lambda: MaskedLinear(staircase())(torch.ones(2, IN + 1)),
            ValueError,
            rf"x must have shape.*{IN}.*\(2, {IN + 1}\)",
        ),
        (
            lambda: MaskedLinear(staircase())(torch.ones(2, IN, dtype=torch.float64)),
            TypeError,
            "float32 and torch.float64",
        ),
        (lambda: MaskedLinear(staircase())(torch.ones(2, IN).int()), TypeError, "x .*int32"),
        (
            lambda: MaskedLinear(staircase(), impl="fastest")(torch.ones(2, IN)),
            ValueError,
            "impl must be one of.*fastest",
        ),
    ],
    ids=["list", "1d", "twos", "width", "dtype", "integers", "impl"],
)
def test_errors_name_the_argument(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_repr_shows_the_bounded_share(mask):
    layer = MaskedLinear(mask)
    assert f"bounded_share={layer.mask.bounded_share:.3f}" in layer.extra_repr()
