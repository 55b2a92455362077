"""Samples of any shape as one row of elements each, as kernels read them."""

from __future__ import annotations

import math

from torch import Tensor


def as_rows(x: Tensor) -> Tensor:
    """Return (B, *E) as (B, elements): a view, unless the elements lie too irregularly for one."""
    # Not -1: a reshape cannot infer it where there are no samples.
    return x if x.ndim == 2 else x.reshape(x.shape[0], math.prod(x.shape[1:]))
