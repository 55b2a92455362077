"""The command `dgm-fast env | train FAMILY | sample CKPT | evaluate CKPT | bench`.

Bad input ends with one line on stderr and exit code 2; a training run that was interrupted and
saved with 130.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from torch import nn

from dgm_fast import ImplementationUnavailable, use_impl
from dgm_fast.families import FAMILIES, MADE, MADEConfig, family_of
from dgm_fast.training import (
    DataConfig,
    Dataset,
    TrainConfig,
    load_dataset,
    mean_nll_nats,
    train,
)
from dgm_fast.training.checkpoint import TRAINING_FILE, write_atomically
from dgm_fast.training.data import Binarization
from dgm_fast.training.distributed import process_group
from dgm_fast.training.images import save_image_grid
from dgm_fast.training.metrics import likelihood_table
from dgm_fast.training.recipes import find_recipe
from dgm_fast.training.subnormals import flush_subnormals

__all__ = ["main"]

Impl = Literal["auto", "reference", "cpp", "triton", "cuda"]

USAGE = """dgm-fast: fast deep generative models

  dgm-fast env               what is live on this machine, and why the rest is not
  dgm-fast train FAMILY      train a model; FAMILY is one of: {families}
  dgm-fast evaluate CKPT     likelihood in nats and bits/dim, beside two baselines
  dgm-fast sample CKPT       draw a grid of samples into a PNG file
  dgm-fast bench             time every op against plain PyTorch

CKPT is the folder that `train` wrote. Add --help to a command for its options."""


@dataclass(frozen=True)
class TrainMADE:
    """Train MADE; the defaults are the recipe of the data chosen with --data."""

    data: tyro.conf.OmitArgPrefixes[DataConfig]
    model: MADEConfig
    train: tyro.conf.OmitArgPrefixes[TrainConfig]
    out: Path | None = None
    """Folder of the run; without it runs/FAMILY-DATA."""
    resume: bool = False
    """Continue the run in the folder, given the same options as before."""
    impl: Impl = "auto"
    """Implementation of every op."""

    def build(self) -> MADE:
        """Make the untrained model; its weights follow from the seed."""
        torch.manual_seed(self.train.seed)
        return MADE(self.model)


@dataclass(frozen=True)
class Evaluate:
    """Print the likelihood of a checkpoint in nats and bits/dim, beside two baselines."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder that `dgm-fast train` wrote."""
    data_root: Path | None = None
    """Folder of the data's files; without it the one of the training run."""
    binarization: Binarization | None = None
    """View of the data; without it the one of the training run."""
    split: Literal["validation", "test"] = "test"
    """Rows to evaluate; the baselines are always those of the test rows."""
    batch_size: int = 500
    """Rows evaluated at once."""
    device: str = "auto"
    """auto: a CUDA device where there is one, else the CPU."""
    impl: Impl = "auto"
    """Implementation of every op."""


@dataclass(frozen=True)
class Sample:
    """Draw samples of a checkpoint into a PNG grid."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder that `dgm-fast train` wrote."""
    out: Path = Path("samples.png")
    """PNG file to write."""
    count: int = 64
    """Number of samples."""
    seed: int = 0
    """Seed of the samples."""
    device: str = "auto"
    """auto: a CUDA device where there is one, else the CPU."""
    impl: Impl = "auto"
    """Implementation of every op."""


TRAIN_COMMANDS: dict[str, type[TrainMADE]] = {"made": TrainMADE}


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands: dict[str, Callable[[list[str]], int]] = {
        "env": partial(_run_module, "dgm_fast.env"),
        "train": _train,
        "evaluate": _evaluate,
        "sample": _sample,
        "bench": _bench,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE.format(families=", ".join(TRAIN_COMMANDS)))
        return 0 if arguments else 2

    name, *rest = arguments
    try:
        if name not in commands:
            raise ValueError(f"no command {name!r}; there are {', '.join(commands)}")
        return commands[name](rest)
    except KeyboardInterrupt:
        return 130
    except (
        FloatingPointError, ImplementationUnavailable, ImportError, OSError, ValueError,
    ) as error:  # fmt: skip
        print(f"dgm-fast: {error}", file=sys.stderr)
        return 2


