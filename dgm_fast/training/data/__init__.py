"""Data sets as plain tensors: images, from scikit-learn or IDX files, and signals."""

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
from dgm_fast.training.data.signals import (
    SignalDataset,
    load_speech,
    load_vowels,
    make_signals,
)
from dgm_fast.training.data.sources import (
    EMBEDDED,
    DataConfig,
    load_dataset,
    load_digits,
    load_mnist,
)
from dgm_fast.training.data.vowels import VOWELS, synthesise_vowels
from dgm_fast.training.data.wav import read_wav, write_wav

__all__ = [
    "BINARIZATIONS",
    "EMBEDDED",
    "VOWELS",
    "Batch",
    "Binarization",
    "DataConfig",
    "Dataset",
    "SignalDataset",
    "Split",
    "find_idx",
    "load_dataset",
    "load_digits",
    "load_mnist",
    "load_speech",
    "load_vowels",
    "make_dataset",
    "make_generator",
    "make_signals",
    "read_idx",
    "read_wav",
    "steps_per_epoch",
    "synthesise_vowels",
    "train_batches",
    "write_wav",
]
