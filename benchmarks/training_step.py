"""One training step of a model, optimizer included, beside the same model in plain PyTorch.

A script such as `benchmarks.made_training_step` describes its model and its rivals; this module
lets them train alike for some steps, times them interleaved, and records the rows. All sides take
torch's fused AdamW.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks import memory, record, report
from benchmarks.columns import COMPILE_MODES, OURS
from benchmarks.run import Options, prepare_process, write
from benchmarks.timing import Timed, fresh_sets, interleave, rotation_mib
from benchmarks.verify import RedContract

COMPARED_STEPS = 3
# Three steps of AdamW in float32 from one state: rounding, enlarged by AdamW's division.
LOSS_TOLERANCE = 1e-4

# Initial weights and noise follow from this seed on every side.
SEED = 0


class Trainer:
    """A model with a `loss`, its optimizer and one step of both."""

    def __init__(self, make_model: Callable[[], nn.Module], compile_as: str | None = None) -> None:
        torch.manual_seed(SEED)
        self.model = make_model()
        self.loss: Callable[[Tensor], Tensor] = self.model.loss
        if compile_as is not None:
            self.loss = torch.compile(self.loss, dynamic=False, mode=COMPILE_MODES[compile_as])

        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def step(self, x: Tensor) -> Tensor:
        """Train on one batch; return the loss before it."""
        loss = self.loss(x)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


@dataclass(frozen=True)
class TrainingStep:
    """What to measure.

    Attributes:
        name: of the table and of the file of its rows.
        case: of the row: the sizes.
        batch: `() -> x` on the CPU.
        ours: `device -> model` on our kernels.
        plain: `device -> model`, the same in plain PyTorch: timed as it is and compiled.
        rivals: further trainers, `column -> (device -> trainer)`.
        same_noise: whether both sides draw the same noise, so that their losses must be equal;
            otherwise they are compared by their means.
    """

    name: str
    case: str
    batch: Callable[[], Tensor]
    ours: Callable[[torch.device], nn.Module]
    plain: Callable[[torch.device], nn.Module]
    rivals: Mapping[str, Callable[[torch.device], Trainer]] = field(default_factory=dict)
    same_noise: bool = True


def trainers(step: TrainingStep, device: torch.device, wanted: Sequence[str]) -> dict[str, Trainer]:
    """Return a trainer for each column."""
    torch._dynamo.reset()
    plain, ours = partial(step.plain, device), partial(step.ours, device)
    made: dict[str, Callable[[], Trainer]] = {
        "eager": partial(Trainer, plain),
        **{name: partial(make, device) for name, make in step.rivals.items()},
        **{name: partial(Trainer, plain, name) for name in COMPILE_MODES},
        f"{OURS}auto": partial(Trainer, ours),
    }
    chosen = (n for n in made if not wanted or n == "eager" or n.startswith(tuple(wanted)))
    return {name: made[name]() for name in chosen}


def first_losses(
    found: Mapping[str, Trainer], batches: Sequence[Tensor]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return each column's losses of some steps, and the seconds its first one took."""
    losses: dict[str, list[float]] = {}
    first_s = {}

    for name, trainer in found.items():
        torch.manual_seed(SEED)
        begin = time.perf_counter()
        losses[name] = [float(trainer.step(batches[0]))]
        first_s[name] = time.perf_counter() - begin
        losses[name] += [float(trainer.step(x)) for x in batches[1:COMPARED_STEPS]]

    return losses, first_s


def check_losses(losses: Mapping[str, Sequence[float]], tolerance: float = LOSS_TOLERANCE) -> None:
    """Refuse to time columns that do not train alike.

    Raises:
        RedContract: a column's losses differ from the reference's.
    """
    for name, got in losses.items():
        for mine, right in zip(got, losses["eager"], strict=True):
            if not abs(mine - right) <= tolerance * abs(right):
                raise RedContract(f"{name} trains otherwise: losses {got}, not {losses['eager']}")


def measure(step: TrainingStep, options: Options, console: Console) -> int:
    """Measure, print and record."""
    prepare_process(options.threads)
    device = torch.device(options.device)
    run = record.start_run(device)

    sets = fresh_sets({"x": step.batch().to(device)}, rotation_mib(device))
    batches = [each["x"] for each in sets]

    found = trainers(step, device, options.columns)
    losses, first_s = first_losses(found, batches)
    # Other noise moves the loss of a batch by a few per cent.
    check_losses(losses, LOSS_TOLERANCE if step.same_noise else 0.1)

    calls = {n: [Timed(partial(t.step, x)) for x in batches] for n, t in found.items()}
    spreads = interleave(calls, device, options.budget, with_launches=True)
    place = step.name, step.case, "float32", "forward_backward"
    measurements = [
        record.measurement(
            place, name, spread, spreads["eager"], **_more(name, calls, first_s, device)
        )
        for name, spread in spreads.items()
    ]

    report.print_table(console, step.name, measurements)
    write(options, run, step.name, measurements, console)
    return 0


def _more(
    name: str,
    calls: Mapping[str, Sequence[Timed]],
    first_s: Mapping[str, float],
    device: torch.device,
) -> dict[str, Any]:
    return {
        "peak_mib": memory.peak_mib(calls[name][0], device),
        "compile_s": first_s[name] if name in COMPILE_MODES else None,
    }
