"""The parameters of a transformer as its kernels take them, and the cache as they keep it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dgm_fast.layers.rotary import rotary_table
from dgm_fast.sampling.padding import pad_last, padded
from dgm_fast.sampling.panels import in_panels
from dgm_fast.sampling.transformer.network import TransformerLayer, TransformerNetwork
from dgm_fast.sampling.transformer.passes import Cache

__all__ = ["PackedTransformer"]

# Places of a block of keys, which lie side by side.
BLOCK = 16


class PackedTransformer:
    """Arguments of the operator.

    Arguments:
        network: of float32.
        laid_out: how matrices lie: `in_panels` or `in_rows`.

    Attributes:
        weights: embedding, positions, turns and head, then of each layer its four matrices: the
            norms' gains are part of those after them, heads are padded.
        sizes: in the order of `Sizes` in the kernel's `problem.h`.
    """

    def __init__(
        self, network: TransformerNetwork, laid_out: Callable[[Tensor], Tensor] = in_panels
    ) -> None:
        width, heads = network.width, network.heads
        head, hidden = width // heads, len(network.layers[0].up)
        self.sizes = [width, heads, head, hidden, len(network.head), network.length]
        none = network.head.new_zeros(0)
        positions, turns = network.positions, none
        if positions is None:
            positions = none
            turns = rotary_table(network.length, head, none.device).transpose(0, 1).contiguous()
        self.weights = [pad_last(network.embedding), pad_last(positions), turns]
        self.weights.append(laid_out(_after_norm(network.head, network.norm)))
        for layer in network.layers:
            self.weights += map(laid_out, _layer(layer, heads))

    @property
    def multiply_adds(self) -> int:
        """Return about how many an input of a full window takes."""
        width, *_, length = self.sizes
        layers = (len(self.weights) - 4) // 4
        return sum(each.numel() for each in self.weights[3:]) + 2 * layers * length * width

    def new_cache(self, batch: int) -> Cache:
        """Return the cache of a batch that nothing has been looked at of.

        Shapes:
            Of each layer keys (B, heads, blocks of 16 places, d, 16) and values (B, heads, T, d),
            their d padded.
        """
        (_, heads, head, *_, length), like = self.sizes, self.weights[0]
        keys = batch, heads, -(-length // BLOCK), head, BLOCK
        values = batch, heads, length, padded(head)
        layers = (len(self.weights) - 4) // 4
        return [(like.new_zeros(keys), like.new_zeros(values)) for _ in range(layers)]


def _layer(layer: TransformerLayer, heads: int) -> list[Tensor]:
    """Return the matrices (in, out) of queries, keys and values, out, up and down."""
    qkv = pad_last(layer.qkv.unflatten(0, (3 * heads, -1)).transpose(1, 2)).transpose(1, 2)
    out = pad_last(layer.out.unflatten(1, (heads, -1))).flatten(1)
    return [
        _after_norm(qkv.flatten(0, 1), layer.attention_norm),
        out.T,
        _after_norm(layer.up, layer.feedforward_norm),
        layer.down.T,
    ]


def _after_norm(weight: Tensor, gain: Tensor) -> Tensor:
    return (weight * gain).T
