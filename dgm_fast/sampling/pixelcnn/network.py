"""What a sampler of images is made from: a network as steps that every pixel goes through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dgm_fast.distributions import PixelOutput
from dgm_fast.layers import MaskedConv2d

__all__ = ["MAPS", "Affine", "Draw", "Map", "PixelNetwork", "Step", "Term", "Value", "conv_terms"]

# A function of a value, and how many parts it makes of how many: two are halves under a gate, or
# both signs. `gate` is tanh(a) sigmoid(b), `glu` a sigmoid(b).
MAPS = {"relu": (1, 1), "elu": (1, 1), "concat_elu": (1, 2), "gate": (2, 1), "glu": (2, 1)}


@dataclass(frozen=True)
class Value:
    """Features that a step computes at pixels.

    Attributes:
        index: its own.
        channels: of each part.
        parts: one or two.
        stride: it exists at pixels whose row and column are multiples of that, a power of two.
        group: how many draws of its pixel it waits for.
    """

    index: int
    channels: int
    parts: int = 1
    stride: int = 1
    group: int = 0


@dataclass(frozen=True)
class Term:
    """What an affine step sees of a value: products with it at some places.

    Attributes:
        source: the value.
        weight: (out, in, taps).
        offsets: of each tap, rows down and columns right, in pixels of the image. Where the value
            does not exist, beyond the image or between the pixels of its stride, is nothing.
    """

    source: Value
    weight: Tensor
    offsets: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Affine:
    """A bias, what the label adds (classes, out), another value, and products with others.

    All of it goes through `then`, `relu` or `elu`, if that is given.
    """

    out: Value
    terms: tuple[Term, ...]
    bias: Tensor
    label: Tensor | None
    add: Value | None
    then: str | None = None


@dataclass(frozen=True)
class Map:
    """A function of `MAPS` of a value, and another value added."""

    out: Value
    kind: str
    source: Value
    add: Value | None


@dataclass(frozen=True)
class Draw:
    """Puts what is drawn of parameters into a value of the image."""

    out: Value
    source: Value


Step = Affine | Map | Draw


class PixelNetwork:
    """A network of images in raster order, described step by step.

    An image enters as one value for each draw of a pixel: all of its channels, or one each. A
    family describes itself by adding steps; a value is added before it is looked at. Weights are
    those of the family's own modules, until a sampler copies them.

    Arguments:
        size: (H, W) of the image.
        output: the distribution of a pixel.
        ones: give the image a last channel, 1 at all its pixels and 0 beyond.

    Attributes:
        image: the values of the image.

    Raises:
        ValueError: a function is given a value of another number of parts.

    Example:
        >>> import torch
        >>> from dgm_fast.distributions import make_pixel_output
        >>> from dgm_fast.layers import MaskedConv2d
        >>> from dgm_fast.sampling import PixelNetwork, PixelSampler
        >>> output = make_pixel_output("categorical", channels=1, levels=4, components=1)
        >>> first, last = MaskedConv2d(1, 8, 3, "A"), MaskedConv2d(8, 4, 3, "B")
        >>> net = PixelNetwork((5, 6), output)
        >>> hidden = net.maps("relu", net.masked(net.image, first))
        >>> sampler = PixelSampler(net.draw(net.masked(hidden, last)))
        >>> sampler.draw(sampler.start(2)).images.shape
        torch.Size([2, 1, 5, 6])
    """

    def __init__(self, size: tuple[int, int], output: PixelOutput, *, ones: bool = False) -> None:
        self.size, self.output, self.ones = size, output, ones
        self.values: list[Value] = []
        self.steps: list[Step] = []
        self._maps: dict[tuple[str, Value], Value] = {}
        channels = output.values_at_once + ones
        self.image = [self._value(channels, group=g + 1) for g in range(output.ordered_channels)]

    @property
    def weight(self) -> Tensor:
        """One of the weights, whose dtype and device are the network's."""
        return next(step.bias for step in self.steps if isinstance(step, Affine))

    @property
    def classes(self) -> int:
        """Of the labels, or 0."""
        labels = (step.label for step in self.steps if isinstance(step, Affine))
        return max((len(label) for label in labels if label is not None), default=0)

    def affine(
        self,
        terms: Iterable[Term],
        *biases: Tensor | None,
        label: Tensor | None = None,
        add: Value | None = None,
        parts: int = 1,
        stride: int = 1,
        group: int = 0,
    ) -> Value:
        """Add an affine step; returns its value."""
        terms = tuple(terms)
        given = [bias for bias in biases if bias is not None]
        out = terms[0].weight.shape[0]
        bias = sum(given) if given else terms[0].weight.new_zeros(out)
        value = self._value(out // parts, parts, stride, group)
        self.steps.append(Affine(value, terms, bias, label, add))
        return value

    def map(self, kind: str, source: Value, add: Value | None = None) -> Value:
        """Add a function of a value; the same one again is the same value."""
        if add is None and (kind, source) in self._maps:
            return self._maps[kind, source]

        if source.parts != MAPS[kind][0]:
            raise ValueError(f"{kind} must be of {MAPS[kind][0]} parts; got {source.parts}")
        value = self._value(source.channels, MAPS[kind][1], source.stride, source.group)
        self.steps.append(Map(value, kind, source, add))
        if add is None:
            self._maps[kind, source] = value
        return value

    def maps(self, kind: str, sources: Sequence[Value]) -> list[Value]:
        """Add the same function of each of some values."""
        return [self.map(kind, source) for source in sources]

    def draw(self, parameters: Sequence[Value]) -> PixelNetwork:
        """End with the parameters of each draw of a pixel; returns the network."""
        for image, source in zip(self.image, parameters, strict=True):
            self.steps.append(Draw(image, source))
        return self

    def masked(
        self,
        sources: Sequence[Value],
        conv: nn.Conv2d,
        *,
        beside: tuple[Value, nn.Conv2d] | None = None,
        label: Tensor | None = None,
        add: Sequence[Value] | None = None,
    ) -> list[Value]:
        """Add a masked convolution, whose groups of channels are values of their own.

        Arguments:
            sources: of each group.
            conv: a `MaskedConv2d`, or a convolution of one group.
            beside: a value of no group and a convolution of its single pixels, added before a gate.
            label: what each label adds, (classes, out).
            add: a value that is added to each group's.
        """
        groups, parts, mask = len(sources), 1, torch.ones_like(conv.weight)
        if isinstance(conv, MaskedConv2d):
            parts, mask = 1 + conv.gated, conv.mask
        origin = tuple(side // 2 for side in conv.kernel_size)

        def of(x: Tensor | None, g: int) -> Tensor | None:
            return None if x is None else x.unflatten(0, (parts, groups, -1))[:, g].flatten(0, 1)

        values = []
        for g in range(groups):
            weight, live = of(conv.weight * mask, g), of(mask, g) != 0
            terms, biases = conv_terms(sources, weight, origin, conv.dilation, live), [conv.bias]
            if beside is not None:
                terms += conv_terms(beside[:1], of(beside[1].weight, g), (0, 0))
                biases.append(beside[1].bias)
            added = None if add is None else add[g]
            of_label = None if label is None else of(label.T, g).T
            options = {"label": of_label, "add": added, "parts": parts, "group": g}
            values.append(self.affine(terms, *(of(bias, g) for bias in biases), **options))
        return values

    def _value(self, channels: int, parts: int = 1, stride: int = 1, group: int = 0) -> Value:
        value = Value(len(self.values), channels, parts, stride, group)
        self.values.append(value)
        return value


def conv_terms(
    sources: Sequence[Value],
    weight: Tensor,
    origin: tuple[int, int],
    step: tuple[int, int] = (1, 1),
    live: Tensor | None = None,
) -> list[Term]:
    """Return the terms of a convolution of values, whose channels follow one another.

    Arguments:
        sources: what it sees.
        weight: (out, in, rows, columns).
        origin: the row and column of the kernel that lie at the pixel itself.
        step: from row to row and from column to column, in pixels.
        live: which weights count, bool; places without any are left out.
    """
    places = torch.cartesian_prod(*(torch.arange(side) for side in weight.shape[2:])).tolist()
    offsets = [tuple((i - o) * s for i, o, s in zip(p, origin, step, strict=True)) for p in places]
    sizes = [source.channels * source.parts for source in sources]
    parts = [] if live is None else live.flatten(2).split(sizes, dim=1)

    terms = []
    for place, (source, matrices) in enumerate(
        zip(sources, weight.flatten(2).split(sizes, dim=1), strict=True)
    ):
        kept = parts[place].any(0).any(0).tolist() if parts else [True] * len(offsets)
        taps = [tap for tap, keep in enumerate(kept) if keep]
        if taps:
            terms.append(Term(source, matrices[..., taps], tuple(offsets[tap] for tap in taps)))
    return terms
