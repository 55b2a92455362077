"""Data sets as plain tensors: images, from scikit-learn or IDX files, signals and text."""

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
from dgm_fast.training.data.sentences import compose_sentences
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
from dgm_fast.training.data.text import (
    Alphabet,
    TextDataset,
    load_sentences,
    load_shakespeare,
    make_text,
)
from dgm_fast.training.data.vowels import VOWELS, synthesise_vowels
from dgm_fast.training.data.wav import read_wav, write_wav

__all__ = [
    "BINARIZATIONS",
    "EMBEDDED",
    "VOWELS",
    "Alphabet",
    "Batch",
    "Binarization",
    "DataConfig",
    "Dataset",
    "SignalDataset",
    "Split",
    "TextDataset",
    "compose_sentences",
    "find_idx",
    "load_dataset",
    "load_digits",
    "load_mnist",
    "load_sentences",
    "load_shakespeare",
    "load_speech",
    "load_vowels",
    "make_dataset",
    "make_generator",
    "make_signals",
    "make_text",
    "read_idx",
    "read_wav",
    "steps_per_epoch",
    "synthesise_vowels",
    "train_batches",
    "write_wav",
]
