"""Passes of a transformer over new inputs, whose keys and values join the cache."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast.layers.rotary import rotary_table, rotate
from dgm_fast.sampling.transformer.network import TransformerLayer, TransformerNetwork

__all__ = ["Passes"]


class Passes:
    """Runs a network, laid out for products of few rows.

    Weights lie input-major, and the norms' gains are part of the products after them.

    Shapes:
        cache: of each layer its keys and values, (2, B, heads, T, W / heads).
    """

    def __init__(self, network: TransformerNetwork) -> None:
        self.heads, self.width, self.length = network.heads, network.width, network.length
        self.embedding, self.positions = network.embedding, network.positions
        self.rotary = None
        if network.positions is None:
            width, device = network.width // network.heads, network.embedding.device
            self.rotary = rotary_table(network.length, width, device).to(network.embedding.dtype)
        self.layers = [_laid_out(layer) for layer in network.layers]
        self.head = _after_norm(network.head, network.norm)
        self.places = torch.arange(network.length, device=network.embedding.device)

    def new_cache(self, batch: int) -> list[Tensor]:
        """Return the cache of a batch that nothing has been looked at of."""
        shape = 2, batch, self.heads, self.length, self.width // self.heads
        return [self.head.new_zeros(shape) for _ in self.layers]

    def advance(self, tokens: Tensor, place: int, cache: list[Tensor]) -> Tensor:
        """Return the parameters (B, P) after inputs (B, m), which stand from `place` on."""
        (B, m), end = tokens.shape, place + tokens.shape[1]
        x = F.embedding(tokens, self.embedding)
        if self.positions is not None:
            x = x + self.positions[place:end]
        table = None if self.rotary is None else self.rotary[:, place:end]
        mask = None
        if place > 0 and m > 1:
            mask = self.places[:end] <= self.places[place:end, None]

        x = x.view(B * m, self.width)
        for (qkv, out, up, down), kv in zip(self.layers, cache, strict=True):
            q, new = self._project(x, qkv, B, m, table)
            kv[:, :, :, place:end] = new
            keys, values = kv[:, :, :, :end].unbind(0)
            causal = mask is None and m > 1
            a = F.scaled_dot_product_attention(q, keys, values, mask, is_causal=causal)
            x = self._after_attention(x, a, out, up, down)
        return self._normalized(x.view(B, m, self.width)[:, -1]) @ self.head

    def step(self, token: Tensor, place: Tensor, cache: list[Tensor]) -> Tensor:
        """Return the parameters (B, P) after an input (B,) at a place, a tensor () on the device.

        All shapes are those of the whole cache, so that neither a compiler nor a CUDA graph sees
        steps differ.
        """
        B, at = token.shape[0], place.view(1)
        x = F.embedding(token, self.embedding)
        if self.positions is not None:
            x = x + self.positions.index_select(0, at)
        table = None if self.rotary is None else self.rotary.index_select(1, at)
        mask = (self.places <= place).view(1, 1, 1, -1)

        for (qkv, out, up, down), kv in zip(self.layers, cache, strict=True):
            q, new = self._project(x, qkv, B, 1, table)
            kv.index_copy_(3, at, new)
            a = F.scaled_dot_product_attention(q, kv[0], kv[1], mask)
            x = self._after_attention(x, a, out, up, down)
        return self._normalized(x) @ self.head

    def _project(
        self, x: Tensor, qkv: Tensor, B: int, m: int, table: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return queries (B, heads, m, d), and keys and values, (2, B, heads, m, d)."""
        shape = B, m, 3, self.heads, self.width // self.heads
        projected = (self._normalized(x) @ qkv).view(shape).permute(2, 0, 3, 1, 4)
        if table is None:
            return projected[0], projected[1:]
        turned = rotate(projected[:2], table)
        return turned[0], torch.stack([turned[1], projected[2]])

    def _after_attention(
        self, x: Tensor, attended: Tensor, out: Tensor, up: Tensor, down: Tensor
    ) -> Tensor:
        x = torch.addmm(x, attended.transpose(1, 2).reshape(x.shape), out)
        return torch.addmm(x, F.gelu(self._normalized(x) @ up), down)

    def _normalized(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,))


def _laid_out(layer: TransformerLayer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        _after_norm(layer.qkv, layer.attention_norm),
        layer.out.T.contiguous(),
        _after_norm(layer.up, layer.feedforward_norm),
        layer.down.T.contiguous(),
    )


def _after_norm(weight: Tensor, gain: Tensor) -> Tensor:
    return (weight * gain).T.contiguous()
