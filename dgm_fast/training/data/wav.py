"""WAV files of 16-bit mono PCM, read whole, checked, and written."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["read_wav", "write_wav"]

_BYTES = 2


def read_wav(path: Path | str, sample_rate_hz: int | None = None) -> Tensor:
    r"""Read a WAV file of 16-bit mono PCM as a signal in [-1, 1].

    A sample s becomes (2 s + 1) / 65535, one of the 65,536 evenly spread levels, so that both ends
    are levels and nothing is lost.

    Arguments:
        path: of the file.
        sample_rate_hz: what its rate must be; default any.

    Shapes:
        Returns (T,), float32.

    Raises:
        ValueError: the file is damaged or of another form; the message names it.
        OSError: the file cannot be opened.
    """
    try:
        with wave.open(str(path), "rb") as file:
            form, count = file.getparams(), file.getnframes()
            content = file.readframes(count)
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path}: not a whole WAV file ({error or 'it ends early'})") from error

    if (form.nchannels, form.sampwidth) != (1, _BYTES):
        raise ValueError(
            f"{path}: expected one channel of 16 bits, found {form.nchannels} of "
            f"{8 * form.sampwidth}"
        )
    if sample_rate_hz not in (None, form.framerate):
        raise ValueError(f"{path}: expected {sample_rate_hz} Hz, found {form.framerate}")
    if len(content) != _BYTES * count:
        raise ValueError(
            f"{path}: truncated, expected {_BYTES * count} bytes of samples, found {len(content)}"
        )
    samples = torch.from_numpy(np.frombuffer(content, "<i2").astype(np.float64))
    return ((2 * samples + 1) / 65535).float()


def write_wav(path: Path | str, x: Tensor, sample_rate_hz: int) -> None:
    """Write a signal (T,) in [-1, 1] as a WAV file of 16-bit mono PCM, which `read_wav` reads.

    Raises:
        ValueError: `x` is not (T,) with T > 0.
    """
    if x.ndim != 1 or len(x) == 0:
        raise ValueError(f"x must have shape (T,) with T > 0; got {tuple(x.shape)}")

    levels = ((x.detach().cpu().double() * 65535 - 1) / 2).round().clamp(-32768, 32767)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(_BYTES)
        file.setframerate(sample_rate_hz)
        file.writeframes(levels.numpy().astype("<i2").tobytes())
