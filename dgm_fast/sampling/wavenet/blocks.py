"""Which networks the CUDA sampler runs: what a block of threads shares has to fit its memory."""

from __future__ import annotations

from dgm_fast._core.integers import ceil_div
from dgm_fast.sampling.gpu_blocks import (
    QUAD,
    ROWS,
    SEGMENTS,
    TASKS,
    bytes_of,
    shares_too_much,
    too_old,
)
from dgm_fast.sampling.padding import padded
from dgm_fast.sampling.wavenet.network import WaveNetNetwork

__all__ = ["shared_bytes", "unavailable_reason"]

# As in csrc: wavenet_sampler/cuda.cu.
_MOST_LAYERS = 200
_MOST_RING_FLOATS = 2**31


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
    if floats >= _MOST_RING_FLOATS:
        return f"a signal's rings must hold less than {_MOST_RING_FLOATS} floats; got {floats}"
    return None


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
        max(_partial_sums(*each) for each in products),
        *(SEGMENTS, 2 * SEGMENTS),
        network.first_kernel,
        layers * taps,
    ]
    return bytes_of(sizes)


def _partial_sums(ins: int, outs: int) -> int:
    """Return how many sums of parts of its rows a product leaves, as `Cut` cuts it."""
    rows = ceil_div(ins // ROWS, max(1, TASKS // (outs // QUAD))) * ROWS
    return ceil_div(ins, rows) * outs
