"""A red contract refuses to be timed: the op's tests first, then every column on its workload."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from benchmarks.columns import Column, InputSet, clear_grads, tensors
from dgm_fast._core.cases import OpCase, OpCases

ROOT = Path(__file__).parent.parent
CONTRACT = "tests/test_contract.py"

# The contract test holds the fine budget. Here a column that computes something else, or in less
# precision than its dtype says, is what is looked for: TF32 alone is a factor of a thousand.
TIMES_REFERENCE_ERROR = 8
# A rival may be rougher than ours may: left out, it would no longer be there to be lost against.
TIMES_OF_A_RIVAL = 2


class RedContract(RuntimeError):
    """Raised when an op fails its contract, so that its speed means nothing."""


@functools.cache
def check_contract(op: str, contract: str = CONTRACT) -> None:
    """Run the op's contract tests, once a process.

    Raises:
        RedContract: a test fails, or there is none.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-k", op, contract]
    tests = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    if tests.returncode != 0:
        tail = "\n".join((tests.stdout + tests.stderr).strip().splitlines()[-15:])
        raise RedContract(f"{op}: `{' '.join(command[1:])}` is not green:\n{tail}")


def check_report(op: str, junit: Path) -> None:
    """Look an op's contract tests up in a JUnit report of a run that has just ended.

    Raises:
        RedContract: a test failed, or none ran.
    """
    tests = [
        case
        for case in ElementTree.parse(junit).iter("testcase")
        if case.get("classname", "").endswith("test_contract")
        and f"[{op}-" in case.get("name", "")
        and case.find("skipped") is None
    ]
    red = [case for case in tests if {"failure", "error"} & {each.tag for each in case}]
    if red or not tests:
        shown = "\n".join(str(case.get("name")) for case in red[:15]) or "none of its tests ran"
        raise RedContract(f"{op}: {junit} is not green:\n{shown}")


class Expected:
    """What one workload must give: float64 results, and the reference's own error beside them."""

    def __init__(self, cases: OpCases, case: OpCase, into: InputSet, backward: bool) -> None:
        exact_inputs = {name: _in_float64(value) for name, value in into.inputs.items()}
        self.noise = {} if cases.noise is None else cases.noise(into.inputs)
        call, exact_call = (
            partial(cases.reference, **each) for each in (into.inputs, exact_inputs)
        )

        own, grads = _run(call, case.leaves(into.inputs), into, backward)
        # The exact backward starts from the same rounded numbers.
        grads = [each.double() for each in grads]
        self.exact, _ = _run(exact_call, case.leaves(exact_inputs), into, backward, grads)
        self.allowed = [
            TIMES_REFERENCE_ERROR * (_error(mine, right) + torch.finfo(mine.dtype).eps)
            for mine, right in zip(own, self.exact, strict=True)
        ]

    def check(self, column: Column, into: InputSet, backward: bool) -> None:
        """Compare a column's results, and its gradients, with the exact ones.

        An anchor does other work: it only has to give a gradient for each of its leaves.

        Raises:
            RedContract: they differ by more than rounding explains.
        """
        # What draws from another generator is given the noise that ours draws.
        prepared = column.prepare(into.inputs | ({} if column.is_ours else self.noise))
        got, _ = _run(prepared.call, prepared.leaves, into, backward)

        if any(each is None for each in got):
            raise RedContract(f"{column.name} leaves a gradient out")
        if column.is_anchor:
            return
        if len(got) != len(self.exact):
            raise RedContract(f"{column.name} gives {len(got)} results, not {len(self.exact)}")

        for place, (mine, right, allowed) in enumerate(
            zip(got, self.exact, self.allowed, strict=True)
        ):
            error = _error(mine, right) if mine.shape == right.shape else float("inf")
            allowed *= 1 if column.is_ours else TIMES_OF_A_RIVAL
            if not error <= allowed:
                raise RedContract(
                    f"{column.name} is wrong: result {place} is off by {error:.3g} of its largest "
                    f"value, where {allowed:.3g} is allowed"
                )


def _in_float64(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().double().requires_grad_(value.requires_grad)

    if isinstance(value, torch.dtype) and value.is_floating_point:
        return torch.float64

    return value


def _run(
    call: Callable[[], Any],
    leaves: Sequence[Tensor],
    into: InputSet,
    backward: bool,
    grads: Sequence[Tensor] | None = None,
) -> tuple[list[Any], list[Tensor]]:
    """Return outputs and leaves' gradients, and the gradients that the backward started from."""
    outputs = tensors(call())
    found: list[Any] = [each.detach() for each in outputs]
    if not backward:
        return found, []

    differentiable = [each for each in outputs if each.requires_grad]
    if grads is None:
        grads = [into.grad_of(each) for each in differentiable]
    torch.autograd.backward(differentiable, grads)

    found += [leaf.grad for leaf in leaves]
    clear_grads(leaves)
    return found, list(grads)


def _error(mine: Tensor, right: Tensor) -> float:
    """Return the largest error as a share of the largest exact value."""
    if right.numel() == 0:
        return 0.0

    scale = right.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return float((mine.double() - right).abs().max() / scale)
