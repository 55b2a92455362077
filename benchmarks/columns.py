"""What is timed of one op: plain PyTorch, every rival, `torch.compile`, and ours."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import dgm_fast.ops
from benchmarks.timing import Timed
from dgm_fast._core.cases import Inputs, OpCase, OpCases, Prepared
from dgm_fast._core.op import all_ops

# CUDA graphs are left out of both sides: they would copy fresh inputs for one side only.
COMPILE_MODES = {"compile_default": None, "compile_max_autotune": "max-autotune-no-cudagraphs"}
OURS = "ours:"
ANCHOR = "anchor:"
DIRECTIONS = ("forward", "forward_backward")


@dataclass(frozen=True)
class Column:
    """One way to run the op.

    Attributes:
        name: `eager`, `best_eager`, `compile_*`, `outside:*`, `ours:*`, or `anchor:*`, which does
            other work and is there to be measured against.
        prepare: does what may be done once, and returns the call to time.
    """

    name: str
    prepare: Callable[[Inputs], Prepared]

    @property
    def is_ours(self) -> bool:
        """Whether this package runs it."""
        return self.name.startswith(OURS)

    @property
    def is_compiled(self) -> bool:
        """Whether its first call compiles it."""
        return self.name in COMPILE_MODES

    @property
    def is_anchor(self) -> bool:
        """Whether it does other work than the op."""
        return self.name.startswith(ANCHOR)


class InputSet:
    """One set of inputs in memory of its own, with gradients to feed to a backward."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._grads: dict[tuple[torch.Size, torch.dtype], Tensor] = {}

    def grad_of(self, output: Tensor) -> Tensor:
        """Return random numbers of the output's shape, the same for every column."""
        key = output.shape, output.dtype
        if key not in self._grads:
            generator = torch.Generator(output.device).manual_seed(1)
            grad = torch.empty_like(output, requires_grad=False)
            self._grads[key] = grad.normal_(generator=generator)

        return self._grads[key]


def find_ops() -> dict[str, OpCases]:
    """Return the cases of every op that declares some."""
    found = {}

    for package in pkgutil.iter_modules(dgm_fast.ops.__path__):
        name = f"dgm_fast.ops.{package.name}.cases"
        if package.ispkg and importlib.util.find_spec(name) is not None:
            found[package.name] = importlib.import_module(name).CASES

    return found


def columns_of(
    op: str, cases: OpCases, case: OpCase, device: torch.device, dtype: torch.dtype
) -> tuple[list[Column], dict[str, str]]:
    """Return every column that can run, and for every other one the reason why it cannot."""

    def direct(function: Callable[..., Any]) -> Callable[[Inputs], Prepared]:
        return lambda inputs: Prepared(partial(function, **inputs), case.leaves(inputs))

    baseline = cases.baseline or cases.reference
    columns = [Column("eager", direct(baseline))]
    columns += [Column(name, prepare) for name, prepare in cases.rivals.items()]

    # A process keeps at most eight compilations of one function.
    torch._dynamo.reset()
    for name, mode in COMPILE_MODES.items():
        compiled = torch.compile(baseline, dynamic=False, mode=mode)
        columns.append(Column(name, direct(compiled)))

    names, skipped = _implementations(op, device, dtype)
    columns += [
        Column(OURS + name, direct(partial(cases.function, impl=name))) for name in ("auto", *names)
    ]
    return columns, skipped


def _implementations(
    op: str, device: torch.device, dtype: torch.dtype
) -> tuple[list[str], dict[str, str]]:
    names, skipped = [], {}
    defined = all_ops()

    for name, implementation in defined[op].implementations.items() if op in defined else ():
        reason = implementation.unavailable_reason(device, dtype)
        if reason is None and name == "triton" and device.type == "cpu":
            reason = "interpreted kernels are a check, not a fast path"

        if reason is None:
            names.append(name)
        else:
            skipped[OURS + name] = reason

    return names, skipped


def require_grad(case: OpCase, inputs: Inputs, backward: bool) -> None:
    """Let the differentiable inputs record a graph, or not."""
    for leaf in case.leaves(inputs):
        leaf.requires_grad_(backward)


def timed_calls(column: Column, sets: Sequence[InputSet], backward: bool) -> list[Timed]:
    """Return the calls to time, one a set of inputs.

    Raises:
        ImportError: the column needs a library that is not installed.
    """
    prepared = [column.prepare(each.inputs) for each in sets]
    if not backward:
        return [Timed(each.call) for each in prepared]

    return [_step(each, into) for each, into in zip(prepared, sets, strict=True)]


def _step(prepared: Prepared, inputs: InputSet) -> Timed:
    def forward_backward() -> Any:
        result = prepared.call()
        outputs = [each for each in tensors(result) if each.requires_grad]
        torch.autograd.backward(outputs, [inputs.grad_of(each) for each in outputs])
        return result

    return Timed(forward_backward, partial(clear_grads, prepared.leaves))


def clear_grads(leaves: Sequence[Tensor]) -> None:
    """Drop the gradients, so that the next backward writes rather than adds."""
    for leaf in leaves:
        leaf.grad = None


def tensors(result: Any) -> tuple[Tensor, ...]:
    """Return the tensors that a call returned."""
    results = result if isinstance(result, tuple) else (result,)
    return tuple(each for each in results if isinstance(each, Tensor))
