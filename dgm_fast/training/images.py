"""Grids of images as one PNG."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["save_image_grid", "save_image_grids"]


def save_image_grid(images: Tensor, path: Path | str, levels: int, columns: int = 0) -> None:
    """Save grey images as one PNG grid, ink dark on light, small images enlarged.

    Shapes:
        `images`: (N, H, W) with values 0 .. `levels` - 1. `columns`: 0 for a near-square grid.

    Raises:
        ValueError: `images` is not (N, H, W) or empty. ImportError: Pillow is not installed.
    """
    picture = _enlarged(_grid(images, levels, columns))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def save_image_grids(grids: dict[str, Tensor], path: Path | str, levels: int) -> None:
    """Save several grids side by side as one PNG, each under its title.

    Shapes:
        `grids`: title to (N, H, W) with values 0 .. `levels` - 1.

    Raises:
        ValueError: there is no grid, or one is not (N, H, W) or empty.
        ImportError: Pillow is not installed.
    """
    if not grids:
        raise ValueError("grids must hold at least one grid; got none")
    from PIL import Image, ImageDraw, ImageFont

    font, title_height, gap = ImageFont.load_default(16), 28, 16
    pictures = [_enlarged(_grid(images, levels), 400) for images in grids.values()]
    width = sum(each.width for each in pictures) + gap * (len(pictures) + 1)
    height = title_height + max(each.height for each in pictures) + gap

    page = Image.new("L", (width, height), 255)
    draw, left = ImageDraw.Draw(page), gap
    for title, picture in zip(grids, pictures, strict=True):
        draw.text((left, title_height // 2), title, fill=0, font=font, anchor="lm")
        page.paste(picture, (left, title_height))
        left += picture.width + gap

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    page.save(path)


def _grid(images: Tensor, levels: int, columns: int = 0) -> Tensor:
    """Return a near-square grid of grey levels 0 .. 255, (H, W), with a border between images."""
    if images.ndim != 3 or images.numel() == 0:
        raise ValueError(f"images must be (N, H, W) and not empty; got {tuple(images.shape)}")

    count, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grey = 255 - (images.float() / (levels - 1)).clamp(0, 1).mul(255).round().to(torch.uint8).cpu()

    # A one-pixel border parts the images; 200 is a light grey.
    grid = torch.full((rows, columns, height + 1, width + 1), 200, dtype=torch.uint8)
    grid.view(-1, height + 1, width + 1)[:count, :height, :width] = grey
    return grid.transpose(1, 2).reshape(rows * (height + 1), columns * (width + 1))


def _enlarged(grid: Tensor, pixels: int = 640) -> Image.Image:
    # Only these functions need Pillow, and a machine that trains may do without.
    from PIL import Image

    scale = max(1, pixels // max(grid.shape))
    size = grid.shape[1] * scale, grid.shape[0] * scale
    return Image.fromarray(grid.numpy()).resize(size, Image.NEAREST)
