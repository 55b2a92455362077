"""A grid of images as one PNG."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["save_image_grid"]


def save_image_grid(images: Tensor, path: Path | str, levels: int, columns: int = 0) -> None:
    """Save grey images as one PNG grid, ink dark on light, small images enlarged.

    Shapes:
        `images`: (N, H, W) with values 0 .. `levels` - 1. `columns`: 0 for a near-square grid.

    Raises:
        ValueError: `images` is not (N, H, W) or empty. ImportError: Pillow is not installed.
    """
    if images.ndim != 3 or images.numel() == 0:
        raise ValueError(f"images must be (N, H, W) and not empty; got {tuple(images.shape)}")
    # Only this function needs Pillow, and a machine that trains may do without.
    from PIL import Image

    count, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grey = 255 - (images.float() / (levels - 1)).clamp(0, 1).mul(255).round().to(torch.uint8).cpu()

    # A one-pixel border parts the images; 200 is a light grey.
    grid = torch.full((rows, columns, height + 1, width + 1), 200, dtype=torch.uint8)
    grid.view(-1, height + 1, width + 1)[:count, :height, :width] = grey
    grid = grid.transpose(1, 2).reshape(rows * (height + 1), columns * (width + 1))

    scale = max(1, 640 // max(grid.shape))
    picture = Image.fromarray(grid.numpy())
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture.resize((grid.shape[1] * scale, grid.shape[0] * scale), Image.NEAREST).save(path)
