"""The command `dgm-fast env | train FAMILY | sample CKPT | evaluate CKPT | bench`.

Bad input ends with one line on stderr and exit code 2; training and sampling that were interrupted,
and saved as far as they had come, with 130.
"""

from __future__ import annotations

import inspect
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from dgm_fast import ImplementationUnavailable, use_impl
from dgm_fast.families import FAMILIES
from dgm_fast.training import (
    DataConfig,
    TrainConfig,
    load_dataset,
    mean_nll_nats,
    train,
)
from dgm_fast.training.checkpoint import TRAINING_FILE
from dgm_fast.training.counted import count
from dgm_fast.training.data import Alphabet, Binarization
from dgm_fast.training.distributed import process_group
from dgm_fast.training.metrics import diagnostics, likelihood_table
from dgm_fast.training.protocol import check_fit
from dgm_fast.training.recipes import (
    RECIPES,
    Recipe,
    embedded_data,
    find_recipe,
    sized_for,
)
from dgm_fast.training.run_file import load_model, read_run, write_run
from dgm_fast.training.samples import draw_samples, labels_of, save_samples, show_text
from dgm_fast.training.subnormals import flush_subnormals

__all__ = ["main"]

Impl = Literal["auto", "reference", "cpp", "triton", "cuda"]

USAGE = """dgm-fast: fast deep generative models

  dgm-fast env               what is live on this machine, and why the rest is not
  dgm-fast train FAMILY      train a model, or count one; FAMILY is one of: {families}
  dgm-fast evaluate CKPT     likelihood in nats and bits/dim, beside two baselines
  dgm-fast sample CKPT       draw samples into a PNG file, signals also into WAV files; print text
  dgm-fast bench             time every op against plain PyTorch

CKPT is the folder that `train` wrote. Add --help to a command for its options."""


Config = TypeVar("Config")


@dataclass(frozen=True)
class Train(Generic[Config]):
    """Train a model; the defaults are the recipe of the data chosen, a vocabulary its text's."""

    data: tyro.conf.OmitArgPrefixes[DataConfig]
    model: Config
    train: tyro.conf.OmitArgPrefixes[TrainConfig]
    out: Path | None = None
    """Folder of the run; without it runs/FAMILY-DATA."""
    resume: bool = False
    """Continue the run in the folder, given the same options as before."""
    impl: Impl = "auto"
    """Implementation of every op."""


@dataclass(frozen=True)
class Count(Generic[Config]):
    """Fit a model that counts; the defaults are the recipe of the data chosen, and its sizes."""

    data: tyro.conf.OmitArgPrefixes[DataConfig]
    model: Config
    out: Path | None = None
    """Folder of the run; without it runs/FAMILY-DATA."""


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
    rows: int | None = None
    """Evaluate only the first so many rows."""
    samples: int | None = None
    """Importance samples of a latent variable model's bound; without it the model's own choice."""
    quick: bool = False
    """Evaluate what training compares epochs by, where that is cheaper than the likelihood."""
    batch_size: int = 500
    """Rows evaluated at once."""
    device: str = "auto"
    """auto: a CUDA device where there is one, else the CPU."""
    impl: Impl = "auto"
    """Implementation of every op."""


