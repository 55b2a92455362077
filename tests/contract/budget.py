r"""How wrong a kernel may be: derived from rounding, never from what a kernel happened to give.

A sum of n products in float32, in whatever order, with or without fused multiply-adds, is within

.. math:: \gamma_n \sum_i |a_i b_i|, \qquad \gamma_n = \frac{n u}{1 - n u}, \quad u = 2^{-24}

of the exact one (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, equation 3.4 and
the remark under it). A kernel may count partial sums below the smallest normal number as zero,
which adds as much for each term. Storing it in the output's dtype adds half of its ulp. That is
the rounding floor, per element, and no kernel that accumulates in float32 can be above it. It is
tight enough to see a single missing term: one of n equal terms is 1/n of the sum, and n u is below
that for every n < 4096.

A kernel gets twice the error of the same-dtype reference on top, because an op may amplify the
rounding of its own intermediate results, and plain PyTorch shows by how much.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_UNIT = 2.0**-24


@dataclass(frozen=True)
class Budget:
    """The greatest allowed error of each element of one output.

    Attributes:
        expected: the result in float64.
        allowed: the greatest error.
        overflows: where an infinity of the right sign is as good as the result.
    """

    expected: Tensor
    allowed: Tensor
    overflows: Tensor

    def worst(self, got: Tensor) -> float:
        """Return the greatest error as a multiple of its budget: NaN is infinitely wrong."""
        if got.numel() == 0:
            return 0.0

        right_infinity = self.overflows & (got == torch.inf * self.expected.sign())
        ratio = (got.double() - self.expected).abs() / self.allowed
        ratio = torch.where(right_infinity, 0.0, ratio)
        return ratio.nan_to_num(nan=torch.inf).max().item()


def budget(
    expected: Tensor, reference: Tensor | None, magnitude: Tensor, terms: int, dtype: torch.dtype
) -> Budget:
    """Return the budget of a result stored in `dtype`.

    Arguments:
        expected: the result in float64.
        reference: what plain PyTorch gives in `dtype`, or None for the floor alone.
        magnitude: sum of the absolute terms of each element, in float64.
        terms: how many of them there are.
        dtype: of the result.
    """
    gamma = terms * _UNIT / (1 - terms * _UNIT)
    in_sum = gamma * magnitude.abs() + terms * torch.finfo(torch.float32).smallest_normal
    info = torch.finfo(dtype)
    stored = info.eps / 2 * (expected.abs() + in_sum) + info.smallest_normal * info.eps
    allowed = in_sum + stored

    if reference is not None:
        # Where plain PyTorch overflows it excuses nothing: an infinity times 0 is its NaN.
        error = (reference.double() - expected).abs()
        allowed = allowed + 2 * error.nan_to_num(nan=0.0, posinf=0.0)

    overflows = expected.abs() + allowed >= info.max
    return Budget(expected.detach(), allowed.detach(), overflows.detach())
