"""Which networks the CUDA sampler runs: what a block of threads shares has to fit its memory."""

from __future__ import annotations

import torch

from dgm_fast._core.integers import ceil_div
from dgm_fast.sampling.wavenet.network import WaveNetNetwork
from dgm_fast.sampling.wavenet.state import padded

__all__ = ["shared_bytes", "unavailable_reason"]

# As in csrc: wavenet_sampler/cuda.cu, common/block_products.h and common/block_draws.h.
_MOST_LAYERS, _TASKS, _QUAD, _ROWS, _SEGMENTS = 200, 256, 4, 8, 32
_MOST_RING_FLOATS = 2**31
# The oldest GPU that the extension is compiled for.
_CAPABILITY = (8, 0)


def unavailable_reason(network: WaveNetNetwork) -> str | None:
    """Return why the kernel cannot run a network on its GPU, or None when it can."""
    device = torch.cuda.get_device_properties(network.last_weight.device)
    if (device.major, device.minor) < _CAPABILITY:
        return f"it needs compute capability 8.0; {device.name} has {device.major}.{device.minor}"

    layers, floats = len(network.layers), sum(network.slots) * padded(network.channels)
    if layers > _MOST_LAYERS:
        return f"it has at most {_MOST_LAYERS} layers; got {layers}"
    if floats >= _MOST_RING_FLOATS:
        return f"a signal's rings must hold less than {_MOST_RING_FLOATS} floats; got {floats}"

    needed, has = shared_bytes(network), device.shared_memory_per_block_optin
    if needed > has:
        return f"a signal needs {needed} bytes of shared memory, of which {device.name} has {has}"
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
        *(_SEGMENTS, 2 * _SEGMENTS),
        network.first_kernel,
        layers * taps,
    ]
    return 4 * sum(ceil_div(size, _QUAD) * _QUAD for size in sizes)


def _partial_sums(ins: int, outs: int) -> int:
    """Return how many sums of parts of its rows a product leaves, as `Cut` cuts it."""
    rows = ceil_div(ins // _ROWS, max(1, _TASKS // (outs // _QUAD))) * _ROWS
    return ceil_div(ins, rows) * outs
