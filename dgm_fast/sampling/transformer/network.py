"""What a sampler of transformers is made from: the parameters, as torch's modules hold them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["TransformerLayer", "TransformerNetwork"]


@dataclass(frozen=True)
class TransformerLayer:
    r"""A residual layer, normalized before each half, none of whose maps has a bias.

    .. math:: y = x + W_o \, \text{attention}(W_{qkv} \, n_1(x)), \qquad
              z = y + W_d \, \text{gelu}(W_u \, n_2(y))

    Attributes:
        attention_norm: (W,), the gain of n_1.
        qkv: (3 W, W), of queries, keys and values, head after head.
        out: (W, W).
        feedforward_norm: (W,), the gain of n_2.
        up: (M, W).
        down: (W, M).
    """

    attention_norm: Tensor
    qkv: Tensor
    out: Tensor
    feedforward_norm: Tensor
    up: Tensor
    down: Tensor

    def copied(self, dtype: torch.dtype) -> TransformerLayer:
        """Return a copy in another dtype."""
        return TransformerLayer(*(_copied(each, dtype) for each in vars(self).values()))


@dataclass(frozen=True)
class TransformerNetwork:
    r"""The parameters of a causal transformer.

    .. math:: \theta_t = W_h \, n(y^L_t), \qquad y^l = \text{layer}_l(y^{l-1}), \qquad
              y^0_t = e(s_t) + p_t

    with s_t the input at place t: what stands before the first token, then the tokens. Rotary
    networks add no p and turn queries and keys by their places.

    Attributes:
        embedding: (V + max(1, classes), W): of the tokens and of what stands before the first.
        layers: at least one.
        norm: (W,), the gain before the last map.
        head: (P, W).
        heads: of the attention.
        length: T, how many inputs it looks at.
        positions: (T, W), added to the inputs, or None of rotary ones.
        classes: of the labels, or 0.

    References:
        Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.3.
    """

    embedding: Tensor
    layers: tuple[TransformerLayer, ...]
    norm: Tensor
    head: Tensor
    heads: int
    length: int
    positions: Tensor | None = None
    classes: int = 0

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.embedding.shape[0] - max(1, self.classes)

    @property
    def width(self) -> int:
        """W."""
        return self.embedding.shape[1]

    def to(self, dtype: torch.dtype) -> TransformerNetwork:
        """Return a copy in another dtype, apart from its autograd graph."""
        return replace(
            self,
            embedding=_copied(self.embedding, dtype),
            layers=tuple(layer.copied(dtype) for layer in self.layers),
            norm=_copied(self.norm, dtype),
            head=_copied(self.head, dtype),
            positions=None if self.positions is None else _copied(self.positions, dtype),
        )


def _copied(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.detach().to(dtype, copy=True)
