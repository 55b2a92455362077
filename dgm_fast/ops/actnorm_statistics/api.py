"""The public function `actnorm_statistics`."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.checks import check_floating
from dgm_fast.ops.actnorm_statistics import op


def actnorm_statistics(x: Tensor, *, impl: str = "auto") -> tuple[Tensor, Tensor, Tensor]:
    r"""Compute the mean and the sum of squared deviations of every channel in one pass.

    .. math:: m_c = \frac1n \sum_i x_{ic}, \qquad d_c = \sum_i (x_{ic} - m_c)^2

    over the `n` elements of a channel in all samples. Of several batches, such as those of the
    processes of one run, the statistics follow from each one's, without cancellation:

    .. math:: n = \sum_k n_k, \quad m = \frac1n \sum_k n_k m_k, \quad
              d = \sum_k \left(d_k + n_k (m_k - m)^2\right)

    Arguments:
        x: data; what of it requires a gradient is ignored.
        impl: `"auto"`, `"reference"`, `"cpp"` or `"triton"`.

    Shapes:
        x (B, C, *). Returns the mean (C,), the squared deviations (C,) and the count ().

    Precision:
        float32 (float64 for float64). Deviations are taken before they are squared, so a mean far
        from zero costs no digits; what a GPU or a thread finds of a piece is merged by the formula
        above, in an order that nothing changes.

    Gradients:
        None: the results are constants.

    Raises:
        ValueError: x has fewer than two dims.
        TypeError: x is not floating-point.
        ImplementationUnavailable: the `impl` asked for cannot run this call.

    References:
        Chan, Golub, LeVeque, "Algorithms for computing the sample variance", 1983, equation 2.1.

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> x = 1000 + torch.randn(64, 3, 8, 8)
        >>> mean, squared_deviations, count = ops.actnorm_statistics(x)
        >>> variance = x.double().var((0, 2, 3), unbiased=False).float()
        >>> torch.allclose(squared_deviations / count, variance, rtol=1e-4)
        True
    """
    check_floating("x", x)
    if x.ndim < 2:
        raise ValueError(f"x must have shape (B, C, *); got {tuple(x.shape)}")

    with torch.no_grad():
        return op.run(impl, x.detach())
