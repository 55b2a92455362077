"""Autoregressive steps: each feature is transformed by what a network makes of those before it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dgm_fast._core.uncompiled import uncompiled
from dgm_fast.families.autoregressive.masked_mlp import MaskedMLP
from dgm_fast.families.flows.chain import no_change
from dgm_fast.layers import SplineShape
from dgm_fast.ops import affine_coupling, rational_quadratic_spline
from dgm_fast.sampling import AffineInverse, MaskedNetwork, MaskedSampler, SplineInverse
from dgm_fast.sampling.choice import impl_of_model
from dgm_fast.sampling.masked_mlp import BLOCK, MaskedBlocks, Step, TransposedSweep, is_rounding
from dgm_fast.sampling.masked_mlp.blocks import is_rounding_of_any_size
from dgm_fast.sampling.masked_mlp.op import choose, choose_transposed

__all__ = ["AffineAutoregressive", "Flip", "MaskedAutoregressive", "SplineAutoregressive"]

Solver = Literal["auto", "sweep", "jacobi"]


class MaskedAutoregressive(nn.Module, ABC):
    r"""Base of the steps of MAF, of IAF seen from its data, and of autoregressive spline flows.

    .. math:: y_d = f(x_d;\, \theta_d), \quad \theta_d = network(x_1, \dots, x_{d-1}, c)

    The Jacobian is triangular, so log |det dy/dx| is the sum of the D log-slopes. `forward` takes
    one pass of the network. `inverse` costs about as much: `MaskedSampler` solves for one feature
    after another with each of the network's units computed once, on a CPU and in one launch on a
    GPU. Where no kernel runs, with `impl="reference"` on a GPU, and under autocast it iterates

    .. math:: x^{(k+1)}_d = f^{-1}(y_d;\, \theta_d(x^{(k)}))

    which has the first k features right after k passes, so all after D at the latest, and mostly
    long before: it stops when a pass moves x by no more than rounding does.
    The gradient is the implicit one: :math:`J^{-\top}` is applied to the gradient of x by solving
    the transposed system, so memory is that of one pass. On a CPU in float32 that is one sweep
    too, from the last feature to the first, and else passes.

    Arguments:
        network: of `MaskedMLP`'s kind, (B, D) -> (B, D, P).
        impl: of the ops and of the sampler.
        solver: how `inverse` finds x, an attribute that may be set later: `"auto"` as above,
            `"sweep"` or `"jacobi"`, the iteration. On a CPU the sweep takes what one or two passes
            do, and the iteration three at least.

    Shapes:
        x (B, D) -> y (B, D), log_det (B,).

    Raises:
        ValueError: there is no such solver.
        RuntimeError: a second derivative of `inverse` is asked for.

    References:
        Song, Meng, Liao, Ermon, "Accelerating Feedforward Computation via Parallel Nonlinear
        Equation Solving", 2021, for the iteration.
    """

    def __init__(self, network: MaskedMLP, impl: str, solver: Solver = "auto") -> None:
        super().__init__()
        if solver not in get_args(Solver):
            raise ValueError(f"solver must be 'auto', 'sweep' or 'jacobi'; got {solver!r}")
        self.network = network
        self.impl = impl
        self.solver = solver

    @abstractmethod
    def elementwise(self, x: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Transform x (B, D) by parameters (B, D, P); return it with log_det (B,)."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y and log |det dy/dx|, (B,)."""
        return self.elementwise(x, self.network(x, context), False)

    @property
    @abstractmethod
    def inverse_step(self) -> Step:
        """How a sampler makes x of y and parameters."""

    # Its number of passes depends on the data.
    @uncompiled
    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log |det dx/dy|, (B,)."""
        sampler = self._sampler(y)
        with torch.no_grad():
            if sampler is None:
                x, log_det = self._iterate(y, context), None
            else:
                x, log_det = _sweep(sampler, y, context)

        recorded = [y, *self.parameters(), *([] if context is None else [context])]
        if torch.is_grad_enabled() and any(each.requires_grad for each in recorded):
            return self._attach(x, y, context)
        return x, -self(x, context)[1] if log_det is None else log_det

    def _sampler(self, y: Tensor) -> MaskedSampler | None:
        is_auto = self.solver == "auto"
        if self.solver == "jacobi" or (is_auto and _takes_passes(y)):
            return None
        impl = impl_of_model(self.impl)
        network, step = self.network.description(), self.inverse_step
        # A few passes of a small network cost less than its blocks one by one.
        if is_auto and choose(impl, network, step) == "reference" and not _has_blocks(y):
            return None
        return MaskedSampler(network, step, impl=impl)

    def _iterate(self, y: Tensor, context: Tensor | None) -> Tensor:
        """Return x by passes of the whole network."""
        x = found = torch.zeros_like(y)
        for _ in range(y.shape[1] if y.numel() > 0 else 0):
            found = self.elementwise(y, self.network(x, context), True)[0].to(y.dtype)
            # Features still to come may overflow; as NaN they would reach those before them.
            previous, x = x, found.nan_to_num(0.0, 0.0, 0.0)
            if is_rounding(x - previous, x):
                break
        return _without_lost(found)[0]

    def _solver_of(
        self, y: Tensor
    ) -> Callable[[MaskedNetwork], MaskedBlocks | TransposedSweep] | None:
        """Return what solves the transposed system of a network, or None for passes of it."""
        if _takes_passes(y):
            return None
        if choose_transposed(impl_of_model(self.impl), self.network.description()) == "cpp":
            return TransposedSweep
        return (lambda network: MaskedBlocks(network, y.dtype)) if _has_blocks(y) else None

    def _attach(self, x: Tensor, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return x, the solution, and log |det dx/dy| as functions of y, context and parameters."""
        x = x.requires_grad_()
        levels = self.network.levels(x, context)
        parameters = self.network.outputs(levels)
        reached, log_slopes = self.elementwise(x, parameters, False)

        fixed = parameters.detach().requires_grad_()
        alone, _ = self.elementwise(x, fixed, False)
        slopes, by_parameters = torch.autograd.grad(alone.sum(), (x, fixed))
        hidden = [each.detach() for each in levels[1:]]
        solver_of = self._solver_of(y)

        def solve(grad: Tensor | None, by_log_det: Tensor | None) -> Tensor:
            # The graph between x and y, which the node that asks is not a part of.
            if by_log_det is not None:
                (by_x,) = torch.autograd.grad(log_slopes, x, -by_log_det, retain_graph=True)
                grad = by_x if grad is None else grad + by_x
            if solver_of is None:
                return _solve_transposed(grad, x, reached, slopes)
            solver = solver_of(self.network.description())
            return solver.solve_transposed(grad, slopes, by_parameters, hidden)

        # y - reached is rounding; what it is for is its gradient at fixed x, (dy, -df/dparameters).
        zero, log_det = _SolveGradient.apply(y - reached, log_slopes, solve)
        return x.detach() + zero, log_det


