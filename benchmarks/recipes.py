"""Evaluate finished training runs on the test set and record them, with their curves.

    dgm-fast train glow --data mnist --data-root PATH/TO/mnist
    python -m benchmarks.recipes runs/glow-mnist

Each run adds a row to `results/<device>/recipes/summary.csv`, lays its log beside it and redraws
`curves.png`. The likelihood is that of `dgm-fast evaluate`, of all test rows unless told otherwise.
Of Shakespeare these are the rows that validate: there are no others, and the tables say so. Models
that count have a row and no curve:

    dgm-fast train markov --data shakespeare --data-root PATH/TO/text
    python -m benchmarks.recipes runs/markov-shakespeare
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from torch import nn

from benchmarks import record
from dgm_fast.families import FAMILIES, MADE, Histogram, WaveNet
from dgm_fast.families.autoregressive import PixelModel, TokenModel
from dgm_fast.training import DataConfig, Dataset, bits_per_dim, load_dataset, mean_nll_nats
from dgm_fast.training.data import SignalDataset, TextDataset

FOLDER = "recipes"
SUMMARY = "summary.csv"
MINUTES = "minutes of one core"
TOKENS = {"characters": "char", "bytes": "byte"}


@dataclass(frozen=True)
class Options:
    """Evaluate runs on the test set and record them.

    Attributes:
        runs: folders that `dgm-fast train` wrote.
        data_root: folder of the data's files; default that of the run.
        samples: importance samples of a latent variable model; default its own choice.
        rows: evaluate only the first so many test rows.
        quick: evaluate what training compares epochs by, where that is cheaper.
        out: the folder of the results.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    data_root: Path | None = None
    samples: int | None = None
    rows: int | None = None
    quick: bool = False
    out: Path = record.RESULTS


@dataclass(frozen=True)
class Reached:
    """What a run reached and what it cost.

    Attributes:
        recipe: the family and its data.
        view: of the data, how they are binarized.
        parameters: of the model.
        steps: of training.
        seconds: of training on the clock, validation left out.
        cpu_seconds: of training, summed over threads: what it cost where it shared the machine.
        validation_nats: the best epoch's, as training estimates it.
        test_nats: of the weights that validated best; of Shakespeare, on the rows that validate.
        test_bpd: the same in bits/dim.
        test_rows: how many rows were evaluated.
        estimate: what `test_nats` is.
    """

    recipe: str
    view: str
    parameters: int
    steps: int
    seconds: float
    cpu_seconds: float
    validation_nats: float
    test_nats: float
    test_bpd: float
    test_rows: int
    estimate: str


FIELDS = tuple(field.name for part in (record.Run, Reached) for field in fields(part))


def main(options: Options, console: Console) -> int:
    """Evaluate, record and draw; return the exit status."""
    device = torch.device("cpu")
    run = record.start_run(device)
    folder = record.results_folder(options.out, device) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)

    for each in options.runs:
        reached = evaluate(each, options)
        console.print(reached)
        append(folder / SUMMARY, run, reached)
        shutil.copyfile(each / "log.csv", folder / f"{reached.recipe}.csv")

    console.print(draw(folder))
    return 0


def evaluate(folder: Path, options: Options) -> Reached:
    """Evaluate the best weights of one run on the test rows."""
    described = json.loads((folder / "run.json").read_text())
    root = options.data_root or described["data"]["data_root"]
    root = None if root is None else Path(root)
    data = DataConfig(**described["data"] | {"data_root": root})
    dataset = load_dataset(data)

    model = FAMILIES[described["family"]].from_pretrained(folder)
    test_nats, rows = _test_nats(model, dataset, options)
    log = read_log(folder / "log.csv")
    return Reached(
        recipe=f"{described['family']}-{data.data}",
        view=_view(dataset),
        parameters=sum(each.numel() for each in model.parameters()),
        steps=int(log[-1]["step"]),
        seconds=round(log[-1]["seconds"], 1),
        cpu_seconds=round(log[-1]["cpu_seconds"], 1),
        validation_nats=round(min(row["validation_nats"] for row in log), 4),
        test_nats=round(test_nats, 4),
        test_bpd=round(bits_per_dim(test_nats, dataset), 4),
        test_rows=rows,
        estimate=_estimate(model, options),
    )


def _view(dataset: Dataset) -> str:
    if isinstance(dataset, (SignalDataset, TextDataset)):
        return dataset.view.partition(",")[0]
    return "grey levels" if dataset.binarization == "none" else dataset.binarization


def _test_nats(model: nn.Module, dataset: Dataset, options: Options) -> tuple[float, int]:
    rows, labels = dataset.split("test", options.rows)
    samples = {} if options.samples is None else {"samples": options.samples}
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(model.family, total=len(rows))

        def told(done: int, rows: int) -> None:
            bar.update(task, completed=done, total=rows)

        nats = mean_nll_nats(
            model, rows, labels, batch_size=100, quick=options.quick, progress=told, **samples
        )
    return nats, len(rows)


