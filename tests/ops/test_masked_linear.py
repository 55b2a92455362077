"""The mathematics of `masked_linear`, on every implementation that runs here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dgm_fast.ops import MaskStructure, masked_linear
from dgm_fast.ops.masked_linear import crossover
from tests.contract.inputs import whole_numbers
from tests.contract.subjects import each_subject

implementations = each_subject(op="masked_linear")
kernels = each_subject(op="masked_linear", reference=False)

KINDS = ("staircase", "permuted", "blocks", "random", "zeros", "ones")


def make_mask(kind, ins, outs, generator):
    in_degrees, out_degrees = torch.arange(ins), torch.arange(outs) * ins // max(1, outs)
    if kind == "permuted":
        in_degrees = in_degrees[torch.randperm(ins, generator=generator)]
        out_degrees = out_degrees[torch.randperm(outs, generator=generator)]

    degrees = {"blocks": (in_degrees // 3, out_degrees // 3)}.get(kind, (in_degrees, out_degrees))
    if kind in ("staircase", "permuted", "blocks"):
        return MaskStructure.from_degrees(*degrees, strict=kind == "blocks")

    share = {"random": 0.5, "zeros": 0.0, "ones": 1.0}[kind]
    return MaskStructure.from_mask(torch.rand(outs, ins, generator=generator) < share)


def make_inputs(subject, kind, batch, ins, outs, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = make_mask(kind, ins, outs, generator).to(subject.device)
    tensors = (
        whole_numbers(*shape, generator=generator).to(subject.device).requires_grad_()
        for shape in ((batch, ins), (outs, ins), (outs,))
    )
    return dict(zip(("x", "weight", "bias"), tensors, strict=True)) | {"mask": mask}


@implementations
def test_equals_the_linear_map_of_the_masked_weight_to_the_last_bit(subject):
    examples = 15 if subject.implementation.name == "triton" else 150

    @settings(max_examples=examples)
    @given(
        kind=st.sampled_from(KINDS),
        batch=st.integers(0, 40),
        ins=st.integers(0, 70),
        outs=st.integers(0, 70),
        seed=st.integers(0, 2**31),
    )
    def check(kind, batch, ins, outs, seed):
        inputs = make_inputs(subject, kind, batch, ins, outs, seed)
        x, weight, bias, mask = inputs.values()
        leaves = (x, weight, bias)

        y = subject.run(inputs)
        expected = F.linear(x, weight * mask.mask, bias)
        assert torch.equal(y, expected)

        grad_y = whole_numbers(batch, outs, generator=torch.Generator().manual_seed(seed)).to(y)
        got = torch.autograd.grad(y, leaves, grad_y)
        assert all(map(torch.equal, got, torch.autograd.grad(expected, leaves, grad_y)))

    check()


@pytest.mark.parametrize("kind", KINDS)
@implementations
def test_the_jacobian_is_the_masked_weight_exactly(subject, kind):
    inputs = make_inputs(subject, kind, batch=1, ins=37, outs=53, seed=0)
    weight, mask = inputs["weight"], inputs["mask"]
    weight.requires_grad_(False).copy_(torch.where(weight == 0, 1.0, weight))

    def function(x):
        return subject.run({**inputs, "x": x})

    jacobian = torch.autograd.functional.jacobian(function, inputs["x"].detach()[0])
    assert torch.equal(jacobian, weight * mask.mask)
    assert torch.equal(jacobian != 0, mask.mask)


@pytest.mark.parametrize("kind", ["staircase", "permuted", "random"])
@kernels
def test_gradients_of_masked_weights_are_zero_whatever_flows_in(subject, kind):
    inputs = make_inputs(subject, kind, batch=9, ins=37, outs=53, seed=0)
    grad_y = -torch.ones(9, 53, device=subject.device)
    grad_y[3], grad_y[4] = torch.nan, torch.inf

    (gradient,) = torch.autograd.grad(subject.run(inputs), inputs["weight"], grad_y)

    removed = gradient[~inputs["mask"].mask]
    assert removed.numel() > 0
    assert (removed == 0).all()
    assert not removed.signbit().any()


@pytest.mark.parametrize("kind", ["staircase", "permuted", "random"])
@kernels
def test_nothing_in_a_removed_weight_reaches_a_result(subject, kind):
    inputs = make_inputs(subject, kind, batch=9, ins=37, outs=53, seed=0)
    leaves = (inputs["x"], inputs["weight"], inputs["bias"])
    y = subject.run(inputs)
    expected = (y, *torch.autograd.grad(y.sum(), leaves))

    removed = ~inputs["mask"].mask
    with torch.no_grad():
        inputs["weight"][removed] = torch.nan

    y = subject.run(inputs)
    got = (y, *torch.autograd.grad(y.sum(), leaves))
    assert all(map(torch.equal, got, expected))


@implementations
def test_the_weight_is_read_at_each_call(subject):
    inputs = make_inputs(subject, "permuted", batch=9, ins=37, outs=53, seed=0)
    with torch.no_grad():
        before = subject.run(inputs)
        inputs["weight"].mul_(2)
        inputs["bias"].mul_(2)
        after = subject.run(inputs)

    assert torch.equal(after, 2 * before)


@implementations
def test_a_copied_or_moved_structure_gives_the_same(subject):
    inputs = make_inputs(subject, "permuted", batch=9, ins=37, outs=53, seed=0)
    expected = subject.run(inputs)

    moved = inputs["mask"].to(torch.float64).to(torch.float32)
    assert torch.equal(subject.run({**inputs, "mask": moved}), expected)


@pytest.mark.parametrize(
    ("dtype", "in_tf32", "is_left"),
    [(torch.float32, False, True), (torch.float32, True, False), (torch.bfloat16, False, False)],
)
def test_auto_leaves_a_gpus_products_without_tensor_cores_to_torch(
    monkeypatch, dtype, in_tf32, is_left
):
    monkeypatch.setattr(crossover, "products_in_tf32", lambda: in_tf32)
    on_gpu = SimpleNamespace(is_cuda=True, dtype=dtype)
    causal = MaskStructure.from_degrees(list(range(64)), list(range(64)))
    full = MaskStructure.from_mask(torch.ones(64, 64, dtype=torch.bool))

    assert crossover.reference_is_faster(on_gpu, on_gpu, causal) is is_left
    assert crossover.reference_is_faster(on_gpu, on_gpu, full)


def test_float64_runs_on_the_reference():
    mask = MaskStructure.from_degrees(list(range(5)), list(range(6)))
    x, weight = torch.randn(3, 5).double(), torch.randn(6, 5).double()

    assert torch.equal(
        masked_linear(x, weight, None, mask), F.linear(x, weight * mask.mask.double())
    )
