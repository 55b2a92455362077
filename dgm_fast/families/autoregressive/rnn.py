"""RNN: a recurrent language model, of gated recurrent units or LSTM cells (Graves, 2013).

Each layer's hidden state is all that it knows of the tokens before: h_t = cell(x_t, h_{t-1}), where
x_t is the embedded token or the hidden state of the layer below. The topmost gives the logits of
the next token. So the model is a density of sequences of any length, at one cell a token.

Deviations from Graves: no skip connections from the input to all layers and from all layers to the
output; dropout between layers, as Zaremba et al. have it, and before the logits; the embedding may
be the logits' map. A label is what stands before the first token.

References: Graves, "Generating Sequences With Recurrent Neural Networks", 2013; Hochreiter,
Schmidhuber, "Long Short-Term Memory", 1997; Cho et al., "Learning Phrase Representations using RNN
Encoder-Decoder", 2014; Zaremba, Sutskever, Vinyals, "Recurrent Neural Network Regularization",
2014; Press, Wolf, "Using the Output Embedding to Improve Language Models", 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast.families.autoregressive.token_model import TokenConfig, TokenModel, check_choices
from dgm_fast.sampling import RecurrentNetwork, RecurrentSampler
from dgm_fast.sampling.choice import impl_of_model

__all__ = ["RNN", "RNNConfig"]


@dataclass(frozen=True)
class RNNConfig(TokenConfig):
    """Hyperparameters of `RNN`.

    Attributes:
        cell: `gru` or `lstm`.
        layers: number of recurrent layers.
        width: H, of the hidden states.
        embedding: E, of a token; 0: as `width`.
        tied: whether the logits' map is the embedding, which must then be as wide as the states.
        dropout: probability of dropping a channel between layers and before the logits.
        classes: of the labels that `context` holds, 0 for none.
    """

    cell: Literal["gru", "lstm"] = "gru"
    layers: int = 1
    width: int = 256
    embedding: int = 0
    tied: bool = False
    dropout: float = 0.0
    classes: int = 0

    _lowest: ClassVar[dict[str, int]] = TokenConfig._lowest | {
        "layers": 1,
        "width": 1,
        "embedding": 0,
        "classes": 0,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices("cell", self.cell, ("gru", "lstm"))
        if self.tied and self.embedding not in (0, self.width):
            raise ValueError(
                f"embedding must be 0 or width = {self.width} where it is tied; "
                f"got {self.embedding}"
            )


class RNN(TokenModel):
    r"""A density of token sequences of any length, each token given a hidden state.

    .. math:: \log p(x \mid c) = \sum_{t=1}^{T} \log p(x_t \mid h_t), \qquad
              h_t = \text{cell}(x_{t-1}, h_{t-1})

    Arguments:
        config: hyperparameters.
        impl: of the sampler; the layers are torch's.
        device: of the parameters; default torch's.
        dtype: of the parameters; default torch's.

    Shapes:
        x (B, T), integers of any dtype; context (B,) int64 labels of a class-conditional model.

    Units:
        Log-likelihoods are of a whole sequence, in nats; by T they are nats a token.

    Precision:
        Likelihoods are at least float32, also under autocast. The layers are torch's, of which
        `torch.compile(fullgraph=True)` wants `torch._dynamo.config.allow_rnn`.

    Gradients:
        Of `log_prob` and `loss` for every parameter, by torch's layers, through the whole sequence.
        None of `sample`.

    Raises:
        TypeError: context is not int64.
        ValueError: shapes do not fit; on the CPU also when a token or label is outside its range.

    References:
        Graves, "Generating Sequences With Recurrent Neural Networks", 2013, section 2.

    Example:
        >>> import torch
        >>> from dgm_fast.families import RNN, RNNConfig
        >>> model = RNN(RNNConfig(cell="lstm", layers=2, width=32)).eval()
        >>> x = torch.tensor([list(b"to be, or not to be")])
        >>> model.log_prob(x).shape
        torch.Size([1])
        >>> model.sample(3, given=x[0], length=40, temperature=0.8).shape
        torch.Size([3, 40])
    """

    family: ClassVar[str] = "rnn"
    config_class: ClassVar[type] = RNNConfig

    def _build(self, config: RNNConfig) -> None:
        V, H, E = config.vocabulary, config.width, config.embedding or config.width
        self.embedding = nn.Embedding(V + max(1, config.classes), E)
        # So that tied logits begin near zero.
        nn.init.normal_(self.embedding.weight, std=E**-0.5)
        kind = nn.GRU if config.cell == "gru" else nn.LSTM
        between = config.dropout if config.layers > 1 else 0.0
        self.cells = kind(E, H, config.layers, batch_first=True, dropout=between)
        self.head = None if config.tied else nn.Linear(H, V, bias=False)
        self.bias = nn.Parameter(torch.zeros(V))

    @property
    def _head_weight(self) -> Tensor:
        return self.embedding.weight[: self.vocabulary] if self.head is None else self.head.weight

    def _network(self, inputs: Tensor) -> Tensor:
        x = self.embedding(inputs)
        # On a CPU, oneDNN refuses an LSTM under autocast.
        with torch.autocast("cpu", enabled=False):
            hidden, _ = self.cells(x)
        hidden = F.dropout(hidden, self.config.dropout, self.training)
        return F.linear(hidden, self._head_weight, self.bias)

    def sampler(self, *, impl: str | None = None) -> RecurrentSampler:
        """Return a sampler of the weights as they are now, for sequences in pieces."""
        return RecurrentSampler(self.described(), impl=impl or impl_of_model(self.impl))

    def described(self) -> RecurrentNetwork:
        """Return the parameters as a sampler takes them."""
        return RecurrentNetwork(
            self.config.cell,
            self.embedding.weight,
            tuple(map(tuple, self.cells.all_weights)),
            self._head_weight,
            self.bias,
            self.classes,
        )
