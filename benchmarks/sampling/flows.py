"""What is made of steps that are solved for: the inverse with its gradient, and whole flows.

A step of these cases is a whole batch. `eager` runs the network once a feature, and `best_eager` is
the model itself in plain PyTorch, whose inverse iterates blocks of 64 features. With a gradient,
that of y and of all parameters, the naive way is autograd through all its passes, and the least is
`anchor:density`, a density with its gradient. MAF is sampled and IAF's density evaluated; what
each does in one pass a step is the anchor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.columns import ANCHOR, OURS
from benchmarks.sampling.case import DENSITY, SEED, Case, Draws, make_columns
from dgm_fast._core.implementation import ImplementationUnavailable
from dgm_fast.families import IAF, MAF, IAFConfig, MAFConfig
from dgm_fast.families.flows.masked_autoregressive import AffineAutoregressive, MaskedAutoregressive

__all__ = ["MODELS", "STEPS", "flow_case", "gradient_case"]

STEPS: dict[str, tuple[int, tuple[int, ...]]] = {
    "maf-784x1024x1024-gradient": (784, (1024, 1024)),
    "maf-64x512x512-gradient": (64, (512, 512)),
}
MODELS: dict[str, tuple[type[MAF], MAFConfig]] = {
    "maf5-784x1024x1024": (MAF, MAFConfig((784,), hidden=(1024, 1024))),
    "iaf5-784x1024x1024": (IAF, IAFConfig((784,), hidden=(1024, 1024))),
}
BATCHES = (1, 100)
# Features: the graph of 784 passes of 100 samples would take gigabytes.
MOST_IN_A_GRAPH = 128


def one_by_one(
    step: MaskedAutoregressive, y: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Invert a step the naive way, by a pass of its network for each feature."""
    x = torch.zeros_like(y)
    for d in range(y.shape[1]):
        here = slice(d, d + 1)
        found, _ = step.elementwise(y[:, here], step.network(x)[:, here], True)
        # Autograd asks for a new x each time.
        x = torch.cat([x[:, :d], found, x[:, d + 1 :]], dim=1)
    return x, -step(x)[1]


@torch.no_grad()
def leave_identity(model: nn.Module) -> None:
    """Move each step away from the identity, alike for all models of a kind."""
    torch.manual_seed(SEED)
    for step in model.modules():
        if isinstance(step, MaskedAutoregressive):
            step.network.layers[-1].weight.normal_(0.0, 0.01)


def with_gradient(
    transform: Callable[[Tensor], tuple[Tensor, Tensor]], step: nn.Module, given: Tensor
) -> tuple[Tensor, ...]:
    """Return what a step makes, and the gradient of its density by what is given and parameters."""
    given = given.detach().requires_grad_()
    made, log_det = transform(given)
    loss = (0.5 * made.square().sum(1) - log_det).mean()
    return made.detach(), *torch.autograd.grad(loss, [given, *step.parameters()])


def gradient_case(
    features: int,
    hidden: tuple[int, ...],
    batch: int,
    device: torch.device,
    wanted: tuple[str, ...],
    name: str,
) -> Case:
    """Return what is timed of the inverse of MAF's step with its gradient."""
    torch.manual_seed(SEED)
    with torch.device(device):
        step = AffineAutoregressive(features, hidden)
        plain = AffineAutoregressive(features, hidden, impl="reference")
    leave_identity(step)
    plain.load_state_dict(step.state_dict())

    def of(step: nn.Module, inverse: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Draws:
        return Draws(partial(with_gradient, inverse, step), lambda: None, 1)

    def naive() -> Draws:
        if features > MOST_IN_A_GRAPH:
            raise ImplementationUnavailable(f"the graph of {features} passes takes gigabytes")
        return of(step, partial(one_by_one, step))

    makers = {
        "eager": naive,
        "best_eager": lambda: of(plain, plain.inverse),
        f"{OURS}auto": lambda: of(step, step.inverse),
    }
    columns = make_columns(makers, wanted, name)

    def noise(steps: int) -> Tensor:
        return torch.randn(batch, features, device=device)

    density = partial(with_gradient, step, step, noise(1))
    return Case(name, columns, noise, density, 1, at_once=True, direction="forward_backward")


def flow_case(
    kind: type[MAF],
    config: MAFConfig,
    batch: int,
    device: torch.device,
    wanted: tuple[str, ...],
    name: str,
) -> Case:
    """Return what is timed of a whole flow: of MAF its samples, of IAF their density."""
    is_iaf = kind is IAF

    def made(impl: str = "auto") -> MAF:
        torch.manual_seed(SEED)
        model = kind(config, impl=impl, device=device).eval()
        leave_identity(model)
        return model

    @torch.no_grad()
    def draw(model: MAF, given: Tensor) -> Tensor:
        if is_iaf:
            return model.log_prob(given).unsqueeze(1)
        return model.sample(batch, noise=given)

    def of(model: MAF) -> Draws:
        return Draws(partial(draw, model), lambda: None, 1)

    def naive() -> Draws:
        model = made()
        for step in model.modules():
            if isinstance(step, MaskedAutoregressive):
                step.inverse = partial(one_by_one, step)
        return of(model)

    makers = {
        "eager": naive,
        "best_eager": lambda: of(made("reference")),
        f"{OURS}auto": lambda: of(made()),
    }
    columns = make_columns(makers, wanted, name)
    model = made()

    def noise(steps: int) -> Tensor:
        return model.sample(batch) if is_iaf else model.draw_noise(batch)

    one_pass = torch.no_grad()(model.sample if is_iaf else model.log_prob)
    other = partial(one_pass, batch if is_iaf else model.sample(batch))
    anchor = f"{ANCHOR}sample" if is_iaf else DENSITY
    return Case(name, columns, noise, other, 1, at_once=True, anchor=anchor)


CASES: dict[str, Callable[..., Case]] = {
    **{
        f"{name}-batch{batch}": partial(gradient_case, *sizes, batch)
        for name, sizes in STEPS.items()
        for batch in BATCHES
    },
    **{
        f"{name}-batch{batch}": partial(flow_case, *model, batch)
        for name, model in MODELS.items()
        for batch in BATCHES
    },
}
