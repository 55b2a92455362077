"""Sample inputs of an op, read by the contract test and the benchmarks alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Cost:
    """The least work a call must do: bytes moved (each input read, each output written once), FLOPs."""

    bytes_moved: int
    flops: int


@dataclass(frozen=True)
class OpCase:
    """One named set of inputs.

    Attributes:
        name: unique within the op, as it appears in test ids and benchmark rows.
        make: `(device, dtype, generator) -> keyword arguments` of the public function.
        differentiable: names among them whose gradients are compared.
        cost: `(inputs, backward) -> Cost`; needed by benchmark workloads only.
    """

    name: str
    make: Callable[[torch.device, torch.dtype, torch.Generator], Inputs]
    differentiable: tuple[str, ...] = ()
    cost: Callable[[Inputs, bool], Cost] | None = None


@dataclass(frozen=True)
class BadInput:
    """A call that must be refused, with the error and the argument its message names."""

    name: str
    make: Callable[[torch.device], Inputs]
    error: type[Exception]
    names: str


@dataclass(frozen=True)
class OpCases:
    """Everything the contract test and the benchmarks need to know of one op.

    Attributes:
        function: the public function; takes `impl=`.
        reference: its oracle, with the same keyword arguments less `impl`.
        cases: contract cases, small.
        workloads: paper-sized cases for benchmarks.
        bad_inputs: calls that must be refused.
        rivals: other ways to the same result, `name -> prepare`, where `prepare(inputs)` does what
            may be done once outside the timed region and returns the call to time.
        poisoned: `(inputs, name) -> outputs that must be NaN` when argument `name` holds NaN;
            None means wherever the reference is NaN.
        random: whether the op draws noise; gradcheck and determinism then pin its seed.
    """

    function: Callable[..., Any]
    reference: Callable[..., Any]
    cases: tuple[OpCase, ...]
    workloads: tuple[OpCase, ...] = ()
    bad_inputs: tuple[BadInput, ...] = ()
    rivals: Mapping[str, Callable[[Inputs], Callable[[], Any]]] = field(default_factory=dict)
    poisoned: Callable[[Inputs, str], Tensor] | None = None
