"""What one token costs of a transformer, of recurrent networks and of Markov models.

`eager` passes all that is in sight through the network for each token. `best_eager` is what one
writes by hand: torch's modules, a cache that grows by concatenation, a hidden state, or the last
tokens of a Markov model alone. `compile_*` compiles a step over a cache of fixed size, as
`mode="compiled"` of the sampler does, a step of the cells, or what maps the last tokens to logits.
`ours` is the sampler as `auto` chooses it, which of Markov models is a loop in plain PyTorch, too.
All streams begin with a prompt as long as a transformer's places, and windows slide alike.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.columns import COMPILE_MODES, OURS
from benchmarks.sampling.case import (
    BATCHES,
    MOST_IN_WINDOWS,
    SEED,
    Case,
    Draws,
    Stream,
    make_columns,
    ours_on,
)
from benchmarks.sampling.token_loops import Carried, GrowingCache, LastTokens, Whole
from dgm_fast.families import (
    RNN,
    ImageTransformer,
    Markov,
    MarkovConfig,
    MarkovMLP,
    MarkovMLPConfig,
    RNNConfig,
    Transformer,
    TransformerConfig,
)
from dgm_fast.families.autoregressive import TokenConfig, TokenModel
from dgm_fast.sampling import RecurrentSampler

# Those of the recipes for Shakespeare, a GRU as large as the LSTM, Markov models, and two whose
# weights are many times what one processor of a GPU reads while others are launched.
MODELS: dict[str, tuple[type[TokenModel], TokenConfig]] = {
    "transformer-4x128": (Transformer, TransformerConfig(65, positions="rotary")),
    "lstm-1x384": (RNN, RNNConfig(65, cell="lstm", width=384, embedding=64)),
    "gru-1x384": (RNN, RNNConfig(65, cell="gru", width=384, embedding=64)),
    "markov-mlp-8x256": (MarkovMLP, MarkovMLPConfig(65)),
    "markov-order3": (Markov, MarkovConfig(65)),
    "transformer-6x384": (
        Transformer,
        TransformerConfig(65, positions="rotary", layers=6, heads=6, width=384),
    ),
    "lstm-2x1024": (RNN, RNNConfig(65, cell="lstm", layers=2, width=1024)),
}
CACHED: dict[type[TokenModel], type[Whole]] = {
    Transformer: GrowingCache,
    RNN: Carried,
    MarkovMLP: LastTokens,
    Markov: LastTokens,
}
PROMPT = 128
# That a table of counts is made of.
TEXT = 100_000


def sequence_case(
    kind: type[TokenModel],
    config: TokenConfig,
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
    if isinstance(model, Markov):
        model.fit(text_of(config.vocabulary, device))
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
        sampler = model.sampler(impl=impl) if has_kernels else model.sampler()
        stream = Stream(sampler, tokens)
        return Draws(stream.draw, stream.start, 64)

    has_kernels = kind in (Transformer, RNN)
    impls = ours_on(device) if has_kernels else {f"{OURS}auto": "auto"}
    made: dict[str, Callable[[], Draws]] = {}
    if batch <= MOST_IN_WINDOWS:
        made["eager"] = partial(plain, Whole, 1)
    made |= {"best_eager": partial(plain, CACHED[kind], 64)}
    made |= {each: partial(compiled, mode) for each, mode in COMPILE_MODES.items()}
    made |= {column: partial(ours, impl) for column, impl in impls.items()}
    columns = make_columns(made, wanted, name)
    density = partial(torch.no_grad()(model.log_prob), tokens)
    return Case(name, columns, partial(draw_noise, model, batch, generator), density, PROMPT)


def draw_noise(model: TokenModel, batch: int, generator: torch.Generator, length: int) -> Tensor:
    return model.draw_noise(batch, length, generator)


def text_of(vocabulary: int, device: torch.device) -> Tensor:
    """Return tokens (T,) of which eight may follow each."""
    steps = torch.randint(8, (TEXT,), generator=torch.Generator().manual_seed(SEED))
    return (steps.cumsum(0) % vocabulary).to(device)


def compiled_sampler(model: nn.Module, mode: str | None) -> object:
    """Return the sampler whose step is compiled."""
    if isinstance(model, (Transformer, ImageTransformer)):
        on_gpu = next(model.parameters()).is_cuda
        sampler = model.sampler(mode="graph" if on_gpu else "compiled")
        sampler._step = torch.compile(sampler.passes.step, dynamic=False, mode=mode)
        return sampler
    if isinstance(model, (Markov, MarkovMLP)):
        sampler = model.sampler()
        sampler.logits_of = torch.compile(sampler.logits_of, dynamic=False, mode=mode)
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
    for name, (kind, config) in MODELS.items()
    for batch in BATCHES
}
