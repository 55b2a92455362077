"""What a call costs before its kernel starts: the ways to register an op, with a trivial kernel.

`python -m benchmarks.dispatch_overhead`. `define_impl` stands for `library.define`, `impl` and
`register_fake`, with the `autograd.Function` outside: its context handled in `forward`, or in the
`setup_context` that `torch.func` needs, or the whole Function left out where nothing needs a
gradient.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import tyro
from rich.console import Console
from torch import Tensor

from benchmarks import record, report
from benchmarks.columns import OURS, clear_grads
from benchmarks.run import Options, prepare_process, write
from benchmarks.timing import Spread, Timed, interleave

NAMESPACE = "dgm_fast_benchmark"
NAME = "dispatch_overhead"
CHOSEN = "define_impl_function_if_grad"
CALLS = 50
DIRECTIONS = ("forward_no_grad", "forward", "forward_backward")

Unary = Callable[[Tensor], Tensor]


def trivial(x: Tensor) -> Tensor:
    """Return memory of x's shape: all that is left to time is the way here."""
    return torch.empty_like(x)


def _function(forward: Unary, backward: Unary) -> Unary:
    class Trivial(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return forward(x)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return backward(grad)

    return Trivial.apply


def _function_with_setup(forward: Unary, backward: Unary) -> Unary:
    # What torch.func needs; apply then binds its arguments to forward's signature at every call.
    class Trivial(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return forward(x)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return backward(grad)

    return Trivial.apply


def _if_grad(forward: Unary, differentiable: Unary) -> Unary:
    def choose(x: Tensor) -> Tensor:
        needed = x.requires_grad and torch.is_grad_enabled()
        return differentiable(x) if needed else forward(x)

    return choose


def _define_impl(library: torch.library.Library, direction: str) -> Unary:
    name = f"defined_{direction}"
    library.define(f"{name}(Tensor x) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
    library.impl(name, trivial, "CPU")
    library.impl(name, trivial, "CUDA")
    torch.library.register_fake(f"{NAMESPACE}::{name}", trivial, lib=library)
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def _custom_op(name: str) -> Any:
    return torch.library.custom_op(
        f"{NAMESPACE}::{name}", trivial, mutates_args=(), schema="(Tensor x) -> Tensor"
    )


def _with_register_autograd() -> Unary:
    forward, backward = _custom_op("autograd_forward"), _custom_op("autograd_backward")
    for each in (forward, backward):
        each.register_fake(trivial)

    forward.register_autograd(
        lambda ctx, grad: backward(grad),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )
    return forward


def styles(library: torch.library.Library) -> dict[str, Unary]:
    """Return the same trivial op registered in every way."""
    customs = [_custom_op(f"function_{direction}") for direction in ("forward", "backward")]
    defined = [_define_impl(library, direction) for direction in ("forward", "backward")]

    ways = {
        "anchor:bare_function": _function(trivial, trivial),
        "anchor:bare_function_setup_context": _function_with_setup(trivial, trivial),
        "define_impl_function": _function(*defined),
        "define_impl_function_setup_context": _function_with_setup(*defined),
        "define_impl_function_if_grad": _if_grad(defined[0], _function(*defined)),
        "custom_op_function": _function(*customs),
        "custom_op_register_autograd": _with_register_autograd(),
    }
    return {f"{OURS}{name}" if name == CHOSEN else name: op for name, op in ways.items()}


def _timed(op: Unary, x: Tensor, grad: Tensor, direction: str) -> Timed:
    x = x.detach().requires_grad_(direction != "forward_no_grad")

    def many() -> None:
        # One call takes about as long as the clock: time many.
        for _ in range(CALLS):
            y = op(x)
            if direction == "forward_backward":
                torch.autograd.backward(y, grad)

    return Timed(many, partial(clear_grads, [x]))


def _per_call(spread: Spread) -> Spread:
    times = (each / CALLS for each in (spread.median_us, spread.p20_us, spread.p80_us))
    return Spread(*times, spread.repeats)


def main(options: Options, console: Console) -> int:
    """Measure, print and record."""
    prepare_process(options.threads)
    device = torch.device(options.device)
    run = record.start_run(device)
    x, grad = torch.randn(2, 4, 4, device=device)
    measurements = []

    with torch.library._scoped_library(NAMESPACE, "FRAGMENT") as library:
        ops = styles(library)
        for direction in DIRECTIONS:
            calls = {name: [_timed(op, x, grad, direction)] for name, op in ops.items()}
            place = NAME, "trivial", "float32", direction
            measurements += [
                record.measurement(place, name, _per_call(spread))
                for name, spread in interleave(
                    calls, device, options.budget, with_launches=True
                ).items()
            ]

    report.print_table(console, NAME, measurements)
    write(options, run, NAME, measurements, console)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options), Console()))
