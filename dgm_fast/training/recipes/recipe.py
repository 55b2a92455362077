"""What a recipe is: data, model and training, each a dataclass whose every field can be changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig

__all__ = ["Recipe", "check_signal_view", "likelihood_options", "pixel_options"]


@dataclass(frozen=True)
class Recipe:
    """Hold one complete experiment; `model` is the config of its family."""

    data: DataConfig
    model: Any
    train: TrainConfig


def likelihood_options(binarization: str, levels: int) -> dict[str, Any]:
    """Choose the output distribution that fits a view of images with `levels` grey levels."""
    if binarization in ("static", "dynamic"):
        return {"output": "bernoulli"}
    if binarization == "dequantized":
        return {"output": "gaussian_mixture"}
    return {"output": "categorical", "categories": levels}


def pixel_options(
    binarization: str, levels: int, grey_output: str = "categorical"
) -> dict[str, Any]:
    """Choose the output of a PixelCNN that fits a view of images with `levels` grey levels.

    Raises:
        ValueError: the view is of real values, which PixelCNNs have no output for.
    """
    if binarization == "dequantized":
        raise ValueError("binarization must not be dequantized: PixelCNNs model integers")
    if binarization == "none":
        return {"output": grey_output, "levels": levels}
    return {"output": "bernoulli"}


def check_signal_view(binarization: str, kind: str = "signals") -> None:
    """Raise ValueError for a view that only images have."""
    if binarization != "none":
        raise ValueError(f"binarization must be none for {kind}; got {binarization!r}")
