"""The sampler of transformers, whose every step uses each weight once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from dgm_fast.sampling.sequence import SequenceSampler, SequenceState
from dgm_fast.sampling.transformer.graph import StepGraph
from dgm_fast.sampling.transformer.network import TransformerNetwork
from dgm_fast.sampling.transformer.passes import Cache, Passes

__all__ = ["TransformerMemory", "TransformerSampler"]

MODES = ("auto", "eager", "compiled", "graph")


@dataclass(frozen=True)
class TransformerMemory:
    """Keys and values of the inputs seen.

    Attributes:
        cache: of each layer keys and values, (B, heads, T, W / heads) each; what lies behind `seen`
            means nothing.
        begin: the token that the window begins with.
        seen: how many inputs of the window the cache holds.
        parameters: (B, P), after the last input seen.
        graphs: at most one, of a step on this cache; a copy makes its own.
    """

    cache: Cache
    begin: int = 0
    seen: int = 0
    parameters: Tensor | None = None
    graphs: list[StepGraph] = field(default_factory=list, compare=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> TransformerMemory:
        parameters = copy.deepcopy(self.parameters, memo)
        cache = [(keys.clone(), values.clone()) for keys, values in self.cache]
        return replace(self, cache=cache, parameters=parameters, graphs=[])


class TransformerSampler(SequenceSampler):
    r"""Draws the tokens of a causal transformer, whose keys and values it keeps.

    A network that has T places sees all tokens up to the T-th. With the next one, its window
    slides: it begins again, as a sequence does, with the last `keep` tokens, which it looks at in
    one pass, and fills up. Token t, counted from 0, is drawn given so many before it:

    .. math:: v(t) = \begin{cases} t & t < T \\
              \text{keep} + (t - T) \bmod (T - \text{keep}) & \text{else} \end{cases}

    Arguments:
        network: copied, so that training goes on without the sampler.
        keep: tokens that a sliding window keeps, or None: to go beyond T is an error.
        mode: `"eager"` looks at the part of the cache that is filled; `"compiled"` compiles a step
            over all of it with torch.compile, once a batch size, which takes some seconds;
            `"graph"` replays it as a CUDA graph. `"auto"`: graph on a GPU, else eager.
        pick: as in `SequenceSampler`.

    Shapes:
        A cache takes 2 layers B T W numbers.

    Raises:
        ValueError: an argument does not fit; names it.

    References:
        Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, "Attention Is All You
        Need", 2017, section 3.2.
        Shazeer, "Fast Transformer Decoding: One Write-Head is All You Need", 2019, section 2.4.

    Example:
        >>> import torch
        >>> from dgm_fast.families import Transformer, TransformerConfig
        >>> config = TransformerConfig(vocabulary=5, length=16, width=8, heads=2, layers=2)
        >>> sampler = Transformer(config).eval().sampler()
        >>> noise = sampler.draw_noise(2, 40)
        >>> whole, _ = sampler.draw(sampler.start(2), noise=noise)
        >>> first, state = sampler.draw(sampler.start(2), noise=noise[:, :13])
        >>> second, state = sampler.draw(state, noise=noise[:, 13:])
        >>> torch.equal(whole, torch.cat([first, second], dim=1)), state.time
        (True, 40)
        >>> [sampler.visible(t) for t in (0, 1, 15, 16, 23, 24)]
        [0, 1, 15, 8, 15, 8]
    """

    def __init__(
        self,
        network: TransformerNetwork,
        *,
        keep: int | None = None,
        mode: Literal["auto", "eager", "compiled", "graph"] = "auto",
        pick: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        weight = network.head
        dtype = torch.promote_types(weight.dtype, torch.float32)
        shape = network.vocabulary, network.classes, len(weight)
        super().__init__(*shape, weight.device, dtype, pick)
        if keep is not None and not 0 <= keep < network.length:
            raise ValueError(f"keep must be in 0 .. {network.length - 1}; got {keep}")
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}; got {mode!r}")
        on_gpu = self.device.type == "cuda"
        if mode == "graph" and not on_gpu:
            raise ValueError(f"mode must not be graph for weights on {weight.device}")
        self.length, self.keep = network.length, keep
        self.mode = ("graph" if on_gpu else "eager") if mode == "auto" else mode
        self.passes = Passes(network.to(dtype))
        self._step = self.passes.step
        if self.mode == "compiled":
            self._step = torch.compile(self._step, fullgraph=True, dynamic=False)
        # Made once, because a tensor a step costs more than to look one up.
        self._places = [torch.tensor(t, device=self.device) for t in range(self.length)]

    def visible(self, time: int) -> int:
        """Return how many tokens before it token `time`, counted from 0, is drawn given."""
        if time < self.length:
            return time
        return self.keep + (time - self.length) % (self.length - self.keep)

    def _begin(self, batch: int) -> TransformerMemory:
        return TransformerMemory(self.passes.new_cache(batch))

    def _check_length(self, state: SequenceState, count: int) -> None:
        if self.keep is None and state.time + count > self.length:
            raise ValueError(
                f"length must not go beyond the {self.length} places of the network; got {count} "
                f"tokens after {state.time}"
            )

    def _next(self, state: SequenceState) -> Tensor:
        memory = state.memory
        visible = self.visible(state.time)
        begin = state.time - visible
        if begin != memory.begin:
            memory = replace(memory, begin=begin, seen=0)
        if memory.seen > visible:
            # Looked at by a draw that was interrupted before it had the token.
            return memory.parameters

        parameters = self._look(state.inputs(begin, memory.seen), memory)
        # Only now: an interrupted pass is done again, over what it has written.
        state.memory = replace(memory, seen=visible + 1, parameters=parameters)
        return parameters

    def _look(self, inputs: Tensor, memory: TransformerMemory) -> Tensor:
        """Return the parameters (B, P) after inputs (B, m) that the cache lacks."""
        place, cache = memory.seen, memory.cache
        with torch.autocast(self.device.type, enabled=False):
            # Of no sequences, there is nothing to compile or capture.
            if inputs.shape[1] > 1 or self.mode == "eager" or len(inputs) == 0:
                return self.passes.advance(inputs, place, cache)
            if self.mode == "compiled":
                return self._step(inputs[:, 0].contiguous(), self._places[place], cache)
            return self._replay(inputs[:, 0], self._places[place], memory)

    def _replay(self, token: Tensor, place: Tensor, memory: TransformerMemory) -> Tensor:
        if not memory.graphs:
            memory.graphs.append(StepGraph(self._step, token, place, memory.cache))
        return memory.graphs[0](token, place)
