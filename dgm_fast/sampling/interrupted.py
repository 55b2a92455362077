"""What is left of samples when Ctrl-C ends their drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

__all__ = ["SamplingInterrupted", "keeping"]


class SamplingInterrupted(KeyboardInterrupt):
    """Ctrl-C while samples were drawn; it has what was drawn before.

    Attributes:
        samples: as they would have been returned, but of sequences only the beginning, and of
            images and vectors zeros in places where nothing was given, or drawn yet.

    Example:
        >>> from dgm_fast.sampling import SamplingInterrupted
        >>> def patiently(model, count):
        ...     try:
        ...         return model.sample(count)
        ...     except SamplingInterrupted as stop:
        ...         return stop.samples
    """

    def __init__(self, samples: Tensor) -> None:
        super().__init__("sampling was interrupted; what was drawn before is in `samples`")
        self.samples = samples


@contextmanager
def keeping(samples: Callable[[], Tensor]) -> Iterator[None]:
    """Let Ctrl-C raise a `SamplingInterrupted` with what `samples` returns then."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise SamplingInterrupted(samples()) from stop