@dataclass(frozen=True)
class Sample:
    """Draw samples of a checkpoint into a PNG grid, signals into WAV files, or print a text."""

    checkpoint: tyro.conf.Positional[Path]
    """Folder that `dgm-fast train` wrote."""
    out: Path | None = None
    """PNG file to write, without it samples.png; WAV files lie beside it. Of text, a file to write
    what is printed to."""
    count: int | None = None
    """Number of samples; without it 64 images, a signal of each class, or one text."""
    label: int | None = None
    """Class of all samples of a class-conditional model; without it each class in turn."""
    temperature: float | None = None
    """Scale of a flow's base noise, or of each value's distribution in an autoregressive model."""
    length: int | None = None
    """Samples of a signal, without it those of a segment of the training data; or tokens of a text,
    the prompt's among them, without it 500."""
    prompt: str | None = None
    """Beginning of a text."""
    top_k: int | None = None
    """Draw each token of a text, or categorical value, among so many likeliest ones alone."""
    top_p: float | None = None
    """Draw it among the likeliest that together have this probability alone."""
    sampler: Literal["ddpm", "ddim"] | None = None
    """Sampler of a diffusion model."""
    steps: int | None = None
    """Steps of a diffusion model's sampler."""
    guidance: float | None = None
    """Strength of a diffusion model's classifier-free guidance."""
    seed: int = 0
    """Seed of the samples."""
    device: str = "auto"
    """auto: a CUDA device where there is one, else the CPU."""
    impl: Impl = "auto"
    """Implementation of every op."""


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
        print(USAGE.format(families=", ".join(FAMILIES)))
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
        print(USAGE.format(families=", ".join(FAMILIES)))
        return 0
    if tuple(family.rsplit("_", 1)) in RECIPES:
        # The recipe's own name: the family and the data.
        family, named = family.rsplit("_", 1)
        rest = ["--data", named, *rest]
    if family not in FAMILIES:
        raise ValueError(f"train needs a family, one of {', '.join(FAMILIES)}; got {family!r}")

    # AdamW's stale moments become subnormal numbers, which cost a hundred cycles each.
    flush_subnormals()

    kind = FAMILIES[family]
    data = _option(rest, "data") or embedded_data(family)
    recipe = find_recipe(family, data, _option(rest, "binarization"))
    if recipe.train is None:
        return _count(family, recipe, rest)
    default = Train(recipe.data, recipe.model, recipe.train)
    command = tyro.cli(
        Train[kind.config_class], prog=f"dgm-fast train {family}", args=rest, default=default
    )
    folder = command.out or Path("runs") / f"{family}-{command.data.data}"

    dataset = load_dataset(command.data)
    torch.manual_seed(command.train.seed)
    model = kind(sized_for(command.model, dataset, _model_options(rest)))
    check_fit(model, dataset)
    with process_group() as processes, use_impl(command.impl):
        console = Console(quiet=not processes.is_first)
        # Before the run, so that one that is killed can be evaluated; never over another run's.
        if processes.is_first and not (folder / TRAINING_FILE).exists():
            write_run(folder, family, command.data, command.train, dataset)
        result = train(
            model, dataset, command.train, folder, resume=command.resume, console=console
        )
        if not processes.is_first:
            return 130 if result.interrupted else 0

        if result.interrupted:
            return 130
        device = command.train.resolve_device()
        best = load_model(folder, device)
        nats = mean_nll_nats(best, *dataset.split("test"), device=device, quick=True)
        console.print(likelihood_table({_title(best): nats}, dataset))
        console.print(
            f"best at step {result.best_step} of {result.steps}, {result.seconds:.0f} s of "
            f"training; weights and log in {folder}"
        )
    return 0


def _count(family: str, recipe: Recipe, arguments: list[str]) -> int:
    """Fit a model that has no training."""
    kind = FAMILIES[family]
    command = tyro.cli(
        Count[kind.config_class],
        prog=f"dgm-fast train {family}",
        args=arguments,
        default=Count(recipe.data, recipe.model),
    )
    folder = command.out or Path("runs") / f"{family}-{command.data.data}"
    dataset = load_dataset(command.data)
    model = kind(sized_for(command.model, dataset, _model_options(arguments)))
    check_fit(model, dataset)

    seconds = count(model, dataset, folder)
    write_run(folder, family, command.data, None, dataset)
    console, nats = Console(), mean_nll_nats(model, *dataset.split("test"))
    console.print(likelihood_table({family: nats}, dataset))
    console.print(f"counted in {seconds:.1f} s; weights and log in {folder}")
    return 0


