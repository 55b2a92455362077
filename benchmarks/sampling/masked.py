"""What all features of a batch cost, drawn by MADE or solved for by MAF: entries of `sampling`.

A step of these cases is a whole batch. `eager` runs the network once a feature; `best_eager`
iterates blocks of 64 features by calls of plain PyTorch, and `compile_*` does so by the compiled
functions of `compiled_masked.py`. Each call of these and of ours includes laying out the weights,
as `sample` does. `anchor:density` is one evaluation of the density of the batch, by what is
fastest. `ours:jacobi` iterates the whole network of MAF's step by our products; how many passes
that takes depends on the weights, and is printed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.columns import COMPILE_MODES, OURS
from benchmarks.sampling.case import SEED, Case, Draws, make_columns, ours_on
from benchmarks.sampling.compiled import compiler_of
from benchmarks.sampling.compiled_masked import CompiledBlocks
from dgm_fast.families import MADE, MADEConfig
from dgm_fast.families.autoregressive.masked_mlp import MaskedMLP
from dgm_fast.families.flows.masked_autoregressive import (
    AffineAutoregressive,
    MaskedAutoregressive,
    SplineAutoregressive,
)
from dgm_fast.layers import SplineShape
from dgm_fast.sampling import Draw, MaskedNetwork, MaskedSampler, naive_sample
from dgm_fast.sampling.masked_mlp import MaskedBlocks, Step

__all__ = ["MODELS", "batch_case"]

BATCHES = (1, 4, 16, 64, 100, 256)
# A GPU's sweep takes longer from some batch on. The naive way would take minutes.
LARGE_BATCH, MOST_NAIVE = 4096, 256
JACOBI = f"{OURS}jacobi"


class Model(ABC):
    """What a case is of: how to make features, and how to evaluate their density.

    Attributes:
        step: makes a feature of its parameters.
    """

    step: Step

    def __init__(self, features: int, hidden: tuple[int, ...], device: torch.device) -> None:
        self.features, self.hidden, self.device = features, hidden, device

    @abstractmethod
    def network(self) -> MaskedNetwork:
        """Return the parameters as they are."""

    @abstractmethod
    def noise(self, batch: int) -> Tensor:
        """Draw the noise, or y, (B, D, N)."""

    @abstractmethod
    def parameters(self, x: Tensor) -> Tensor:
        """Return those of every feature, (B, D, P)."""

    @abstractmethod
    def density(self, x: Tensor) -> Tensor:
        """Evaluate it."""


class BernoulliMADE(Model):
    """A MADE of binary features."""

    residual = False

    def __init__(self, features: int, hidden: tuple[int, ...], device: torch.device) -> None:
        super().__init__(features, hidden, device)
        config = MADEConfig(features, hidden, residual=self.residual)
        self.made = MADE(config, device=device).eval()
        self.step = Draw(self.made.conditional)

    def network(self) -> MaskedNetwork:
        return self.made.description()

    def noise(self, batch: int) -> Tensor:
        return self.made.draw_noise(batch)

    def parameters(self, x: Tensor) -> Tensor:
        return self.made(x)

    def density(self, x: Tensor) -> Tensor:
        return self.made.log_prob(x)


class ResidualMADE(BernoulliMADE):
    """One that adds sums of units to those two layers on."""

    residual = True


class MAFStep(Model):
    """One affine autoregressive step on a normal base."""

    def __init__(self, features: int, hidden: tuple[int, ...], device: torch.device) -> None:
        super().__init__(features, hidden, device)
        with torch.device(device):
            self.flow = self.flow_of(features, hidden)
        with torch.no_grad():
            # Away from the identity.
            self.flow.network.layers[-1].weight.normal_(0.0, 0.01)
        self.step = self.flow.inverse_step

    def flow_of(self, features: int, hidden: tuple[int, ...]) -> MaskedAutoregressive:
        """Make the step, whose own inverse is the column of the iteration."""
        return AffineAutoregressive(features, hidden, solver="jacobi")

    def network(self) -> MaskedNetwork:
        mlp: MaskedMLP = self.flow.network
        return mlp.description()

    def noise(self, batch: int) -> Tensor:
        return torch.randn(batch, self.features, 1, device=self.device)

    def parameters(self, x: Tensor) -> Tensor:
        return self.flow.network(x)

    def density(self, x: Tensor) -> Tensor:
        z, log_det = self.flow(x)
        return log_det - 0.5 * z.square().sum(1)

    @torch.no_grad()
    def iterate(self, noise: Tensor) -> Tensor:
        """Solve by passes of the whole network."""
        return self.flow.inverse(noise.squeeze(2))[0]

    def passes(self, noise: Tensor) -> int:
        """Count those of one solution, without the one that evaluates its density."""
        counted: list[object] = []
        handle = self.flow.network.register_forward_hook(lambda *_: counted.append(None))
        self.iterate(noise)
        handle.remove()
        return len(counted) - 1


class SplineStep(MAFStep):
    """One autoregressive step of splines of eight bins."""

    def flow_of(self, features: int, hidden: tuple[int, ...]) -> MaskedAutoregressive:
        """Make the step likewise."""
        return SplineAutoregressive(features, hidden, SplineShape(), solver="jacobi")


MODELS: dict[str, tuple[type[Model], int, tuple[int, ...]]] = {
    "made-784x1024x1024": (BernoulliMADE, 784, (1024, 1024)),
    "maf-784x1024x1024": (MAFStep, 784, (1024, 1024)),
    "made-64x512x512": (BernoulliMADE, 64, (512, 512)),
    "residual-made-784x1024x1024x1024": (ResidualMADE, 784, (1024, 1024, 1024)),
    "spline-step-64x512x512": (SplineStep, 64, (512, 512)),
}


class Compiled:
    """The blocks under `torch.compile`, which the first draw calls."""

    def __init__(self, model: Model, mode: str | None) -> None:
        self.model, self.compiler = model, compiler_of(mode, model.device)
        self.blocks: CompiledBlocks | None = None

    def __call__(self, noise: Tensor) -> Tensor:
        network = self.model.network()
        if self.blocks is None:
            self.blocks = CompiledBlocks(network, self.model.step, self.compiler)
        return self.blocks.draw(network, noise)


class CalledSampler(MaskedSampler):
    """On a GPU too, blocks of calls."""

    def _sweep_of(self, network: MaskedNetwork, block: int | None) -> MaskedBlocks:
        return MaskedBlocks(network, self.dtype)


def ways_of(model: Model) -> dict[str, Callable[[], Callable[[Tensor], Tensor]]]:
    """Return what makes each column's draw: from noise (B, D, N) to x (B, D)."""

    def swept(impl: str, kind: type[MaskedSampler] = MaskedSampler) -> Callable[[Tensor], Tensor]:
        def sweep(noise: Tensor) -> Tensor:
            sampler = kind(model.network(), model.step, impl=impl)
            return sampler.draw(sampler.start(len(noise)), noise)

        # What cannot run is to say so before anything is timed.
        kind(model.network(), model.step, impl=impl)
        return sweep

    @torch.no_grad()
    def naive(noise: Tensor) -> Tensor:
        return naive_sample(
            model.parameters,
            lambda parameters, noise: model.step.make(parameters[:, None], noise[:, None])[0][:, 0],
            noise,
            range(model.features),
            noise.new_zeros(noise.shape[:2]),
        )

    return {
        "eager": lambda: naive,
        "best_eager": partial(swept, "reference", CalledSampler),
        **{column: partial(Compiled, model, mode) for column, mode in COMPILE_MODES.items()},
        **{column: partial(swept, impl) for column, impl in ours_on(model.device).items()},
        **({JACOBI: lambda: model.iterate} if isinstance(model, MAFStep) else {}),
    }


