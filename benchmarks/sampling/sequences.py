"""What one token costs of a transformer and of a recurrent network.

`eager` passes all that is in sight through the network for each token. `best_eager` is what one
writes by hand: torch's modules, a cache that grows by concatenation, or a hidden state. `compile_*`
compiles a step over a cache of fixed size, as `mode="compiled"` of the sampler does, or a step of
the cells. `ours` is the sampler as `auto` chooses it. All streams begin with a prompt as long as a
transformer's places, and windows slide alike.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.columns import COMPILE_MODES
from benchmarks.sampling.case import (
    MOST_IN_WINDOWS,
    SEED,
    Case,
    Draws,
    Stream,
    make_columns,
    ours_on,
)
from dgm_fast.families import RNN, RNNConfig, Transformer, TransformerConfig
from dgm_fast.families.autoregressive import TokenModel
from dgm_fast.layers.rotary import rotate
from dgm_fast.sampling import RecurrentSampler, pick_token

# Those of the recipes for Shakespeare.
MODELS: dict[str, tuple[type[TokenModel], TransformerConfig | RNNConfig]] = {
    "transformer-4x128": (Transformer, TransformerConfig(65, positions="rotary")),
    "lstm-1x384": (RNN, RNNConfig(65, cell="lstm", width=384, embedding=64)),
}
BATCHES = (1, 4, 16, 64, 256)
# Whose weights are many times what one processor of a GPU reads while others are launched.
LARGE: dict[str, tuple[type[TokenModel], TransformerConfig | RNNConfig]] = {
    "transformer-6x384": (
        Transformer,
        TransformerConfig(65, positions="rotary", layers=6, heads=6, width=384),
    ),
    "lstm-2x1024": (RNN, RNNConfig(65, cell="lstm", layers=2, width=1024)),
}
FEW_BATCHES = (1, 64)
PROMPT = 128


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
        self.cache: list[tuple[Tensor, Tensor] | None] = []

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
        turn = stack.rotary[:, end - new.shape[1] : end]
        for place, block in enumerate(stack.blocks):
            qkv = block.qkv(block.attention_norm(x)).unflatten(2, (3, block.heads, -1))
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            q, k, kept = rotate(q, turn), rotate(k, turn), self.cache[place]
            if kept is not None:
                k, v = torch.cat([kept[0], k], dim=2), torch.cat([kept[1], v], dim=2)
            self.cache[place] = k, v
            a = F.scaled_dot_product_attention(q, k, v, is_causal=new.shape[1] > 1)
            x = x + block.out(a.transpose(1, 2).flatten(2))
            x = x + block.down(F.gelu(block.up(block.feedforward_norm(x))))
        return F.linear(stack.norm(x[:, -1]), self.model._head_weight)


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


def sequence_case(
    kind: type[TokenModel],
    config: TransformerConfig | RNNConfig,
    batch: int,
    device: torch.device,
    wanted: tuple[str, ...],
    name: str,
) -> Case:
    """Return what is timed of a model of tokens at a batch size."""
    torch.manual_seed(SEED)
    torch._dynamo.reset()
    model = kind(config, device=device).eval()
    spread(model)
    generator = torch.Generator(device).manual_seed(SEED)
    shape = batch, PROMPT
    tokens = torch.randint(config.vocabulary, shape, generator=generator, device=device)

    def plain(way: type[Whole], steps: int) -> Draws:
        whole = way(model, tokens)
        return Draws(whole.draw, whole.start, steps)

    def compiled(mode: str | None) -> Draws:
        stream = Stream(compiled_sampler(model, mode), tokens)
        return Draws(stream.draw, stream.start, 64)

    def ours(impl: str) -> Draws:
        stream = Stream(model.sampler(impl=impl), tokens)
        return Draws(stream.draw, stream.start, 64)

    cached = GrowingCache if kind is Transformer else Carried
    made: dict[str, Callable[[], Draws]] = {}
    if batch <= MOST_IN_WINDOWS:
        made["eager"] = partial(plain, Whole, 1)
    made |= {"best_eager": partial(plain, cached, 64)}
    made |= {each: partial(compiled, mode) for each, mode in COMPILE_MODES.items()}
    made |= {column: partial(ours, impl) for column, impl in ours_on(device).items()}
    columns = make_columns(made, wanted, name)
    density = partial(torch.no_grad()(model.log_prob), tokens)
    return Case(name, columns, partial(draw_noise, model, batch, generator), density, PROMPT)


def draw_noise(model: TokenModel, batch: int, generator: torch.Generator, length: int) -> Tensor:
    return model.draw_noise(batch, length, generator)


def compiled_sampler(model: TokenModel, mode: str | None) -> object:
    """Return the sampler whose step is compiled."""
    if isinstance(model, Transformer):
        on_gpu = next(model.parameters()).is_cuda
        sampler = model.sampler(mode="graph" if on_gpu else "compiled")
        sampler._step = torch.compile(sampler.passes.step, dynamic=False, mode=mode)
        return sampler
    sampler = RecurrentSampler(model.described(), impl="reference")
    sampler._step = torch.compile(sampler._step, dynamic=False, mode=mode)
    return sampler


@torch.no_grad()
def spread(model: nn.Module) -> None:
    """Move a model away from its uniform start."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=1.5 * parameter.shape[-1] ** -0.5)


CASES: dict[str, Callable[..., Case]] = {
    f"{name}-batch{batch}": partial(sequence_case, kind, config, batch)
    for models, batches in ((MODELS, BATCHES), (LARGE, FEW_BATCHES))
    for name, (kind, config) in models.items()
    for batch in batches
}
