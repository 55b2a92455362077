"""A transformer on sentences of a small grammar: a model of text, and what it writes."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from dgm_fast.demo.trained import trained
from dgm_fast.training import mean_nll_nats
from dgm_fast.training.metrics import likelihood_table

__all__ = ["train_text"]

LENGTH = 400
PROMPT = "The old fox"


def train_text(out: Path, console: Console, epochs: int | None = None) -> None:
    """Train by the recipe, print the likelihood beside the baselines and a text that is drawn.

    Arguments:
        out: folder of the demo.
        console: where to print.
        epochs: of training; default the recipe's.
    """
    model, dataset = trained("transformer", "text", "Transformer, text", out, console, epochs)
    device = next(model.parameters()).device
    nats = mean_nll_nats(model, *dataset.split("test"), device=device)
    console.print(likelihood_table({"Transformer, autoregressive": nats}, dataset))

    given = dataset.alphabet.encode(PROMPT).to(device)
    generator = torch.Generator(device).manual_seed(0)
    x = model.sample((), generator=generator, given=given, length=LENGTH)
    text = dataset.alphabet.decode(x.cpu())
    (out / "text.txt").write_text(text, encoding="utf-8")
    console.print(f"{text}\n\nwritten after {PROMPT!r}, also in {out / 'text.txt'}\n", markup=False)
