"""What samplers of sequences share that a kernel draws many tokens a call for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from dgm_fast._core.implementation import cpp, cuda
from dgm_fast._core.integers import ceil_div
from dgm_fast._core.op import Direction, Op
from dgm_fast.sampling.filters import Filters, pick_token
from dgm_fast.sampling.noise import AnyNoise, noise_arguments
from dgm_fast.sampling.pieces import pieces_of
from dgm_fast.sampling.sequence import NO_FILTERS, SequenceSampler, SequenceState

__all__ = ["KernelSampler", "PackedSequence", "sequence_op"]

_SEQUENCES_OF_A_GPU = 100


def _fake_draw(
    kept: list[Tensor],
    parameters: Tensor | None,
    inputs: Tensor,
    given: Tensor | None,
    noise: Tensor | None,
    seed: Tensor | None,
    of_seed: list[int],
    *others: object,
) -> Tensor:
    steps = 0 if seed is None else of_seed[2]
    return inputs.new_empty(inputs.shape[0], steps if noise is None else noise.shape[1])


def sequence_op(name: str, kept: str, number: str) -> Op:
    """Define the operator of a sampler, which draws tokens after inputs.

    It moves on what is kept between tokens, and fills in parameters where they are wanted. Without
    noise, a GPU's draws what a seed stands for, whose first sample and place, and how many places,
    are `of_seed`.

    Arguments:
        name: of the operator.
        kept: what its list of tensors is called.
        number: type and name of one number of the network's own.
    """
    schema = (
        f"(Tensor(a!)[] {kept}, Tensor(b!)? parameters, Tensor inputs, Tensor? given, "
        f"Tensor? noise, Tensor? seed, int[] of_seed, Tensor[] weights, int[] sizes, {number}, "
        f"float temperature, int top_k, float top_p) -> Tensor tokens"
    )
    implementations = [cpp(torch.float32), cuda(torch.float32)]
    return Op(name, {"draw": Direction(schema, _fake_draw)}, implementations)


class PackedSequence(Protocol):
    """A network as its operator takes it."""

    weights: list[Tensor]
    sizes: list[int]

    @property
    def multiply_adds(self) -> int:
        """Return about how many a token of a sequence takes."""


class KernelSampler(SequenceSampler):
    """Draws sequences token by token, or, by a kernel, many tokens a call.

    The memory of a state has the tensors that it keeps, `kept`, and `parameters` (B, P): those
    after the last input, where a step a call looked at it. Of a `pick` of its own, a kernel
    computes the parameters alone, one token a call.

    Attributes:
        impl: that runs, `"reference"` or a kernel's.
    """

    # The operator, by implementation.
    draws: ClassVar[Mapping[str, Callable[..., Tensor]]]

    impl: str
    _packed: PackedSequence

    @abstractmethod
    def _launch(
        self,
        state: SequenceState,
        parameters: Tensor | None,
        noise: AnyNoise | None = None,
        given: Tensor | None = None,
        filters: Filters = NO_FILTERS,
    ) -> tuple[Tensor, Any]:
        """Return tokens (B, n) that a kernel draws, and the memory after all but the last of them.

        Without noise it draws none, and fills in the parameters (B, 1, P) of the next.
        """

    @abstractmethod
    def _has_looked(self, state: SequenceState) -> bool:
        """Whether a draw, then interrupted, has looked at all there is, and left its parameters."""

    @abstractmethod
    def _look(self, state: SequenceState) -> Any:
        """Return the memory after what it lacks, with its parameters, by the reference."""

    def _next(self, state: SequenceState) -> Tensor:
        if self._has_looked(state):
            return state.memory.parameters
        if self.impl == "reference":
            state.memory = self._look(state)
        else:
            shape = state.batch, 1, self.parameters
            parameters = torch.empty(shape, dtype=self.dtype, device=self.device)
            _, memory = self._launch(state, parameters)
            state.memory = replace(memory, parameters=parameters[:, 0])
        return state.memory.parameters

    def _run(
        self,
        kept: list[Tensor],
        number: int,
        parameters: Tensor | None,
        inputs: Tensor,
        given: Tensor | None = None,
        noise: AnyNoise | None = None,
        filters: Filters = NO_FILTERS,
    ) -> Tensor:
        """Return the tokens (B, n) that the kernel draws after inputs."""
        weights, sizes = self._packed.weights, self._packed.sizes
        before, after = (kept, parameters, inputs, given), (weights, sizes, number)
        arguments = *before, *noise_arguments(noise), *after, *filters.constants
        return self.draws[self.impl](*arguments)

    @property
    def _drawn_by(self) -> str:
        return self.impl if self.pick is pick_token else "reference"

    def _tokens_of_a_piece(self, batch: int, count: int, with_progress: bool) -> int:
        if self._drawn_by == "reference":
            return 1
        return self._tokens_of_a_call(batch, count, with_progress)

    def _tokens_of_a_call(self, batch: int, count: int, with_progress: bool) -> int:
        # Weights of one sequence are read as those of eight, and a GPU draws many at a time.
        at_a_time = _SEQUENCES_OF_A_GPU if self.impl == "cuda" else 1
        work = self._packed.multiply_adds * max(ceil_div(batch, at_a_time), 8) * count
        return max(1, round(count / pieces_of(work, with_progress)))

    def _in_pieces(self, inputs: Tensor) -> list[Tensor]:
        """Cut what a kernel has to look at (B, m) so that Python sees the keyboard in between."""
        batch, count = inputs.shape
        pieces = inputs.split(self._tokens_of_a_call(batch, count, False), dim=1)
        return [each.contiguous() for each in pieces]

    def _draw_piece(
        self,
        state: SequenceState,
        noise: AnyNoise,
        kept: Tensor | None,
        filters: Filters,
        out: Tensor | None,
    ) -> None:
        if self._drawn_by == "reference" or self._has_looked(state):
            super()._draw_piece(state, noise, kept, filters, out)
            return

        parameters = None if out is None else out.to(self.device, self.dtype).contiguous()
        if isinstance(noise, Tensor):
            noise = noise.to(self.dtype).contiguous()
        kept = None if kept is None else kept.contiguous()
        tokens, memory = self._launch(state, parameters, noise, kept, filters)
        if out is not None:
            out.copy_(parameters)
        # In this order: after an interrupt in between, the tokens are looked at again.
        state.append(tokens)
        state.memory = memory
