"""Hyperparameters of a run and its learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

__all__ = ["TrainConfig", "learning_rate_at"]


@dataclass(frozen=True)
class TrainConfig:
    """Hold every hyperparameter of the training loop; 0 switches an optional part off."""

    epochs: int = 100
    """Passes over the training rows."""
    batch_size: int = 100
    """Rows of one step, over all processes."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's moments."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_steps: int = 0
    """Steps of linear warm-up from 0."""
    gradient_clip: float = 0.0
    """Largest global norm of the gradient; 0: none."""
    ema_decay: float = 0.0
    """Decay of the average of the weights that is evaluated and saved; 0: none."""
    patience: int = 0
    """Stop after so many epochs without a better validation likelihood; 0: never."""
    bf16: bool = False
    """Compute the training loss under bfloat16 autocast."""
    compile: bool = False
    """Compile the training loss with torch.compile; needs a C++ compiler on a CPU."""
    tensorboard: bool = True
    """Also log for TensorBoard, where it is installed."""
    evaluation_batch_size: int = 500
    """Rows evaluated at once."""
    seed: int = 0
    """Seed of initialization, order, noise and dropout."""
    device: str = "auto"
    """auto: a CUDA device where there is one, else the CPU."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "evaluation_batch_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        for name in ("weight_decay", "warmup_steps", "gradient_clip", "patience", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1); got {self.ema_decay}")
        if self.schedule not in ("cosine", "constant"):
            raise ValueError(f"schedule must be 'cosine' or 'constant'; got {self.schedule!r}")

    def numbers(self) -> dict[str, Any]:
        """Give the fields that a run's numbers depend on, as JSON has them."""
        without = {"tensorboard", "device", "patience", "evaluation_batch_size"}
        fields = {key: value for key, value in asdict(self).items() if key not in without}
        return fields | {"betas": list(self.betas)}

    def resolve_device(self, local_rank: int = 0) -> torch.device:
        """Choose the device of this process.

        Raises:
            ValueError: torch does not know the name, or sees no such GPU.
        """
        if self.device == "auto" and torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        if self.device == "auto":
            return torch.device("cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(f"device must be a torch device; got {self.device!r}") from error

        visible = torch.cuda.device_count()
        if device.type == "cuda" and (device.index or 0) >= visible:
            raise ValueError(
                f"device must be there; got {self.device!r}, torch sees {visible} GPUs"
            )
        return device


def learning_rate_at(step: int, total_steps: int, config: TrainConfig) -> float:
    r"""Compute the learning rate of step 0, 1, ... from the step alone, so nothing need be saved.

    Linear warm-up over $w$ steps, $\eta (t + 1) / w$, then constant or a half cosine down to 0,
    $\frac{\eta}{2} (1 + \cos \pi \frac{t - w}{T - w})$.

    References:
        Loshchilov and Hutter, SGDR, 2017, eq. 5, without restarts.

    Example:
        >>> config = TrainConfig(learning_rate=0.5, warmup_steps=2)
        >>> [round(learning_rate_at(t, 6, config), 3) for t in range(6)]
        [0.25, 0.5, 0.5, 0.427, 0.25, 0.073]
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate

    done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
