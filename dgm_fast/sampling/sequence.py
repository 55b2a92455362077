"""What samplers of token sequences share: the state, feeding, drawing."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dgm_fast._core.checks import as_integers, check_integers, some_labels
from dgm_fast.sampling.filters import Filters, filter_logits, pick_token
from dgm_fast.sampling.noise import AnyNoise, SeededNoise, draw_uniforms, drawn, noise_for
from dgm_fast.sampling.pieces import wait_for

__all__ = ["SequenceSampler", "SequenceState"]

NO_FILTERS = Filters()


@dataclass
class SequenceState:
    """Where sequences stand: what a `SequenceSampler` is given and gives back.

    Attributes:
        first: (B,), int64, the symbol before the first token: V plus a label.
        buffer: (B, at least time), int64, that the tokens lie in.
        memory: what the sampler knows of the tokens it has looked at; replaced whole.
        time: how many tokens there have been.
    """

    first: Tensor
    buffer: Tensor
    memory: Any
    time: int = 0

    @property
    def batch(self) -> int:
        """B."""
        return self.first.shape[0]

    @property
    def tokens(self) -> Tensor:
        """All tokens (B, time) that were fed or drawn."""
        return self.buffer[:, : self.time]

    def clone(self) -> SequenceState:
        """Return a copy, from which the sequences can go on in another way."""
        return replace(self, buffer=self.buffer.clone(), memory=copy.deepcopy(self.memory))

    def to(self, device: torch.device | str) -> SequenceState:
        """Return the state on another device; kernels of CPUs and GPUs lay it out alike."""
        memory = None if self.memory is None else self.memory.to(device)
        return SequenceState(self.first.to(device), self.buffer.to(device), memory, self.time)

    def inputs(self, begin: int, seen: int) -> Tensor:
        """Return the inputs (B, m) of a window that begins with token `begin`, without `seen`.

        The first input of a window is what stands before the first token.
        """
        if seen > 0:
            return self.buffer[:, begin + seen - 1 : self.time]
        return torch.cat([self.first[:, None], self.buffer[:, begin : self.time]], dim=1)

    def reserve(self, count: int) -> None:
        """Make room for so many tokens more."""
        missing = self.time + count - self.buffer.shape[1]
        if missing > 0:
            # At least doubled, so that small pieces copy each token a few times at most.
            grown = max(missing, self.buffer.shape[1])
            room = self.buffer.new_zeros(self.batch, grown)
            self.buffer = torch.cat([self.buffer, room], dim=1)

    def append(self, tokens: Tensor) -> None:
        """Add tokens (B, n), for which there is room."""
        end = self.time + tokens.shape[1]
        self.buffer[:, self.time : end] = tokens
        self.time = end


class SequenceSampler(ABC):
    r"""Draws sequences token by token, in pieces of any length.

    .. math:: x_t \sim p(x_t \mid x_1, \dots, x_{t-1}, c), \qquad t = 1, 2, \dots

    Tokens that are fed wait until the next draw, which looks at all of them in one pass; from then
    on each token is one step, which uses every weight once. The state moves on by tokens, of a
    kernel by pieces of a tenth of a second: a draw that is interrupted leaves it whole, with what
    was drawn in `state.tokens`, to go on from.

    Arguments:
        vocabulary: V; tokens are 0 .. V - 1.
        classes: of the labels, or 0.
        parameters: P, of a token's distribution.
        device: of the weights.
        dtype: of the computation.
        pick: maps parameters (B, P) and noise (B, 1) to tokens (B,); default from logits.

    Shapes:
        Tokens (B, n), int64 where drawn, of any integer dtype where given; noise (B, n, 1) as
        `draw_noise` makes it, or the `SeededNoise` of it.

    Precision:
        At least float32. Of a kernel, the bits of a sequence depend neither on the batch, nor on
        where it was cut into pieces, nor on whether its tokens were fed or drawn. Of the reference,
        and between implementations, they may: a uniform within rounding of the border of two
        tokens may fall to either.

    Gradients:
        None.

    Raises:
        TypeError, ValueError: an argument does not fit; names it.
    """

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        parameters: int,
        device: torch.device,
        dtype: torch.dtype,
        pick: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.vocabulary, self.classes, self.parameters = vocabulary, classes, parameters
        # With the index of the GPU, as tensors have it.
        self.device = torch.empty(0, device=device).device
        self.dtype, self.pick = dtype, pick or pick_token

    @abstractmethod
    def _begin(self, batch: int) -> Any:
        """Return the memory of a sampler that has looked at nothing."""

    @abstractmethod
    def _next(self, state: SequenceState) -> Tensor:
        """Look at what the memory lacks, replace it, and return the parameters (B, P)."""

    def _room(self, state: SequenceState, count: int) -> int:
        """Return how many of so many tokens can be drawn at once."""
        return count

    def _check_length(self, state: SequenceState, count: int) -> None:  # noqa: B027
        """Raise ValueError where the state has no room for so many tokens more."""

    @torch.no_grad()
    def start(self, batch: int, context: Tensor | None = None) -> SequenceState:
        """Return the state before the first token of a batch, whose labels stay the same."""
        if batch < 0:
            raise ValueError(f"batch must not be negative; got {batch}")
        context = some_labels(context, self.classes, batch)
        first = torch.full((batch,), self.vocabulary, device=self.device)
        if context is not None:
            first = first + context.to(self.device)
        return SequenceState(first, first.new_zeros(batch, 0), self._begin(batch))

    @torch.no_grad()
    def feed(self, state: SequenceState, tokens: Tensor) -> SequenceState:
        """Return the state after tokens (B, n) that are given. Uses `state` up."""
        self._check_state(state)
        tokens = as_integers("tokens", tokens)
        self._check_tokens("tokens", tokens, state.batch, 0)
        count = tokens.shape[1]
        self._check_length(state, count)
        state.reserve(count)
        state.append(tokens)
        return state

    @torch.no_grad()
    def draw(
        self,
        state: SequenceState,
        length: int | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        given: Tensor | None = None,
        noise: AnyNoise | None = None,
        generator: torch.Generator | None = None,
        parameters_out: Tensor | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> tuple[Tensor, SequenceState]:
        """Return the next tokens (B, n) and the state after them. Uses `state` up.

        Arguments:
            state: of `start`, or of the piece before; clone it to keep it.
            length: n, where no noise is given.
            temperature: as in `filter_logits`.
            top_k: likewise.
            top_p: likewise.
            given: (B, n), of any integer dtype, tokens that are kept where they are not negative.
            noise: that decides the tokens; default drawn, by a GPU's kernel where it uses it.
            generator: to draw it from; default torch's own.
            parameters_out: (B, n, P), filled with what each token was drawn from, unfiltered; left
                as it is where a token is given to all.
            progress: told the number of tokens done and that of all, after each piece: a token, or
                of a kernel a twentieth of all.
        """
        filters = Filters(temperature, top_k, top_p)
        self._check_state(state)
        self._check_filters(filters)
        if (length is None) == (noise is None):
            raise ValueError(f"length must be given where noise is not; got {length}")
        if length is not None and length < 0:
            raise ValueError(f"length must not be negative; got {length}")
        if noise is None:
            noise = self._seeded(state.batch, length, generator)
        noise = self._noise(noise, state.batch)
        count, before = noise.shape[1], state.time
        self._check_length(state, count)
        given = None if given is None else as_integers("given", given)
        whole = self._given(given, state.batch, count)
        given = None if given is None else given.to(self.device)
        self._check_out(parameters_out, state.batch, count)
        most = self._tokens_of_a_piece(state.batch, count, progress is not None)

        state.reserve(count)
        while (done := state.time - before) < count:
            end = done + self._room(state, min(most, count - done))
            # Of a piece, all places are given to all sequences, or none is.
            end = next((t for t in range(done + 1, end) if whole[t] != whole[done]), end)
            kept, out = (x if x is None else x[:, done:end] for x in (given, parameters_out))
            if whole[done]:
                state.append(kept)
            else:
                self._draw_piece(state, noise[:, done:end], kept, filters, out)
            if progress is not None:
                wait_for(self.device)
                progress(end, count)
        return state.buffer[:, before : before + count].clone(), state

    def draw_noise(
        self, batch: int, length: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw the noise (B, n, 1) that decides n tokens: that of a sequence is its own."""
        return self._seeded(batch, length, generator).tensor()

    def _seeded(self, batch: int, length: int, generator: torch.Generator | None) -> SeededNoise:
        shape = batch, length, 1
        return SeededNoise.from_generator(generator, draw_uniforms, shape, self.device, self.dtype)

    @property
    def _drawn_by(self) -> str:
        """The implementation that draws, but for what was looked at before an interrupt."""
        return "reference"

    def _check_state(self, state: SequenceState) -> None:
        found = self._form_of(state.memory)
        if state.first.device != self.device or found != self._form:
            raise ValueError(
                f"state must be of this sampler's, on {self.device}; got one on "
                f"{state.first.device} whose memory holds {found}, not {self._form}"
            )

    @cached_property
    def _form(self) -> list[tuple[Any, ...]]:
        return self._form_of(self._begin(0))

    @staticmethod
    def _form_of(memory: Any) -> list[tuple[Any, ...]]:
        """Return shapes, but for the batch, and dtypes of what a memory keeps between tokens."""
        kept = getattr(memory, "kept", ())
        return [(*each.shape[1:], each.dtype) for each in kept]

    def _check_filters(self, filters: Filters) -> None:
        if filters != NO_FILTERS and self.parameters != self.vocabulary:
            raise ValueError(
                f"temperature, top_k and top_p must not be given without logits of all "
                f"{self.vocabulary} tokens; a token has {self.parameters} parameters"
            )

    def _tokens_of_a_piece(self, batch: int, count: int, with_progress: bool) -> int:
        """Return how many of so many tokens are drawn between two looks at the keyboard."""
        return 1

    def _draw_piece(
        self,
        state: SequenceState,
        noise: AnyNoise,
        kept: Tensor | None,
        filters: Filters,
        out: Tensor | None,
    ) -> None:
        """Append tokens, those that are kept where they are not negative."""
        for t, u in enumerate(drawn(noise).unbind(1)):
            parameters = self._next(state)
            if out is not None:
                out[:, t] = parameters
            if filters != NO_FILTERS:
                parameters = filter_logits(parameters, **vars(filters))
            token = self.pick(parameters, u)
            if kept is not None:
                token = torch.where(kept[:, t] < 0, token, kept[:, t])
            state.append(token[:, None])

    def _check_out(self, out: Tensor | None, batch: int, count: int) -> None:
        """Check where parameters shall go."""
        shape = batch, count, self.parameters
        if out is not None and out.shape != shape:
            got = tuple(out.shape)
            raise ValueError(f"parameters_out must have shape (B, n, P) = {shape}; got {got}")

    def _given(self, given: Tensor | None, batch: int, count: int) -> list[bool]:
        """Check given tokens; return for which places all sequences are given one."""
        if given is None:
            return [False] * count
        self._check_tokens("given", given, batch, -1)
        if given.shape[1] != count:
            expected = (batch, count)
            raise ValueError(f"given must have shape (B, n) = {expected}; got {tuple(given.shape)}")
        # One look at the device, rather than one a token; of no sequences, there is none to draw.
        return (given >= 0).all(0).tolist()

    def _check_tokens(self, name: str, tokens: Tensor, batch: int, lowest: int) -> None:
        if tokens.ndim != 2 or tokens.shape[0] != batch:
            got = tuple(tokens.shape)
            raise ValueError(f"{name} must have shape (B, n) = ({batch}, n); got {got}")
        check_integers(name, tokens.clamp(min=0) if lowest < 0 else tokens, self.vocabulary - 1)

    def _noise(self, noise: AnyNoise, batch: int) -> AnyNoise:
        noise = noise_for(noise, self._drawn_by, self.device)
        got = tuple(noise.shape)
        if len(got) != 3 or (got[0], got[2]) != (batch, 1):
            raise ValueError(f"noise must have shape (B, n, 1) = ({batch}, n, 1); got {got}")
        return noise
