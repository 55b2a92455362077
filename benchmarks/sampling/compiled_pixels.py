"""The cached loop of PixelCNNs as `torch.compile` likes it: functions of tensors of fixed shapes.

One makes all that is known before a row, of the rows above. Another makes a pixel of what the first
says of its column and of what pixels to the left have made, which moves along with it, so that
nothing is indexed by the column. Where values have strides it makes as many pixels as the largest
spans, and rows that are multiples of other strides have functions of their own. On a CPU both are
one function, whose loop over the columns, `scan`, is compiled, too; on a GPU a CUDA graph replays
the calls of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops.scan import scan

from benchmarks.sampling.compiled import Compiler
from dgm_fast.distributions import PixelOutput
from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.graph import StepGraph
from dgm_fast.sampling.pixelcnn.eager import MAPS, EagerLoop, kept_at
from dgm_fast.sampling.pixelcnn.plan import IN_STATE, Plan, Tap, Work
from dgm_fast.sampling.pixelcnn.state import PixelState

__all__ = ["CompiledLoop"]

Values = dict[tuple[int, int], Tensor]
# A step of a pixel; its taps, each a value and how many values back; where its matrix begins.
PixelStep = tuple[Work, list[tuple[int, int]], int]


class CompiledLoop(EagerLoop):
    """Draws as `EagerLoop` does.

    Arguments:
        compiler: of functions.
        capture: turns the calls of a row and its inputs into what replays them; None compiles the
            loop over the columns.
    """

    # Of the last batch, by the remainder of a row.
    _kinds: dict[int, RowKind]
    _made_for: tuple[object, ...] = ()

    def __init__(
        self,
        plan: Plan,
        output: PixelOutput,
        size: tuple[int, int],
        compiler: Compiler,
        capture: Callable[..., Callable[..., tuple[Tensor, ...]]] | None = None,
    ) -> None:
        super().__init__(plan, output, size)
        is_on_gpu = plan.bias.is_cuda and capture is None
        self.compiler, self.capture = compiler, StepGraph if is_on_gpu else capture
        self.period = max(place.stride for place in plan.places)

    def draw_row(
        self,
        state: PixelState,
        row: int,
        given: Sequence[bool],
        filters: Filters,
        parameters_out: Tensor | None,
    ) -> None:
        """Draw a row; one that is given to all goes through at once, and is not compiled."""
        if all(given) or parameters_out is not None:
            super().draw_row(state, row, given, filters, parameters_out)
            return
        wanted = state.batch, len(state.condition), filters
        if self._made_for != wanted:
            self._made_for, self._kinds = wanted, {}
        remainder = row % self.period
        if remainder not in self._kinds:
            kind = RowKind(self, remainder, filters)
            same = (each for each in self._kinds.values() if each.looks == kind.looks)
            self._kinds[remainder] = next(same, kind)
        self._kinds[remainder].draw(state, row)


class RowKind:
    """Rows that are multiples of the same strides, and what is made in them.

    Attributes:
        looks: which values are here, and which above, of those that are looked at.
    """

    def __init__(self, loop: CompiledLoop, remainder: int, filters: Filters) -> None:
        self.loop, self.filters, self.output = loop, filters, loop.output
        self.places, self.width = loop.plan.places, loop.size[1]
        self.is_here = [remainder % place.stride == 0 for place in self.places]
        here = [each for each in loop.by_layer if self.is_here[each[1].out]]
        self.before = [each for each in here if each[1].ahead or each[1].above]
        self.own = [work for _, work in loop.by_group if self.is_here[work.out]]
        self.own = [work for work in self.own if not work.ahead]

        looked = {(tap.source, tap.down) for _, work in self.before for tap in work.above}
        self.looked = [
            (value, down)
            for value, down in sorted(looked)
            if down < 0 and (remainder + down) % self.places[value].stride == 0
        ]
        self.looks = self.is_here, self.looked
        known = {work.out for _, work in self.before if work.ahead}
        begun = [work.out for _, work in self.before if not work.ahead]
        added = {value for work in self.own for value in (work.add, work.source)}
        self.seen = begun + sorted(known & added)
        self.kept_before = [value for value in sorted(known) if self._is_kept(value)]
        self.kept = [work.out for work in self.own if self._is_kept(work.out)]
        self.sizes = [self.output.channels, *(self.places[value].floats for value in self.kept)]

        self.period = max(self.places[work.out].stride for work in self.own)
        # How many values back pixels look at each.
        self.left: dict[int, int] = {}
        self.weights, self.pixels = self._steps()
        self._row = None if loop.capture else loop.compiler(self.row)
        self._begin, self._body = (
            map(loop.compiler, (self.begin, self.body)) if loop.capture else (None, None)
        )

    def _is_kept(self, value: int) -> bool:
        return self.places[value].where == IN_STATE

    def _steps(self) -> tuple[Tensor, list[list[PixelStep]]]:
        """Return the weights, one after another, and the steps of the pixels of a period."""
        weights, size, begins, pixels = [], 0, {}, []
        for column in range(self.period):
            steps = []
            for work in self.own:
                if column % self.places[work.out].stride != 0:
                    continue
                taps = [(tap, self._back(tap, column)) for tap in work.own]
                taps = [(tap, back) for tap, back in taps if back is not None]
                for tap, back in taps:
                    if back > 0:
                        self.left[tap.source] = max(self.left.get(tap.source, 0), back)
                key = tuple(tap.matrix.data_ptr() for tap, _ in taps)
                if key not in begins:
                    begins[key] = size
                    weights += [tap.matrix.flatten() for tap, _ in taps]
                    size += sum(tap.matrix.numel() for tap, _ in taps)
                steps.append((work, [(tap.source, back) for tap, back in taps], begins[key]))
            pixels.append(steps)
        return torch.cat(weights), pixels

    def _back(self, tap: Tap, column: int) -> int | None:
        """Return which value a tap sees from a column, 1 the last before it; None if there is none.

        0 is that of the column itself.
        """
        stride = self.places[tap.source].stride
        if not self.is_here[tap.source] or (column + tap.right) % stride != 0:
            return None
        return -(-column // stride) - (column + tap.right) // stride

    def draw(self, state: PixelState, row: int) -> None:
        """Draw a row of a state."""

        def line(value: int, down: int = 0) -> Tensor:
            place = self.places[value]
            return kept_at(place, state.rows)[:, (row + down) // place.stride % place.rows]

        noise = state.noise.unflatten(1, (*self.loop.size, -1))[:, row]
        above = [line(value, down) for value, down in self.looked]
        inputs = state.condition, state.images[:, :, row], state.given[:, row], noise, *above
        if self._row is None:
            self._row = self.loop.capture(self.replayed, *inputs)
        pixels, *ahead = self._row(*inputs)
        for value, made in zip(self.kept_before, ahead, strict=True):
            line(value).copy_(made)
        levels, *made = pixels.split(self.sizes, dim=2)
        state.images[:, :, row] = levels.permute(1, 2, 0)
        for value, each in zip(self.kept, made, strict=True):
            line(value).copy_(each[:: self.places[value].stride].transpose(0, 1))

    def row(self, condition: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what pixels make (W, B, F), their levels first, and what is made before them."""
        pixels, left, *ahead = self.begin(condition, *inputs)
        _, made = scan(partial(self.body, condition), left, pixels)
        return made.flatten(0, 1)[: self.width], *ahead

    def replayed(self, condition: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the same, by calls of compiled functions."""
        (pixels, left, *ahead), found = self._begin(condition, *inputs), []
        for each in pixels.unbind(0):
            left, made = self._body(condition, left, each)
            found.append(made)
        return torch.cat(found)[: self.width], *ahead

    def begin(
        self, condition: Tensor, images: Tensor, given: Tensor, noise: Tensor, *above: Tensor
    ) -> tuple[Tensor, ...]:
        """Return what pixels are made from (W / P, P, B, F), P of a period.

        And what is to the left of the first, nothing, and the values made here that are kept.
        """
        values: Values = dict(zip(self.looked, above, strict=True))
        for index, work in self.before:
            values[work.out, 0] = self._made_before(
                values, work, self.loop.above[index], condition, len(images)
            )

        pixels = [self._spread(values[value, 0], self.places[value].stride) for value in self.seen]
        noise, given = noise.unflatten(1, (self.width, -1)).flatten(2), given[..., None]
        pixels = torch.cat([*pixels, noise, images.transpose(1, 2), given.to(noise.dtype)], dim=2)
        pixels = F.pad(pixels, (0, 0, 0, -self.width % self.period)).transpose(0, 1)
        floats = sum(n * self.places[value].depth for value, n in self.left.items())
        ahead = [values[value, 0] for value in self.kept_before]
        left = noise.new_zeros(len(noise), floats)
        return pixels.unflatten(0, (-1, self.period)).contiguous(), left, *ahead

    def _made_before(
        self, values: Values, work: Work, matrix: Tensor | None, condition: Tensor, batch: int
    ) -> Tensor:
        """Return a value of a row, or what is known of its sums (B, n, floats)."""
        stride, floats = self.places[work.out].stride, self.places[work.out].floats
        if work.kind != "affine":
            y = MAPS[work.kind](values[work.source, 0])
            return y if work.add < 0 else y + values[work.add, 0]

        y = condition[:, None, work.bias : work.bias + floats]
        y = y.expand(batch, -(-self.width // stride), floats)
        if work.ahead and work.add >= 0:
            y = y + values[work.add, 0]
        if work.above:
            seen = [
                self._shifted(values, tap, y, stride)[..., : self.places[tap.source].depth]
                for tap in work.above
            ]
            x = torch.cat(seen, dim=-1).flatten(0, 1)
            y = torch.addmm(y.flatten(0, 1), x, matrix).view_as(y)
        return y if not work.ahead or work.then is None else MAPS[work.then](y)

    def _shifted(self, values: Values, tap: Tap, like: Tensor, stride: int) -> Tensor:
        """Return a row's values as a tap sees them from each of n places, zeros where none are."""
        place = self.places[tap.source]
        if (tap.source, tap.down) not in values:
            return like.new_zeros(1, 1, 1).expand(*like.shape[:2], place.floats)
        x, own = values[tap.source, tap.down], place.stride
        if own > stride or tap.right % own != 0:
            x = F.pad(x[:, :, None], (0, 0, 0, own - 1)).flatten(1, 2)[:, : self.width]
            own = 1
        shift = tap.right // own
        x = F.pad(x, (0, 0, max(-shift, 0), max(shift, 0)))
        return x[:, max(shift, 0) :][:, : -(-self.width // own) : stride // own]

    def _spread(self, x: Tensor, stride: int) -> Tensor:
        """Let every column have the value at or before it."""
        return x[:, :, None].expand(-1, -1, stride, -1).flatten(1, 2)[:, : self.width]

    def body(self, condition: Tensor, left: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is to the left of the next period, and what the pixels make (P, B, F).

        Arguments:
            condition: of the state.
            left: what is to the left of the first pixel.
            pixels: what they are made from (P, B, F).
        """
        depths = {value: self.places[value].depth for value in self.left}
        pieces: Iterator[Tensor] = iter(())
        if depths:
            pieces = iter(
                left.split([depths[v] for v, n in self.left.items() for _ in range(n)], 1)
            )
        behind = {value: [next(pieces) for _ in range(n)] for value, n in self.left.items()}

        found = []
        for steps, pixel in zip(self.pixels, pixels.unbind(0), strict=True):
            now, levels = self._pixel(steps, condition, pixel, behind)
            nothing = pixel.new_zeros(len(pixel), 1)
            made = {work.out for work, *_ in steps}
            kept = [
                now[value] if value in made else nothing.expand(-1, self.places[value].floats)
                for value in self.kept
            ]
            found.append(torch.cat([*levels, *kept], dim=1))
            for value, before in behind.items():
                if value in made:
                    behind[value] = [now[value][:, : depths[value]], *before[:-1]]
        rest = [each for before in behind.values() for each in before]
        return torch.cat(rest, dim=1) if rest else left.clone(), torch.stack(found)

    def _pixel(
        self,
        steps: Sequence[PixelStep],
        condition: Tensor,
        pixel: Tensor,
        behind: dict[int, list[Tensor]],
    ) -> tuple[dict[int, Tensor], list[Tensor]]:
        """Return the values of a pixel, and its levels, draw by draw."""
        output, draws = self.output, len(self.loop.draws)
        sizes = [self.places[value].floats for value in self.seen]
        *seen, noise, levels, given = pixel.split(
            [*sizes, draws * output.uniforms, output.channels, 1], dim=1
        )
        now, drawn = dict(zip(self.seen, seen, strict=True)), []
        noise, levels = noise.chunk(draws, dim=1), levels.split(output.values_at_once, dim=1)
        for work, taps, begin in steps:
            if work.kind == "draw":
                group, n = self.loop.groups[work.out], output.parameters // draws
                new = self.filters.pick(output.pick, now[work.source][:, :n], noise[group])
                new = new.view_as(levels[group]).to(levels[group].dtype)
                drawn.append(torch.where(given > 0, levels[group], new))
                now[work.out] = self._revealed(work, drawn[-1])
                continue
            floats = self.places[work.out].floats
            if work.kind == "affine":
                bias = condition[:, work.bias : work.bias + floats].expand(len(pixel), floats)
                y = now.get(work.out, bias)
            else:
                y = MAPS[work.kind](now[work.source])
            y = y if work.add < 0 else y + now[work.add]
            if taps:
                x = [
                    (behind[value][back - 1] if back else now[value])[:, : self.places[value].depth]
                    for value, back in taps
                ]
                x = torch.cat(x, dim=1)
                matrix = self.weights[begin : begin + x.shape[1] * floats].view(-1, floats)
                y = _plus_product(y, x, matrix)
            now[work.out] = y if work.then is None else MAPS[work.then](y)
        return now, drawn

    def _revealed(self, work: Work, levels: Tensor) -> Tensor:
        """Return levels as the network sees them."""
        value, place = self.output.encode(levels), self.places[work.out]
        if place.depth > value.shape[1]:
            value = F.pad(value, (0, 1), value=1.0)
        return F.pad(value, (0, place.floats - value.shape[1]))


def _plus_product(y: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
    """Return y + x @ matrix; of one sample as a sum, which fuses with what is around it."""
    if len(x) == 1:
        return y + (x[:, :, None] * matrix).sum(1)
    return torch.addmm(y, x, matrix)
