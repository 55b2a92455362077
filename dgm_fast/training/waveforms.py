"""Signals as WAV files and as one PNG of their waveforms and spectrograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dgm_fast.training.data import write_wav

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["save_signals", "spectrogram_db"]

_WIDTH, _HEIGHT, _GAP, _TITLE = 400, 96, 12, 18
_RANGE_DB = 60


def save_signals(
    signals: Tensor, titles: Sequence[str], path: Path | str, sample_rate_hz: int
) -> list[Path]:
    """Save a picture of signals, and beside it a WAV file of each, named after its title.

    A row of the picture is the waveform, from -1 to 1, and the spectrogram, up to half the rate and
    60 dB down from its peak. Title `a` of `samples.png` is the file `samples-a.wav`.

    Shapes:
        `signals`: (N, T). Returns the paths of the N WAV files.

    Raises:
        ValueError: `signals` is not (N, T) or empty, or `titles` are not N different ones.
        ImportError: Pillow is not installed.
    """
    if signals.ndim != 2 or signals.numel() == 0:
        raise ValueError(f"signals must be (N, T) and not empty; got {tuple(signals.shape)}")
    if len(set(titles)) != len(signals):
        raise ValueError(f"titles must be {len(signals)} different ones; got {list(titles)}")
    from PIL import Image, ImageDraw

    path, signals = Path(path), signals.detach().cpu().float()
    row = _TITLE + _HEIGHT + _GAP
    page = Image.new("L", (2 * _WIDTH + 3 * _GAP, row * len(signals)), 255)
    draw = ImageDraw.Draw(page)
    for top, (signal, title) in enumerate(zip(signals, titles, strict=True)):
        y = top * row
        draw.text((_GAP, y + _TITLE // 2), title, fill=0, anchor="lm")
        page.paste(_waveform(signal), (_GAP, y + _TITLE))
        page.paste(_spectrogram(signal), (2 * _GAP + _WIDTH, y + _TITLE))

    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)
    files = [path.with_name(f"{path.stem}-{title.replace(' ', '-')}.wav") for title in titles]
    for file, signal in zip(files, signals, strict=True):
        write_wav(file, signal, sample_rate_hz)
    return files


def spectrogram_db(signal: Tensor, window: int = 128, hop: int = 16) -> Tensor:
    """Return the power of each frequency, from 0 up, over time, in dB of a full-scale sine.

    Shapes:
        `signal`: (T,); returns (1 + window // 2, 1 + T // hop), zeros lying beyond both ends.
    """
    shape = torch.hann_window(window)
    spectrum = torch.stft(
        signal, window, hop, window=shape, pad_mode="constant", return_complex=True
    )
    power = (2 * spectrum.abs() / shape.sum()).square()
    return 10 * power.clamp(min=1e-12).log10()


def _waveform(signal: Tensor) -> Image.Image:
    """Draw, for each column, the stretch between the least and the greatest sample."""
    from PIL import Image, ImageDraw

    picture = Image.new("L", (_WIDTH, _HEIGHT), 240)
    draw = ImageDraw.Draw(picture)
    heights = ((1 - signal) * (_HEIGHT - 1) / 2).tolist()
    for x in range(_WIDTH):
        first = min(x * len(heights) // _WIDTH, len(heights) - 1)
        # With the next column's first, so that the line has no gaps.
        part = heights[first : max(first + 1, (x + 1) * len(heights) // _WIDTH + 1)]
        draw.line((x, min(part), x, max(part)), fill=0)
    return picture


def _spectrogram(signal: Tensor) -> Image.Image:
    from PIL import Image

    level = spectrogram_db(signal)
    share = (level - level.max()) / _RANGE_DB + 1
    grey = 255 - share.clamp(0, 1).mul(255).round().to(torch.uint8).flip(0)
    return Image.fromarray(grey.numpy()).resize((_WIDTH, _HEIGHT), Image.BILINEAR)
