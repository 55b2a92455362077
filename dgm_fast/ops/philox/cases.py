"""Sample inputs, workloads and rivals of the Philox random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.cases import BadInput, Cost, Inputs, OpCase, OpCases, Prepared
from dgm_fast._core.philox import NORMAL_ROUNDINGS, normals_magnitude
from dgm_fast._core.random import as_seed
from dgm_fast.ops.philox.api import philox_normal, philox_uniform

_DRAW = {"normal": philox_normal, "uniform": philox_uniform}


def _draw(distribution: str, shape: Sequence[int], **options: Any) -> Tensor:
    """Draw from either public function, so that one table of cases holds both."""
    return _DRAW[distribution](shape, **options)


def _magnitude(
    distribution: str,
    shape: Sequence[int],
    seed: int | Tensor,
    device: torch.device,
    dtype: torch.dtype,
    sample_offset: int = 0,
    stream: int = 0,
) -> Tensor:
    """Return what the roundings of each are relative to; a uniform is exact and has none."""
    if distribution == "uniform":
        return torch.zeros(tuple(shape), dtype=dtype, device=device)

    return normals_magnitude(as_seed(seed, device), torch.Size(shape), sample_offset, stream, dtype)


def _case(
    name: str,
    distribution: str,
    shape: tuple[int, ...],
    *,
    tensor_seed: bool = False,
    **options: int,
) -> OpCase:
    def make(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
        seed = int(torch.randint(2**62, (), generator=generator))
        given = as_seed(seed, device) if tensor_seed else seed
        where = {"seed": given, "device": device, "dtype": dtype}
        return {"distribution": distribution, "shape": shape, **where, **options}

    return OpCase(name, make, cost=_cost)


def _cost(inputs: Inputs, backward: bool) -> Cost:
    # Ten rounds of 2 wide products, 4 exclusive ors and 2 key additions give four words: 20 integer
    # operations a number. A normal adds about 20 for its share of log, sqrt, sin and cos.
    count = math.prod(inputs["shape"])
    operations = 40 if inputs["distribution"] == "normal" else 20
    return Cost(count * inputs["dtype"].itemsize, count * operations)


def _torch_fill(inputs: Inputs) -> Prepared:
    out = torch.empty(inputs["shape"], dtype=inputs["dtype"], device=inputs["device"])
    return Prepared(out.normal_ if inputs["distribution"] == "normal" else out.uniform_)


def _torch_draw(inputs: Inputs) -> Prepared:
    draw = torch.randn if inputs["distribution"] == "normal" else torch.rand
    where = {"dtype": inputs["dtype"], "device": inputs["device"]}
    return Prepared(partial(draw, inputs["shape"], **where))


def _bad(name: str, error: type[Exception], names: str, shows: str, **changes: object) -> BadInput:
    def make(device: torch.device) -> Inputs:
        good = {"distribution": "normal", "shape": (2, 3), "seed": 0, "device": device}
        return good | changes

    return BadInput(name, make, error, names, shows)


CASES = OpCases(
    function=_draw,
    reference=partial(_draw, impl="reference"),
    cases=(
        _case("normal-aligned", "normal", (64, 64)),
        _case("normal-odd", "normal", (7, 13)),
        _case("normal-images", "normal", (3, 3, 5, 7)),
        _case("normal-scalars", "normal", (11,)),
        _case("normal-one", "normal", (1, 1)),
        _case("normal-no-samples", "normal", (0, 13)),
        _case("normal-no-elements", "normal", (5, 0)),
        _case("normal-many", "normal", (66, 1027)),
        _case("normal-one-long-sample", "normal", (1, 40_003)),
        _case("normal-tensor-seed", "normal", (5, 18), tensor_seed=True),
        _case("normal-far-offset", "normal", (5, 18), sample_offset=2**33 - 2, stream=2**32 - 1),
        _case("uniform-odd", "uniform", (7, 13)),
        replace(_case("uniform-many", "uniform", (66, 1027)), interpreted=False),
        _case("uniform-far-offset", "uniform", (5, 18), sample_offset=2**33 - 2, stream=3),
    ),
    terms=lambda inputs: (NORMAL_ROUNDINGS, 0),
    with_batch=lambda inputs, size: {**inputs, "shape": (size, *inputs["shape"][1:])},
    magnitude=_magnitude,
    workloads=(
        _case("4M-normals", "normal", (4096, 1024)),
        _case("4M-uniforms", "uniform", (4096, 1024)),
        _case("100x784-normals", "normal", (100, 784)),
    ),
    bad_inputs=(
        _bad("no-dims", ValueError, "shape", "()", shape=()),
        _bad("negative-size", ValueError, "shape", "-3", shape=(2, -3)),
        _bad("too-long", ValueError, "shape", str(2**34), shape=(0, 2**34)),
        _bad("negative-offset", ValueError, "sample_offset", "-1", sample_offset=-1),
        _bad("far-offset", ValueError, "sample_offset", str(2**63), sample_offset=2**63),
        _bad("negative-stream", ValueError, "stream", "-1", stream=-1),
        _bad("far-stream", ValueError, "stream", str(2**32), stream=2**32),
        _bad("float-seed", TypeError, "seed", "float", seed=0.5),
        _bad(
            "int32-seed", TypeError, "seed", "torch.int32", seed=torch.zeros((), dtype=torch.int32)
        ),
        _bad("two-seeds", ValueError, "seed", "(2,)", seed=torch.zeros(2, dtype=torch.int64)),
        _bad("integer-dtype", TypeError, "dtype", "torch.int64", dtype=torch.int64),
    ),
    rivals={"anchor:torch": _torch_draw, "anchor:torch_in_place": _torch_fill},
)