def batch_case(
    kind: type[Model],
    features: int,
    hidden: tuple[int, ...],
    batch: int,
    device: torch.device,
    wanted: tuple[str, ...],
    name: str,
) -> Case:
    """Return what is timed of a model, whose step is a whole batch."""
    torch.manual_seed(SEED)
    torch._dynamo.reset()
    model = kind(features, hidden, device)
    ways = ways_of(model)
    if batch > MOST_NAIVE:
        del ways["eager"]

    def at_once(make: Callable[[], Callable[[Tensor], Tensor]]) -> Draws:
        return Draws(make(), lambda: None, 1)

    makers = {column: partial(at_once, make) for column, make in ways.items()}
    columns = make_columns(makers, wanted, name)
    noise = partial(model.noise, batch)
    if JACOBI in columns:
        print(f"{name}: {JACOBI} takes {model.passes(noise())} passes, and one for the density")
    x = ways[f"{OURS}auto"]()(noise())
    density = partial(torch.no_grad()(model.density), x)
    return Case(name, columns, lambda steps: noise(), density, 1, at_once=True)


CASES: dict[str, Callable[..., Case]] = {
    f"{name}-batch{batch}": partial(batch_case, *model, batch)
    for name, model in MODELS.items()
    for batch in (*BATCHES, *([LARGE_BATCH] if model[0] is MAFStep else []))
}
