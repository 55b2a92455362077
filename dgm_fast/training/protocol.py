"""What the training loop asks of a model: the one place where that contract is written."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

__all__ = ["DensityModel", "shape_rows", "training_step_begin"]


@runtime_checkable
class DensityModel(Protocol):
    """Any `nn.Module` with these methods can be trained, evaluated and saved.

    Two members are optional:

    - `event_shape: tuple[int, ...]`: rows are reshaped to it; without it they stay flat, (B, D).
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


def shape_rows(rows: Tensor, model: nn.Module) -> Tensor:
    """Give flat rows (B, D) the event shape of the model, where it has one."""
    event_shape = getattr(model, "event_shape", None)
    return rows if event_shape is None else rows.reshape(len(rows), *event_shape)


def training_step_begin(model: nn.Module, step: int) -> None:
    """Tell the model that training step `step` begins, where it wants to know."""
    hook = getattr(model, "training_step_begin", None)
    if hook is not None:
        hook(step)
