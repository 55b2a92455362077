"""What the contract holds for: every op, implementation, device, case and dtype, as pytest ids."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import pytest
import torch

from dgm_fast import ops
from dgm_fast._core.cases import OpCase, OpCases
from dgm_fast._core.implementation import Implementation
from dgm_fast._core.op import Op, all_ops

T = TypeVar("T")

# A sampler, which draws, has tests of its own.
OPS: dict[str, Op] = {name: op for name, op in all_ops().items() if "forward" in op.directions}
CASES: dict[str, OpCases] = {
    module.name: importlib.import_module(f"{ops.__name__}.{module.name}.cases").CASES
    for module in pkgutil.iter_modules(ops.__path__)
    if module.ispkg
}

# Interpreted and GPU kernels are looked for where the process has not got them too, so that the
# report says that they did not run, and why.
_TRITON_DEVICES = ("cuda", "cpu")
REFERENCE = Implementation("reference", ("cpu", "cuda"), (torch.float32,), None)


@dataclass(frozen=True)
class Subject:
    """One implementation of one op on one kind of device."""

    op: str
    implementation: Implementation
    device_type: str

    def __str__(self) -> str:
        return f"{self.op}-{self.implementation.name}-{self.device_type}"

    @property
    def cases(self) -> OpCases:
        return CASES[self.op]

    @property
    def contract_cases(self) -> tuple[OpCase, ...]:
        """The op's, less those that the interpreter would take long over and learn nothing of."""
        return tuple(
            case for case in self.cases.cases if case.interpreted or not self.is_interpreted
        )

    @property
    def dtype(self) -> torch.dtype:
        """What a case is made in where one is enough: float32, unless it has no such kernel."""
        return min(self.implementation.dtypes, key=lambda dtype: dtype is not torch.float32)

    def dtypes(self, case: OpCase) -> tuple[torch.dtype, ...]:
        """Return what a case is compared in: float32 and the others, or one or none of these."""
        first, *others = self.implementation.dtypes
        if not self.is_interpreted:
            return (first, *others)

        # None has its turn too: neighbours among the cases are often alike in all but one thing.
        (turn,) = self.in_turn(case, [*([each] for each in others), []])
        return (first, *turn)

    def in_turn(self, case: OpCase, choices: Sequence[T]) -> Sequence[T]:
        """Return all choices; where interpreted one, the next for the op's next case.

        The interpreter takes milliseconds a tile, and a kernel handles what the choices differ in
        apart from what the cases do. Compiled kernels are given every pair.
        """
        if not self.is_interpreted or not choices:
            return choices

        place = self.contract_cases.index(case) % len(choices)
        return choices[place : place + 1]

    @property
    def device(self) -> torch.device:
        return torch.device(self.device_type)

    @property
    def is_reference(self) -> bool:
        return self.implementation.name == "reference"

    @property
    def is_interpreted(self) -> bool:
        return self.implementation.name == "triton" and self.device_type == "cpu"

    def run(self, inputs):
        """Call the public function on this implementation, or skip with the reason it cannot."""
        reason = self.implementation.unavailable_reason(self.device)
        if reason is not None:
            pytest.skip(f"{self.implementation.name}: {reason}")

        return self.cases.function(**inputs, impl=self.implementation.name)

    def param(self, *rest, id=""):
        tiers = [pytest.mark.interpret] if self.is_interpreted else []
        if self.device_type == "cuda":
            tiers = [pytest.mark.gpu]

        return pytest.param(self, *rest, marks=tiers, id=f"{self}{id}")


def subjects(reference: bool) -> list[Subject]:
    """Return every op x implementation x device."""
    found = []
    for name in CASES:
        # An op whose kernels are still to come is its reference alone.
        kernels = OPS[name].implementations.values() if name in OPS else ()
        for implementation in (REFERENCE, *kernels) if reference else kernels:
            is_triton = implementation.name == "triton"
            devices = _TRITON_DEVICES if is_triton else implementation.device_types
            found += [Subject(name, implementation, device) for device in devices]

    return found


def each_subject(
    *,
    op: str | None = None,
    device_type: str | None = None,
    reference: bool = True,
    differentiable: bool = False,
    interpreted: bool = True,
):
    """Parametrize a test by `subject`."""
    chosen = [
        subject.param()
        for subject in subjects(reference)
        if op in (None, subject.op)
        and device_type in (None, subject.device_type)
        and (interpreted or not subject.is_interpreted)
        and (not differentiable or any(case.differentiable for case in subject.cases.cases))
    ]
    return pytest.mark.parametrize("subject", chosen)


def each_case(
    *,
    reference: bool = True,
    differentiable: bool = False,
    dtypes: bool = False,
    interpreted: Literal["all", "first"] = "all",
):
    """Parametrize a test by `subject`, `case` and, where asked, `dtype`."""
    names = "subject, case, dtype" if dtypes else "subject, case"
    params = []

    for subject in subjects(reference):
        cases = [
            each for each in subject.contract_cases if each.differentiable or not differentiable
        ]
        if subject.is_interpreted and interpreted == "first":
            cases = cases[:1]

        for case in cases:
            for dtype in subject.dtypes(case) if dtypes else (None,):
                rest = (case, dtype) if dtypes else (case,)
                label = f"-{case.name}" + (f"-{str(dtype)[6:]}" if dtypes else "")
                params.append(subject.param(*rest, id=label))

    return pytest.mark.parametrize(names, params)


def each_oracle_case(differentiable: bool = True):
    """Parametrize a test by `cases` and `case`, for what concerns the reference alone."""
    return pytest.mark.parametrize(
        ("cases", "case"),
        [
            pytest.param(cases, case, id=f"{name}-{case.name}")
            for name, cases in CASES.items()
            for case in cases.cases
            if case.differentiable or not differentiable
        ],
    )


def each_bad_input():
    """Parametrize a test by `cases` and `bad`."""
    pairs = itertools.chain.from_iterable(
        ((name, cases, bad) for bad in cases.bad_inputs) for name, cases in CASES.items()
    )
    return pytest.mark.parametrize(
        ("cases", "bad"), [pytest.param(c, bad, id=f"{name}-{bad.name}") for name, c, bad in pairs]
    )


def find_case(cases: OpCases, name: str) -> OpCase:
    """Return the case of that name."""
    return next(case for case in cases.cases if case.name == name)
