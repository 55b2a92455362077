"""The parameters of WaveNet as its C++ and CUDA samplers take them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast.sampling.padding import pad_last, padded
from dgm_fast.sampling.wavenet.network import WaveNetNetwork

__all__ = ["PackedNetwork", "pack", "pack_condition"]


@dataclass(frozen=True)
class PackedNetwork:
    """Arguments of the operator: input-major matrices, padded with zeros, and what sizes they have.

    Attributes:
        weights: in the order of `Network` in the kernel's `problem.h`.
        sizes: in the order of its `Sizes`, the number of layers left out.
        dilations: of the layers.
    """

    weights: list[Tensor]
    sizes: list[int]
    dilations: list[int]


def pack(network: WaveNetNetwork) -> PackedNetwork:
    """Lay out the parameters of a float32 network in the order in which a sample uses them."""
    layers = network.layers
    gates = [_gates(layer.weight).permute(2, 1, 0) for layer in layers]  # (k, R, 2 G)
    taps = torch.stack([_pad_rows(gate) for gate in gates])
    chain = [
        torch.cat([tap[-1].flatten(), _residual(network, place).flatten()])
        for place, tap in enumerate(taps)
    ]
    residual_biases = [
        torch.zeros_like(network.first_bias) if layer.residual_bias is None else layer.residual_bias
        for layer in layers
    ]
    skip = _matrix(network.skip_weight).unflatten(0, (len(layers), -1))  # (L, G, S)
    features = network.first_bias.new_zeros(0)
    if network.features:
        maps = [_gates(layer.features)[..., 0].T for layer in layers]
        features = _pad_rows(torch.cat(maps, dim=1))

    weights = [
        pad_last(network.first_weight.permute(2, 1, 0)),
        pad_last(network.first_bias),
        taps[:, :-1],
        torch.stack(chain),
        pad_last(torch.stack(residual_biases)),
        _pad_rows(skip).flatten(0, 1),
        pad_last(network.skip_bias),
        _pad_rows(_matrix(network.head_weight)),
        pad_last(network.head_bias),
        _pad_rows(_matrix(network.last_weight)),
        pad_last(network.last_bias),
        features,
    ]
    skips, head, parameters = (
        padded(bias.shape[0]) for bias in (network.skip_bias, network.head_bias, network.last_bias)
    )
    sizes = [padded(network.channels), padded(network.gate_channels), network.kernel]
    sizes += [network.first_kernel, skips, head, parameters]
    sizes += [network.first_weight.shape[1], network.features]
    dilations = [layer.dilation for layer in layers]
    return PackedNetwork([each.contiguous() for each in weights], sizes, dilations)


def pack_condition(condition: Tensor, layers: int) -> Tensor:
    """Return what gates are given (B, layers 2 G) with both halves of each layer padded."""
    return pad_last(condition.unflatten(1, (layers, 2, -1))).flatten(1).contiguous()


def _pad_rows(x: Tensor) -> Tensor:
    """Pad the rows and columns of matrices (*, in, out)."""
    rows = x.shape[-2]
    return F.pad(pad_last(x), (0, 0, 0, padded(rows) - rows))


def _matrix(weight: Tensor) -> Tensor:
    """Return the matrix (in, out) of a convolution of one tap."""
    return pad_last(weight[..., 0].T)


def _gates(weight: Tensor) -> Tensor:
    """Pad each half of the 2 G outputs of a convolution."""
    return pad_last(weight.unflatten(0, (2, -1)).movedim(1, -1)).movedim(-1, 1).flatten(0, 1)


def _residual(network: WaveNetNetwork, place: int) -> Tensor:
    """Return W_r (G, R), zeros where there is none."""
    weight = network.layers[place].residual_weight
    if weight is None:
        size = network.gate_channels, network.channels
        return _pad_rows(network.first_bias.new_zeros(size))
    return _pad_rows(weight.reshape(weight.shape[:2]).T)
