"""Where a network's values are kept, and which of its products are made a row at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast.sampling.padding import padded
from dgm_fast.sampling.pixelcnn.network import Affine, Draw, Map, PixelNetwork, Step, Value

__all__ = ["IN_ROW", "IN_STATE", "KINDS", "Place", "Plan", "Tap", "Work", "make_plan"]

# In the order of `Kind` in the kernel's `problem.h`.
KINDS = ("affine", "draw", "relu", "elu", "concat_elu", "gate", "glu")
# Where a value is kept: in the state, for the row that is being drawn, or for the pixel.
IN_STATE, IN_ROW, IN_PIXEL = range(3)


@dataclass(frozen=True)
class Place:
    """Where a value is kept: (rows, columns, floats), the image's row r in row r / stride % rows.

    Attributes:
        floats: of a pixel; each part is padded with zeros.
        depth: floats up to the last that is not padding.
        stride: of the value.
        rows: as many as will be looked back on, and the one being drawn.
        columns: that the value has.
        where: `IN_STATE`, `IN_ROW` or `IN_PIXEL`.
        offset: among the floats of a sample, or of a pixel, that are kept there.
    """

    floats: int
    depth: int
    stride: int
    rows: int
    columns: int
    where: int
    offset: int


@dataclass(frozen=True)
class Tap:
    """A product with a value at one offset: matrix (depth, floats of the result)."""

    source: int
    down: int
    right: int
    matrix: Tensor


@dataclass(frozen=True)
class Work:
    """A step as it is run.

    Attributes:
        kind: of `KINDS`.
        group: how many draws of its pixel it waits for.
        out: a value.
        source: that of a map or a draw, or -1.
        add: a value that is added, or -1.
        then: `relu` or `elu` of an affine step, or None.
        bias: offset of an affine step's in the condition.
        above: taps known before the row is begun.
        own: the others.
        ahead: whether the value depends on rows above alone, so that all of its row is known.
        for_draw: whether only draws of this pixel depend on it, or it is one.
    """

    kind: str
    group: int
    out: int
    source: int
    add: int
    then: str | None
    bias: int
    above: tuple[Tap, ...]
    own: tuple[Tap, ...]
    ahead: bool
    for_draw: bool


@dataclass(frozen=True)
class Plan:
    """A network ready to run.

    Attributes:
        places: of each value.
        works: the steps, layer by layer. A pixel that is drawn goes through those of each group,
            one group after another.
        floats: of a sample's state.
        bias: (1, floats of the condition).
        labels: (classes, the same), what a label adds.
        multiply_adds: of a pixel, on average.
    """

    places: list[Place]
    works: list[Work]
    floats: int
    bias: Tensor
    labels: Tensor
    multiply_adds: int


def make_plan(network: PixelNetwork, dtype: torch.dtype) -> Plan:
    """Lay a network out, with copies of its weights in another dtype.

    Raises:
        ValueError: a step sees what is not known when its turn comes.
    """
    steps = _fused(network.steps)
    ahead, remembered = _ahead(steps), _remembered(steps)
    places = _places(network, steps, ahead)
    affine = [step for step in steps if isinstance(step, Affine)]
    biases = [_padded_rows(step.bias[None], step.out, dtype) for step in affine]
    labels = []
    for step in affine:
        label = step.bias.new_zeros(network.classes, len(step.bias))
        label = label if step.label is None else step.label
        labels.append(_padded_rows(label, step.out, dtype))

    works, begin = [], 0
    for step in steps:
        works.append(_work(step, ahead, remembered, begin, dtype))
        if isinstance(step, Affine):
            begin += places[step.out.index].floats
    floats = sum(_size(place) for place in places if place.where == IN_STATE)
    products = sum(
        term.weight.numel() / step.out.stride**2 for step in affine for term in step.terms
    )
    return Plan(places, works, floats, torch.cat(biases, 1), torch.cat(labels, 1), int(products))


def _sees(step: Step) -> Iterator[tuple[Value, tuple[int, int]]]:
    """Yield the values that a step sees, each with the offset, rows down and columns right."""
    if isinstance(step, Affine):
        yield from ((term.source, offset) for term in step.terms for offset in term.offsets)
    else:
        yield step.source, (0, 0)
    if not isinstance(step, Draw) and step.add is not None:
        yield step.add, (0, 0)


def _fused(steps: list[Step]) -> list[Step]:
    """Let an affine step that only a `relu` or an `elu` sees put that out itself."""
    seen = Counter(source.index for step in steps for source, _ in _sees(step))
    affine = {step.out.index for step in steps if isinstance(step, Affine)}
    then = {
        step.source.index: step
        for step in steps
        if isinstance(step, Map) and step.kind in ("relu", "elu") and step.add is None
        if step.source.index in affine and seen[step.source.index] == 1
    }
    return [
        replace(step, out=then[step.out.index].out, then=then[step.out.index].kind)
        if step.out.index in then
        else step
        for step in steps
        if step not in then.values()
    ]


def _ahead(steps: list[Step]) -> set[int]:
    """Return the values that depend on rows above alone."""
    ahead: set[int] = set()
    for step in steps:
        above = True
        for source, (down, right) in _sees(step):
            known = down < 0 or (down == 0 and source.index in ahead)
            own = down == 0 and (right < 0 or (right == 0 and source.group <= step.out.group))
            if not (known or own):
                raise ValueError(
                    f"steps must see what comes before their pixel; got one that sees value "
                    f"{source.index} {down} rows down and {right} columns to the right"
                )
            above = above and known
        if above and not isinstance(step, Draw):
            ahead.add(step.out.index)
    return ahead


def _remembered(steps: list[Step]) -> set[int]:
    """Return the values on which other pixels depend."""
    remembered: set[int] = set()
    for step in reversed(steps):
        for source, offset in _sees(step):
            elsewhere = offset != (0, 0) or source.stride != step.out.stride
            if elsewhere or (step.out.index in remembered and not isinstance(step, Draw)):
                remembered.add(source.index)
    return remembered


def _places(network: PixelNetwork, steps: list[Step], ahead: set[int]) -> list[Place]:
    """Choose where each value is kept: no longer than it is looked at."""
    looks: dict[int, list[tuple[int, int]]] = {}
    in_row = set(ahead)
    for step in steps:
        for source, (down, right) in _sees(step):
            looks.setdefault(source.index, []).append((down, right))
            if source.stride != step.out.stride:
                in_row.add(source.index)
            # Its sum is begun with all of its row.
            if isinstance(step, Affine) and (down < 0 or source.index in ahead):
                in_row.add(step.out.index)

    used, places = [0, 0, 0], []
    made = {step.out.index for step in steps}
    for value in network.values:
        seen = looks.get(value.index, [])
        rows = 1 + max((-down // value.stride for down, _ in seen), default=0)
        where = IN_PIXEL
        if any(down < 0 for down, _ in seen):
            where = IN_STATE
        elif value.index in in_row or any(right != 0 for _, right in seen):
            where = IN_ROW
        channels = padded(value.channels)
        columns = -(-network.size[1] // value.stride) if value.index in made else 0
        floats, depth = value.parts * channels, (value.parts - 1) * channels + value.channels
        place = Place(floats, depth, value.stride, rows, columns, where, used[where])
        used[where] += floats if where == IN_PIXEL else _size(place)
        places.append(place)
    return places


def _size(place: Place) -> int:
    return place.rows * place.columns * place.floats


def _work(step: Step, ahead: set[int], remembered: set[int], bias: int, dtype: torch.dtype) -> Work:
    above, own = [], []
    for term in step.terms if isinstance(step, Affine) else ():
        for tap, (down, right) in enumerate(term.offsets):
            matrix = _matrix(term.weight[..., tap], term.source, step.out, dtype)
            known = down < 0 or term.source.index in ahead
            (above if known else own).append(Tap(term.source.index, down, right, matrix))
    affine, drawn = isinstance(step, Affine), isinstance(step, Draw)
    return Work(
        "affine" if affine else "draw" if drawn else step.kind,
        step.source.group if drawn else step.out.group,
        step.out.index,
        -1 if affine else step.source.index,
        -1 if drawn or step.add is None else step.add.index,
        step.then if affine else None,
        bias,
        tuple(above),
        tuple(own),
        step.out.index in ahead,
        drawn or step.out.index not in remembered,
    )


def _matrix(weight: Tensor, source: Value, out: Value, dtype: torch.dtype) -> Tensor:
    """Return a matrix (out, in) input-major, as places hold both sides."""
    rows = _padded_rows(_padded_rows(weight, source, dtype).T, out, dtype)
    # What pads the last channels has no row.
    unused = padded(source.channels) - source.channels
    return rows[: len(rows) - unused].contiguous()


def _padded_rows(x: Tensor, value: Value, dtype: torch.dtype) -> Tensor:
    """Return a copy of x (*, channels of all parts) as places hold them."""
    parts = x.detach().unflatten(-1, (value.parts, value.channels))
    return (
        F.pad(parts, (0, padded(value.channels) - value.channels)).flatten(-2).to(dtype, copy=True)
    )
