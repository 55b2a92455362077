"""Torch operators of the Philox random numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.implementation import cpp, cuda, triton
from dgm_fast._core.op import Direction, Op
from dgm_fast._core.philox import opaque_philox
from dgm_fast.ops.philox import reference


def _fake_forward(
    seed: Tensor,
    samples: int,
    elements: int,
    sample_offset: int,
    stream: int,
    normal: bool,
    dtype: torch.dtype,
) -> Tensor:
    return seed.new_empty(samples, elements, dtype=dtype)


_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_op = Op(
    "philox",
    {
        "forward": Direction(
            "(Tensor seed, SymInt samples, SymInt elements, SymInt sample_offset, int stream,"
            " bool normal, ScalarType dtype) -> Tensor",
            _fake_forward,
        )
    },
    [cpp(*_DTYPES), triton("dgm_fast.ops.philox.kernels", *_DTYPES), cuda(*_DTYPES)],
)


def run(
    impl: str,
    seed: Tensor,
    samples: int,
    elements: int,
    sample_offset: int,
    stream: int,
    normal: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Fill (samples, elements) with the implementation chosen for the seed's device."""
    chosen = _op.choose(impl, seed.device, dtype)
    if chosen != "reference":
        fill = _op.kernels["forward", chosen]
    else:
        fill = opaque_philox if torch.compiler.is_compiling() else reference.philox

    return fill(seed, samples, elements, sample_offset, stream, normal, dtype)
