"""MarkovMLP: a perceptron over the last d embedded tokens (Bengio, 2003).

The neural probabilistic language model: contexts that a table of counts would have to see one by
one share what is learnt of their tokens. Deviations from the paper: no direct links from the
embedded tokens to the logits, and residual layers after the first, where there are several.

References: Bengio, Ducharme, Vincent, Jauvin, "A Neural Probabilistic Language Model", 2003.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast.families.autoregressive.token_model import TokenConfig, TokenModel, last_inputs
from dgm_fast.sampling import WindowSampler

__all__ = ["MarkovMLP", "MarkovMLPConfig"]


@dataclass(frozen=True)
class MarkovMLPConfig(TokenConfig):
    """Hyperparameters of `MarkovMLP`.

    Attributes:
        order: d, how many tokens a token depends on.
        embedding: E, of a token.
        hidden: units of a layer.
        layers: of hidden units.
        dropout: probability of dropping a hidden unit in training.
    """

    order: int = 8
    embedding: int = 32
    hidden: int = 256
    layers: int = 1
    dropout: float = 0.0

    _lowest: ClassVar[dict[str, int]] = TokenConfig._lowest | dict.fromkeys(
        ("order", "embedding", "hidden", "layers"), 1
    )


class MarkovMLP(TokenModel):
    r"""A density of token sequences of any length, each token given the last d.

    .. math:: p(x_t \mid x_{t-d}, \dots, x_{t-1}) = \text{softmax}(U h), \qquad
              h = \tanh(b + H [e(x_{t-d}); \dots; e(x_{t-1})])

    Arguments:
        config: hyperparameters.
        impl: for the sake of other families: the layers are torch's.
        device: of the parameters; default torch's.
        dtype: of the parameters; default torch's.

    Shapes:
        x (B, T), integers of any dtype.

    Units:
        Log-likelihoods are of a whole sequence, in nats; by T they are nats a token.

    Precision:
        Likelihoods are at least float32, also under autocast.

    Gradients:
        Of `log_prob` and `loss` for every parameter, by torch's layers. None of `sample`.

    Raises:
        ValueError: shapes do not fit; on the CPU also when a token is outside its range.

    References:
        Bengio, Ducharme, Vincent, Jauvin, "A Neural Probabilistic Language Model", 2003, eq. 1.

    Example:
        >>> import torch
        >>> from dgm_fast.families import MarkovMLP, MarkovMLPConfig
        >>> model = MarkovMLP(MarkovMLPConfig(vocabulary=5, order=3)).eval()
        >>> model.log_prob(model.sample(2, length=20)).shape
        torch.Size([2])
    """

    family: ClassVar[str] = "markov_mlp"
    config_class: ClassVar[type] = MarkovMLPConfig

    def _build(self, config: MarkovMLPConfig) -> None:
        V, E, H = config.vocabulary, config.embedding, config.hidden
        self.embedding = nn.Embedding(V + 1, E)
        widths = [config.order * E] + [H] * (config.layers - 1)
        self.layers = nn.ModuleList(nn.Linear(width, H) for width in widths)
        self.head = nn.Linear(H, V)
        with torch.no_grad():
            # So that the first distributions are broad.
            self.head.weight.mul_(0.1)

    def _network(self, inputs: Tensor) -> Tensor:
        return self._of_last(last_inputs(inputs, self.config.order, self.vocabulary))

    def _of_last(self, last: Tensor) -> Tensor:
        """Return the logits (*, V) after the last tokens (*, d)."""
        h = self.embedding(last).flatten(-2)
        for place, layer in enumerate(self.layers):
            new = F.dropout(torch.tanh(layer(h)), self.config.dropout, self.training)
            h = new if place == 0 else h + new
        return self.head(h)

    def sampler(self) -> WindowSampler:
        """Return a sampler of the weights as they are now, for sequences in pieces."""
        device, dtype = self._where()
        fixed = copy.deepcopy(self).eval().to(dtype)
        return WindowSampler(fixed._of_last, self.config.order, self.vocabulary, device, dtype)
