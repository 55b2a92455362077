"""Which transformers the CUDA sampler runs, and which of them sooner than a CUDA graph would."""

from __future__ import annotations

from dgm_fast.sampling import sequence_blocks
from dgm_fast.sampling.gpu_blocks import sums_of_parts
from dgm_fast.sampling.padding import padded
from dgm_fast.sampling.sequence_blocks import block_bytes, matrix_floats
from dgm_fast.sampling.transformer.network import TransformerNetwork

__all__ = ["is_small", "shared_bytes", "unavailable_reason"]

# As in csrc/transformer_sampler/block_memory.h.
_PARTS = 16
# Where both take as long, between two networks measured on an H200: of 0.9 MB a layer a token took
# the block 27 us a layer and a graph 65, of 7.5 MB 289 and 79.
_BYTES_OF_A_LAYER = 2.0e6


def unavailable_reason(network: TransformerNetwork) -> str | None:
    """Return why the kernel cannot run a network on its GPU, or None when it can."""
    largest = [("a matrix", max(matrix_floats(*size) for size in _matrices(network)))]
    kept = network.heads * network.length * padded(network.width // network.heads)
    largest.append(("a layer's keys of a sequence", kept))
    device, needed = network.head.device, shared_bytes(network)
    return sequence_blocks.unavailable_reason(device, len(network.layers), largest, needed)


def is_small(network: TransformerNetwork) -> bool:
    """Whether a block reads a token's weights, keys and values before a graph has launched it."""
    *of_layer, of_head = (matrix_floats(*size) for size in _matrices(network))
    layers, cache = len(network.layers), 2 * network.length * network.width
    floats = layers * (sum(of_layer) + cache) + of_head
    return 4 * floats <= layers * _BYTES_OF_A_LAYER


def shared_bytes(network: TransformerNetwork) -> int:
    """Return what a block of one sequence shares, as `Shared` of `block_memory.h` has it."""
    heads, hidden = network.heads, len(network.layers[0].up)
    width, channels = padded(network.width), _channels(network)
    products = [sums_of_parts(ins, padded(outs)) for ins, outs in _matrices(network)]
    own = [
        *(width, width, 2 * _PARTS),
        *(channels, heads * network.length, heads * _PARTS, heads * _PARTS),
        padded(hidden),
    ]
    return block_bytes(own, len(network.head), max(_PARTS * channels, *products))


def _matrices(network: TransformerNetwork) -> list[tuple[int, int]]:
    """Return the sizes (in, out) of a layer's matrices and of the head, heads padded."""
    width, hidden, channels = network.width, len(network.layers[0].up), _channels(network)
    of_layer = [(width, 3 * channels), (channels, width), (width, hidden), (hidden, width)]
    return [*of_layer, (width, len(network.head))]


def _channels(network: TransformerNetwork) -> int:
    """Return how many channels the heads have together, each padded."""
    return network.heads * padded(network.width // network.heads)
