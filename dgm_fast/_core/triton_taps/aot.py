"""The kernels of sums over taps as their launchers call them, for GPUs that are absent."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import triton
from triton.runtime import Autotuner

from dgm_fast._core.triton_compile import AotKernel, signature_of
from dgm_fast._core.triton_taps.gate import gate_backward_kernel
from dgm_fast._core.triton_taps.images import Grid, Images
from dgm_fast._core.triton_taps.products import grad_weight_kernel, product_kernel
from dgm_fast._core.triton_taps.sums import add_sums_kernel, sum_pixels_kernel
from dgm_fast._core.triton_taps.tiles import (
    ADD,
    GATE,
    PACK,
    ROWS,
    SUM,
    aot_configs,
    finish_tiles,
    piece_tile,
)
from dgm_fast._core.triton_taps.weights import finish_kernel, pack_kernel, rows_kernel

_NONE = Images(None, 0, 0, 0)
_GRID = Grid(*["i32"] * len(Grid._fields))


def aot_kernels() -> Iterator[AotKernel]:
    """List the kernels, each with all that it may be given and with as little as it may."""
    kinds = (("bf16", "16"), ("fp16", "16"), ("fp32", "ieee"), ("fp32", "tf32"))
    for (dtype, kind), odd in itertools.product(kinds, (False, True)):
        yield _product("gated", dtype, kind, odd)
        # float16 is compiled as bfloat16 is: with the most, it has what there is to see.
        if dtype != "fp16":
            yield _product("grad_x", dtype, kind, odd)
            yield _grad_weight("grad_weight", dtype, kind, odd)

    yield _product("gated-planes", "bf16", "16")
    yield _product("lead", "bf16", "16")
    yield _grad_weight("grad_weight-lead", "bf16", "16", False)
    yield from _moves("bf16")
    yield from _moves("fp32")


def _images(dtype: str, planes: bool = False) -> Images:
    return Images(f"*{dtype}", "i32", *(("i32", 1) if planes else (1, "i32")))


def _layout(images: Images) -> tuple[int, int, int, bool]:
    return *(1 if stride == 1 else 16 for stride in images[1:]), False


def _product(name: str, dtype: str, kind: str, odd: bool = False) -> AotKernel:
    gated, after = name.startswith("gated"), name == "grad_x"
    written = _images(dtype, planes=name == "gated-planes")
    given = {"y": written, **dict.fromkeys(("residual", "kept"), written if gated else _NONE)}
    constants = {"AFTER": after, "PARTS": 2 if gated else 1, "STRICT": False}
    constants["LAYOUT"] = (1, 1, 1, False) if odd else _layout(written)
    constants |= {"bias_ptr": None} if after else {}
    return _tuned(name, product_kernel, "PNC", dtype, kind, odd, given, constants)


def _grad_weight(name: str, dtype: str, kind: str, odd: bool) -> AotKernel:
    given, constants = {"parts_ptr": "*fp32"}, {"TAPS": 5}
    return _tuned(name, grad_weight_kernel, "OCP", dtype, kind, odd, given, constants)


def _tuned(
    name: str,
    tuner: Autotuner,
    blocks: str,
    dtype: str,
    kind: str,
    odd: bool,
    given: dict[str, Any],
    constants: dict[str, Any],
) -> AotKernel:
    constants |= {"KIND": "odd" if odd else kind, "KERNEL": (3, 3)}
    constants["LEAD"] = name.endswith("lead")
    constants |= {"PRECISION": "tf32" if kind == "tf32" else "ieee"}
    constants |= dict.fromkeys(("ALIGN_C", "ALIGN_N", "ALIGN_O", "ALIGN_P"), 1 if odd else 16)
    label = "-".join((name, dtype, *["tf32"] * (kind == "tf32"), *["odd"] * odd))
    configs = partial(aot_configs, blocks, kind, odd)
    signature = signature_of(tuner.fn, dtype, given | {"grid": _GRID}, constants)
    # Planes of 28 x 28, say: a multiple of 16 only as a product, which ALIGN_P tells.
    aligned = not odd and "planes" not in name
    return AotKernel(label, tuner.fn, signature, constants, configs, aligned)


def _moves(dtype: str) -> Iterator[AotKernel]:
    kind = {"STRICT": False, "CENTRE": 4}
    for after in (False, True):
        constants = {"AFTER": after, "PARTS": 2, **kind}
        yield _fixed(f"pack{'-after' * after}", pack_kernel, dtype, {}, constants, PACK)

    given = {"parts_ptr": "*fp32"}
    constants = {"TAPS": 5, "ELEMENTS": 9, **kind}
    yield _fixed("finish", finish_kernel, dtype, given, constants, finish_tiles(9))
    yield _fixed("rows", rows_kernel, dtype, {"stride_p": 1}, {}, ROWS)
    given = {"sums_ptr": "*fp32"}
    yield _fixed("add_sums", add_sums_kernel, dtype, given, {}, ADD)
    for planes in (False, True):
        images, name = _images(dtype, planes), "-planes" * planes
        of, tile = {**given, "given": images}, piece_tile(SUM, 128, not planes)
        constants = {"ALIGN_C": 16, "ALIGN_P": min(16, tile["BLOCK_P"])}
        constants |= {"JOINED": not planes, "LAYOUT": _layout(images)}
        yield _fixed(f"sum_pixels{name}", sum_pixels_kernel, dtype, of, constants, tile)

        of = {**given, **dict.fromkeys(("grad_y", "kept", "grad"), images)}
        tile = piece_tile(GATE, 128, not planes)
        constants = constants | {"ALIGN_P": min(16, tile["BLOCK_P"])}
        yield _fixed(f"gate{name}", gate_backward_kernel, dtype, of, constants, tile)
        # Where nothing starts on 16 bytes, samples lie apart and far, and no sums are asked for.
        odd = {"sums_ptr": None, "JOINED": False, "LAYOUT": (1, 1, 1, True)}
        odd |= {"ALIGN_C": 1, "ALIGN_P": 1}
        yield _fixed(f"gate{name}-odd", gate_backward_kernel, dtype, of, odd, tile, aligned=False)


def _fixed(
    name: str,
    function: triton.JITFunction,
    dtype: str,
    given: dict[str, Any],
    constants: dict[str, Any],
    tile: dict[str, int],
    aligned: bool = True,
) -> AotKernel:
    warps = tile.get("num_warps", 4)
    constants = constants | {key: size for key, size in tile.items() if key.isupper()}
    config = triton.Config({}, num_warps=warps)
    signature = signature_of(function, dtype, given | {"grid": _GRID}, constants)
    label, configs = f"{name}-{dtype}", lambda _: [config]
    return AotKernel(label, function, signature, constants, configs, aligned)
