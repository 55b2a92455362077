"""Train a model by its recipe, as every part of the demo does."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from dgm_fast.families import FAMILIES
from dgm_fast.training import load_dataset, train
from dgm_fast.training.data import Dataset
from dgm_fast.training.recipes import find_recipe

__all__ = ["trained"]


def trained(
    family: str, data: str, title: str, out: Path, console: Console, epochs: int | None
) -> tuple[nn.Module, Dataset]:
    """Train a family on data and return it, as it was at its best, and the data.

    Arguments:
        family: name of the family.
        data: name of the data.
        title: what the console calls the model.
        out: folder of the demo.
        console: where to print.
        epochs: of training; default the recipe's.

    Raises:
        SystemExit: the training was interrupted.
    """
    recipe = find_recipe(family, data, "none")
    config = replace(recipe.train, tensorboard=False, epochs=epochs or recipe.train.epochs)
    dataset = load_dataset(recipe.data)

    # The demo starts afresh every time; the folder of its run is its own.
    folder = out / f"{family}_{data}"
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(config.seed)
    result = train(FAMILIES[family](recipe.model), dataset, config, folder, console=console)
    if result.interrupted:
        sys.exit(130)

    console.print(f"{title}: {result.seconds:.0f} s of training, {result.steps} steps")
    return FAMILIES[family].from_pretrained(folder, device=config.resolve_device()), dataset
