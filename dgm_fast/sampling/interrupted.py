"""What is left of samples when Ctrl-C ends their drawing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import Tensor

__all__ = ["SamplingInterrupted", "keeping", "undisturbed"]


class SamplingInterrupted(KeyboardInterrupt):
    """Ctrl-C while samples were drawn; it has what was drawn before.

    Attributes:
        samples: as they would have been returned, but of sequences only the beginning, and of
            images and vectors zeros in places where nothing was given, or drawn yet.
        state: of a `WaveNetSampler`, after them: going on from it draws what would have come next,
            bit for bit. Otherwise None; states of other samplers move on in place.

    Example:
        >>> from dgm_fast.sampling import SamplingInterrupted
        >>> def patiently(model, count):
        ...     try:
        ...         return model.sample(count)
        ...     except SamplingInterrupted as stop:
        ...         return stop.samples
    """

    def __init__(self, samples: Tensor, state: Any = None) -> None:
        super().__init__("sampling was interrupted; what was drawn before is in `samples`")
        self.samples, self.state = samples, state


@contextmanager
def keeping(samples: Callable[[], Tensor], state: Any = None) -> Iterator[None]:
    """Let Ctrl-C raise a `SamplingInterrupted` with a state and what `samples` returns then."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise SamplingInterrupted(samples(), state) from stop


class undisturbed:  # noqa: N801, a context manager's name is a function's
    """Let Ctrl-C wait for the end of what is done as a whole: a piece, and what is noted of it.

    Python handles signals in its main thread alone, between any two steps of the interpreter: there
    what it does on SIGINT is put off. Where that is nothing of Python's, nothing is.
    """

    __slots__ = ("_before", "_frames")

    def __enter__(self) -> None:
        self._before = None
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signal.SIGINT)
        if callable(before):
            self._frames: list[FrameType | None] = []
            self._before = before
            signal.signal(signal.SIGINT, lambda _, frame: self._frames.append(frame))

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            if self._frames:
                # Called, not raised again: an event loop was told of the signal when it came.
                self._before(signal.SIGINT, self._frames[0])
