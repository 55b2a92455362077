"""The data sets: scikit-learn's digits, MNIST, synthesised vowels, speech, sentences, text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_type_hints

import torch
from torch import Tensor

from dgm_fast.distributions import Quantizer
from dgm_fast.training.data.dataset import (
    BINARIZATIONS,
    STATIC_SEED,
    Binarization,
    Dataset,
    make_dataset,
    make_generator,
)
from dgm_fast.training.data.idx import find_idx, read_idx
from dgm_fast.training.data.signals import SignalDataset, load_speech, load_vowels
from dgm_fast.training.data.text import TextDataset, load_sentences, load_shakespeare

__all__ = ["EMBEDDED", "DataConfig", "load_dataset", "load_digits", "load_mnist"]

EMBEDDED = ("digits", "vowels", "text")
"""Data sets that need no files."""


@dataclass(frozen=True)
class DataConfig:
    """Say which data, where its files lie and which view of it."""

    data: Literal["digits", "mnist", "vowels", "speech", "text", "shakespeare"] = "digits"
    """digits: 1,797 8x8 images bundled with scikit-learn; mnist: 70,000 28x28 images; vowels: five
    synthesised ones; speech: spoken digits; text: sentences of a small grammar; shakespeare: a
    megabyte of his, or any other text file."""
    data_root: Path | None = None
    """Folder of the IDX files, plain or gzipped, of the WAV files or of tinyshakespeare.txt, or a
    text file; digits, vowels and text need none."""
    binarization: Binarization = "static"
    """static: one fixed Bernoulli draw; dynamic: fresh draws; none: grey levels; dequantized: grey
    levels with uniform noise, for continuous densities. Of signals and text: none."""
    scale: Literal["mu_law", "linear"] = "mu_law"
    """Scale on which the levels of a signal lie evenly."""
    levels: int = 256
    """Levels that a signal's samples are rounded to."""
    segment: int = 1000
    """Samples of a signal, or tokens of a text, that are trained on or evaluated at once."""
    tokens: Literal["characters", "bytes"] = "characters"
    """Tokens of a text."""

    def __post_init__(self) -> None:
        known = get_args(get_type_hints(DataConfig)["data"])
        if self.data not in known:
            raise ValueError(f"data must be one of {', '.join(known)}; got {self.data!r}")
        if self.binarization not in BINARIZATIONS:
            raise ValueError(
                f"binarization must be one of {', '.join(BINARIZATIONS)}; got {self.binarization!r}"
            )
        if self.segment < 1:
            raise ValueError(f"segment must be positive; got {self.segment}")
        if self.tokens not in ("characters", "bytes"):
            raise ValueError(f"tokens must be characters or bytes; got {self.tokens!r}")
        Quantizer(self.scale, self.levels)

        kind = _KINDS.get(self.data, "images")
        for name in set().union(*_FIELDS.values()) - _FIELDS[kind]:
            if getattr(self, name) != getattr(DataConfig, name):
                raise ValueError(f"{name} must not be given for {kind}; got {getattr(self, name)}")


# What is no image, and the fields that only some kinds have.
_KINDS = {"vowels": "signals", "speech": "signals", "text": "text", "shakespeare": "text"}
_FIELDS = {
    "images": frozenset(),
    "signals": {"scale", "levels", "segment"},
    "text": {"segment", "tokens"},
}


def load_dataset(config: DataConfig) -> Dataset:
    """Load the data set that a config describes.

    Raises:
        FileNotFoundError: a file is missing. ValueError: a file is damaged, or `data_root` is not
            given where files are needed.
    """
    if config.data == "digits":
        return load_digits(config.binarization)
    if config.data in ("vowels", "speech"):
        return _load_signals(config)
    if config.data in ("text", "shakespeare"):
        return _load_text(config)
    if config.data_root is None:
        raise ValueError("data 'mnist' needs data_root, the folder with train-images-idx3-ubyte.gz")
    return load_mnist(config.data_root, config.binarization)


def _load_signals(config: DataConfig) -> SignalDataset:
    if config.binarization != "none":
        raise ValueError(f"binarization must be none for signals; got {config.binarization!r}")
    quantizer = Quantizer(config.scale, config.levels)
    if config.data == "vowels":
        return load_vowels(config.segment, quantizer)
    if config.data_root is None:
        raise ValueError("data 'speech' needs data_root, the folder with 0_jackson_0.wav or alike")
    return load_speech(config.data_root, config.segment, quantizer)


def _load_text(config: DataConfig) -> TextDataset:
    if config.binarization != "none":
        raise ValueError(f"binarization must be none for text; got {config.binarization!r}")
    if config.data == "text":
        return load_sentences(config.segment, config.tokens)
    if config.data_root is None:
        raise ValueError(
            "data 'shakespeare' needs data_root, the folder with tinyshakespeare.txt or a text file"
        )
    return load_shakespeare(config.data_root, config.segment, config.tokens)


def load_digits(binarization: str = "none") -> Dataset:
    """Load scikit-learn's digits: 8 x 8 images, grey levels 0 .. 16, 1,297 / 250 / 250 rows.

    The rows are dealt to the splits by one fixed permutation. A grey level counts the inked pixels
    of a 4 x 4 block, hence 17 levels.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.

    References:
        Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.

    Example:
        >>> digits = load_digits("static")
        >>> digits.train.shape, digits.levels, digits.event_shape
        (torch.Size([1297, 64]), 2, (8, 8))
    """
    # scikit-learn takes a second to import and only this source needs it.
    try:
        from sklearn.datasets import load_digits as load_bundled_digits
    except ModuleNotFoundError as error:
        message = "the digits come with scikit-learn, not installed: pip install 'dgm_fast[train]'"
        raise ModuleNotFoundError(message, name=error.name) from error

    bundle = load_bundled_digits()
    images = torch.from_numpy(bundle.images).to(torch.uint8)
    labels = torch.from_numpy(bundle.target)
    noise = torch.rand(len(images), generator=make_generator(STATIC_SEED, 3), dtype=torch.float64)
    order = noise.argsort(stable=True)
    images, labels = (each[order].split((1297, 250, 250)) for each in (images, labels))
    return make_dataset("digits", images, 17, binarization, labels, classes=10)


def load_mnist(root: Path | str, binarization: str = "static") -> Dataset:
    """Load MNIST from `train-images-idx3-ubyte` and `t10k-images-idx3-ubyte`, plain or `.gz`.

    The official split: the first 50,000 training images train, the last 10,000 validate, the
    10,000 of the second file test. Labels come along where `train-labels-idx1-ubyte` and
    `t10k-labels-idx1-ubyte` lie beside the images.

    Raises:
        FileNotFoundError: a file is missing. ValueError: a file is truncated or corrupt.

    References:
        LeCun, Bottou, Bengio and Haffner, Gradient-Based Learning Applied to Document Recognition,
        1998.
    """
    root = Path(root)
    train = read_idx(find_idx(root, "train-images-idx3-ubyte"), (60_000, 28, 28))
    test = read_idx(find_idx(root, "t10k-images-idx3-ubyte"), (10_000, 28, 28))
    images = *train.split((50_000, 10_000)), test
    return make_dataset("mnist", images, 256, binarization, _mnist_labels(root), classes=10)


def _mnist_labels(root: Path) -> tuple[Tensor, Tensor, Tensor] | None:
    try:
        paths = [find_idx(root, f"{split}-labels-idx1-ubyte") for split in ("train", "t10k")]
    except FileNotFoundError:
        return None

    train, test = read_idx(paths[0], (60_000,)), read_idx(paths[1], (10_000,))
    return *train.split((50_000, 10_000)), test
