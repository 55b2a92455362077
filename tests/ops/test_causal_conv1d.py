"""The mathematics of `causal_conv1d`, on every implementation that runs here."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dgm_fast.ops import causal_conv1d
from tests.contract.inputs import whole_numbers
from tests.contract.subjects import each_subject

implementations = each_subject(op="causal_conv1d")
kernels = each_subject(op="causal_conv1d", reference=False)


@implementations
def test_equals_the_padded_convolution_to_the_last_bit(subject):
    examples = 6 if subject.implementation.name == "triton" else 60

    @settings(max_examples=examples)
    @given(
        batch=st.integers(0, 3),
        ins=st.integers(1, 9),
        outs=st.integers(1, 9) | st.none(),
        length=st.integers(1, 60),
        kernel=st.integers(1, 5),
        dilation=st.integers(1, 20),
        has_state=st.booleans(),
        seed=st.integers(0, 9),
    )
    def check(batch, ins, outs, length, kernel, dilation, has_state, seed):
        generator = torch.Generator().manual_seed(seed)
        reach, per_group = (kernel - 1) * dilation, 1 if outs is None else ins
        sizes = ((batch, ins, length), (outs or ins, per_group, kernel), (outs or ins,))
        leaves = [
            whole_numbers(*size, generator=generator).to(subject.device).requires_grad_()
            for size in (*sizes, *[(batch, ins, reach)] * has_state)
        ]
        x, weight, bias, *state = leaves

        y = causal_conv1d(
            x,
            weight,
            bias,
            dilation=dilation,
            groups=1 if outs else ins,
            state=state[0] if state else None,
            impl=subject.implementation.name,
        )
        padded = torch.cat((*state, x), dim=-1) if state else F.pad(x, (reach, 0))
        groups = 1 if outs else ins
        expected = F.conv1d(padded, weight, bias, dilation=dilation, groups=groups)
        assert torch.equal(y, expected)

        grad = whole_numbers(*y.shape, generator=generator).to(subject.device)
        got = torch.autograd.grad(y, leaves, grad)
        wanted = torch.autograd.grad(expected, leaves, grad)
        assert all(map(torch.equal, got, wanted))

    check()


@implementations
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("pieces", [(1,) * 23, (5, 0, 7, 11), (22, 1)], ids=len)
def test_a_stream_in_pieces_equals_the_whole(subject, groups, pieces):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, sum(pieces), generator=generator).to(subject.device)
    weight = torch.randn(4, 4 // groups, 3, generator=generator).to(subject.device)
    options = {"dilation": 3, "groups": groups, "impl": subject.implementation.name}

    whole, last = causal_conv1d(x, weight, return_state=True, **options)
    state, streamed = None, []
    for piece in x.split(pieces, dim=-1):
        y, state = causal_conv1d(piece, weight, state=state, return_state=True, **options)
        streamed.append(y)

    torch.testing.assert_close(torch.cat(streamed, dim=-1), whole)
    assert torch.equal(state, last)
    assert torch.equal(last, x[..., -6:])


@implementations
def test_no_output_depends_on_a_later_input(subject):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 12, generator=generator).to(subject.device)
    weight = torch.rand(3, 2, 3, generator=generator).add(0.1).to(subject.device)

    def run(x):
        return causal_conv1d(x, weight, dilation=2, impl=subject.implementation.name)

    jacobian = torch.autograd.functional.jacobian(run, x)[0, :, :, 0]
    reached = (jacobian != 0).all(dim=2).all(dim=0)
    behind = torch.arange(12)[:, None] - torch.arange(12)
    assert torch.equal(reached.cpu(), (behind == 0) | (behind == 2) | (behind == 4))
    assert torch.equal(reached, (jacobian != 0).any(dim=2).any(dim=0))


def test_the_state_of_a_short_signal_begins_with_zeros():
    x = torch.ones(1, 1, 2)
    _, state = causal_conv1d(x, torch.ones(1, 1, 4), return_state=True)

    assert state.tolist() == [[[0.0, 1.0, 1.0]]]


def test_a_state_keeps_no_signal_alive():
    x = torch.ones(1, 1, 1000)
    _, state = causal_conv1d(x, torch.ones(1, 1, 4), return_state=True)

    assert state.untyped_storage().nbytes() == 3 * 4


@kernels
def test_a_signal_with_channels_side_by_side_gives_one_on_a_gpu(subject):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 30, 16, generator=generator).to(subject.device).transpose(1, 2)
    weight = torch.randn(24, 16, 3, generator=generator).to(subject.device)

    name = subject.implementation.name
    y = causal_conv1d(x, weight, dilation=2, impl=name)
    assert y.transpose(1, 2).is_contiguous() is (name == "triton")
    plain = causal_conv1d(x.contiguous(), weight, dilation=2, impl=name)
    assert plain.is_contiguous()
    assert torch.equal(y, plain)
