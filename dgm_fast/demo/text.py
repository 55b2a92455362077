"""A transformer on sentences of a small grammar: a model of text, and what it writes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from dgm_fast.families import Transformer
from dgm_fast.training import load_dataset, mean_nll_nats, train
from dgm_fast.training.metrics import likelihood_table
from dgm_fast.training.recipes import find_recipe

__all__ = ["train_text"]

LENGTH = 400
PROMPT = "The old fox"


def train_text(out: Path, console: Console, epochs: int | None = None) -> bool:
    """Train by the recipe, print the likelihood beside the baselines and a text that is drawn.

    Arguments:
        out: folder of the demo.
        console: where to print.
        epochs: of training; default the recipe's.

    Returns whether the training was interrupted.
    """
    recipe = find_recipe("transformer", "text")
    config = replace(recipe.train, tensorboard=False, epochs=epochs or recipe.train.epochs)
    dataset = load_dataset(recipe.data)
    folder = out / "transformer_text"
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(config.seed)
    result = train(Transformer(recipe.model), dataset, config, folder, console=console)
    if result.interrupted:
        return True

    console.print(f"Transformer, text: {result.seconds:.0f} s of training, {result.steps} steps")
    device = config.resolve_device()
    model = Transformer.from_pretrained(folder, device=device)
    nats = mean_nll_nats(model, *dataset.split("test"), device=device)
    console.print(likelihood_table({"Transformer, autoregressive": nats}, dataset))

    given = dataset.alphabet.encode(PROMPT).to(device)
    generator = torch.Generator(device).manual_seed(0)
    x = model.sample((), generator=generator, given=given, length=LENGTH)
    text = dataset.alphabet.decode(x.cpu())
    (out / "text.txt").write_text(text, encoding="utf-8")
    console.print(f"{text}\n\nwritten after {PROMPT!r}, also in {out / 'text.txt'}\n", markup=False)
    return False
