"""Which networks the CUDA sampler runs, and which of them sooner than a CUDA graph would."""

from __future__ import annotations

from dgm_fast.sampling.gpu_blocks import (
    SEGMENTS,
    bytes_of,
    shares_too_much,
    sums_of_parts,
    too_large,
    too_old,
)
from dgm_fast.sampling.padding import padded
from dgm_fast.sampling.wavenet.network import WaveNetNetwork

__all__ = ["is_small", "shared_bytes", "unavailable_reason"]

# As in csrc: wavenet_sampler/cuda.cu.
_MOST_LAYERS = 200
# What a block reads of weights while a graph goes through a layer, as measured on an H200.
_BYTES_OF_A_LAYER = 45e9 * 16e-6


def unavailable_reason(network: WaveNetNetwork) -> str | None:
    """Return why the kernel cannot run a network on its GPU, or None when it can."""
    device = network.last_weight.device
    return (
        too_old(device)
        or _too_large(network)
        or shares_too_much(device, shared_bytes(network), "a signal")
    )


def _too_large(network: WaveNetNetwork) -> str | None:
    layers, floats = len(network.layers), sum(network.slots) * padded(network.channels)
    if layers > _MOST_LAYERS:
        return f"it has at most {_MOST_LAYERS} layers; got {layers}"
    return too_large([("a signal's rings", floats)])


def is_small(network: WaveNetNetwork) -> bool:
    """Whether a block reads a sample's weights before a graph has gone through the layers."""
    layers = len(network.layers)
    channels, gated, *_ = _widths(network)
    seen = (network.kernel - 1) * channels + padded(network.features)
    last_tap, residual, *after = (ins * outs for ins, outs in _products(network))
    floats = layers * (last_tap + seen * 2 * gated + residual) + sum(after)
    return 4 * floats <= layers * _BYTES_OF_A_LAYER


def shared_bytes(network: WaveNetNetwork) -> int:
    """Return what a block of one signal shares, as `Shared` of the kernel's `block.h` has it."""
    layers, taps = len(network.layers), network.kernel - 1
    channels, gated, skips, head, parameters = _widths(network)
    products = _products(network)
    sizes = [
        channels,
        layers * 2 * gated,
        layers * max(gated, taps * channels),
        padded(network.features),
        *(skips, head, parameters),
        max(sums_of_parts(*each) for each in products),
        *(SEGMENTS, 2 * SEGMENTS),
        network.first_kernel,
        layers * taps,
    ]
    return bytes_of(sizes)


def _widths(network: WaveNetNetwork) -> list[int]:
    """Return channels, of them gated, skips, and outputs of the two maps after, all padded."""
    biases = network.skip_bias, network.head_bias, network.last_bias
    widths = [network.channels, network.gate_channels, *(len(bias) for bias in biases)]
    return [padded(width) for width in widths]


def _products(network: WaveNetNetwork) -> list[tuple[int, int]]:
    """Return the sizes (in, out) of a layer's last tap and residual, the skips and two maps."""
    channels, gated, skips, head, parameters = _widths(network)
    of_layer = [(channels, 2 * gated), (gated, channels)]
    return [*of_layer, (len(network.layers) * gated, skips), (skips, head), (head, parameters)]
