"""What the training loop asks of a model: the one place where that contract is written."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from dgm_fast.training.data import Dataset

__all__ = ["DensityModel", "check_fit", "context_of", "shape_rows", "training_step_begin"]


@runtime_checkable
class DensityModel(Protocol):
    """Any `nn.Module` with these methods can be trained, evaluated and saved.

    What the data must be is said by four attributes:

    - `event_shape: tuple[int, ...]`: rows are reshaped to it; without it they stay flat, (B, D).
    - `levels: int | None`: a value is one of the integers 0 .. `levels` - 1; None, real-valued.
    - `scale: str`: of signals, what the levels lie evenly on; their rows are values in [-1, 1].
    - `classes: int`: where positive, `context` is the (B,) labels 0 .. `classes` - 1 of the rows.

    Three methods are optional:

    - `validation_nats(x, context=None) -> (B,)`: a cheaper stand-in for -log_prob, such as one
      term of a bound drawn at random, by which epochs are compared.
    - `diagnostics(x, context=None) -> dict[str, float]`: figures beside the likelihood, each with
      its unit in its name.
    - `training_step_begin(step: int) -> None`: called before every training step with the number of
      steps done so far. A model that cycles through masks chooses one here. It must depend on
      `step` alone (or on saved buffers), so that a resumed run continues to the same numbers.
    """

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the mean negative log-likelihood of a batch, a scalar in nats."""

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the log-likelihood of every row, (B,), in nats."""

    def save_pretrained(self, directory: str) -> None:
        """Write `model.safetensors` and `config.json` into `directory`."""


def check_fit(model: nn.Module, dataset: Dataset) -> None:
    """Raise ValueError unless a model's event, values and classes are those of the data."""
    shape = tuple(getattr(model, "event_shape", dataset.event_shape))
    if math.prod(shape) != dataset.features:
        raise ValueError(
            f"model must have events of {dataset.features} values, as the data have; "
            f"got event_shape {shape}"
        )

    levels, classes = getattr(model, "levels", dataset.levels), getattr(model, "classes", 0)
    expected = None if dataset.continuous else dataset.levels
    if levels != expected:
        model_has = "real values" if levels is None else f"{levels} levels"
        data_have = "dequantized to real values" if expected is None else f"of {expected} levels"
        raise ValueError(f"model must fit the data, which are {data_have}; got {model_has}")

    scale, expected = (getattr(each, "scale", None) for each in (model, dataset))
    if scale != expected:
        model_has, data_have = (
            "no signals" if each is None else f"signals on a {each} scale"
            for each in (scale, expected)
        )
        raise ValueError(f"model must fit the data, which are {data_have}; got {model_has}")

    if classes and not dataset.labels:
        raise ValueError(f"data must have labels for a model of {classes} classes; got none")
    if classes and classes != dataset.classes:
        raise ValueError(f"model must have {dataset.classes} classes, as the data; got {classes}")


def context_of(model: nn.Module, labels: Tensor | None) -> Tensor | None:
    """Return the labels where the model is class-conditional, else None."""
    return labels if getattr(model, "classes", 0) else None


def shape_rows(rows: Tensor, model: nn.Module) -> Tensor:
    """Give flat rows (B, D) the event shape of the model, where it has one."""
    event_shape = getattr(model, "event_shape", None)
    return rows if event_shape is None else rows.reshape(len(rows), *event_shape)


def training_step_begin(model: nn.Module, step: int) -> None:
    """Tell the model that training step `step` begins, where it wants to know."""
    hook = getattr(model, "training_step_begin", None)
    if hook is not None:
        hook(step)
