"""Train models of every kind, then time every op: `python -m dgm_fast.demo`."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from dgm_fast._core import extension
from dgm_fast.demo.speed import print_speed
from dgm_fast.demo.text import train_text
from dgm_fast.demo.trained import trained
from dgm_fast.demo.vowels import train_vowels
from dgm_fast.families.autoregressive import PixelModel
from dgm_fast.training import mean_nll_nats
from dgm_fast.training.data import Dataset
from dgm_fast.training.images import save_image_grids
from dgm_fast.training.metrics import likelihood_table
from dgm_fast.training.subnormals import flush_subnormals

SHOWN = {
    "made": "MADE, autoregressive",
    "pixelcnn": "PixelCNN, autoregressive",
    "realnvp": "RealNVP, a flow",
    "vae": "VAE, latent variables",
    "ddpm": "DDPM, diffusion",
}
COUNT = 64


@dataclass(frozen=True)
class Demo:
    """Train models of every kind on digits and vowels, draw samples, and time the ops."""

    out: Path = Path("demo_output")
    """Folder for the weights, the logs and the samples."""
    families: tuple[Literal["made", "pixelcnn", "realnvp", "vae", "ddpm"], ...] = tuple(SHOWN)
    """The models to train."""
    epochs: int | None = None
    """Epochs of training; without it each recipe's."""
    vowels: bool = True
    """Also train WaveNet on synthesised vowels, and let it speak."""
    text: bool = True
    """Also train a transformer on sentences of a small grammar, and let it write."""
    speed: bool = True
    """End with the table of speeds."""
    compiled: bool = False
    """Time torch.compile as well; it takes a minute or two to compile."""


def main() -> None:
    """Run the demo."""
    # AdamW's stale moments become subnormal numbers, which cost a hundred cycles each.
    flush_subnormals()

    demo = tyro.cli(Demo, prog="python -m dgm_fast.demo")
    console = Console()
    if extension.cpp_missing is not None:
        console.print(f"The fast C++ kernels are missing: {extension.cpp_missing}")
        console.print("Everything below runs on plain PyTorch.\n", style="yellow")

    try:
        train_digits(demo, console)
        if demo.vowels:
            train_vowels(demo.out, console, demo.epochs)
        if demo.text:
            train_text(demo.out, console, demo.epochs)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"dgm_fast.demo: {error}")
    if demo.speed:
        print_speed(console, compiled=demo.compiled)


def train_digits(demo: Demo, console: Console) -> None:
    """Train by the recipes, print the likelihoods beside the baselines, draw samples."""
    nats: dict[str, float] = {}
    grids: dict[str, Tensor] = {}
    for family in demo.families:
        title = SHOWN[family]
        model, dataset = trained(family, "digits", title, demo.out, console, demo.epochs)
        nats[title], samples = _look_at(model, dataset)
        grids[f"{title}: {nats[title]:.1f} nats"] = samples
        if isinstance(model, PixelModel):
            grids[f"{family}: digit, upper half, completions"] = _completions(model, dataset)

    console.print(likelihood_table(nats, dataset))
    console.print(
        "The likelihoods of the VAE, the flow and the diffusion model are bounds: the truth is at "
        "most as many nats."
    )
    grids = {"digits": dataset.test[:COUNT].unflatten(1, dataset.event_shape), **grids}
    path = demo.out / "samples.png"
    save_image_grids(grids, path, dataset.levels)
    console.print(f"{COUNT} samples of each in {path}, weights and logs in {demo.out}\n")


def _look_at(model: nn.Module, dataset: Dataset) -> tuple[float, Tensor]:
    """Return the mean test NLL in nats and samples, (N, H, W)."""
    device = next(model.parameters()).device
    nats = mean_nll_nats(model, *dataset.split("test"), device=device)

    generator = torch.Generator(device).manual_seed(0)
    context = torch.arange(COUNT, device=device) % model.classes if model.classes else None
    samples = model.sample(COUNT, context, generator)
    return nats, samples.reshape(COUNT, *dataset.event_shape).cpu()


def _completions(model: PixelModel, dataset: Dataset) -> Tensor:
    """Return rows of a test digit, its upper half, and what the model makes of that, (N, H, W)."""
    rows = math.isqrt(COUNT)
    device = next(model.parameters()).device
    digits = dataset.test[:rows].unflatten(1, dataset.event_shape).to(device)
    height, width = dataset.event_shape
    upper = (torch.arange(height, device=device) < height // 2)[:, None].expand(height, width)

    x = model.sample(
        (rows, rows - 2),
        generator=torch.Generator(device).manual_seed(0),
        given=digits[:, None],
        given_mask=upper,
    )
    # A light grey stands for what is not given.
    half = digits.where(upper, dataset.levels / 5)
    return torch.cat([digits[:, None], half[:, None], x], dim=1).flatten(0, 1).cpu()


if __name__ == "__main__":
    main()
