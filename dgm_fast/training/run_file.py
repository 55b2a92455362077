"""A run's folder: its model, and run.json, what `evaluate` and `sample` must know of the data."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dgm_fast.families import FAMILIES, family_of
from dgm_fast.training.checkpoint import write_atomically
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig, Dataset, SignalDataset, TextDataset

__all__ = ["load_model", "read_run", "write_run"]


def write_run(
    folder: Path, family: str, data: DataConfig, train: TrainConfig | None, dataset: Dataset
) -> None:
    """Write `folder`/run.json, the folder too; `train` is None of a model that was counted."""
    root = data.data_root
    run = {
        "family": family,
        "data": asdict(data) | {"data_root": None if root is None else str(root)},
        "event_shape": dataset.event_shape,
        "levels": dataset.levels,
        "continuous": dataset.continuous,
        "train": None if train is None else asdict(train),
    }
    if isinstance(dataset, SignalDataset):
        run["sample_rate_hz"] = dataset.sample_rate_hz
    if isinstance(dataset, TextDataset):
        run["alphabet"] = dataset.alphabet.characters
    text = json.dumps(run, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "run.json", lambda path: path.write_text(text))


def load_model(folder: Path, device: torch.device) -> nn.Module:
    """Load the model of a run, of whatever family.

    Raises:
        FileNotFoundError, ValueError: there is none, or it is damaged or of no family known.
    """
    family = family_of(folder)
    if family not in FAMILIES:
        raise ValueError(f"{folder} holds a {family!r}; known families: {', '.join(FAMILIES)}")
    return FAMILIES[family].from_pretrained(folder, device=device)


def read_run(folder: Path) -> dict[str, Any]:
    """Read what `write_run` wrote.

    Raises:
        FileNotFoundError: there is no run.json.
        ValueError: it is damaged.
    """
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
