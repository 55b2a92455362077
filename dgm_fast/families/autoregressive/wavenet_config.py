"""Hyperparameters of WaveNet, and how far back they make it see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dgm_fast.distributions import WAVEFORM_OUTPUTS, Quantizer

__all__ = ["WaveNetConfig"]


@dataclass(frozen=True)
class WaveNetConfig:
    """Hyperparameters of `WaveNet`.

    Attributes:
        output: distribution of a sample.
        scale: on which the levels lie evenly.
        levels: that a sample is rounded to; 65,536 linear ones lose nothing of 16 bits.
        components: K of `logistic_mixture`.
        input: `one_hot` levels or the `scalar` that they are on their scale.
        stacks: how often the dilations are repeated.
        layers: of a stack, with dilations 1, 2, ..., 2^(layers - 1).
        kernel: of the layers.
        first_kernel: of the first convolution.
        channels: R, of the residual stream.
        gate_channels: G, of each layer's output.
        skip_channels: of the sum over layers.
        head_channels: between the last two maps.
        classes: of the labels that `context` holds, 0 for none.
        features: F, of local conditioning, 0 for none.
        hop: samples of a frame of features.
        upsampling: `repeat` each frame or learn a `transposed` convolution.
    """

    output: Literal["categorical", "logistic_mixture"] = "categorical"
    scale: Literal["mu_law", "linear"] = "mu_law"
    levels: int = 256
    components: int = 10
    input: Literal["one_hot", "scalar"] = "one_hot"
    stacks: int = 3
    layers: int = 10
    kernel: int = 2
    first_kernel: int = 2
    channels: int = 64
    gate_channels: int = 64
    skip_channels: int = 256
    head_channels: int = 256
    classes: int = 0
    features: int = 0
    hop: int = 1
    upsampling: Literal["repeat", "transposed"] = "transposed"

    _lowest: ClassVar[dict[str, int]] = {"classes": 0, "features": 0, "levels": 2, "kernel": 2}

    def __post_init__(self) -> None:
        sizes = ("components", "stacks", "layers", "first_kernel", "channels", "gate_channels")
        for name in (*sizes, "skip_channels", "head_channels", "hop", *self._lowest):
            if getattr(self, name) < self._lowest.get(name, 1):
                low = self._lowest.get(name, 1)
                raise ValueError(f"{name} must be at least {low}; got {getattr(self, name)}")
        for name, known in (
            ("output", WAVEFORM_OUTPUTS),
            ("input", ("one_hot", "scalar")),
            ("upsampling", ("repeat", "transposed")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}"
                )
        Quantizer(self.scale, self.levels)

    @property
    def dilations(self) -> list[int]:
        """The dilation of each layer."""
        return [2**i for i in range(self.layers)] * self.stacks

    @property
    def receptive_field(self) -> int:
        r"""How many samples before it a sample depends on.

        .. math:: R = k_1 + (k - 1) \sum_l d_l = k_1 + (k - 1) \, \text{stacks} \,
                  (2^{\text{layers}} - 1)
        """
        return self.first_kernel + (self.kernel - 1) * sum(self.dilations)
