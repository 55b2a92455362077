"""Drawing in pieces, between which Python looks for Ctrl-C and progress is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dgm_fast._core.integers import ceil_div

__all__ = ["Pace", "draw_in_pieces", "pieces_of", "wait_for"]

_SECONDS = 0.05
_FEWEST_PIECES = 20
_GROWTH = 4
# Multiply-adds of a piece that is not timed: near a tenth of a second.
_WORK = 5e9


@dataclass(frozen=True)
class Pace:
    """How long a drawing's pieces are, before one was timed.

    Attributes:
        step: a guess of the seconds that a step takes; a low one makes the first piece long.
        least: steps of a piece that Ctrl-C and short times cut no further.
        longer: how many twentieths of a second a piece is to take.
    """

    step: float
    least: int = 1
    longer: float = 1.0

    def first(self) -> int:
        """Return the steps of the first piece."""
        return max(self.least, int(self.longer * _SECONDS / self.step))

    def after(self, steps: int, seconds: float) -> int:
        """Return the steps of the piece after one that took so many seconds."""
        fitting = int(steps * self.longer * _SECONDS / max(seconds, 1e-9))
        return max(self.least, min(fitting, _GROWTH * steps))


def draw_in_pieces(
    go_on: Callable[[int, int], object],
    begin: int,
    end: int,
    pace: Pace,
    device: torch.device,
    progress: Callable[[int, int], object] | None = None,
    total: int | None = None,
) -> None:
    """Draw the steps from `begin` to `end`, in pieces of about a twentieth of a second.

    Arguments:
        go_on: draws those from one number to another.
        begin: of the steps.
        end: likewise, itself left out.
        pace: of the pieces; on a GPU, what fits in the first one is a single launch.
        device: that draws. It is waited for after each piece, so that the next one is timed and
            Ctrl-C stops what is not yet sent; after the last one only to tell progress of it.
        progress: told the number of steps done and that of all, after each piece, of which there
            are then twenty at least, where there are as many steps.
        total: of all steps; default `end`.
    """
    most = ceil_div(end - begin, _FEWEST_PIECES if progress is not None else 1)
    done, piece = begin, pace.first()
    while done < end:
        until, started = min(end, done + min(piece, most)), time.perf_counter()
        go_on(done, until)
        if until < end or progress is not None:
            wait_for(device)
        piece = pace.after(until - done, time.perf_counter() - started)
        done = until
        if progress is not None:
            progress(done, end if total is None else total)


def wait_for(device: torch.device) -> None:
    """Wait for what a GPU was sent, so that progress is of what is done."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def pieces_of(multiply_adds: float, with_progress: bool) -> float:
    """Return how many pieces to cut so much work into by its size alone, one at least."""
    return max(_FEWEST_PIECES * with_progress, multiply_adds / _WORK, 1)
