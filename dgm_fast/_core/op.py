"""Define an op: one torch operator per direction and implementation, and the choice among them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dgm_fast._core.implementation import (
    Implementation,
    ImplementationUnavailable,
    requested,
)

_library = torch.library.Library("dgm_fast", "FRAGMENT")
_ops: dict[str, Op] = {}


@dataclass(frozen=True)
class Direction:
    """The schema of one direction of an op (`forward`, `backward`) and its shape function."""

    schema: str
    fake: Callable[..., Any]


class Op:
    """An op's torch operators and the choice of its implementation.

    Operator `dgm_fast::<name>_<direction>_<implementation>` is defined for each direction and
    implementation, so that a graph shows which kernel it runs and a CPU tensor can reach both
    the C++ and the interpreted Triton kernel.

    Arguments:
        name: the op's public name.
        directions: schema and fake of each direction.
        implementations: in the order in which `auto` prefers them.
    """

    def __init__(
        self,
        name: str,
        directions: Mapping[str, Direction],
        implementations: Sequence[Implementation],
    ) -> None:
        self.name = name
        self.directions = dict(directions)
        self.implementations = {each.name: each for each in implementations}
        self.kernels: dict[tuple[str, str], Callable[..., Any]] = {}

        for direction in self.directions:
            for implementation in implementations:
                self._register(direction, implementation)

        _ops[name] = self

    def _register(self, direction: str, implementation: Implementation) -> None:
        name = f"{self.name}_{direction}_{implementation.name}"
        # Not pt2_compliant by default: the contract's checks of operators are what earns the tag.
        _library.define(name + self.directions[direction].schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.register_fake(
            f"dgm_fast::{name}", self.directions[direction].fake, lib=_library
        )

        if implementation.launchers is not None:
            launch = _lazy(implementation.launchers, direction)
            for device_type in implementation.device_types:
                _library.impl(name, launch, device_type.upper())

        self.kernels[direction, implementation.name] = getattr(torch.ops.dgm_fast, name).default

    def choose(self, impl: str, device: torch.device, dtype: torch.dtype) -> str:
        """Return the implementation that a call runs.

        Arguments:
            impl: what the caller asked for.
            device: of the inputs.
            dtype: of the computation.

        Raises:
            ImplementationUnavailable: `impl` was named and cannot run the call.
            ValueError: no implementation has that name.
        """
        wanted = requested(impl)

        if wanted == "reference":
            return "reference"

        if wanted == "auto":
            return self.automatic(device, dtype)

        if wanted not in self.implementations:
            has = ", ".join(("reference", *self.implementations))
            raise ImplementationUnavailable(f"{self.name} has no {wanted!r} kernel; it has {has}")

        reason = self.implementations[wanted].unavailable_reason(device, dtype)
        if reason is not None:
            raise ImplementationUnavailable(f"{self.name}: impl={wanted!r} cannot run: {reason}")

        return wanted

    def automatic(self, device: torch.device, dtype: torch.dtype = torch.float32) -> str:
        """Return the first implementation that can run, else the reference."""
        for name, implementation in self.implementations.items():
            # Interpreted kernels are a check, not a fast path.
            if name == "triton" and device.type == "cpu":
                continue

            if implementation.unavailable_reason(device, dtype) is None:
                return name

        return "reference"


def _lazy(module: str, function: str) -> Callable[..., Any]:
    def launch(*args: Any) -> Any:
        return getattr(importlib.import_module(module), function)(*args)

    return launch


def all_ops() -> dict[str, Op]:
    """Return every op defined so far by name; importing `dgm_fast.ops` defines the library's."""
    return dict(_ops)
