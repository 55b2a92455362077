"""Train MADE on handwritten digits, then time the fast path: `python -m dgm_fast.demo`."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from rich.console import Console

from dgm_fast._core import extension
from dgm_fast.demo.speed import print_speed
from dgm_fast.families import MADE
from dgm_fast.training import load_dataset, mean_nll_nats, train
from dgm_fast.training.images import save_image_grid
from dgm_fast.training.metrics import likelihood_table
from dgm_fast.training.recipes import find_recipe
from dgm_fast.training.subnormals import flush_subnormals


@dataclass(frozen=True)
class Demo:
    """Train MADE on handwritten digits, draw samples, and time the fast path."""

    out: Path = Path("demo_output")
    """Folder for the weights, the log and the samples."""
    epochs: int | None = None
    """Epochs of training; without it the recipe's."""
    speed: bool = True
    """End with the table of speeds."""


def main() -> None:
    """Run the demo."""
    # AdamW's stale moments become subnormal numbers, which cost a hundred cycles each.
    flush_subnormals()

    demo = tyro.cli(Demo, prog="python -m dgm_fast.demo")
    console = Console()
    if extension.cpp_missing is not None:
        console.print(f"The fast C++ kernels are missing: {extension.cpp_missing}")
        console.print("Everything below runs on plain PyTorch.\n", style="yellow")

    try:
        train_digits(demo, console)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"dgm_fast.demo: {error}")
    if demo.speed:
        print_speed(console)


def train_digits(demo: Demo, console: Console) -> None:
    """Train by the recipe, print the likelihood beside the baselines, draw samples."""
    recipe = find_recipe("made", "digits")
    config = replace(recipe.train, tensorboard=False, epochs=demo.epochs or recipe.train.epochs)
    dataset = load_dataset(recipe.data)
    device = config.resolve_device()

    # The demo starts afresh every time; the folder of its run is its own.
    folder = demo.out / "made_digits"
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(config.seed)
    result = train(MADE(recipe.model), dataset, config, folder, console=console)
    if result.interrupted:
        sys.exit(130)

    model = MADE.from_pretrained(folder, device=device)
    nats = mean_nll_nats(model, dataset.test, device=device)
    console.print(likelihood_table({"MADE": nats}, dataset))
    console.print(f"{result.seconds:.0f} s of training, {result.steps} steps")

    generator = torch.Generator(device).manual_seed(0)
    samples = model.sample(100, generator=generator).reshape(100, *dataset.event_shape)
    path = demo.out / "samples.png"
    save_image_grid(samples, path, dataset.levels)
    console.print(f"100 samples in {path}, weights and log in {folder}\n")


if __name__ == "__main__":
    main()
