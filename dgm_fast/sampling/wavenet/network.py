"""What a sampler of WaveNet is made from: the parameters, as torch's modules hold them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["WaveNetLayer", "WaveNetNetwork"]


@dataclass(frozen=True)
class WaveNetLayer:
    r"""A gated residual layer.

    .. math:: z = \tanh(W_f * x + V_f h) \odot \sigma(W_g * x + V_g h), \qquad y = x + W_r z

    Attributes:
        weight: (2 G, R, k), of the dilated convolution: W_f over W_g.
        bias: (2 G,).
        dilation: of the convolution.
        residual_weight: W_r (R, G, 1); None of a last layer, whose y nothing sees.
        residual_bias: (R,), likewise.
        label: (classes, 2 G), what each label adds, or None.
        features: (2 G, F, 1), the map of local features, or None.
    """

    weight: Tensor
    bias: Tensor
    dilation: int
    residual_weight: Tensor | None = None
    residual_bias: Tensor | None = None
    label: Tensor | None = None
    features: Tensor | None = None


@dataclass(frozen=True)
class WaveNetNetwork:
    r"""The parameters of a WaveNet.

    .. math:: \theta_t = W_3 \, \text{relu}(W_2 \, \text{relu}(W_1 [z^1_t; \dots; z^L_t]))

    with the z of all layers and a bias in every map; x of the first layer is the first convolution.

    Attributes:
        first_weight: (R, levels, k) of one-hot levels, or (R, 1, k) of values on their scale; the
            convolution looks back from the sample before its place.
        first_bias: (R,).
        layers: at least one.
        skip_weight: W_1 (S, layers G, 1), of the layers' z, one under another.
        skip_bias: (S,).
        head_weight: W_2 (H, S, 1), after a ReLU.
        head_bias: (H,).
        last_weight: W_3 (P, H, 1), after another.
        last_bias: (P,).

    References:
        van den Oord et al., "WaveNet: A Generative Model for Raw Audio", 2016, figure 4.
    """

    first_weight: Tensor
    first_bias: Tensor
    layers: tuple[WaveNetLayer, ...]
    skip_weight: Tensor
    skip_bias: Tensor
    head_weight: Tensor
    head_bias: Tensor
    last_weight: Tensor
    last_bias: Tensor

    @property
    def one_hot(self) -> bool:
        """Whether the first convolution is of one-hot levels."""
        return self.first_weight.shape[1] > 1

    @property
    def channels(self) -> int:
        """R."""
        return self.first_weight.shape[0]

    @property
    def gate_channels(self) -> int:
        """G."""
        return self.layers[0].weight.shape[0] // 2

    @property
    def kernel(self) -> int:
        """Of the layers."""
        return self.layers[0].weight.shape[2]

    @property
    def first_kernel(self) -> int:
        """Of the first convolution."""
        return self.first_weight.shape[2]

    @property
    def classes(self) -> int:
        """Of the labels, or 0."""
        label = self.layers[0].label
        return 0 if label is None else label.shape[0]

    @property
    def features(self) -> int:
        """F, or 0."""
        features = self.layers[0].features
        return 0 if features is None else features.shape[1]

    @property
    def slots(self) -> tuple[int, ...]:
        """How many of its last inputs each layer looks back on."""
        return tuple((self.kernel - 1) * layer.dilation for layer in self.layers)

    @property
    def receptive_field(self) -> int:
        """How many samples before it a sample depends on."""
        return self.first_kernel + sum(self.slots)

    @property
    def multiply_adds(self) -> int:
        """How many a sample of a signal takes; of one-hot levels, rows are looked up."""
        weights = [self.skip_weight, self.head_weight, self.last_weight]
        for layer in self.layers:
            weights += [layer.weight, layer.residual_weight, layer.features]
        products = sum(weight.numel() for weight in weights if weight is not None)
        return products + self.channels * self.first_kernel

    def to(self, dtype: torch.dtype) -> WaveNetNetwork:
        """Return the network in another dtype, apart from its autograd graph."""
        layers = tuple(
            _map(layer, lambda t: t.detach().to(dtype, copy=True)) for layer in self.layers
        )
        return replace(_map(self, lambda t: t.detach().to(dtype, copy=True)), layers=layers)


def _map(of: WaveNetLayer | WaveNetNetwork, function: Callable[[Tensor], Tensor]) -> object:
    tensors = {name: value for name, value in vars(of).items() if isinstance(value, Tensor)}
    return replace(of, **{name: function(value) for name, value in tensors.items()})
