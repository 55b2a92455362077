"""Samples of signals as WAV files and a picture."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dgm_fast.training.data import read_wav
from dgm_fast.training.waveforms import save_signals, spectrogram_db


def sine(hz, seconds=0.25, size=1.0):
    return size * torch.sin(2 * math.pi * hz * torch.arange(int(8000 * seconds)) / 8000)


def test_signals_come_back_from_their_files(tmp_path):
    pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    signals = torch.stack([sine(500), sine(1500, size=0.3)])

    files = save_signals(signals, ["0 class 1", "low"], tmp_path / "new" / "s.png", 8000)

    assert [file.name for file in files] == ["s-0-class-1.wav", "s-low.wav"]
    for file, signal in zip(files, signals, strict=True):
        # Half of one of 65,536 levels.
        torch.testing.assert_close(read_wav(file, 8000), signal, rtol=0, atol=1.01 / 65535)


def test_the_picture_shows_waveform_and_spectrogram(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    save_signals(torch.stack([sine(1000), 0 * sine(1)]), ["a", "b"], tmp_path / "s.png", 8000)
    picture = image.open(tmp_path / "s.png")
    assert picture.size == (2 * 400 + 3 * 12, 2 * (18 + 96 + 12))

    def panel(left, top):
        box = picture.crop((left, top, left + 400, top + 96))
        return torch.from_numpy(np.array(box))

    loud, flat = panel(12, 18), panel(12, 18 + 126)
    assert (loud[0] < 50).any()
    assert (loud[95] < 50).any()
    # Silence is one line in the middle.
    assert (flat < 50).nonzero()[:, 0].unique().tolist() in ([47], [48], [47, 48])
    # 1000 Hz lie a quarter of the way up to 4000.
    darkest = panel(424, 18)[:, 50:350].float().mean(1).argmin().item()
    assert abs(darkest - 72) <= 2


def test_a_full_sine_has_no_decibels():
    level = spectrogram_db(sine(1000))
    assert level.shape == (65, 1 + 2000 // 16)
    # In the middle, where the window is full.
    torch.testing.assert_close(level[16, 40:-40], torch.zeros(46), rtol=0, atol=0.01)
    assert float(level[40, 40:-40].max()) < -60
    quieter = spectrogram_db(sine(1000, size=0.1))
    torch.testing.assert_close(quieter[16, 40:-40], torch.full((46,), -20.0), rtol=0, atol=0.01)


@pytest.mark.parametrize("length", [1, 2, 30])
def test_short_signals_have_pictures_too(tmp_path, length):
    pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    save_signals(torch.full((1, length), 0.5), ["a"], tmp_path / "s.png", 8000)
    assert len(read_wav(tmp_path / "s-a.wav")) == length


@pytest.mark.parametrize(
    ("signals", "titles", "match"),
    [
        (torch.zeros(3), ["a"], r"signals must be \(N, T\)"),
        (torch.zeros(0, 3), [], r"signals must be \(N, T\) and not empty"),
        (torch.zeros(2, 3), ["a", "a"], "titles must be 2 different ones"),
    ],
)
def test_errors(tmp_path, signals, titles, match):
    with pytest.raises(ValueError, match=match):
        save_signals(signals, titles, tmp_path / "s.png", 8000)
