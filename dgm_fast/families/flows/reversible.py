r"""Backpropagation through invertible steps that stores the output alone.

For a step y = f(x) with log-determinant l, and gradients :math:`\bar y` and :math:`\bar l` of a
loss, the backward pass walks the chain from its end: it recovers x from y by the inverse, runs f
again from x as a leaf of a graph of its own, and differentiates that graph,

.. math:: (\bar x, \bar\theta) = \bar y^T \partial y / \partial(x, \theta)
          + \bar l\, \partial l / \partial(x, \theta)

so that activations of one step live at a time. Of a coupling, inverse and forward share the one
call of its conditioner (`Coupling.replay`): a conditioner is evaluated twice and differentiated
once, 4/3 of the time of a stored pass whose backward costs twice its forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dgm_fast._core.uncompiled import uncompiled

__all__ = ["apply_reversibly"]


class Steps(Protocol):
    """A chain of steps, as `Chain`."""

    steps: Sequence[nn.Module]

    def apply_steps(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Apply the steps in order."""


# Autograd's engine and nested graphs are nothing that torch.compile can trace.
@uncompiled
def apply_reversibly(chain: Steps, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return y and log_det of a chain whose backward recovers what the forward does not store.

    Gradients reach x, the context and every parameter of the steps, the same as without.

    Raises:
        RuntimeError: in the backward, when asked for a second derivative.
    """
    by_step = [[p for p in step.parameters() if p.requires_grad] for step in chain.steps]
    # Steps may share parameters; a dict keeps each once, in order.
    parameters = list(dict.fromkeys(p for of_step in by_step for p in of_step))
    if not chain.steps or not (parameters or x.requires_grad):
        return chain.apply_steps(x, context)
    return _ReversibleChain.apply(chain, by_step, x, context, *parameters)


class _ReversibleChain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        chain: Steps,
        by_step: Sequence[Sequence[Tensor]],
        x: Tensor,
        context: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.chain, ctx.by_step, ctx.parameters = chain, by_step, parameters
        ctx.autocast = _Autocast(x.device.type)
        with ctx.autocast.restored():
            y, log_det = chain.apply_steps(x, context)

        # The parameters are saved so that autograd notices when one is changed before backward.
        ctx.save_for_backward(y, context, *parameters)
        ctx.set_materialize_grads(False)
        return y, log_det

    @staticmethod
    def backward(
        ctx: Any, grad_y: Tensor | None, grad_log_det: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "reversible must be False for second derivatives: the backward of a reversible "
                "chain cannot be differentiated (create_graph=True)"
            )

        _check_unchanged(ctx)
        y, context, *_ = ctx.saved_tensors
        if context is not None:
            context = context.detach().requires_grad_(ctx.needs_input_grad[3])
        gradients = _Gradients()
        with ctx.autocast.restored():
            for step, of_step in zip(reversed(ctx.chain.steps), reversed(ctx.by_step), strict=True):
                inputs = [*of_step, *([context] if ctx.needs_input_grad[3] else [])]
                y, grad_y = _step_backward(
                    step, y, context, inputs, (grad_y, grad_log_det), gradients
                )

        grad_context = None if context is None else gradients.of(context)
        return None, None, grad_y, grad_context, *(gradients.of(p) for p in ctx.parameters)


def _check_unchanged(ctx: Any) -> None:
    """Refuse parameters that are in the modules during the forward alone."""
    now = {id(p) for p in ctx.chain.steps.parameters()}
    if not all(id(p) in now for p in ctx.parameters):
        raise RuntimeError(
            "reversible must be False where parameters are replaced for a call, as by "
            "torch.func.functional_call: the backward runs the steps again with their own"
        )


class _Gradients:
    """Sums of the gradients of tensors that several steps may share."""

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}

    def add(self, tensor: Tensor, gradient: Tensor | None) -> None:
        known = self._sums.get(id(tensor))
        if gradient is not None:
            self._sums[id(tensor)] = gradient if known is None else known + gradient

    def of(self, tensor: Tensor) -> Tensor | None:
        return self._sums.get(id(tensor))


def _step_backward(
    step: nn.Module,
    y: Tensor,
    context: Tensor | None,
    inputs: Sequence[Tensor],
    grads: tuple[Tensor | None, Tensor | None],
    gradients: _Gradients,
) -> tuple[Tensor, Tensor | None]:
    """Return the input of a step and its gradient; add up those of its other inputs."""
    x, *outputs = getattr(step, "replay", _Replay(step))(y, context)
    pairs = [
        (output, grad)
        for output, grad in zip(outputs, grads, strict=True)
        if grad is not None and output.requires_grad
    ]
    if not pairs:
        return x.detach(), None

    found = torch.autograd.grad(
        [output for output, _ in pairs],
        [x, *inputs],
        [grad.to(output.dtype) for output, grad in pairs],
        allow_unused=True,
    )
    for tensor, gradient in zip(inputs, found[1:], strict=True):
        gradients.add(tensor, gradient)

    return x.detach(), found[0]


class _Replay:
    """How a step without a `replay` of its own is recovered and run again."""

    def __init__(self, step: nn.Module) -> None:
        self.step = step

    def __call__(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            x, _ = self.step.inverse(y, context)
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            return x, *self.step(x, context)


class _Autocast:
    """The state of autocast at the forward, which the backward must run under again."""

    def __init__(self, device_type: str) -> None:
        self.device_type = device_type
        self.enabled = torch.is_autocast_enabled(device_type)
        self.dtype = torch.get_autocast_dtype(device_type)

    def restored(self) -> AbstractContextManager[Any]:
        # The cache would hand weights cast without a graph by the forward to the backward.
        return torch.autocast(
            self.device_type, self.dtype, enabled=self.enabled, cache_enabled=False
        )