def _evaluate(arguments: list[str]) -> int:
    command = tyro.cli(Evaluate, prog="dgm-fast evaluate", args=arguments)
    data = DataConfig(**read_run(command.checkpoint)["data"])
    if command.data_root is not None:
        data = replace(data, data_root=command.data_root)
    if command.binarization is not None:
        data = replace(data, binarization=command.binarization)
    dataset = load_dataset(data)
    device = TrainConfig(device=command.device).resolve_device()

    with use_impl(command.impl):
        model = load_model(command.checkpoint, device)
        check_fit(model, dataset)
        rows, labels = dataset.split(command.split, command.rows)
        options = _options_of(model.log_prob, command, ("samples",))
        with _bar("evaluating") as told:
            nats = mean_nll_nats(
                model,
                rows,
                labels,
                batch_size=command.batch_size,
                device=device,
                quick=command.quick,
                progress=told,
                **options,
            )
        further = diagnostics(model, rows, labels, device)

    console = Console()
    split = "validation" if dataset.tests_on_validation else command.split
    name = f"{_title(model, command.quick)}, {split}, {len(rows)} rows"
    console.print(likelihood_table({name: nats}, dataset))
    for figure, value in further.items():
        console.print(f"{figure}: {value:.4g}")
    return 0


def _title(model: nn.Module, quick: bool = True) -> str:
    estimated = quick and hasattr(model, "validation_nats")
    return f"{model.family} (estimate)" if estimated else model.family


def _options_of(
    method: Callable[..., Any], command: Evaluate | Sample, names: Sequence[str]
) -> dict[str, Any]:
    """Return those of a command's options that were given, which the method must know."""
    given = {name: value for name in names if (value := getattr(command, name)) is not None}
    unknown = set(given) - set(inspect.signature(method).parameters)
    if unknown:
        family = method.__self__.family
        raise ValueError(f"{', '.join(sorted(unknown))} must not be given: {family} has no such")
    return given


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar, which is told how much is done and how much there is."""
    shown = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*shown, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _sample(arguments: list[str]) -> int:
    command = tyro.cli(Sample, prog="dgm-fast sample", args=arguments)
    if command.count is not None and command.count < 1:
        raise ValueError(f"count must be positive; got {command.count}")
    run = read_run(command.checkpoint)
    device = TrainConfig(device=command.device).resolve_device()
    signals, text = "sample_rate_hz" in run, "alphabet" in run
    if command.prompt is not None and not text:
        raise ValueError(f"prompt must not be given: {run['family']} models no text")
    with use_impl(command.impl):
        model = load_model(command.checkpoint, device)
        generator = torch.Generator(device).manual_seed(command.seed)
        names = ("temperature", "length", "sampler", "steps", "guidance", "top_k", "top_p")
        options = _options_of(model.sample, command, names)
        classes = getattr(model, "classes", 0)
        if signals:
            options = {"length": run["event_shape"][0]} | options
        known = inspect.signature(model.sample).parameters
        if text and "length" in known:
            options = {"length": 500} | options
        if command.prompt is not None and "given" not in known:
            raise ValueError(f"prompt must not be given: {model.family} goes on from none")
        if command.prompt:
            options["given"] = Alphabet(run["alphabet"]).encode(command.prompt).to(device)
        count = command.count or (classes or 8 if signals else 1 if text else 64)
        labels = labels_of(count, classes, command.label) if classes else None
        context = None if labels is None else labels.to(device)
        with _bar("sampling") as told:
            x, is_whole = draw_samples(model, count, context, generator, told, **options)

    if text and x.numel() > 0:
        show_text(x, Alphabet(run["alphabet"]), command.out)
    elif x.numel() > 0:
        where = save_samples(x, labels, run, command.out or Path("samples.png"))
        print(f"{count} samples{'' if is_whole else ', as far as they were drawn,'} in {where}")
    return 0 if is_whole else 130


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


def _model_options(arguments: list[str]) -> set[str]:
    """Return the names of the model's options that are given."""
    names = (each.partition("=")[0] for each in arguments if each.startswith("--model."))
    return {name.removeprefix("--model.").replace("-", "_") for name in names}


if __name__ == "__main__":
    sys.exit(main())
