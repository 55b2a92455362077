from __future__ import annotations

import copy
import io
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dgm_fast.layers import MaskedConv2d
from dgm_fast.ops.masked_conv2d.reference import mask_of

# Odd widths, an image that is not square, kernels of unequal sides.
KINDS = {
    "A": {"mask_type": "A"},
    "B, 1 x 5": {"mask_type": "B", "kernel_size": (1, 5)},
    "A, ordered": {"mask_type": "A", "channel_groups": 3},
    "B, ordered, gated": {"mask_type": "B", "channel_groups": 3, "gated": True},
    "B, dilated, no bias": {"mask_type": "B", "dilation": (1, 2), "bias": False},
}
every = pytest.mark.parametrize("kind", KINDS)
IN, OUT, SIZE = 6, 12, (5, 7)


def make(kind, **options):
    torch.manual_seed(0)
    arguments = {"kernel_size": 3} | KINDS[kind] | options
    return MaskedConv2d(IN, OUT, **arguments)


def example(layer, batch=4):
    torch.manual_seed(1)
    return torch.randn(batch, IN, *SIZE), torch.randn(batch, OUT, *SIZE)


def expected_of(layer, x, residual):
    h = F.conv2d(
        x, layer.weight * layer.mask, layer.bias, padding=layer.padding, dilation=layer.dilation
    )
    h = h + residual
    if not layer.gated:
        return h
    a, b = h.chunk(2, dim=1)
    return a.tanh() * b.sigmoid()


@every
def test_equals_a_convolution_of_the_masked_weight(kind, impl):
    layer = make(kind, impl=impl)
    x, residual = example(layer)

    torch.testing.assert_close(layer(x, residual), expected_of(layer, x, residual))
    torch.testing.assert_close(layer(x), expected_of(layer, x, torch.zeros_like(residual)))


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(impl, batch):
    layer = make("A", impl=impl)
    x, residual = example(layer, batch)
    assert layer(x, residual).shape == (batch, OUT, *SIZE)


@every
def test_channels_last_stays_so(kind, impl):
    layer = make(kind, impl=impl)
    x, residual = (each.contiguous(memory_format=torch.channels_last) for each in example(layer))

    y = layer(x, residual)

    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, layer(x.contiguous(), residual.contiguous()))


@every
def test_state_dict_is_that_of_a_convolution_both_ways(kind, impl):
    layer = make(kind, impl=impl)
    plain = nn.Conv2d(
        IN, OUT, layer.kernel_size, dilation=layer.dilation, bias=layer.bias is not None
    )
    assert list(layer.state_dict()) == list(plain.state_dict())

    plain.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(plain.weight, layer.weight)

    torch.manual_seed(2)
    plain.reset_parameters()
    layer.load_state_dict(plain.state_dict(), strict=True)
    x, residual = example(layer)
    assert torch.equal(plain.weight, layer.weight)
    torch.testing.assert_close(layer(x, residual), expected_of(layer, x, residual))


def test_begins_as_a_convolution_of_the_live_weights_would():
    torch.manual_seed(0)
    plain = nn.Conv2d(IN, OUT, 5)
    torch.manual_seed(0)
    layer = MaskedConv2d(IN, OUT, 5, "B")

    # 13 of the 25 taps are live.
    torch.testing.assert_close(layer.weight, plain.weight * math.sqrt(25 / 13))
    torch.testing.assert_close(layer.bias, plain.bias * math.sqrt(25 / 13))
    assert float(layer.weight.detach().abs().max()) < 1 / math.sqrt(13 * IN)


def test_outputs_of_different_groups_have_fans_of_their_own():
    torch.manual_seed(0)
    plain = nn.Conv2d(IN, OUT, 1)
    torch.manual_seed(0)
    layer = MaskedConv2d(IN, OUT, 1, "A", channel_groups=3)

    # The first group sees nothing, the second 2 channels of 6, the third 4.
    scale = torch.tensor([1.0, 3.0, 1.5]).sqrt().repeat_interleave(4)
    torch.testing.assert_close(layer.weight, plain.weight * scale[:, None, None, None])
    torch.testing.assert_close(layer.bias, plain.bias * scale)