def _takes_passes(y: Tensor) -> bool:
    # Low precision is to round as `forward` does.
    return torch.is_autocast_enabled(y.device.type)


def _has_blocks(y: Tensor) -> bool:
    # A GPU would wait for the launches of all blocks' passes.
    return y.device.type == "cpu" and y.shape[1] >= 2 * BLOCK


def _sweep(sampler: MaskedSampler, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    state = sampler.start(len(y), context)
    x, is_lost = _without_lost(sampler.draw(state, y.unsqueeze(-1)))
    return x.to(y.dtype), state.log_det.masked_fill(is_lost, torch.nan)


def _without_lost(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x with NaN after a feature that overflowed, and whether one did, (B,)."""
    # Where it is not finite, in fewer launches of a GPU than `isfinite` takes.
    lost = (x - x).isnan()
    # It leaves none of those after it known.
    return x.masked_fill((lost.cumsum(1) > 0) & ~lost, torch.nan), lost.any(1)


class _SolveGradient(torch.autograd.Function):
    r"""Zero, whose gradient g becomes the w that solves :math:`J^\top w = g`, and -log_slopes.

    J = dy/dx. To g counts what the gradient of the second gives to x, which is a function of y.
    """

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        log_slopes: Tensor,
        solve: Callable[[Tensor | None, Tensor | None], Tensor],
    ) -> tuple[Tensor, Tensor]:
        ctx.solve = solve
        ctx.set_materialize_grads(False)
        return torch.zeros_like(residual), -log_slopes

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, by_log_det: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the inverse of an autoregressive step must be differentiated once only: its "
                "gradient is solved for and has no graph (create_graph=True)"
            )
        if grad is None and by_log_det is None:
            return None, None, None
        w = ctx.solve(grad, by_log_det)
        return w, None if by_log_det is None else -by_log_det, None


def _solve_transposed(grad: Tensor, x: Tensor, y: Tensor, slopes: Tensor) -> Tensor:
    r"""Solve :math:`J^\top w = g`, J = dy/dx, by iterating with the whole network.

    J is lower triangular with the slopes S on its diagonal, so

    .. math:: w^{(k+1)} = w^{(k)} + S^{-1} (g - J^\top w^{(k)})

    has one more feature right after each pass, from the last one on.
    """
    w = grad / slopes
    for _ in range(w.shape[1] if w.numel() > 0 else 0):
        (reached,) = torch.autograd.grad(y, x, w, retain_graph=True)
        change = (grad - reached) / slopes
        w = w + change
        if is_rounding_of_any_size(change, w):
            break
    return w


class AffineAutoregressive(MaskedAutoregressive):
    r"""Shift and scale each feature: :math:`y_d = (x_d - \mu_d)\, e^{-\alpha_d}`.

    Arguments:
        features, hidden, context_features, residual: as in `MaskedMLP`.
        standardize: True as above; False for :math:`y_d = e^{\alpha_d} x_d + \mu_d`.
        bound: of the log-scales alpha = bound * tanh(u / bound), which keeps a step that has not
            learned from overflowing.
        impl: of the ops.
        solver: of the inverse, as in `MaskedAutoregressive`.

    References:
        Papamakarios, Pavlakou, Murray, "Masked Autoregressive Flow for Density Estimation", 2017,
        eq. 3 and 5.
    """

    def __init__(
        self,
        features: int,
        hidden: tuple[int, ...],
        context_features: int = 0,
        *,
        residual: bool = False,
        standardize: bool = True,
        bound: float = 5.0,
        impl: str = "auto",
        solver: Solver = "auto",
    ) -> None:
        network = MaskedMLP(features, 2, hidden, context_features, residual, impl)
        super().__init__(network, impl, solver)
        self.standardize = standardize
        self.bound = bound

    @property
    def inverse_step(self) -> AffineInverse:
        """How a sampler makes x of y and parameters."""
        return AffineInverse(self.bound, self.standardize, impl=self.impl)

    def elementwise(self, x: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Scale and shift, or undo it."""
        log_scale, shift = parameters.unbind(-1)
        # The coupling's forward direction is e^a x + m: standardizing is its inverse.
        return affine_coupling(
            x,
            log_scale,
            shift,
            scale_map="tanh",
            bound=self.bound,
            inverse=inverse != self.standardize,
            impl=self.impl,
        )


class SplineAutoregressive(MaskedAutoregressive):
    """Bend each feature by a monotonic rational-quadratic spline.

    Arguments:
        features, hidden, context_features, residual: as in `MaskedMLP`.
        spline: number of bins and bound.
        impl: of the ops.
        solver: of the inverse, as in `MaskedAutoregressive`.

    References:
        Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows", 2019, sec. 3.2.
    """

    def __init__(
        self,
        features: int,
        hidden: tuple[int, ...],
        spline: SplineShape,
        context_features: int = 0,
        *,
        residual: bool = False,
        impl: str = "auto",
        solver: Solver = "auto",
    ) -> None:
        network = MaskedMLP(features, spline.parameters, hidden, context_features, residual, impl)
        super().__init__(network, impl, solver)
        self.spline = spline
        spline.make_identity(self.network.layers[-1].bias, features)

    @property
    def inverse_step(self) -> SplineInverse:
        """How a sampler makes x of y and parameters."""
        return SplineInverse(self.spline.bins, self.spline.bound, impl=self.impl)

    def elementwise(self, x: Tensor, parameters: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Bend, or undo it."""
        return rational_quadratic_spline(
            x,
            parameters,
            bound=self.spline.bound,
            inverse=inverse,
            impl=self.impl,
        )


class Flip(nn.Module):
    """Reverse the order of the features, so that the last of one step are the first of the next."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return y and zeros."""
        return x.flip(1), no_change(x)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and zeros."""
        return y.flip(1), no_change(y)
