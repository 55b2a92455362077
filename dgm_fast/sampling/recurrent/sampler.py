"""The sampler of recurrent networks, whose memory is their hidden state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.graph import StepGraph
from dgm_fast.sampling.noise import AnyNoise
from dgm_fast.sampling.panels import in_panels, in_rows
from dgm_fast.sampling.recurrent import op
from dgm_fast.sampling.recurrent.network import RecurrentNetwork
from dgm_fast.sampling.recurrent.packed import PackedRecurrent
from dgm_fast.sampling.sequence import NO_FILTERS, SequenceState
from dgm_fast.sampling.sequence_kernels import KernelSampler

__all__ = ["RecurrentMemory", "RecurrentSampler"]


@dataclass(frozen=True)
class RecurrentMemory:
    """What is left of the tokens seen.

    Attributes:
        hidden: of each layer h (B, H) and, of an LSTM, c (B, H).
        seen: how many inputs these have taken in.
        parameters: the logits (B, V) after the last of them, where a step a call looked at it.
    """

    hidden: tuple[tuple[Tensor, ...], ...]
    seen: int = 0
    parameters: Tensor | None = None

    @property
    def kept(self) -> list[Tensor]:
        """The hidden states of all layers."""
        return [each for layer in self.hidden for each in layer]

    def to(self, device: torch.device | str) -> RecurrentMemory:
        """Return the memory on another device."""
        hidden = tuple(tuple(each.to(device) for each in layer) for layer in self.hidden)
        parameters = None if self.parameters is None else self.parameters.to(device)
        return RecurrentMemory(hidden, self.seen, parameters)


class RecurrentSampler(KernelSampler):
    """Draws the tokens of a recurrent network; sequences may go on for ever.

    A step is a cell a layer; on a GPU the reference replays it as a CUDA graph. In the reference,
    what was fed runs through the layers whole, one after another; the kernels take it in token by
    token.

    Arguments:
        network: copied, so that training goes on without the sampler.
        impl: `"auto"`, `"reference"`, a loop in plain PyTorch on any device, `"cpp"` on a CPU, or
            `"cuda"` on an NVIDIA GPU, where `auto` takes it of small networks alone; both draw
            many tokens a call.

    Precision:
        Computes in float32 for bfloat16 and float16 networks too; float64 runs on the reference.

    Raises:
        TypeError, ValueError: an argument does not fit; names it.
        ImplementationUnavailable: the `impl` asked for cannot run.

    References:
        Graves, "Generating Sequences With Recurrent Neural Networks", 2013.

    Example:
        >>> import torch
        >>> from dgm_fast.families import RNN, RNNConfig
        >>> sampler = RNN(RNNConfig(vocabulary=5, width=8)).eval().sampler()
        >>> noise = sampler.draw_noise(2, 30)
        >>> whole, _ = sampler.draw(sampler.start(2), noise=noise)
        >>> first, state = sampler.draw(sampler.start(2), noise=noise[:, :12])
        >>> second, state = sampler.draw(state, noise=noise[:, 12:])
        >>> torch.equal(whole, torch.cat([first, second], dim=1)), state.time
        (True, 30)
    """

    draws = op.draw
    # Turns a step and its inputs into what replays it; None where it is called.
    capture: ClassVar[Callable[..., Callable[..., tuple[Tensor, ...]]] | None] = None

    def __init__(self, network: RecurrentNetwork, *, impl: str = "auto") -> None:
        self.network = network.to(torch.promote_types(network.head_weight.dtype, torch.float32))
        weight = self.network.head_weight
        impl = op.choose(impl, self.network)
        shape = len(weight), network.classes, len(weight)
        super().__init__(*shape, weight.device, weight.dtype)
        self.impl = impl
        if impl != "reference":
            self._packed = PackedRecurrent(self.network, in_panels if impl == "cpp" else in_rows)
        elif self.device.type == "cuda":
            self.network, self.capture = self.network.in_one_chunk(), StepGraph
        # Of the last batch.
        self._replayed: tuple[int, Callable[..., tuple[Tensor, ...]]] | None = None

    def _begin(self, batch: int) -> RecurrentMemory:
        network = self.network
        zeros = network.head_weight.new_zeros(batch, network.width)
        kept = (zeros,) if network.cell == "gru" else (zeros, zeros)
        return RecurrentMemory((kept,) * len(network.layers))

    def _has_looked(self, state: SequenceState) -> bool:
        return state.memory.seen > state.time

    def _launch(
        self,
        state: SequenceState,
        parameters: Tensor | None,
        noise: AnyNoise | None = None,
        given: Tensor | None = None,
        filters: Filters = NO_FILTERS,
    ) -> tuple[Tensor, RecurrentMemory]:
        # The kernel moves copies on: an interrupt leaves the states that the memory says.
        hidden = tuple(tuple(each.clone() for each in layer) for layer in state.memory.hidden)
        kept, lstm = [each for layer in hidden for each in layer], self._packed.lstm
        *most, last = self._in_pieces(state.inputs(0, state.memory.seen))
        for inputs in most:
            self._run(kept, lstm, None, inputs)
        tokens = self._run(kept, lstm, parameters, last, given, noise, filters)
        seen = state.time + max(1, tokens.shape[1])
        return tokens, RecurrentMemory(hidden, seen)

    def _look(self, state: SequenceState) -> RecurrentMemory:
        network, memory = self.network, state.memory
        inputs = state.inputs(0, memory.seen)
        with torch.autocast(self.device.type, enabled=False):
            if inputs.shape[1] > 1:
                top, hidden = self._many(inputs, memory.hidden)
                logits = torch.addmm(network.head_bias, top, network.head_weight.T)
            else:
                step = self._step if self.capture is None else self._replay
                logits, *kept = step(inputs[:, 0], *memory.kept)
                each = len(memory.hidden[0])
                hidden = tuple(tuple(kept[i : i + each]) for i in range(0, len(kept), each))
        return RecurrentMemory(hidden, state.time + 1, logits)

    def _replay(self, token: Tensor, *kept: Tensor) -> list[Tensor]:
        if self._replayed is None or self._replayed[0] != len(token):
            self._replayed = None  # before another takes memory
            self._replayed = len(token), self.capture(self._step, token, *kept)
        # The next replay overwrites them.
        return [each.clone() for each in self._replayed[1](token, *kept)]

    def _step(self, token: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
        """Return the logits (B, V) after an input (B,), and the hidden states of all layers."""
        network, found = self.network, []
        x, each = F.embedding(token, network.embedding), len(kept) // len(network.layers)
        for i, layer in enumerate(network.layers):
            state = kept[i * each : (i + 1) * each]
            if network.cell == "gru":
                found.append(torch.gru_cell(x, *state, *layer))
            else:
                found += torch.lstm_cell(x, state, *layer)
            x = found[-each]
        return torch.addmm(network.head_bias, x, network.head_weight.T), *found

    def _many(
        self, inputs: Tensor, hidden: tuple[tuple[Tensor, ...], ...]
    ) -> tuple[Tensor, tuple[tuple[Tensor, ...], ...]]:
        x = F.embedding(inputs, self.network.embedding)
        weights = [weight for layer in self.network.layers for weight in layer]
        options = (weights, True, len(hidden), 0.0, False, False, True)
        stacked = [torch.stack(each) for each in zip(*hidden, strict=True)]
        if self.network.cell == "gru":
            out, *last = torch.gru(x, *stacked, *options)
        else:
            out, *last = torch.lstm(x, stacked, *options)
        kept = zip(*(each.unbind(0) for each in last), strict=True)
        return out[:, -1], tuple(kept)
