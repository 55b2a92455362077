"""The blocks of transformers: pre-normalized residual layers of attention and feedforward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast.layers.rotary import rotary_table, rotate
from dgm_fast.sampling import TransformerLayer

__all__ = ["Block", "Stack", "StackSizes", "begin_small"]


@dataclass(frozen=True)
class StackSizes:
    """Sizes of a stack, to be checked where they are configured.

    Attributes:
        layers: number of blocks.
        heads: of the attention.
        width: W, of the residual stream.
        dropout: probability of dropping a channel of a sum's terms, and an attention's link.
    """

    layers: int
    heads: int
    width: int
    dropout: float

    lowest: ClassVar[dict[str, int]] = {"layers": 1, "heads": 1, "width": 1}

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads = {self.heads}; got {self.width}")


class Block(nn.Module):
    """One residual layer: attention, then two maps with a GELU between, each after its norm."""

    def __init__(self, sizes: StackSizes) -> None:
        super().__init__()
        width, self.heads, self.dropout = sizes.width, sizes.heads, sizes.dropout
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.feedforward_norm = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, rotary: Tensor | None) -> Tensor:
        """Return the stream (B, T, W) after the layer."""
        x = x + self._drop(self._attend(self.attention_norm(x), rotary))
        return x + self._drop(self.down(F.gelu(self.up(self.feedforward_norm(x)))))

    def _attend(self, x: Tensor, rotary: Tensor | None) -> Tensor:
        # Each of shape (B, heads, T, d).
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.out(attended.transpose(1, 2).flatten(2))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def described(self) -> TransformerLayer:
        """Return the parameters as a sampler takes them."""
        maps = (self.attention_norm, self.qkv, self.out, self.feedforward_norm, self.up, self.down)
        return TransformerLayer(*(each.weight for each in maps))


class Stack(nn.Module):
    """Blocks one after another, and the norm after the last."""

    def __init__(self, sizes: StackSizes, length: int, *, rotary: bool = False) -> None:
        super().__init__()
        self.dropout = sizes.dropout
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.width, bias=False)
        table = rotary_table(length, sizes.width // sizes.heads) if rotary else None
        self.register_buffer("rotary", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream (B, T, W) after all blocks, normalized."""
        x = F.dropout(x, self.dropout, self.training)
        rotary = None if self.rotary is None else self.rotary[:, : x.shape[1]]
        for block in self.blocks:
            x = block(x, rotary)
        return self.norm(x)


@torch.no_grad()
def begin_small(model: nn.Module) -> None:
    """Initialise as GPT-2: weights of deviation 0.02, less for those whose outputs add up."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.normal_(std=0.02)
    for stack in (each for each in model.modules() if isinstance(each, Stack)):
        for block in stack.blocks:
            for summed in (block.out, block.down):
                summed.weight.mul_((2 * len(stack.blocks)) ** -0.5)
