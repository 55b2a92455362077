"""The mathematics of `masked_conv2d`, on every implementation that runs here."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dgm_fast.ops import masked_conv2d
from tests.contract.inputs import whole_numbers
from tests.contract.subjects import each_subject

implementations = each_subject(op="masked_conv2d")
kernels = each_subject(op="masked_conv2d", reference=False)


def mask_by_order(out, ins, height, width, mask_type, groups):
    """Return the mask by its definition: pixel first, then group of channels."""
    mask = torch.zeros(out, ins, height, width)
    centre = (height // 2, width // 2)
    for o in range(out):
        for i in range(ins):
            for row in range(height):
                for column in range(width):
                    before = (row, column) < centre
                    group_of_out, group_of_in = o * groups // out, i * groups // ins
                    same = (row, column) == centre and (
                        group_of_in < group_of_out
                        if mask_type == "A"
                        else group_of_in <= group_of_out
                    )
                    mask[o, i, row, column] = before or same

    return mask


@implementations
def test_equals_the_convolution_with_the_masked_weight_to_the_last_bit(subject):
    examples = 6 if subject.implementation.name == "triton" else 60

    @settings(max_examples=examples)
    @given(
        batch=st.integers(0, 3),
        channels=st.integers(1, 4),
        outs=st.integers(1, 7),
        size=st.tuples(st.integers(1, 9), st.integers(1, 19)),
        kernel=st.tuples(st.sampled_from((1, 3, 5)), st.sampled_from((1, 3, 7))),
        dilation=st.tuples(st.integers(1, 3), st.integers(1, 2)),
        mask_type=st.sampled_from("AB"),
        groups=st.sampled_from((1, 3)),
        seed=st.integers(0, 9),
    )
    def check(batch, channels, outs, size, kernel, dilation, mask_type, groups, seed):
        generator = torch.Generator().manual_seed(seed)
        ins, outs = groups * channels, groups * outs
        x = whole_numbers(batch, ins, *size, generator=generator).requires_grad_()
        weight = whole_numbers(outs, ins, *kernel, generator=generator).requires_grad_()
        bias = whole_numbers(outs, generator=generator).requires_grad_()
        x, weight, bias = leaves = tuple(
            each.detach().to(subject.device).requires_grad_() for each in (x, weight, bias)
        )
        mask = mask_by_order(outs, ins, *kernel, mask_type, groups).to(subject.device)

        y = masked_conv2d(
            x,
            weight,
            bias,
            mask_type=mask_type,
            channel_groups=groups,
            dilation=dilation,
            impl=subject.implementation.name,
        )
        padding = [n // 2 * d for n, d in zip(kernel, dilation, strict=True)]
        expected = F.conv2d(x, weight * mask, bias, padding=padding, dilation=dilation)
        assert torch.equal(y, expected)

        grad = whole_numbers(*y.shape, generator=generator).to(subject.device)
        got = torch.autograd.grad(y, leaves, grad)
        wanted = torch.autograd.grad(expected, leaves, grad)
        assert all(map(torch.equal, got, wanted))

    check()


@implementations
@pytest.mark.parametrize("mask_type", "AB")
@pytest.mark.parametrize("groups", [1, 3])
def test_each_output_depends_on_what_comes_before_it_and_on_nothing_else(
    subject, mask_type, groups
):
    ins, outs, height, width, size = 3, 6, 4, 5, 3
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, ins, height, width, generator=generator).to(subject.device)
    weight = torch.rand(outs, ins, size, size, generator=generator).add(0.1).to(subject.device)

    def run(x):
        return masked_conv2d(
            x, weight, mask_type=mask_type, channel_groups=groups, impl=subject.implementation.name
        )

    # One image for each input, which differs in it alone: at its place in the batch, so that
    # rounding is the same.
    changed = x + torch.eye(x.numel(), device=x.device).view(-1, *x.shape[1:])
    differs = (run(changed) != run(x.expand_as(changed).contiguous())).cpu()
    differs = differs.view(ins, height, width, outs, height, width)
    for o, row, column, i, r, w in torch.cartesian_prod(
        *(torch.arange(n) for n in (outs, height, width, ins, height, width))
    ).tolist():
        near = abs(r - row) <= 1 and abs(w - column) <= 1
        group_of_out, group_of_in = o * groups // outs, i * groups // ins
        seen = (r, w) < (row, column) or (
            (r, w) == (row, column)
            and (group_of_in < group_of_out or (mask_type == "B" and group_of_in == group_of_out))
        )
        assert differs[i, r, w, o, row, column] == (near and seen)


@kernels
@pytest.mark.parametrize("groups", [1, 3])
def test_gradients_of_masked_weights_are_exactly_zero(subject, groups):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 7, 5, generator=generator).to(subject.device)
    weight = torch.randn(12, 6, 3, 5, generator=generator).to(subject.device).requires_grad_()

    y = masked_conv2d(
        x, weight, mask_type="A", channel_groups=groups, impl=subject.implementation.name
    )
    (grad,) = torch.autograd.grad(y.square().sum(), weight)
    mask = mask_by_order(12, 6, 3, 5, "A", groups).to(subject.device)
    assert torch.equal(grad != 0, mask.bool())


@kernels
def test_a_nan_in_a_masked_weight_reaches_nothing(subject):
    x, weight = torch.ones(2, 3, 6, 6), torch.ones(4, 3, 3, 3)
    weight[:, :, 1, 1:], weight[:, :, 2] = torch.nan, torch.nan
    x, weight = x.to(subject.device), weight.to(subject.device)

    y = masked_conv2d(x, weight, mask_type="A", impl=subject.implementation.name)
    assert y.isfinite().all()


@kernels
def test_a_gate_orders_both_halves_alike(subject):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 2, 2, generator=generator).to(subject.device)
    weight = torch.randn(12, 3, 1, 1, generator=generator).to(subject.device)

    def run(x):
        return masked_conv2d(
            x,
            weight,
            mask_type="A",
            channel_groups=3,
            gated=True,
            impl=subject.implementation.name,
        )

    # Of one pixel: outputs of red see nothing, of green red, of blue red and green.
    jacobian = torch.autograd.functional.jacobian(run, x)[0, :, 0, 0, 0, :, 0, 0]
    sees = [[False] * 3] * 2 + [[True, False, False]] * 2 + [[True, True, False]] * 2
    assert torch.equal(jacobian != 0, torch.tensor(sees, device=jacobian.device))


@kernels
@pytest.mark.parametrize("gated", [False, True])
def test_layout_of_the_input_is_kept_and_changes_nothing(subject, gated):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 7, 5, generator=generator).to(subject.device)
    weight = torch.randn(8, 6, 3, 3, generator=generator).to(subject.device)
    last = x.contiguous(memory_format=torch.channels_last)

    planes, pixels = (
        masked_conv2d(each, weight, mask_type="B", gated=gated, impl=subject.implementation.name)
        for each in (x, last)
    )
    assert planes.is_contiguous()
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(planes, pixels)


@kernels
def test_rows_below_an_image_change_nothing_above(subject):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 40, 9, generator=generator).to(subject.device)
    weight = torch.randn(5, 4, 5, 5, generator=generator).to(subject.device)

    def run(x):
        return masked_conv2d(x, weight, mask_type="B", impl=subject.implementation.name)

    # However a kernel cuts an image up, a pixel's sum has one order.
    assert torch.equal(run(x)[:, :, :13], run(x[:, :, :13]))
    assert torch.equal(run(x)[1:2], run(x[1:2]))
