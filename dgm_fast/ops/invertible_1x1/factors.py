"""An invertible matrix by its PLU factors, and log-determinants of full ones in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dgm_fast._core.checks import check_floating


class PLU(NamedTuple):
    r"""An invertible matrix by its factors, `W = P L (U + diag(sign * exp(log_diag)))`.

    Its log-determinant is the sum of `log_diag`, its inverse two triangular solves, and no step of
    an optimizer makes it singular.

    Attributes:
        permutation: (C,) int64; row i of W is row `permutation[i]` of the product of the others.
        lower: (C, C), read below the diagonal alone; the diagonal of L is 1.
        upper: (C, C), read above the diagonal alone.
        log_diag: (C,), logarithm of the diagonal's absolute values.
        sign: (C,), the diagonal's signs, 1 or -1.

    References:
        Kingma, Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", 2018,
        equation 10.

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> weight = torch.tensor([[0.0, 2.0], [1.0, 3.0]])
        >>> ops.PLU.from_weight(weight).weight()
        tensor([[0., 2.],
                [1., 3.]])
    """

    permutation: Tensor
    lower: Tensor
    upper: Tensor
    log_diag: Tensor
    sign: Tensor

    @classmethod
    def from_weight(cls, weight: Tensor) -> PLU:
        """Factor a full weight (C, C), with partial pivoting, in float64; differentiable."""
        check_weight("weight", weight)
        permutation, lower, upper = torch.linalg.lu(weight.double())
        diagonal = upper.diagonal()
        return cls(
            permutation.argmax(dim=1),
            lower.tril(-1).to(weight.dtype),
            upper.triu(1).to(weight.dtype),
            diagonal.abs().log().to(weight.dtype),
            diagonal.detach().sign().to(weight.dtype),
        )

    def triangles(self) -> tuple[Tensor, Tensor]:
        """Return L, with its unit diagonal, and U, with its own, each (C, C)."""
        eye = torch.eye(self.lower.shape[0], dtype=self.lower.dtype, device=self.lower.device)
        diagonal = self.sign.to(self.log_diag) * self.log_diag.exp()
        return self.lower.tril(-1) + eye, self.upper.triu(1) + diagonal.diag()

    def weight(self) -> Tensor:
        """Multiply the factors: the full weight, (C, C)."""
        lower, upper = self.triangles()
        return (lower @ upper).index_select(0, self.permutation)

    def to(self, dtype: torch.dtype) -> PLU:
        """Return the factors in a floating dtype."""
        return PLU(self.permutation, *(each.to(dtype) for each in self[1:]))


def batched_log_abs_det(weights: Sequence[Tensor]) -> Tensor:
    r"""Compute `log |det W|` of many square matrices, in one batched call for each size.

    A flow with a full weight in every step needs one log-determinant a step; one by one, they cost
    more launches than the steps themselves. Hand each to its step as `log_abs_det`.

    Arguments:
        weights: matrices of any sizes, on one device.

    Shapes:
        weights (C_i, C_i); returns (N,), in their order.

    Precision:
        Factored in float64, since a log-determinant is multiplied by the number of pixels; the
        result is float32, or float64 for float64 weights.

    Gradients:
        For every weight, W^-T; saves the factors.

    Raises:
        TypeError: a weight is not a floating-point tensor.
        ValueError: a weight is not square.

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> ops.batched_log_abs_det([torch.eye(3), 2 * torch.eye(1)])
        tensor([0.0000, 0.6931])
    """
    if len(weights) == 0:
        return torch.empty(0)

    for weight in weights:
        check_weight("weights", weight)

    sizes = sorted({weight.shape[0] for weight in weights})
    places = [[i for i, each in enumerate(weights) if each.shape[0] == size] for size in sizes]
    found: list[Tensor | None] = [None] * len(weights)
    for group in places:
        stack = torch.stack([weights[i].double() for i in group])
        for i, log_abs_det in zip(group, torch.linalg.slogdet(stack).logabsdet, strict=True):
            found[i] = log_abs_det

    is_double = any(weight.dtype is torch.float64 for weight in weights)
    return torch.stack(found).to(torch.float64 if is_double else torch.float32)


def check_weight(name: str, weight: object) -> None:
    """Raise unless `weight` is a square floating-point matrix."""
    check_floating(name, weight)
    if weight.ndim != 2 or weight.shape[0] != weight.shape[1]:
        raise ValueError(f"{name} must be square, (C, C); got {tuple(weight.shape)}")
