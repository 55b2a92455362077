"""One training step of a 32-step Glow that stores its activations, and of one that inverts.

`python -m benchmarks.reversible_glow`. Both sides are one model on the same kernels: `stored` keeps
what autograd keeps, `reversible` recovers each step's input from its output. Nothing is timed
unless their gradients agree to 1e-4 of their norm. `peak_mib` is what tensors hold at most during
the forward and backward pass, parameters and their gradients left out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from benchmarks import memory, record, report
from benchmarks.run import Options, prepare_process, write
from benchmarks.timing import Timed, interleave
from benchmarks.verify import RedContract
from dgm_fast.families import Glow, GlowConfig

NAME = "reversible_glow"
CONFIG = GlowConfig((3, 32, 32), levels=256, scales=2, steps=16, hidden=128)
BATCHES = (16, 64)
COLUMNS = ("stored", "reversible")

GRADIENT_TOLERANCE = 1e-4
SEED = 0


def make_model(config: GlowConfig, x: Tensor) -> Glow:
    """Return a model some way from the identity that it begins as, its actnorms initialised."""
    torch.manual_seed(SEED)
    model = Glow(config, device=x.device)
    model.loss(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
            # The gradient's memory is there before the step, as in training.
            parameter.grad = torch.zeros_like(parameter)
    return model


def set_reversible(model: nn.Module, reversible: bool) -> None:
    """Choose how the chains of a flow train."""
    for scale in model.transform.scales:
        scale.reversible = reversible


def step(model: nn.Module, x: Tensor, column: str) -> None:
    """Do one forward and backward pass the way a column does."""
    set_reversible(model, column == "reversible")
    model.loss(x).backward()


def gradient_difference(model: nn.Module, x: Tensor) -> float:
    """Return by how much the gradients of both columns differ, relative to their norm."""
    found = []
    for column in COLUMNS:
        set_reversible(model, column == "reversible")
        torch.manual_seed(SEED)
        gradients = torch.autograd.grad(model.loss(x), list(model.parameters()))
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))

    stored, recovered = found
    return float((recovered - stored).norm() / stored.norm())


def check_gradients(difference: float) -> None:
    """Refuse to time columns that do not compute the same.

    Raises:
        RedContract: the gradients differ.
    """
    if not difference <= GRADIENT_TOLERANCE:
        raise RedContract(f"the gradients differ by {difference:.1e} of their norm")


def measure(
    model: nn.Module, x: Tensor, options: Options, case: str
) -> tuple[list[record.Measurement], Mapping[str, float]]:
    """Return the rows of a batch, and the peak memory of each column in MiB."""
    calls = {column: [Timed(partial(step, model, x, column))] for column in COLUMNS}
    peaks = {column: memory.peak_mib(timed[0], x.device) for column, timed in calls.items()}
    spreads = interleave(calls, x.device, options.budget, with_launches=True)

    place = NAME, case, "float32", "forward_backward"
    rows = [
        record.measurement(place, column, spreads[column], spreads["stored"], peak_mib=peak)
        for column, peak in peaks.items()
    ]
    return rows, peaks


def main(options: Options, console: Console) -> int:
    """Measure, print and record."""
    prepare_process(options.threads)
    device = torch.device(options.device)
    run = record.start_run(device)

    measurements = []
    for batch in BATCHES:
        generator = torch.Generator().manual_seed(SEED)
        x = torch.randint(CONFIG.levels, (batch, *CONFIG.event_shape), generator=generator)
        x = x.float().to(device)
        model = make_model(CONFIG, x)
        difference = gradient_difference(model, x)
        check_gradients(difference)

        case = f"{batch}x{'x'.join(map(str, CONFIG.event_shape))}-32-steps"
        rows, peaks = measure(model, x, options, case)
        measurements += rows
        console.print(
            f"{case}: gradients differ by {difference:.1e} of their norm, the reversible step "
            f"holds 1/{peaks['stored'] / peaks['reversible']:.1f} of the memory"
        )

    report.print_table(console, NAME, measurements)
    write(options, run, NAME, measurements, console)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options), Console()))
