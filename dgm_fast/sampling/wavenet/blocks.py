"""Which networks the CUDA sampler runs: what a block of threads shares has to fit its memory."""

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

__all__ = ["shared_bytes", "unavailable_reason"]

# As in csrc: wavenet_sampler/cuda.cu.
_MOST_LAYERS = 200


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


def shared_bytes(network: WaveNetNetwork) -> int:
    """Return what a block of one signal shares, as `Shared` of the kernel's `block.h` has it."""
    layers, taps = len(network.layers), network.kernel - 1
    channels, gated = padded(network.channels), padded(network.gate_channels)
    skips, head, parameters = (
        padded(bias.shape[0]) for bias in (network.skip_bias, network.head_bias, network.last_bias)
    )
    products = [(channels, 2 * gated), (gated, channels), (layers * gated, skips)]
    products += [(skips, head), (head, parameters)]
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
