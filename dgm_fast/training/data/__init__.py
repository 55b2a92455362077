"""Data sets as plain tensors: scikit-learn's digits and MNIST from IDX files."""

from __future__ import annotations

from dgm_fast.training.data.dataset import (
    BINARIZATIONS,
    Batch,
    Binarization,
    Dataset,
    Split,
    make_dataset,
    make_generator,
    steps_per_epoch,
    train_batches,
)
from dgm_fast.training.data.idx import find_idx, read_idx
from dgm_fast.training.data.sources import DataConfig, load_dataset, load_digits, load_mnist

__all__ = [
    "BINARIZATIONS",
    "Batch",
    "Binarization",
    "DataConfig",
    "Dataset",
    "Split",
    "find_idx",
    "load_dataset",
    "load_digits",
    "load_mnist",
    "make_dataset",
    "make_generator",
    "read_idx",
    "steps_per_epoch",
    "train_batches",
]
