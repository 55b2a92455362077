"""The sampler of transformers, whose every step uses each weight once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.graph import StepGraph
from dgm_fast.sampling.noise import AnyNoise
from dgm_fast.sampling.panels import in_panels, in_rows
from dgm_fast.sampling.sequence import NO_FILTERS, SequenceState
from dgm_fast.sampling.sequence_kernels import KernelSampler
from dgm_fast.sampling.transformer import op
from dgm_fast.sampling.transformer.network import TransformerNetwork
from dgm_fast.sampling.transformer.packed import PackedTransformer
from dgm_fast.sampling.transformer.passes import Cache, Passes

__all__ = ["TransformerMemory", "TransformerSampler"]

MODES = ("auto", "eager", "compiled", "graph")


@dataclass(frozen=True)
class TransformerMemory:
    """Keys and values of the inputs seen.

    Attributes:
        cache: of each layer keys and values, (B, heads, T, W / heads) each, or as the kernel lays
            them out; what lies behind `seen` means nothing.
        begin: the token that the window begins with.
        seen: how many inputs of the window the cache holds.
        parameters: (B, P), after the last input seen, where a step a call looked at it.
        graphs: at most one, of a step on this cache; a copy makes its own.
    """

    cache: Cache
    begin: int = 0
    seen: int = 0
    parameters: Tensor | None = None
    graphs: list[StepGraph] = field(default_factory=list, compare=False)

    @property
    def kept(self) -> list[Tensor]:
        """The tensors of the cache."""
        return [each for layer in self.cache for each in layer]

    def to(self, device: torch.device | str) -> TransformerMemory:
        """Return the memory on another device, without graphs."""
        cache = [(keys.to(device), values.to(device)) for keys, values in self.cache]
        parameters = None if self.parameters is None else self.parameters.to(device)
        return TransformerMemory(cache, self.begin, self.seen, parameters)

    def __deepcopy__(self, memo: dict[int, Any]) -> TransformerMemory:
        parameters = copy.deepcopy(self.parameters, memo)
        cache = [(keys.clone(), values.clone()) for keys, values in self.cache]
        return replace(self, cache=cache, parameters=parameters, graphs=[])


class TransformerSampler(KernelSampler):
    r"""Draws the tokens of a causal transformer, whose keys and values it keeps.

    A network that has T places sees all tokens up to the T-th. With the next one, its window
    slides: it begins again, as a sequence does, with the last `keep` tokens, which it looks at in
    one pass, and fills up. Token t, counted from 0, is drawn given so many before it:

    .. math:: v(t) = \begin{cases} t & t < T \\
              \text{keep} + (t - T) \bmod (T - \text{keep}) & \text{else} \end{cases}

    Arguments:
        network: copied, so that training goes on without the sampler.
        keep: tokens that a sliding window keeps, or None: to go beyond T is an error.
        impl: `"auto"`, `"reference"`, a loop in plain PyTorch on any device, `"cpp"` on a CPU, or
            `"cuda"` on an NVIDIA GPU, where `auto` takes it of small networks alone; both draw many
            tokens a call. To ask for a mode is to ask for the reference.
        mode: of the reference: `"eager"` looks at the part of the cache that is filled;
            `"compiled"` compiles a step over all of it with torch.compile, once a batch size, which
            takes some seconds; `"graph"` replays it as a CUDA graph. `"auto"`: graph on a GPU, else
            eager.
        pick: as in `SequenceSampler`.

    Shapes:
        A cache takes 2 layers B T W numbers.

    Precision:
        Computes in float32 for bfloat16 and float16 networks too; float64 runs on the reference.

    Raises:
        TypeError, ValueError: an argument does not fit; names it.
        ImplementationUnavailable: the `impl` asked for cannot run.

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

    draws = op.draw

    def __init__(
        self,
        network: TransformerNetwork,
        *,
        keep: int | None = None,
        impl: str = "auto",
        mode: Literal["auto", "eager", "compiled", "graph"] = "auto",
        pick: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        network = network.to(torch.promote_types(network.head.dtype, torch.float32))
        weight = network.head
        if keep is not None and not 0 <= keep < network.length:
            raise ValueError(f"keep must be in 0 .. {network.length - 1}; got {keep}")
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}; got {mode!r}")
        if mode != "auto" and impl not in ("auto", "reference"):
            raise ValueError(f"mode must be auto where impl is {impl!r}; got {mode!r}")
        impl = op.choose(impl if mode == "auto" else "reference", network)
        shape = network.vocabulary, network.classes, len(weight)
        super().__init__(*shape, weight.device, weight.dtype, pick)
        self.impl = impl
        self.length, self.keep = network.length, keep
        self.mode = None
        if impl == "reference":
            self.passes = Passes(network)
            self._prepare(mode)
        else:
            self._packed = PackedTransformer(network, in_panels if impl == "cpp" else in_rows)

    def _prepare(self, mode: str) -> None:
        """Choose how the reference runs a step."""
        on_gpu = self.device.type == "cuda"
        if mode == "graph" and not on_gpu:
            raise ValueError(f"mode must not be graph for weights on {self.device}")
        self.mode = ("graph" if on_gpu else "eager") if mode == "auto" else mode
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
        layout = self.passes if self.impl == "reference" else self._packed
        return TransformerMemory(layout.new_cache(batch))

    def _check_length(self, state: SequenceState, count: int) -> None:
        if self.keep is None and state.time + count > self.length:
            raise ValueError(
                f"length must not go beyond the {self.length} places of the network; got {count} "
                f"tokens after {state.time}"
            )

    def _room(self, state: SequenceState, count: int) -> int:
        # A window that slides begins again.
        return min(count, self.length - self.visible(state.time))

    def _window(self, state: SequenceState) -> TransformerMemory:
        """Return the memory, begun again where the window has slid."""
        begin = state.time - self.visible(state.time)
        if begin == state.memory.begin:
            return state.memory
        return replace(state.memory, begin=begin, seen=0)

    def _has_looked(self, state: SequenceState) -> bool:
        return self._window(state).seen > self.visible(state.time)

    def _launch(
        self,
        state: SequenceState,
        parameters: Tensor | None,
        noise: AnyNoise | None = None,
        given: Tensor | None = None,
        filters: Filters = NO_FILTERS,
    ) -> tuple[Tensor, TransformerMemory]:
        memory = self._window(state)
        *most, last = self._in_pieces(state.inputs(memory.begin, memory.seen))
        seen = memory.seen
        for inputs in most:
            self._run(memory.kept, seen, None, inputs)
            seen += inputs.shape[1]
        tokens = self._run(memory.kept, seen, parameters, last, given, noise, filters)
        seen = self.visible(state.time) + max(1, tokens.shape[1])
        return tokens, replace(memory, seen=seen, parameters=None)

    def _look(self, state: SequenceState) -> TransformerMemory:
        memory = self._window(state)
        parameters = self._parameters(state.inputs(memory.begin, memory.seen), memory)
        # Only now: an interrupted pass is done again, over what it has written.
        return replace(memory, seen=self.visible(state.time) + 1, parameters=parameters)

    def _parameters(self, inputs: Tensor, memory: TransformerMemory) -> Tensor:
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
            # Of this cache: what the warm-up writes to it, the step proper writes again.
            step = partial(self._step_of, cache=memory.cache)
            memory.graphs.append(StepGraph(step, token, place))
        return memory.graphs[0](token, place)[0]

    def _step_of(self, token: Tensor, place: Tensor, cache: Cache) -> tuple[Tensor, ...]:
        return (self._step(token, place, cache),)
