"""Which implementation `auto` takes, and what narrower machines and settings run."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import dgm_fast
from dgm_fast._core import extension
from dgm_fast.ops import MaskStructure, masked_linear
from dgm_fast.ops.masked_linear import op

needs_extension = pytest.mark.skipif(
    extension.cpp_missing is not None, reason=f"cpu tier: {extension.cpp_missing}"
)


@pytest.fixture(autouse=True)
def automatic():
    with dgm_fast.use_impl("auto"):
        yield


def inputs(batch: int, ins: int, outs: int, **tensor) -> tuple[Tensor, Tensor, MaskStructure]:
    mask = MaskStructure.from_degrees(torch.arange(ins), torch.arange(outs) * ins // outs)
    return torch.randn(batch, ins, **tensor), torch.randn(outs, ins, **tensor), mask


@needs_extension
def test_auto_takes_the_kernel_for_work_and_the_reference_for_small_change():
    assert op.choose("auto", *inputs(128, 512, 512)) == "cpp"
    assert op.choose("auto", *inputs(100, 64, 512)) == "reference"
    assert op.choose("auto", *inputs(1, 512, 512)) == "reference"
    assert op.choose("auto", *inputs(128, 512, 512, dtype=torch.float64)) == "reference"


@needs_extension
def test_auto_takes_the_reference_where_there_is_nothing_to_skip():
    x, weight, _ = inputs(128, 512, 512)
    irregular = MaskStructure.from_mask(torch.rand(512, 512) < 0.5)

    assert irregular.column_order is None
    assert op.choose("auto", x, weight, irregular) == "reference"


@needs_extension
def test_a_name_wins_over_what_auto_would_take():
    small = inputs(2, 3, 4)

    assert op.choose("cpp", *small) == "cpp"
    with dgm_fast.use_impl("cpp"):
        assert op.choose("auto", *small) == "cpp"


@needs_extension
@pytest.mark.parametrize("impl", ["auto", "cpp"])
@pytest.mark.parametrize("batch", [2, 300])
def test_autocast_may_change_the_choice(impl, batch):
    x, weight, mask = inputs(batch, 300, 300)
    expected = torch.nn.functional.linear(x, weight * mask.mask)

    with torch.autocast("cpu", torch.bfloat16):
        y = masked_linear(x, weight, None, mask, impl=impl)

    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.02, atol=0.6)


RUN = """
import torch
from dgm_fast import ops
from dgm_fast._core import extension

generator = torch.Generator().manual_seed(0)
for batch, ins, outs in ((1, 1, 1), (7, 13, 17), (33, 65, 129), (130, 300, 260)):
    for seed in range(3):
        mask = torch.rand(outs, ins, generator=generator) < 0.3
        if seed:
            mask = torch.arange(outs)[:, None] * ins // outs >= torch.arange(ins)
        if seed == 2:
            mask = mask[torch.randperm(outs, generator=generator)].flip(1)
        x, w, b, g = (
            torch.randn(*shape, generator=generator)
            for shape in ((batch, ins), (outs, ins), (outs,), (batch, outs))
        )
        m = ops.MaskStructure.from_mask(mask)
        found, right = [], []
        both = (found, torch.float32, "cpp"), (right, torch.float64, "reference")
        for results, dtype, impl in both:
            leaves = [each.detach().to(dtype).requires_grad_() for each in (x, w, b)]
            y = ops.masked_linear(*leaves, m, impl=impl)
            results += [y, *torch.autograd.grad(y, leaves, g.to(dtype))]
        for mine, theirs in zip(found, right):
            torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-4)

z = ops.philox_normal((3, 1001), seed=5, impl="cpp")
expected = ops.philox_normal((3, 1001), seed=5, impl="reference")
torch.testing.assert_close(z, expected, rtol=0, atol=1e-5)
u = ops.philox_uniform((3, 1001), seed=5, impl="cpp")
assert torch.equal(u, ops.philox_uniform((3, 1001), seed=5, impl="reference"))
print(extension.build_info()["isa_live"])
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@needs_extension
@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_kernels_are_right_on_narrower_machines(isa):
    done = run(RUN, DGM_FAST_ISA=isa)

    assert done.returncode == 0, done.stderr
    # A machine may be narrower than what is asked for.
    assert done.stdout.strip() in ("generic", isa)


@needs_extension
def test_an_unknown_instruction_set_is_refused():
    done = run("from dgm_fast._core import extension; extension.build_info()", DGM_FAST_ISA="avx3")

    assert done.returncode != 0
    assert "DGM_FAST_ISA must be generic, avx2 or avx512; got avx3" in done.stderr


STOCK = """
import torch
from dgm_fast import ops

mask = ops.MaskStructure.from_degrees(torch.arange(64), torch.arange(64))
x, weight = torch.randn(140_000, 64), torch.randn(64, 64)
places = []
for _ in range(3):
    y = ops.masked_linear(x, weight, None, mask, impl="cpp")
    assert y.numel() * 4 >= 32 << 20
    places.append(y.data_ptr())
    torch.testing.assert_close(y, x @ (weight * mask.mask).T, rtol=1e-4, atol=1e-4)
    del y
print(len(set(places)))
"""


@needs_extension
@pytest.mark.parametrize("mebibytes", ["64", "0", "-1"])
def test_large_results_come_from_the_stock_within_its_limit(mebibytes):
    done = run(STOCK, DGM_FAST_STOCK_MIB=mebibytes)

    assert done.returncode == 0, done.stderr
    if mebibytes == "64":
        assert done.stdout.strip() == "1"


@pytest.mark.parametrize("impl", ["reference", pytest.param("cpp", marks=needs_extension)])
def test_a_mask_used_first_inside_a_transform_can_be_copied(impl):
    x, weight, mask = inputs(3, 5, 7)
    torch.func.grad(lambda w: masked_linear(x, w, None, mask, impl=impl).sum())(weight)

    assert torch.equal(copy.deepcopy(mask).mask, mask.mask)


def test_autocast_casts_what_differs_and_refuses_other_devices():
    x, weight, mask = inputs(3, 5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        y = masked_linear(x, weight, torch.randn(7).bfloat16(), mask)
        assert y.dtype is torch.bfloat16
        with pytest.raises(ValueError, match="weight must be on the device of x"):
            masked_linear(x, weight.to("meta"), None, mask)
        with pytest.raises(TypeError, match="weight must have the dtype of x"):
            masked_linear(x.double(), weight, None, mask)
