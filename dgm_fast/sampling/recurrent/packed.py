"""The parameters of a recurrent network as its C++ and CUDA samplers take them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dgm_fast.sampling.padding import pad_last
from dgm_fast.sampling.panels import in_panels
from dgm_fast.sampling.recurrent.network import RecurrentNetwork

__all__ = ["PackedRecurrent", "table_inputs"]

# With more symbols, a table of what the first layer makes of each takes more memory than it saves.
_MOST_IN_A_TABLE = 1024


def table_inputs(network: RecurrentNetwork) -> int:
    """Return how many channels the first layer's inputs have, or 0 where a table has its sums."""
    symbols, channels = network.embedding.shape
    return 0 if symbols <= _MOST_IN_A_TABLE else channels


class PackedRecurrent:
    """Arguments of the operator.

    Arguments:
        network: of float32.
        laid_out: how matrices lie: `in_panels` or `in_rows`.

    Attributes:
        weights: the table (symbols, 4 units) of the first layer's sums of its inputs, or of many
            symbols the embedding; the head and its bias; of each layer the matrices of input and
            state and the bias of the sums. An LSTM's sums are those of torch's gates; a GRU's are
            what the new state takes from the input, the reset and the update gate, and what the new
            state takes from the old.
        sizes: in the order of `Sizes` in the kernel's `problem.h`.
    """

    def __init__(
        self, network: RecurrentNetwork, laid_out: Callable[[Tensor], Tensor] = in_panels
    ) -> None:
        self.lstm = network.cell == "lstm"
        layers = [self._layer(*layer) for layer in network.layers]
        first, bias = layers[0][0], layers[0][2]
        inputs = table_inputs(network)
        table = pad_last(network.embedding)
        if inputs == 0:
            table = bias.repeat(len(table), 1)
            with torch.autocast(table.device.type, enabled=False):
                table[:, : first.shape[1]] += network.embedding @ first
        self.sizes = [inputs, network.width, len(network.head_weight)]
        self.weights = [table, laid_out(network.head_weight.T), pad_last(network.head_bias)]
        for of_input, of_state, bias in layers:
            self.weights += [laid_out(of_input), laid_out(of_state), bias]

    @property
    def multiply_adds(self) -> int:
        """Return how many a token of a sequence takes."""
        return sum(each.numel() for each in self.weights[1:])

    def _layer(
        self, of_input: Tensor, of_state: Tensor, input_bias: Tensor, state_bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the matrices (in, 4 or 3 units) and the bias (4 units) of the sums."""
        of_input, of_state = self._gates(of_input.T), self._gates(of_state.T)
        input_bias, state_bias = self._gates(input_bias), self._gates(state_bias)
        if self.lstm:
            return of_input.flatten(1), of_state.flatten(1), (input_bias + state_bias).flatten()

        # torch's order is reset, update, new.
        of_input = of_input.roll(1, dims=-2)
        r, z, _ = (input_bias + state_bias).unbind()
        bias = torch.stack([input_bias[2], r, z, state_bias[2]])
        return of_input.flatten(1), of_state.flatten(1), bias.flatten()

    def _gates(self, x: Tensor) -> Tensor:
        """Return (*, gates, padded units)."""
        return pad_last(x.unflatten(-1, (4 if self.lstm else 3, -1)))