@every
def test_masked_gradient_is_exactly_zero_and_weight_is_never_edited(kind, impl):
    layer = make(kind, impl=impl)
    before = layer.weight.detach().clone()
    live = mask_of(before, layer.mask_type, layer.channel_groups, layer.gated).bool()
    x, residual = example(layer)

    layer(x, residual).square().sum().backward()

    assert torch.equal(layer.weight, before)
    assert bool((before[~live] != 0).all())
    assert bool((layer.weight.grad[~live] == 0).all())
    assert bool((layer.weight.grad[live] != 0).all())

    torch.optim.Adam(layer.parameters(), lr=0.1).step()
    assert torch.equal(layer.weight[~live], before[~live])
    assert bool((layer.weight[live] != before[live]).all())


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_are_equal_and_independent(impl, way):
    layer = make("B, ordered, gated", impl=impl)
    x, residual = example(layer)
    expected = layer(x, residual)

    if way == "deepcopy":
        twin = copy.deepcopy(layer)
    else:
        buffer = io.BytesIO()
        torch.save(layer, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)

    assert torch.equal(twin(x, residual), expected)
    with torch.no_grad():
        twin.weight.zero_()
    assert torch.equal(layer(x, residual), expected)


@every
def test_autocast(kind, impl):
    layer = make(kind, impl=impl)
    x, residual = example(layer)
    exact = layer(x, residual)

    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x, residual)
    y.float().sum().backward()

    assert y.dtype is torch.bfloat16
    assert layer.weight.grad.dtype is torch.float32
    # Inputs and weights of order one, rounded to 8 bits; products of 54 of them at most.
    torch.testing.assert_close(y.float(), exact, rtol=0, atol=8 * 2**-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_dtype_and_device_of_construction(dtype):
    layer = make("A", dtype=dtype)
    assert layer(torch.randn(2, IN, *SIZE, dtype=dtype)).dtype is dtype
    assert make("A, ordered", device="meta").weight.device.type == "meta"


@every
def test_fullgraph(kind, impl):
    torch._dynamo.reset()
    layer = make(kind, impl=impl)
    x, residual = (each.requires_grad_() for each in example(layer))
    leaves = (x, residual, *layer.parameters())
    expected = layer(x, residual)
    expected_grads = torch.autograd.grad(expected.square().sum(), leaves)

    y = torch.compile(layer, backend="aot_eager", fullgraph=True)(x, residual)

    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), leaves), expected_grads)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((0, 4, 3, "A"), "in_channels must be positive; got 0"),
        ((4, 0, 3, "A"), "out_channels must be positive; got 0"),
        ((4, 4, 4, "A"), "kernel_size must be odd; got 4"),
        ((4, 4, (3, 3, 3), "A"), "kernel_size must be a positive int or two"),
        ((4, 4, 3, "C"), "mask_type must be 'A' or 'B'; got 'C'"),
        ((4, 6, 3, "A", 3), "channel_groups must divide the 4 channels of x and 6"),
        ((4, 4, 3, "A", 0), "channel_groups must divide .* got 0"),
        ((4, 4, 3, "A", 1, 0), "dilation must be a positive int or two; got 0"),
        ((4, 3, 3, "A", 1, 1, True, True), "out_channels must be even to be gated; got 3"),
    ],
)
def test_errors_of_construction_name_the_argument(arguments, match):
    with pytest.raises(ValueError, match=match):
        MaskedConv2d(*arguments)


def test_errors_of_a_call_name_the_argument():
    layer = make("A")
    with pytest.raises(ValueError, match=r"weight must have shape \(out, in = 5"):
        layer(torch.zeros(2, 5, *SIZE))
    with pytest.raises(ValueError, match="residual"):
        layer(torch.zeros(2, IN, *SIZE), torch.zeros(2, OUT, 5, 6))
    with pytest.raises(TypeError, match=r"float32 and torch\.float64"):
        layer(torch.zeros(2, IN, *SIZE, dtype=torch.float64))
    with pytest.raises(ValueError, match="impl must be one of"):
        make("A", impl="fastest")(torch.zeros(2, IN, *SIZE))


def test_repr_shows_the_mask():
    shown = repr(make("A, ordered"))
    assert "mask_type='A', channel_groups=3, gated=False" in shown
