"""WaveNet on synthesised vowels: a model of signals, trained in seconds, and what it says."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from dgm_fast.demo.trained import trained
from dgm_fast.training import mean_nll_nats
from dgm_fast.training.data import VOWELS
from dgm_fast.training.metrics import likelihood_table
from dgm_fast.training.waveforms import save_signals

__all__ = ["train_vowels"]

# A tenth of a second: some 15 periods of a voice.
LENGTH = 800


def train_vowels(out: Path, console: Console, epochs: int | None = None) -> None:
    """Train by the recipe, print the likelihood beside the baselines, draw a signal of each vowel.

    Arguments:
        out: folder of the demo.
        console: where to print.
        epochs: of training; default the recipe's.
    """
    model, dataset = trained("wavenet", "vowels", "WaveNet, signals", out, console, epochs)
    device = next(model.parameters()).device
    nats = mean_nll_nats(model, *dataset.split("test"), device=device)
    console.print(likelihood_table({"WaveNet, autoregressive": nats}, dataset))

    labels = torch.arange(len(VOWELS), device=device)
    generator = torch.Generator(device).manual_seed(0)
    with console.status(f"drawing {LENGTH} samples of {len(VOWELS)} vowels one by one"):
        x = model.sample(len(VOWELS), labels, generator, length=LENGTH)
    # The vowel's own sound stands above what the model makes of it.
    rows, row_labels = dataset.split("test")
    titles, signals = [], []
    for label, vowel in enumerate(VOWELS):
        of_vowel = rows[row_labels == label].flatten()[:LENGTH]
        titles += [f"{vowel} synthesised", f"{vowel} drawn"]
        signals += [of_vowel, x[label].cpu()]
    path = out / "vowels.png"
    save_signals(torch.stack(signals), titles, path, dataset.sample_rate_hz)
    console.print(f"a signal of each vowel in {path}, and as WAV files beside it\n")
