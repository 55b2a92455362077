"""A model's samples and what becomes of them: pictures, recordings, a text."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgm_fast.sampling import SamplingInterrupted
from dgm_fast.training.data import Alphabet
from dgm_fast.training.images import save_image_grid
from dgm_fast.training.waveforms import save_signals

__all__ = ["draw_samples", "labels_of", "save_samples", "show_text"]


def draw_samples(
    model: nn.Module,
    count: int,
    context: Tensor | None,
    generator: torch.Generator,
    progress: Callable[[int, int], object],
    **options: Any,
) -> tuple[Tensor, bool]:
    """Return samples, and whether they are whole or Ctrl-C ended their drawing.

    Arguments:
        model: told the progress where its `sample` has one to tell.
        count: N.
        context: labels (N,), of a model that has them.
        generator: on the model's device.
        progress: told how much is done and how much there is.
        options: of `sample`.
    """
    if "progress" in inspect.signature(model.sample).parameters:
        options["progress"] = progress
    try:
        return model.sample(count, context, generator, **options), True
    except SamplingInterrupted as stop:
        return stop.samples, False


def labels_of(count: int, classes: int, label: int | None = None) -> Tensor:
    """Return a label for each sample, (N,): the one given, or each class in turn.

    Raises:
        ValueError: there is no such class.
    """
    if label is None:
        return torch.arange(count) % classes
    if not 0 <= label < classes:
        raise ValueError(f"label must lie in 0 .. {classes - 1}; got {label}")
    return torch.full((count,), label)


def show_text(x: Tensor, alphabet: Alphabet, out: Path | None = None) -> None:
    """Print texts (N, T), a rule between them, and write them to a file, where there is one."""
    texts = "\n----\n".join(alphabet.decode(each) for each in x.cpu())
    print(texts)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(texts, encoding="utf-8")


def save_samples(x: Tensor, labels: Tensor | None, run: dict[str, Any], out: Path) -> str:
    """Save images as a PNG grid, or signals as WAV files and a picture, and return where they are.

    Arguments:
        x: (N, ...).
        labels: (N,), which name the signals' files.
        run: of the data, as `dgm-fast train` writes run.json.
        out: the PNG file.
    """
    count = len(x)
    if "sample_rate_hz" in run:
        titles = [str(i) if labels is None else f"{i} class {labels[i]}" for i in range(count)]
        files = save_signals(x, titles, out, run["sample_rate_hz"])
        return f"{out} and {files[0]} to {files[-1].name}"

    images, levels = x.reshape(count, *run["event_shape"]), run["levels"]
    save_image_grid(images * levels if run["continuous"] else images, out, levels)
    return str(out)
