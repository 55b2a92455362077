"""The sampler of recurrent networks, whose memory is their hidden state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast.sampling.sequence import SequenceSampler, SequenceState

__all__ = ["RecurrentMemory", "RecurrentNetwork", "RecurrentSampler"]


@dataclass(frozen=True)
class RecurrentNetwork:
    """The parameters of a recurrent language model.

    Attributes:
        cell: of every layer.
        embedding: (V + max(1, classes), E): of the tokens and of what stands before the first.
        layers: of each its weights (G H, E or H) and (G H, H) and biases (G H,), as torch's modules
            hold them; G is 3 of a GRU and 4 of an LSTM.
        head_weight: (V, H).
        head_bias: (V,).
        classes: of the labels, or 0.
    """

    cell: Literal["gru", "lstm"]
    embedding: Tensor
    layers: tuple[tuple[Tensor, Tensor, Tensor, Tensor], ...]
    head_weight: Tensor
    head_bias: Tensor
    classes: int = 0

    @property
    def width(self) -> int:
        """H."""
        return self.head_weight.shape[1]

    def to(self, dtype: torch.dtype) -> RecurrentNetwork:
        """Return a copy in another dtype, apart from its autograd graph."""

        def copied(x: Tensor) -> Tensor:
            return x.detach().to(dtype, copy=True)

        return replace(
            self,
            embedding=copied(self.embedding),
            layers=tuple(tuple(map(copied, layer)) for layer in self.layers),
            head_weight=copied(self.head_weight),
            head_bias=copied(self.head_bias),
        )


@dataclass(frozen=True)
class RecurrentMemory:
    """What is left of the tokens seen.

    Attributes:
        hidden: of each layer h (B, H) and, of an LSTM, c (B, H).
        seen: how many inputs these have taken in.
        logits: (B, V), after the last of them.
    """

    hidden: tuple[tuple[Tensor, ...], ...]
    seen: int = 0
    logits: Tensor | None = None


class RecurrentSampler(SequenceSampler):
    """Draws the tokens of a recurrent network; sequences may go on for ever.

    A step is a cell a layer. What was fed runs through the layers whole, one after another.

    Arguments:
        network: copied, so that training goes on without the sampler.

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

    def __init__(self, network: RecurrentNetwork) -> None:
        weight = network.head_weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        super().__init__(len(weight), network.classes, len(weight), weight.device, dtype)
        self.network = network.to(dtype)

    def _begin(self, batch: int) -> RecurrentMemory:
        network = self.network
        zeros = network.head_weight.new_zeros(batch, network.width)
        kept = (zeros,) if network.cell == "gru" else (zeros, zeros)
        return RecurrentMemory((kept,) * len(network.layers))

    def _next(self, state: SequenceState) -> Tensor:
        network, memory = self.network, state.memory
        if memory.seen > state.time:
            # Looked at by a draw that was interrupted before it had the token.
            return memory.logits

        inputs = state.inputs(0, memory.seen)
        x = F.embedding(inputs, network.embedding)
        with torch.autocast(self.device.type, enabled=False):
            advance = self._one if inputs.shape[1] == 1 else self._many
            top, hidden = advance(x, memory.hidden)
            logits = torch.addmm(network.head_bias, top, network.head_weight.T)
        state.memory = RecurrentMemory(hidden, state.time + 1, logits)
        return logits

    def _one(
        self, x: Tensor, hidden: tuple[tuple[Tensor, ...], ...]
    ) -> tuple[Tensor, tuple[tuple[Tensor, ...], ...]]:
        x, kept = x[:, 0], []
        for layer, state in zip(self.network.layers, hidden, strict=True):
            if self.network.cell == "gru":
                kept.append((torch.gru_cell(x, *state, *layer),))
            else:
                kept.append(torch.lstm_cell(x, state, *layer))
            x = kept[-1][0]
        return x, tuple(kept)

    def _many(
        self, x: Tensor, hidden: tuple[tuple[Tensor, ...], ...]
    ) -> tuple[Tensor, tuple[tuple[Tensor, ...], ...]]:
        weights = [weight for layer in self.network.layers for weight in layer]
        options = (weights, True, len(hidden), 0.0, False, False, True)
        stacked = [torch.stack(each) for each in zip(*hidden, strict=True)]
        if self.network.cell == "gru":
            out, *last = torch.gru(x, *stacked, *options)
        else:
            out, *last = torch.lstm(x, stacked, *options)
        kept = zip(*(each.unbind(0) for each in last), strict=True)
        return out[:, -1], tuple(kept)
