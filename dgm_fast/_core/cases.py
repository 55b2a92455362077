"""Sample inputs of an op, read by the contract test and the benchmarks alike.

How a benchmark reads them: `inputs = case.make(device, dtype, generator)`, then, to time a
backward, `requires_grad_()` on every tensor named in `case.differentiable` that is not None. The
tensors differentiated are `case.leaves(inputs)`, except for a rival, which names its own in
`Prepared.leaves`: a rival that keeps a masked copy of the weight trains the copy.
A rival that lacks its library raises ImportError, whose message is the reason to print.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Cost:
    """The least work a call must do.

    Attributes:
        bytes_moved: each input read once, each output written once.
        flops: of what the op needs, not of what an implementation happens to do.
    """

    bytes_moved: int
    flops: int


@dataclass(frozen=True)
class OpCase:
    """One named set of inputs.

    Attributes:
        name: unique within the op, as it appears in test ids and benchmark rows.
        make: `(device, dtype, generator) -> keyword arguments` of the public function. The
            generator is always the CPU's, so that every device gets the same numbers.
        differentiable: names among them whose gradients are compared.
        cost: `(inputs, backward) -> Cost`, where backward means forward and backward; needed by
            benchmark workloads only.
        devices: where a workload is worth timing.
        interpreted: whether Triton's interpreter, at milliseconds a tile, runs the case too; not
            one that is large for the sake of threads, where others have every kind of tile.
    """

    name: str
    make: Callable[[torch.device, torch.dtype, torch.Generator], Inputs]
    differentiable: tuple[str, ...] = ()
    cost: Callable[[Inputs, bool], Cost] | None = None
    devices: tuple[str, ...] = ("cpu", "cuda")
    interpreted: bool = True

    def leaves(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """Return the tensors to differentiate."""
        return tuple(inputs[name] for name in self.differentiable if inputs[name] is not None)


@dataclass(frozen=True)
class BadInput:
    """A call that must be refused, with the error and the argument its message names.

    Attributes:
        name: unique within the op.
        make: `(device) -> keyword arguments` of the public function.
        error: the exception it must raise.
        names: the argument that the message starts with.
        shows: the offending shape, dtype or value, as it stands in the message.
    """

    name: str
    make: Callable[[torch.device], Inputs]
    error: type[Exception]
    names: str
    shows: str


@dataclass(frozen=True)
class Prepared:
    """A rival ready to be timed: the call, and the tensors a backward differentiates."""

    call: Callable[[], Any]
    leaves: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class OpCases:
    """Everything the contract test and the benchmarks need to know of one op.

    Attributes:
        function: the public function; takes `impl=`.
        reference: its oracle, with the same keyword arguments less `impl`.
        cases: contract cases, small.
        terms: `inputs -> (of an output, of a gradient)`, the most roundings on the way to one
            element: for a sum, the number of its terms.
        magnitude: bounds what each of them rounds. Called as the reference is, in float64 with
            the absolute values of its tensors; for a sum it is the sum of absolute terms, and
            its gradients are the same of the gradients' sums. Default: the reference.
        signed_magnitude: call it with the values themselves instead, for an op that rounds
            differences, or exponentials of what may be negative; signs of its results are ignored.
        with_batch: `(inputs, size) -> inputs` of the same call with another, smaller batch.
        workloads: paper-sized cases for benchmarks.
        bad_inputs: calls that must be refused.
        rivals: other ways to the same result, `name -> prepare`, where `prepare(inputs)` does what
            may be done once outside the timed region. `best_eager` is the cheapest plain PyTorch,
            `anchor:*` a bound that does other work, `outside:*` another library.
        baseline: what one would write in plain PyTorch, with the reference's keyword arguments;
            timed as it is and compiled. Default: the reference, where that is it; the baseline of
            an op that draws noise draws it from torch's own generator.
        noise: `inputs -> {argument: noise}` that the op draws for these inputs, with which its
            rivals must give the same result.
        reached: `(inputs, name, index) -> bool outputs` that a NaN or an infinity at that index
            of argument `name` must reach and alone can change. None: those that are not finite in
            the reference; the others must be the reference's. Any output may be NaN instead.
    """

    function: Callable[..., Any]
    reference: Callable[..., Any]
    cases: tuple[OpCase, ...]
    terms: Callable[[Inputs], tuple[int, int]]
    with_batch: Callable[[Inputs, int], Inputs]
    magnitude: Callable[..., Any] | None = None
    signed_magnitude: bool = False
    workloads: tuple[OpCase, ...] = ()
    bad_inputs: tuple[BadInput, ...] = ()
    rivals: Mapping[str, Callable[[Inputs], Prepared]] = field(default_factory=dict)
    baseline: Callable[..., Any] | None = None
    noise: Callable[[Inputs], Inputs] | None = None
    reached: Callable[[Inputs, str, tuple[int, ...]], Tensor] | None = None
