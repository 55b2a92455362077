"""What a recipe is: data, model and training, each a dataclass whose every field can be changed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from dgm_fast.families import HistogramConfig
from dgm_fast.families.autoregressive import TokenConfig
from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig, Dataset

__all__ = ["Recipe", "check_signal_view", "likelihood_options", "pixel_options", "sized_for"]


@dataclass(frozen=True)
class Recipe:
    """Hold one complete experiment.

    Attributes:
        data: which, and in which view.
        model: the config of its family.
        train: None of a model that counts, which has no training.
    """

    data: DataConfig
    model: Any
    train: TrainConfig | None


def sized_for(model: Any, dataset: Dataset, given: Collection[str] = ()) -> Any:
    """Return a config of a text's model with the sizes of the data, but for fields in `given`.

    Example:
        >>> from dgm_fast.families import RNNConfig
        >>> from dgm_fast.training.data import load_sentences
        >>> sized_for(RNNConfig(vocabulary=65), load_sentences()).vocabulary
        29
    """
    sizes: dict[str, Any] = {}
    if isinstance(model, TokenConfig):
        sizes = {"vocabulary": dataset.levels}
    if isinstance(model, HistogramConfig):
        sizes = {"levels": dataset.levels, "event_shape": dataset.event_shape}
    return replace(model, **{name: sizes[name] for name in sizes.keys() - set(given)})


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
