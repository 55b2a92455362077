"""Checkpoints without pickle: exact resume, and no crash loses the last good one.

A run's folder holds

    config.json, model.safetensors   the best weights so far: `Model.from_pretrained(folder)`
    training.safetensors             everything else that a resumed run needs
    log.csv, tensorboard/            see logs.py

Every file is written beside its place, flushed to the disk and renamed into it. A rename is atomic,
so a reader finds the old file or the new one, never a part. `training.safetensors` is one file for
that reason: weights, averaged weights, optimizer moments, random states and counters can never be
of different steps. Numbers that are no tensors travel as JSON in its metadata; Python writes floats
so that they read back the same.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

__all__ = [
    "TRAINING_FILE",
    "load_training",
    "rng_state",
    "save_best",
    "save_training",
    "set_rng",
    "write_atomically",
]

TRAINING_FILE = "training.safetensors"


def save_training(
    folder: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
    rng: dict[str, Tensor],
) -> None:
    """Save the state of a run to `folder`/training.safetensors in one atomic step.

    `modules` are saved by name (the model and its average); `progress` is anything JSON can hold;
    `rng` comes from :func:`rng_state`.
    """
    tensors = {f"rng.{name}": value for name, value in rng.items()}
    for name, module in modules.items():
        tensors |= {f"{name}.{key}": value for key, value in module.state_dict().items()}

    state = optimizer.state_dict()
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                scalars.setdefault(str(index), {})[key] = value

    # safetensors refuses tensors that share memory (tied weights), hence the copies.
    tensors = {
        key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()
    }
    document = {
        "progress": progress,
        "param_groups": state["param_groups"],
        "optimizer_scalars": scalars,
    }
    metadata = {"state": json.dumps(document)}
    write_atomically(folder / TRAINING_FILE, lambda path: save_file(tensors, path, metadata))


def load_training(
    folder: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Load what :func:`save_training` wrote into modules and optimizer; return progress and rng.

    Raises:
        FileNotFoundError: `folder` holds no training state. ValueError: the file is damaged, or
            its weights have other names or shapes than the modules.
    """
    path = folder / TRAINING_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: there is no run to resume in {folder}")
    try:
        with safe_open(path, framework="pt") as file:
            document = json.loads(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged or no training state: {error}") from error

    try:
        for name, module in modules.items():
            module.load_state_dict(_under(tensors, name))
    except RuntimeError as error:
        raise ValueError(f"{path} belongs to another model: {error}") from error

    state = {int(key): value for key, value in document["optimizer_scalars"].items()}
    for key, value in _under(tensors, "optimizer").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": document["param_groups"]})
    return document["progress"], _under(tensors, "rng")


def save_best(folder: Path, model: nn.Module) -> None:
    """Save the weights that validated best with the model's own `save_pretrained`, atomically."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".best-") as temporary:
        model.save_pretrained(temporary)
        # The config never changes within a run: only the weights' rename has to be atomic.
        for source in sorted(Path(temporary).iterdir()):
            _flush(source)
            source.replace(folder / source.name)
    _flush(folder)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path`, flush the file and rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """Read the random states of this process, or of all processes of a distributed run."""
    own = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(device)
    if not dist.is_initialized():
        return {f"0.{name}": state for name, state in own.items()}

    gathered: list[dict[str, Tensor] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return {f"{rank}.{key}": states[key] for rank, states in enumerate(gathered) for key in states}


def set_rng(states: dict[str, Tensor], device: torch.device, rank: int = 0) -> None:
    """Restore the random states of this process.

    Raises:
        ValueError: the run was saved by fewer processes, or on another kind of device.
    """
    own = _under(states, str(rank))
    if "cpu" not in own or (device.type == "cuda") != ("cuda" in own):
        raise ValueError(
            f"cannot resume on {device} as process {rank}: the run saved random states for "
            f"{', '.join(sorted(states))}"
        )
    torch.set_rng_state(own["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(own["cuda"], device)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}


def _flush(path: Path) -> None:
    """Force a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
