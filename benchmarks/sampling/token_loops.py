"""Ways to draw tokens that one writes by hand, the naive one first."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast.families import Markov
from dgm_fast.families.autoregressive import TokenModel
from dgm_fast.families.autoregressive.transformer_blocks import Stack
from dgm_fast.layers.rotary import rotate
from dgm_fast.sampling import pick_token

__all__ = ["Carried", "GrowingCache", "LastTokens", "Whole", "pass_through"]

# Of each block what is concatenated: keys and values (B, heads, T, d).
Cache = list[tuple[Tensor, Tensor] | None]


class Whole:
    """The naive way: all that is in sight for each token."""

    def __init__(self, model: TokenModel, tokens: Tensor) -> None:
        self.model, self.given = model, tokens
        self.visible = getattr(model.sampler(), "visible", lambda time: time)
        self.start()

    def start(self) -> None:
        self.tokens = self.given

    @torch.no_grad()
    def draw(self, noise: Tensor) -> Tensor:
        for u in noise.unbind(1):
            time = self.tokens.shape[1]
            seen = self.tokens[:, time - self.visible(time) :]
            # The place to draw is the last; the network does not look at what it holds.
            logits = self.model(F.pad(seen, (0, 1)))[:, -1]
            self.tokens = torch.cat([self.tokens, pick_token(logits, u)[:, None]], dim=1)
        return self.tokens[:, -noise.shape[1] :]


class GrowingCache(Whole):
    """A transformer's modules, and a cache that is concatenated with each new key and value."""

    def start(self) -> None:
        self.tokens, self.seen = self.given, None
        self.cache: Cache = []

    @torch.no_grad()
    def draw(self, noise: Tensor) -> Tensor:
        for u in noise.unbind(1):
            time = self.tokens.shape[1]
            begin = time - self.visible(time)
            new = self.tokens[:, -1:]
            if begin != self.seen:
                first = torch.full_like(new, self.model.vocabulary)
                new = torch.cat([first, self.tokens[:, begin:]], dim=1)
                self.seen, self.cache = begin, [None] * len(self.model.stack.blocks)
            token = pick_token(self.look(new, time - begin + 1), u)
            self.tokens = torch.cat([self.tokens, token[:, None]], dim=1)
        return self.tokens[:, -noise.shape[1] :]

    def look(self, new: Tensor, end: int) -> Tensor:
        """Return the logits (B, V) after the new inputs (B, m), the last of `end`."""
        stack, x = self.model.stack, self.model.embedding(new)
        x = pass_through(stack, x, self.cache, stack.rotary[:, end - new.shape[1] : end])
        return F.linear(x[:, -1], self.model._head_weight)


def pass_through(stack: Stack, x: Tensor, cache: Cache, turn: Tensor | None) -> Tensor:
    """Return the stream (B, m, W) of new places after all blocks, and add them to the cache."""
    for place, block in enumerate(stack.blocks):
        qkv = block.qkv(block.attention_norm(x)).unflatten(2, (3, block.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        kept = cache[place]
        if kept is not None:
            k, v = torch.cat([kept[0], k], dim=2), torch.cat([kept[1], v], dim=2)
        cache[place] = k, v
        a = F.scaled_dot_product_attention(q, k, v, is_causal=x.shape[1] > 1)
        x = x + block.out(a.transpose(1, 2).flatten(2))
        x = x + block.down(F.gelu(block.up(block.feedforward_norm(x))))
    return stack.norm(x)


class Carried(Whole):
    """A recurrent network's module, called for each token with the state it returned."""

    def start(self) -> None:
        first = torch.full_like(self.given[:, :1], self.model.vocabulary)
        self.tokens, self.hidden = torch.cat([first, self.given], dim=1), None

    @torch.no_grad()
    def draw(self, noise: Tensor) -> Tensor:
        model = self.model
        for u in noise.unbind(1):
            new = self.tokens if self.hidden is None else self.tokens[:, -1:]
            out, self.hidden = model.cells(model.embedding(new), self.hidden)
            token = pick_token(F.linear(out[:, -1], model._head_weight, model.bias), u)
            self.tokens = torch.cat([self.tokens, token[:, None]], dim=1)
        return self.tokens[:, -noise.shape[1] :]


class LastTokens(Whole):
    """A Markov model's tables or layers, over the tokens alone that the next depends on."""

    @torch.no_grad()
    def draw(self, noise: Tensor) -> Tensor:
        model, order = self.model, self.model.config.order
        for u in noise.unbind(1):
            last = self.tokens[:, -order:]
            is_table = isinstance(model, Markov)
            logits = model._of_all(last[:, None])[:, 0] if is_table else model._of_last(last)
            self.tokens = torch.cat([self.tokens, pick_token(logits, u)[:, None]], dim=1)
        return self.tokens[:, -noise.shape[1] :]
