"""Passes of a transformer over new inputs, whose keys and values join the cache."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast.layers.rotary import rotary_table
from dgm_fast.sampling.transformer.network import TransformerLayer, TransformerNetwork

__all__ = ["Cache", "Passes"]

Cache = list[tuple[Tensor, Tensor]]


class Passes:
    """Runs a network, laid out for products of few rows.

    Weights lie input-major, and the norms' gains are part of the products after them. Channels of
    queries and keys that turn together lie side by side, as a complex number.

    Shapes:
        cache: of each layer its keys and values, (B, heads, T, W / heads) each.
    """

    def __init__(self, network: TransformerNetwork) -> None:
        self.heads, self.width, self.length = network.heads, network.width, network.length
        self.embedding, self.positions = network.embedding, network.positions
        self.turns = None
        if network.positions is None:
            width, like = network.width // network.heads, network.embedding
            cos, sin = rotary_table(network.length, width, like.device).to(like.dtype)
            self.turns = torch.stack([cos, sin], dim=-1)  # (T, d / 2, 2)
        paired = self.turns is not None
        self.layers = [_laid_out(layer, network.heads, paired) for layer in network.layers]
        self.head = _after_norm(network.head, network.norm)
        self.places = torch.arange(network.length, device=network.embedding.device)

    def new_cache(self, batch: int) -> Cache:
        """Return the cache of a batch that nothing has been looked at of."""
        shape = batch, self.heads, self.length, self.width // self.heads
        return [(self.head.new_zeros(shape), self.head.new_zeros(shape)) for _ in self.layers]

    def advance(self, tokens: Tensor, place: int, cache: Cache) -> Tensor:
        """Return the parameters (B, P) after inputs (B, m), which stand from `place` on."""
        (B, m), end = tokens.shape, place + tokens.shape[1]
        x = F.embedding(tokens, self.embedding)
        if self.positions is not None:
            x = x + self.positions[place:end]
        turn = None
        if self.turns is not None:
            turn = torch.view_as_complex(self.turns[place:end])
        mask = None
        if place > 0 and m > 1:
            mask = self.places[:end] <= self.places[place:end, None]

        x = x.view(B * m, self.width)
        for (qkv, out, up, down), (keys, values) in zip(self.layers, cache, strict=True):
            qk, v = self._project(x, qkv, B, m)
            q, k = (qk if turn is None else _turned(qk, turn)).unbind(0)
            keys.narrow(2, place, m).copy_(k)
            values.narrow(2, place, m).copy_(v)
            seen = keys.narrow(2, 0, end), values.narrow(2, 0, end)
            causal = mask is None and m > 1
            a = F.scaled_dot_product_attention(q, *seen, mask, is_causal=causal)
            x = self._after_attention(x, a, out, up, down)
        return self._normalized(x.view(B, m, self.width)[:, -1]) @ self.head

    def step(self, token: Tensor, place: Tensor, cache: Cache) -> Tensor:
        """Return the parameters (B, P) after an input (B,) at a place, a tensor () on the device.

        All shapes are those of the whole cache, so that neither a compiler nor a CUDA graph sees
        steps differ.
        """
        B, at = token.shape[0], place.view(1)
        x = F.embedding(token, self.embedding)
        if self.positions is not None:
            x = x + self.positions.index_select(0, at)
        turn = None if self.turns is None else self.turns.index_select(0, at).unbind(-1)
        mask = (self.places <= place).view(1, 1, 1, -1)

        for (qkv, out, up, down), (keys, values) in zip(self.layers, cache, strict=True):
            qk, v = self._project(x, qkv, B, 1)
            q, k = (qk if turn is None else _turned_as_real(qk, *turn)).unbind(0)
            keys.index_copy_(2, at, k)
            values.index_copy_(2, at, v)
            a = F.scaled_dot_product_attention(q, keys, values, mask)
            x = self._after_attention(x, a, out, up, down)
        return self._normalized(x) @ self.head

    def _project(self, x: Tensor, qkv: Tensor, B: int, m: int) -> tuple[Tensor, Tensor]:
        """Return queries over keys, (2, B, heads, m, d), and values, (B, heads, m, d)."""
        projected, d = self._normalized(x) @ qkv, self.width // self.heads
        projected = projected.view(B, m, 3, self.heads, d).permute(2, 0, 3, 1, 4)
        return projected[:2], projected[2]

    def _after_attention(
        self, x: Tensor, attended: Tensor, out: Tensor, up: Tensor, down: Tensor
    ) -> Tensor:
        x = torch.addmm(x, attended.transpose(1, 2).reshape(x.shape), out)
        return torch.addmm(x, F.gelu(self._normalized(x) @ up), down)

    def _normalized(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,))


def _laid_out(
    layer: TransformerLayer, heads: int, paired: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    qkv = layer.qkv
    if paired:
        # The halves of a head, whose channels turn together, come alternately.
        q, k, v = qkv.unflatten(0, (3, heads, 2, -1)).unbind(0)
        qkv = torch.stack([q.transpose(1, 2), k.transpose(1, 2), v.reshape_as(q.transpose(1, 2))])
        qkv = qkv.flatten(0, 3)
    return (
        _after_norm(qkv, layer.attention_norm),
        layer.out.T.contiguous(),
        _after_norm(layer.up, layer.feedforward_norm),
        layer.down.T.contiguous(),
    )


def _after_norm(weight: Tensor, gain: Tensor) -> Tensor:
    return (weight * gain).T.contiguous()


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    """Turn pairs of channels (*, T, d) as complex numbers, by (T, d / 2)."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2)


def _turned_as_real(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn likewise without complex numbers, which compilers do not fuse."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
