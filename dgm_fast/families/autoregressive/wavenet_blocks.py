"""What WaveNet is made of: first convolutions, gated residual layers, features brought to samples.

Each block holds its parameters in torch's own modules and runs on the library's ops. In time, they
look back only: a first convolution from the sample before its place on, a layer from its place on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast.ops import causal_conv1d, gated_activation, wavenet_layer
from dgm_fast.sampling import WaveNetLayer

__all__ = ["OneHotConv", "ResidualLayer", "ScalarConv", "Upsampling"]


class OneHotConv(nn.Conv1d):
    """A causal convolution of one-hot levels: place t sees those of the k samples before it.

    It looks up columns of its weight instead of multiplying them by zeros and ones.
    """

    def __init__(self, levels: int, channels: int, kernel: int) -> None:
        super().__init__(levels, channels, kernel)
        # Of a one-hot input a kernel's element meets a single weight, whatever the levels' number.
        nn.init.normal_(self.weight, std=kernel**-0.5)

    def forward(self, levels: Tensor) -> Tensor:
        """Return (B, channels, T) from levels (B, T), int64."""
        kernel, T = self.kernel_size[0], levels.shape[1]
        table = self.weight.permute(1, 2, 0).flatten(1)  # (levels, k channels)
        taps = F.embedding(levels, table).unflatten(-1, (kernel, -1)).unbind(2)
        y = self.bias
        for before, tap in zip(range(kernel, 0, -1), taps, strict=True):
            moved = min(before, T)
            y = y + F.pad(tap, (0, 0, moved, -moved))
        return y.transpose(1, 2)


class ScalarConv(nn.Conv1d):
    """A causal convolution of values: place t sees those of the k samples before it."""

    def __init__(self, channels: int, kernel: int, impl: str) -> None:
        super().__init__(1, channels, kernel)
        self.impl = impl

    def forward(self, values: Tensor) -> Tensor:
        """Return (B, channels, T) from values (B, 1, T)."""
        return causal_conv1d(F.pad(values, (1, -1)), self.weight, self.bias, impl=self.impl)


class ResidualLayer(nn.Module):
    r"""A dilated convolution, a gate and, but for the last layer, a way past them.

    .. math:: z = \tanh(W_f * x + V_f h) \odot \sigma(W_g * x + V_g h), \qquad y = x + W_r z

    where h is an embedded label, the same at all times, or features of every time, or both.

    Arguments:
        channels: R, of x.
        gate_channels: G, of z.
        kernel: k.
        dilation: how far apart the kernel's elements are.
        classes: of labels, or 0.
        features: F, of local features, or 0.
        is_last: leave out the residual, which nothing would see.
        impl: of the ops.
    """

    def __init__(
        self,
        channels: int,
        gate_channels: int,
        kernel: int,
        dilation: int,
        *,
        classes: int = 0,
        features: int = 0,
        is_last: bool = False,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        self.dilation, self.impl = dilation, impl
        self.conv = nn.Conv1d(channels, 2 * gate_channels, kernel, dilation=dilation)
        self.residual = None if is_last else nn.Conv1d(gate_channels, channels, 1)
        self.label = nn.Embedding(classes, 2 * gate_channels) if classes else None
        self.features = nn.Conv1d(features, 2 * gate_channels, 1, bias=False) if features else None
        if self.label is not None:
            # Torch's own spread, ten times that, would hold gates shut before anything is learnt.
            nn.init.normal_(self.label.weight, std=0.1)

    def forward(
        self, x: Tensor, label: Tensor | None, features: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return y (B, R, T) and z (B, G, T) from x (B, R, T) and features (B, F, T)."""
        conv, condition = self.conv, self._condition(label, features)
        if self.residual is None:
            h = causal_conv1d(x, conv.weight, conv.bias, dilation=self.dilation, impl=self.impl)
            h = h if condition is None else h + condition
            return x, gated_activation(h, impl=self.impl)

        return wavenet_layer(
            x,
            conv.weight,
            conv.bias,
            self.residual.weight,
            self.residual.bias,
            condition=condition,
            dilation=self.dilation,
            impl=self.impl,
        )

    def described(self) -> WaveNetLayer:
        """Return the parameters as a sampler takes them."""
        residual, label, features = self.residual, self.label, self.features
        return WaveNetLayer(
            self.conv.weight,
            self.conv.bias,
            self.dilation,
            None if residual is None else residual.weight,
            None if residual is None else residual.bias,
            None if label is None else label.weight,
            None if features is None else features.weight,
        )

    def _condition(self, label: Tensor | None, features: Tensor | None) -> Tensor | None:
        """Return (B, 2 G, 1), or (B, 2 G, T) where there are features."""
        of_label = None if self.label is None else self.label(label).unsqueeze(2)
        if self.features is None:
            return of_label
        local = self.features(features)
        return local if of_label is None else local + of_label


class Upsampling(nn.Module):
    """Features of frames brought to samples: each frame fills `hop` of them.

    Arguments:
        features: F.
        hop: samples of a frame.
        learned: by a transposed convolution, which begins as a repetition, or by repetition alone.
    """

    def __init__(self, features: int, hop: int, *, learned: bool) -> None:
        super().__init__()
        self.hop = hop
        self.conv = nn.ConvTranspose1d(features, features, hop, stride=hop) if learned else None
        if self.conv is not None:
            with torch.no_grad():
                self.conv.weight.copy_(torch.eye(features).unsqueeze(2).expand(-1, -1, hop))
                self.conv.bias.zero_()

    def forward(self, features: Tensor, length: int) -> Tensor:
        """Return (B, F, length) from (B, F, frames)."""
        if self.conv is None:
            return features.repeat_interleave(self.hop, dim=2)[..., :length]
        return self.conv(features)[..., :length]
