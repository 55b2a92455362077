"""Make the kernels of an op differentiable: one `autograd.Function` for every op that needs one.

The forward's arguments come in the order of its schema, tensors first. The backward takes a
gradient for each output, or None where none arrives, then the forward's arguments, then `needs`,
one bool for each differentiable argument; it returns a gradient for each of these, of any shape
where not needed:

    forward(x, scale, int n) -> (Tensor, Tensor)
    backward(Tensor? grad_y, Tensor? grad_log_det, x, scale, int n, bool[2] needs)
        -> (Tensor, Tensor)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.op import Op

Outputs = Tensor | tuple[Tensor, ...]


def differentiable(
    op: Op, places: Sequence[int], reference: Callable[..., Outputs]
) -> Callable[..., Outputs]:
    """Return `call(implementation, *arguments)`, which runs a kernel of `op` differentiably.

    What is saved for the backward is the arguments and nothing else. Second derivatives run on the
    reference.

    Arguments:
        op: has the directions `forward` and `backward`.
        places: positions of the differentiable arguments among the forward's; one may be None.
        reference: the same function of the same arguments in plain PyTorch.
    """
    places = tuple(places)
    tensors = _leading_tensors(op)

    def save(ctx: Any, implementation: str, arguments: tuple[Any, ...]) -> None:
        ctx.implementation = implementation
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*arguments[:tensors])
        ctx.constants = arguments[tensors:]

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        arguments = (*ctx.saved_tensors, *ctx.constants)
        needs = [ctx.needs_input_grad[1 + place] for place in places]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # Only create_graph=True gets here with grad enabled: the caller wants the second
            # derivative, and the reference's graph has it.
            found = reference_gradients(reference, arguments, places, needs, grads)
        else:
            found = op.kernels["backward", ctx.implementation](*grads, *arguments, needs)

        # An operator with one result returns it bare.
        found = (found,) if isinstance(found, Tensor) else found
        result: list[Tensor | None] = [None] * (1 + len(arguments))
        for place, need, grad in zip(places, needs, found, strict=True):
            if need:
                result[1 + place] = grad

        return tuple(result)

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, implementation: str, *arguments: Any) -> Outputs:
            save(ctx, implementation, arguments)
            return op.kernels["forward", implementation](*arguments)

    class Transformable(torch.autograd.Function):
        """The same for `torch.func`, whose form of Function costs 40 us more a call."""

        generate_vmap_rule = True

        @staticmethod
        def forward(implementation: str, *arguments: Any) -> Outputs:
            return op.kernels["forward", implementation](*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
            save(ctx, inputs[0], inputs[1:])

    Kernel.backward = Transformable.backward = staticmethod(backward)

    def call(implementation: str, *arguments: Any) -> Outputs:
        if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
            return Transformable.apply(implementation, *arguments)

        if torch.is_grad_enabled() and any(
            arguments[place] is not None and arguments[place].requires_grad for place in places
        ):
            return Kernel.apply(implementation, *arguments)

        return op.kernels["forward", implementation](*arguments)

    return call


def _leading_tensors(op: Op) -> int:
    """Return how many of the forward's arguments are tensors, or may be."""
    schema = op.directions["forward"].schema
    kinds = [each.split()[0] for each in schema[1 : schema.index(")")].split(",")]
    tensors = [kind in ("Tensor", "Tensor?") for kind in kinds]
    if sorted(tensors, reverse=True) != tensors:
        raise ValueError(f"the tensors of {op.name} must come before its constants; got {schema}")

    return sum(tensors)


def reference_gradients(
    reference: Callable[..., Outputs],
    arguments: Sequence[Any],
    places: Sequence[int],
    needs: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Return the gradients of a reference's arguments, with a graph for second derivatives.

    Arguments:
        reference: of the arguments.
        arguments: those of the operator.
        places: of the differentiable ones among them.
        needs: which of these to differentiate; the others get None.
        grads: of the outputs, or None.
    """
    # One argument may be computed from another (a scale from the x it scales), whose gradient must
    # not take that path here: the caller's graph takes it. Views are leaves of their own.
    arguments = [
        each.view_as(each) if isinstance(each, Tensor) and each.requires_grad else each
        for each in arguments
    ]
    outputs = reference(*arguments)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    pairs = [
        (output, grad)
        for output, grad in zip(outputs, grads, strict=True)
        if grad is not None and output.requires_grad
    ]
    leaves = [arguments[place] for place, need in zip(places, needs, strict=True) if need]
    found = iter(
        torch.autograd.grad(
            [output for output, _ in pairs],
            leaves,
            [grad for _, grad in pairs],
            create_graph=True,
            materialize_grads=True,
        )
    )
    return [next(found) if need else None for need in needs]