def _train(arguments: list[str]) -> int:
    family, *rest = arguments or [""]
    if family in ("-h", "--help"):
        print(USAGE.format(families=", ".join(TRAIN_COMMANDS)))
        return 0
    if family not in TRAIN_COMMANDS:
        raise ValueError(
            f"train needs a family, one of {', '.join(TRAIN_COMMANDS)}; got {family!r}"
        )

    # AdamW's stale moments become subnormal numbers, which cost a hundred cycles each.
    flush_subnormals()

    kind = TRAIN_COMMANDS[family]
    recipe = find_recipe(family, _option(rest, "data") or "digits", _option(rest, "binarization"))
    default = kind(recipe.data, recipe.model, recipe.train)
    command = tyro.cli(kind, prog=f"dgm-fast train {family}", args=rest, default=default)
    folder = command.out or Path("runs") / f"{family}-{command.data.data}"

    dataset = load_dataset(command.data)
    _check_fit(command.model, dataset)
    with process_group() as processes, use_impl(command.impl):
        console = Console(quiet=not processes.is_first)
        # Before the run, so that one that is killed can be evaluated; never over another run's.
        if processes.is_first and not (folder / TRAINING_FILE).exists():
            _write_run(folder, family, command, dataset)
        result = train(
            command.build(), dataset, command.train, folder, resume=command.resume, console=console
        )
        if not processes.is_first:
            return 130 if result.interrupted else 0

        if result.interrupted:
            return 130
        device = command.train.resolve_device()
        nats = mean_nll_nats(_load(folder, device), dataset.test, device=device)
        console.print(likelihood_table({family: nats}, dataset))
        console.print(
            f"best at step {result.best_step} of {result.steps}, {result.seconds:.0f} s of "
            f"training; weights and log in {folder}"
        )
    return 0


def _evaluate(arguments: list[str]) -> int:
    command = tyro.cli(Evaluate, prog="dgm-fast evaluate", args=arguments)
    data = DataConfig(**_read_run(command.checkpoint)["data"])
    if command.data_root is not None:
        data = replace(data, data_root=command.data_root)
    if command.binarization is not None:
        data = replace(data, binarization=command.binarization)
    dataset = load_dataset(data)
    device = TrainConfig(device=command.device).resolve_device()

    with use_impl(command.impl):
        model = _load(command.checkpoint, device)
        _check_fit(model.config, dataset)
        rows = getattr(dataset, command.split)
        nats = mean_nll_nats(model, rows, batch_size=command.batch_size, device=device)
    Console().print(likelihood_table({f"{model.family} ({command.split})": nats}, dataset))
    return 0


def _sample(arguments: list[str]) -> int:
    command = tyro.cli(Sample, prog="dgm-fast sample", args=arguments)
    if command.count < 1:
        raise ValueError(f"count must be positive; got {command.count}")
    run = _read_run(command.checkpoint)
    device = TrainConfig(device=command.device).resolve_device()
    with use_impl(command.impl):
        model = _load(command.checkpoint, device)
        generator = torch.Generator(device).manual_seed(command.seed)
        x = model.sample(command.count, generator=generator)

    images = x.reshape(command.count, *run["event_shape"])
    levels = run["levels"]
    save_image_grid(images * levels if run["continuous"] else images, command.out, levels)
    print(f"{command.count} samples in {command.out}")
    return 0


def _bench(arguments: list[str]) -> int:
    if not Path("benchmarks/run.py").is_file():
        raise ModuleNotFoundError(
            "no benchmarks/run.py in this folder: the benchmarks are not installed with the "
            "package, run them from the root of dgm_fast's source"
        )
    sys.path.insert(0, str(Path.cwd()))
    return _run_module("benchmarks.run", arguments)


def _run_module(module: str, arguments: list[str]) -> int:
    sys.argv = [f"dgm-fast {module.rpartition('.')[2]}", *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def _option(arguments: list[str], name: str) -> str | None:
    """Read an option that decides the defaults of all others, before these are parsed."""
    for i, argument in enumerate(arguments):
        if argument == f"--{name}" and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"--{name}="):
            return argument.partition("=")[2]
    return None


def _check_fit(model: Any, dataset: Dataset) -> None:
    """Refuse a model whose event or support is not that of the data."""
    if model.features != dataset.features:
        raise ValueError(f"model.features is {model.features}, the data have {dataset.features}")

    discrete = {"bernoulli": 2, "categorical": getattr(model, "categories", 0)}
    if dataset.continuous and model.output in discrete:
        raise ValueError(f"model.output {model.output!r} is discrete, the data are dequantized")
    if not dataset.continuous and discrete.get(model.output) != dataset.levels:
        raise ValueError(
            f"the data have {dataset.levels} levels; model.output {model.output!r}"
            + (f" has {discrete[model.output]}" if model.output in discrete else " is continuous")
        )


def _load(folder: Path, device: torch.device) -> nn.Module:
    family = family_of(folder)
    if family not in FAMILIES:
        raise ValueError(f"{folder} holds a {family!r}; known families: {', '.join(FAMILIES)}")
    return FAMILIES[family].from_pretrained(folder, device=device)


def _write_run(folder: Path, family: str, command: TrainMADE, dataset: Dataset) -> None:
    """Write run.json, what `evaluate` and `sample` must know of the data."""
    root = command.data.data_root
    run = {
        "family": family,
        "data": asdict(command.data) | {"data_root": None if root is None else str(root)},
        "event_shape": dataset.event_shape,
        "levels": dataset.levels,
        "continuous": dataset.continuous,
        "train": asdict(command.train),
    }
    text = json.dumps(run, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "run.json", lambda path: path.write_text(text))


def _read_run(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected a folder that `dgm-fast train` wrote")
    try:
        run = json.loads(path.read_text())
        root = run["data"]["data_root"]
        run["data"]["data_root"] = None if root is None else Path(root)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return run


if __name__ == "__main__":
    sys.exit(main())
