"""Data sets of signals: synthesised vowels and recorded speech, cut into segments."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from dgm_fast.distributions import Quantizer
from dgm_fast.training.data.dataset import STATIC_SEED, Dataset, Split, make_generator
from dgm_fast.training.data.vowels import VOWELS, synthesise_vowels
from dgm_fast.training.data.wav import read_wav

__all__ = ["SignalDataset", "load_speech", "load_vowels", "make_signals"]

SAMPLE_RATE_HZ = 8000

_PATTERN = "{digit}_{speaker}_{index}.wav"
_NAME = re.compile(r"([0-9])_([^_]+)_([0-9]+)\.wav")


@dataclass(frozen=True)
class SignalDataset(Dataset):
    """Hold segments of signals, in [-1, 1], and the levels at which a likelihood counts them.

    Shapes:
        `train`: (N, 2 T) windows, of which `draw` takes crops (B, T) of any beginning; `validation`
        and `test`: (N, T) segments, none of which overlaps another.

    Attributes:
        scale: of the levels.
        sample_rate_hz: of the signals.
    """

    scale: Literal["mu_law", "linear"] = "mu_law"
    sample_rate_hz: int = SAMPLE_RATE_HZ

    @property
    def quantizer(self) -> Quantizer:
        """What rounds the signals to levels."""
        return Quantizer(self.scale, self.levels)

    @property
    def view(self) -> str:
        """The levels and the segments, in words."""
        scale = self.scale.replace("_", "-")
        return f"{self.levels} {scale} levels, segments of {self.features} samples"

    @property
    def unit(self) -> str:
        """A sample."""
        return "sample"


def make_signals(
    name: str,
    splits: tuple[dict[int, Tensor], dict[int, Tensor], dict[int, Tensor]],
    segment: int,
    quantizer: Quantizer,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
) -> SignalDataset:
    """Make a data set from one long signal for each label of every split.

    Signals of evaluation are cut into segments, one after another; what is left over at the end
    drops out. A segment begins without a past, so that its likelihood is, if anything, too low: the
    bits are an upper bound of what a code for the whole signal needs.

    Shapes:
        `splits`: of train, validation and test, label to signal (S,); S at least 2 `segment` in
        training and `segment` in the others.

    Raises:
        ValueError: a signal is too short; the message says which.
    """
    rows: dict[Split, Tensor] = {}
    labels: dict[Split, Tensor] = {}
    for split, signals in zip(get_args(Split), splits, strict=True):
        size = 2 * segment if split == "train" else segment
        for label, signal in signals.items():
            if len(signal) < size:
                raise ValueError(
                    f"segment must leave room for {size} samples in the {split} signal of label "
                    f"{label}, which has {len(signal)}; got {segment}"
                )
        cut = {label: signal.unfold(0, size, segment) for label, signal in signals.items()}
        rows[split] = torch.cat(list(cut.values())).contiguous()
        labels[split] = torch.cat([torch.full((len(each),), label) for label, each in cut.items()])

    return SignalDataset(
        name=name,
        binarization="none",
        **rows,
        levels=quantizer.levels,
        event_shape=(segment,),
        draw=partial(_crop, length=segment),
        labels=labels,
        classes=1 + max(splits[0]),
        scale=quantizer.scale,
        sample_rate_hz=sample_rate_hz,
    )


def load_vowels(segment: int = 1000, quantizer: Quantizer | None = None) -> SignalDataset:
    """Synthesise five vowels in many voices, an eighth of a second a segment: embedded data.

    Of each vowel, 40 voices train, 8 validate and 8 test, 2,000 samples each; the label is the
    vowel. They follow one another without a gap, so that a segment whose length does not divide
    2,000 may change its voice.

    Example:
        >>> vowels = load_vowels()
        >>> vowels.train.shape, vowels.test.shape, vowels.classes
        (torch.Size([395, 2000]), torch.Size([80, 1000]), 5)
    """
    formants_hz = torch.tensor(list(VOWELS.values()))
    splits = []
    for split, voices in enumerate((40, 8, 8)):
        signals = synthesise_vowels(
            formants_hz.repeat_interleave(voices, dim=0), 2000, make_generator(STATIC_SEED, split)
        )
        splits.append(dict(enumerate(signals.view(len(VOWELS), -1))))
    return make_signals("vowels", tuple(splits), segment, quantizer or Quantizer())


def load_speech(
    root: Path | str, segment: int = 4000, quantizer: Quantizer | None = None
) -> SignalDataset:
    """Load spoken digits from WAV files named `{digit}_{speaker}_{index}.wav`, 8 kHz mono, 16 bits.

    Of every speaker, recordings 0 to 4 of each digit test, 5 to 9 validate and the others train;
    the label is the digit. A split's recordings of a digit follow one another without a gap.

    Raises:
        FileNotFoundError: the folder, or a recording that a split of a digit needs, is missing.
        ValueError: a file is damaged or of another form, or `segment` is too long.

    References:
        Jackson et al., Free Spoken Digit Dataset, 2018, whose test set this is.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; expected one that holds {_PATTERN}")

    found = sorted((m for m in map(_NAME.fullmatch, _names(root)) if m), key=_order)
    splits = tuple(
        {digit: _recordings(root, found, digit, first, last) for digit in range(10)}
        for first, last in ((10, None), (5, 9), (0, 4))
    )
    return make_signals("speech", splits, segment, quantizer or Quantizer())


def _names(root: Path) -> list[str]:
    return [path.name for path in root.iterdir()]


def _order(match: re.Match[str]) -> tuple[str, str, int]:
    return match[1], match[2], int(match[3])


def _recordings(
    root: Path, found: list[re.Match[str]], digit: int, first: int, last: int | None
) -> Tensor:
    """Return the recordings of a digit with indices `first` to `last`, one after another."""
    signals = [
        read_wav(root / each[0], SAMPLE_RATE_HZ)
        for each in found
        if int(each[1]) == digit
        and first <= int(each[3])
        and (last is None or int(each[3]) <= last)
    ]
    if not signals:
        indices = f"{first} or later" if last is None else f"{first} to {last}"
        raise FileNotFoundError(
            f"{root}/{digit}_*_{first}.wav is missing; expected recordings {_PATTERN} of digit "
            f"{digit} with an index of {indices}"
        )
    return torch.cat(signals)


def _crop(rows: Tensor, generator: torch.Generator, length: int) -> Tensor:
    start = torch.randint(rows.shape[1] - length + 1, (len(rows), 1), generator=generator)
    return rows.gather(1, start + torch.arange(length))
