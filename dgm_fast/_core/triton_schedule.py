"""Schedule tables inside Triton kernels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_steps(steps_ptr, stride, row, samples):
    """Load each sample's step as int64, -2 where there is no sample."""
    return tl.load(steps_ptr + row * stride, mask=row < samples, other=-2).to(tl.int64)


@triton.jit
def look_up(table_ptr, stride, count, step):
    """Load a table's entries: NaN outside of it, so that no step reads beyond its end."""
    inside = (step >= 0) & (step < count)
    return tl.load(table_ptr + step * stride, mask=inside, other=float("nan"))
