"""Every Triton kernel compiles for every GPU it is meant for, without spills, in its memory."""

import re

import pytest

pytest.importorskip(
    "triton", reason="aot tier: Triton is not installed: `pip install 'triton>=3.6'`"
)

import triton

from dgm_fast._core.triton_compile import TARGETS, compile_for
from dgm_fast.ops.aot import aot_kernels

pytestmark = pytest.mark.aot


# One of each compiler's: what is listed is compiled for these in every dtype and variant.
MAIN_TARGETS = ("sm_90", "gfx942")
# Ops whose products of tiles are compiled otherwise for each generation of GPUs.
OF_TILES = ("masked_linear", "invertible_1x1")


def _compilations():
    seen = set()
    for op, kernel in aot_kernels():
        # Other GPUs of NVIDIA's have the same registers and compiler: one dtype tells for them, and
        # one variant of a kernel that is no product of tiles.
        variant = (op, re.sub("fp32|bf16|fp16", "", kernel.name))
        kind = variant if op in OF_TILES else (op, kernel.function)
        for name in MAIN_TARGETS if kind in seen else TARGETS:
            target = TARGETS[name]
            configs = kernel.configs(target.gpu)
            # The first are of the largest tiles, and sm_100 takes the tiles of sm_90.
            for config in configs[:1] if variant in seen or name == "sm_100" else configs:
                label = "-".join((op, kernel.name, name, *map(str, config.kwargs.values())))
                yield pytest.param(kernel, target, config, id=label)

        seen |= {variant, kind}


@pytest.mark.parametrize(("kernel", "target", "config"), list(_compilations()))
def test_kernel_compiles_without_spills(kernel, target, config):
    usage = compile_for(target, kernel, config)

    assert usage.spilled_bytes == 0
    assert usage.shared_bytes <= target.shared_bytes


@pytest.mark.parametrize("name", TARGETS)
def test_every_dtype_has_configs_on_every_target(name):
    target = TARGETS[name].gpu
    lacking = [f"{op} {kernel.name}" for op, kernel in aot_kernels() if not kernel.configs(target)]

    # TF32 is NVIDIA's.
    assert all(name == "gfx942" and "tf32" in each for each in lacking)


@pytest.mark.parametrize("name", ["sm_80", "gfx942"])
def test_spills_and_shared_memory_are_read_back(name):
    op_kernels = {f"{op} {kernel.name}": kernel for op, kernel in aot_kernels()}
    kernel = op_kernels["masked_linear forward_kernel-bf16"]
    # A sum of 512 registers a thread cannot stay in them; two operands of 256 x 64 elements of two
    # bytes are 64 KiB.
    blocks = {"BLOCK_B": 256, "BLOCK_O": 256, "BLOCK_I": 64}
    config = triton.Config(blocks, num_warps=4, num_stages=2)

    usage = compile_for(TARGETS[name], kernel, config)
    assert usage.registers > 0
    assert usage.spilled_bytes > 0
    assert usage.shared_bytes >= 64 * 1024