def _estimate(model: nn.Module, options: Options) -> str:
    if options.quick and hasattr(model, "validation_nats"):
        return "bound, estimated"
    if options.samples is not None:
        return f"bound, {options.samples} samples"
    # A flow of real values has no noise to add.
    is_exact = isinstance(model, (MADE, Histogram, PixelModel, TokenModel, WaveNet))
    is_exact |= getattr(model, "dequantization", ...) is None
    return "log-likelihood" if is_exact else "bound"


def append(path: Path, run: record.Run, reached: Reached) -> None:
    """Add a row to the summary, which is made with its header when it is not there."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(asdict(run) | asdict(reached))


def read_summary(path: Path) -> dict[str, dict[str, str]]:
    """Return the newest row of each recipe."""
    with path.open(newline="") as file:
        return {row["recipe"]: row for row in csv.DictReader(file)}


def read_log(path: Path) -> list[dict[str, float]]:
    """Return the rows of a run's log."""
    with path.open(newline="") as file:
        return [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file)]


def table(results: Path) -> str:
    """Return what recipes reached on each device, as a table of a page."""
    parts = [_table(read_summary(path)) for path in sorted(results.glob(f"*/{FOLDER}/{SUMMARY}"))]
    return "\n".join(parts) or "No run is recorded yet.\n"


def _table(summary: Mapping[str, Mapping[str, str]]) -> str:
    rows = list(summary.values())
    first = rows[0]
    lines = [f"{first['device']}, {first['threads']} threads, torch {first['torch']}"]
    # Text has figures of its own, in a table of its own.
    tables: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        tables.setdefault(_figures(row), []).append(row)
    for figures, those in tables.items():
        lines += ["", f"| recipe | data | {' | '.join(figures)} | it is | steps | {MINUTES} |"]
        lines += ["|---|---|---:|---:|---|---:|---:|", *map(_line, those)]
    return "\n".join(lines) + "\n"


def _figures(row: Mapping[str, str]) -> tuple[str, str]:
    """Return what the two figures of a row are, of which data and in which units."""
    unit, split = TOKENS.get(row["view"].split()[-1]), _split(row["recipe"])
    return (f"{split}, nats/{unit}", f"bits/{unit}") if unit else (f"{split}, nats", "bits/dim")


def _split(recipe: str) -> str:
    """Return what a recipe is evaluated on, in a word: Shakespeare's test rows validate."""
    return "validation" if recipe.endswith("-shakespeare") else "test"


def _line(row: Mapping[str, str]) -> str:
    nats, bpd = float(row["test_nats"]), float(row["test_bpd"])
    figure = f"{nats:.2f}" if _figures(row)[1] == "bits/dim" else f"{bpd * math.log(2):.3f}"
    minutes = float(row["cpu_seconds"]) / 60
    return (
        f"| {row['recipe']} | {row['view']} | {figure} | {bpd:.3f} | {row['estimate']} | "
        f"{int(row['steps']):,} | {minutes:.0f} |"
    )


def draw(folder: Path) -> Path:
    """Draw the curves of every recipe that took steps over the minutes of one core it took."""
    summary = read_summary(folder / SUMMARY)
    logs = {
        name: read_log(folder / f"{name}.csv") for name in summary if _took_steps(summary[name])
    }
    rows = max(1, (len(logs) + 1) // 2)
    figure = Figure(figsize=(9, 2.2 + 2 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).flatten()

    for axes, (name, log) in zip(panels, logs.items(), strict=False):
        _draw_curve(axes, name, log, summary[name])
    for axes in panels[len(logs) :]:
        axes.set_axis_off()

    path = folder / "curves.png"
    figure.savefig(path, dpi=120)
    return path


def _took_steps(row: Mapping[str, str]) -> bool:
    return int(row["steps"]) > 0


def _draw_curve(
    axes: Any, name: str, log: Sequence[Mapping[str, float]], row: Mapping[str, str]
) -> None:
    minutes = [each["cpu_seconds"] / 60 for each in log]
    axes.plot(minutes, [each["train_nats"] for each in log], color="C7", label="training")
    axes.plot(minutes, [each["validation_nats"] for each in log], color="C0", label="validation")
    axes.axhline(
        float(row["test_nats"]), color="C1", linewidth=1, label=f"{_split(name)}, best weights"
    )
    # The first epochs are far above the rest.
    late = [each["validation_nats"] for each in log[len(log) // 8 :]]
    margin = 0.1 * (max(late) - min(late)) + 0.1
    axes.set_ylim(min(*late, float(row["test_nats"])) - margin, max(late) + margin)
    unit = _figures(row)[1]
    title = f"{name}: {_split(name)} {float(row['test_nats']):.2f} nats, {row['test_bpd']} {unit}"
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("minutes of one core")
    axes.set_ylabel("nats")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options), Console()))
