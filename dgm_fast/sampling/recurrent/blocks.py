"""Which recurrent networks the CUDA sampler runs, and which sooner than a CUDA graph would."""

from __future__ import annotations

from dgm_fast.sampling import sequence_blocks
from dgm_fast.sampling.gpu_blocks import sums_of_parts
from dgm_fast.sampling.padding import padded
from dgm_fast.sampling.recurrent.network import RecurrentNetwork
from dgm_fast.sampling.recurrent.packed import table_inputs
from dgm_fast.sampling.sequence_blocks import block_bytes, matrix_floats

__all__ = ["is_small", "shared_bytes", "unavailable_reason"]

# What a block reads of weights while a graph is replayed and its token picked, as measured on an
# H200.
_MOST_BYTES = 63e9 * 220e-6


def unavailable_reason(network: RecurrentNetwork) -> str | None:
    """Return why the kernel cannot run a network on its GPU, or None when it can."""
    width, outs = network.width, _sums_of_a_layer(network)
    largest = [
        ("a layer's matrix", matrix_floats(max(width, network.embedding.shape[1]), outs)),
        ("the head", matrix_floats(width, len(network.head_weight))),
    ]
    device, needed = network.head_weight.device, shared_bytes(network)
    return sequence_blocks.unavailable_reason(device, len(network.layers), largest, needed)


def is_small(network: RecurrentNetwork) -> bool:
    """Whether a block reads a token's weights before a graph has launched it."""
    width, layers, outs = network.width, len(network.layers), _sums_of_a_layer(network)
    floats = (2 * layers - 1) * matrix_floats(width, outs)
    floats += matrix_floats(table_inputs(network), outs)
    floats += matrix_floats(width, len(network.head_weight))
    return 4 * floats <= _MOST_BYTES


def shared_bytes(network: RecurrentNetwork) -> int:
    """Return what a block of one sequence shares, as `Shared` of the kernel's `block.h` has it."""
    width, outs, layers = network.width, _sums_of_a_layer(network), len(network.layers)
    inputs, outputs = table_inputs(network), len(network.head_weight)
    of_state = sums_of_parts(width, outs)
    of_input = sums_of_parts(inputs, outs) if inputs else 0
    if layers > 1:
        of_input = max(of_input, of_state)
    sums = max(of_state + of_input, sums_of_parts(width, padded(outputs)))
    states = layers * padded(width)
    cells = states if network.cell == "lstm" else 0
    return block_bytes([padded(inputs), states, cells], outputs, sums)


def _sums_of_a_layer(network: RecurrentNetwork) -> int:
    """Return how many columns the matrices of a layer have."""
    return (4 if network.cell == "lstm" else 3) * padded(network.width)
