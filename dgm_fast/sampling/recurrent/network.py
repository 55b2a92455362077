"""What a sampler of recurrent networks is made from: parameters, as torch's modules hold them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["RecurrentNetwork"]


@dataclass(frozen=True)
class RecurrentNetwork:
    r"""The parameters of a recurrent language model.

    .. math:: l_t = W h_t + b, \qquad h_t = z_t \odot h_{t-1} + (1 - z_t) \odot
              \tanh(i_n + r_t \odot s_n) \quad \text{or} \quad o_t \odot \tanh(c_t), \quad
              c_t = f_t \odot c_{t-1} + i_t \odot g_t

    of a GRU or an LSTM. Gates are sigmoids, and g the tanh, of (W_x x_t + b_x) + (W_h h_{t-1} +
    b_h), each with rows of its own; i_n and s_n are the two brackets of n. x_t is the embedded
    input, or h_t of the layer below.

    Attributes:
        cell: of every layer.
        embedding: (V + max(1, classes), E): of the tokens and of what stands before the first.
        layers: of each its weights (G H, E or H) and (G H, H) and biases (G H,), as torch's modules
            hold them; G is 3 of a GRU, in the order r, z, n, and 4 of an LSTM: i, f, g, o.
        head_weight: (V, H).
        head_bias: (V,).
        classes: of the labels, or 0.

    References:
        Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014, with torch's
        place of the reset gate; Hochreiter, Schmidhuber, "Long Short-Term Memory", 1997.
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

    def in_one_chunk(self) -> RecurrentNetwork:
        """Return a copy whose layers lie in one piece of a GPU's memory, where cuDNN reads them.

        Weights that lie apart it would copy there in every call, with a warning.
        """
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[self.cell]
        sizes = self.embedding.shape[1], self.width, len(self.layers)
        # Made of nothing, so that no random numbers are drawn.
        module = kind(*sizes, device="meta", dtype=self.head_weight.dtype)
        module = module.to_empty(device=self.head_weight.device)
        with torch.no_grad():
            for layer, given in zip(module.all_weights, self.layers, strict=True):
                for each, values in zip(layer, given, strict=True):
                    each.copy_(values)
        layers = tuple(tuple(each.detach() for each in layer) for layer in module.all_weights)
        return replace(self, layers=layers)
