"""One training step of MADE 784-2048-2048-784 at batch 100, optimizer included.

`python -m benchmarks.made_training_step`. `eager` is the same model on the reference,
`F.linear(x, weight * mask, bias)`; `best_eager` is a plain network whose weights are masked again
after each update; all sides take torch's fused AdamW.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from benchmarks import memory, record, report
from benchmarks.columns import COMPILE_MODES, OURS
from benchmarks.premasked_made import PremaskedMADE
from benchmarks.run import Options, prepare_process, write
from benchmarks.timing import Timed, fresh_sets, interleave, rotation_mib
from benchmarks.verify import RedContract
from dgm_fast.families import MADE, MADEConfig

NAME = "made_training_step"
FEATURES = 784
HIDDEN = (2048, 2048)
BATCH = 100
COMPARED_STEPS = 3
# Three steps of AdamW in float32 from one state: rounding, enlarged by AdamW's division.
LOSS_TOLERANCE = 1e-4


class Trainer:
    """A model, its optimizer and one step of both."""

    def __init__(self, impl: str, device: torch.device, compile_as: str | None = None) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = self.make_model(impl, device)
        self.loss: Callable[[Tensor], Tensor] = self.model.loss
        if compile_as is not None:
            self.loss = torch.compile(self.loss, dynamic=False, mode=COMPILE_MODES[compile_as])

        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def make_model(self, impl: str, device: torch.device) -> nn.Module:
        """Return the model to train, the same for every trainer."""
        return MADE(MADEConfig(features=FEATURES, hidden=HIDDEN), impl=impl, device=device)

    def step(self, x: Tensor) -> Tensor:
        """Train on one batch; return the loss before it."""
        loss = self.loss(x)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


class PremaskedTrainer(Trainer):
    """The same with a weight that is masked once an update, instead of once a use."""

    def make_model(self, impl: str, device: torch.device) -> nn.Module:
        """Return the plain network that equals the model."""
        return PremaskedMADE(super().make_model(impl, device))

    def step(self, x: Tensor) -> Tensor:
        """Train on one batch and mask the weights; return the loss before it."""
        loss = super().step(x)
        self.model.mask_weights()
        return loss


def trainers(device: torch.device, wanted: Sequence[str]) -> dict[str, Trainer]:
    """Return a trainer for each column."""
    torch._dynamo.reset()
    made: dict[str, Callable[[], Trainer]] = {
        "eager": partial(Trainer, "reference", device),
        "best_eager": partial(PremaskedTrainer, "reference", device),
        **{name: partial(Trainer, "reference", device, name) for name in COMPILE_MODES},
        f"{OURS}auto": partial(Trainer, "auto", device),
    }
    chosen = (n for n in made if not wanted or n == "eager" or n.startswith(tuple(wanted)))
    return {name: made[name]() for name in chosen}


def first_losses(found: dict[str, Trainer], batches: Sequence[Tensor]) -> tuple[dict, dict]:
    """Return each column's losses of some steps, and the seconds its first one took."""
    losses: dict[str, list[float]] = {}
    first_s = {}

    for name, trainer in found.items():
        begin = time.perf_counter()
        losses[name] = [float(trainer.step(batches[0]))]
        first_s[name] = time.perf_counter() - begin
        losses[name] += [float(trainer.step(x)) for x in batches[1:COMPARED_STEPS]]

    return losses, first_s


def check_losses(losses: dict[str, list[float]]) -> None:
    """Refuse to time columns that do not train alike.

    Raises:
        RedContract: a column's losses differ from the reference's.
    """
    for name, got in losses.items():
        for mine, right in zip(got, losses["eager"], strict=True):
            if not abs(mine - right) <= LOSS_TOLERANCE * abs(right):
                raise RedContract(f"{name} trains otherwise: losses {got}, not {losses['eager']}")


def main(options: Options, console: Console) -> int:
    """Measure, print and record."""
    prepare_process(options.threads)
    device = torch.device(options.device)
    run = record.start_run(device)

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, FEATURES, generator=generator).bernoulli(generator=generator)
    sets = fresh_sets({"x": images.to(device)}, rotation_mib(device))
    batches = [each["x"] for each in sets]

    found = trainers(device, options.columns)
    losses, first_s = first_losses(found, batches)
    check_losses(losses)

    calls = {n: [Timed(partial(t.step, x)) for x in batches] for n, t in found.items()}
    spreads = interleave(calls, device, options.budget)
    place = NAME, f"{BATCH}x{FEATURES}-{HIDDEN[0]}-{HIDDEN[1]}", "float32", "forward_backward"
    measurements = [
        record.measurement(
            place, name, spread, spreads["eager"], **_more(name, calls, first_s, device)
        )
        for name, spread in spreads.items()
    ]

    report.print_table(console, NAME, measurements)
    write(options, run, NAME, measurements, console)
    return 0


def _more(
    name: str, calls: dict[str, list[Timed]], first_s: dict[str, float], device: torch.device
) -> dict[str, Any]:
    return {
        "peak_mib": memory.peak_mib(calls[name][0], device),
        "compile_s": first_s[name] if name in COMPILE_MODES else None,
    }


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options), Console()))
