"""What a sampler of a masked network is made from: its parameters and the degrees of its units."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dgm_fast.sampling.masked_mlp.layout import MaskedLayout

__all__ = ["ACTIVATIONS", "MaskedNetwork"]

# As torch.nn.functional names them, and in the order of `Activation` in the kernels' step.h.
ACTIVATIONS = ("relu", "elu", "gelu", "silu", "softplus", "sigmoid", "tanh")


@dataclass(frozen=True)
class MaskedNetwork:
    r"""A masked multilayer perceptron.

    .. math:: h_l = \phi(z_l), \quad z_l = W_l h_{l-1} + b_l \;(+\, z_{s_l}), \qquad
              \theta = W_{L+1} h_L + b_{L+1} \;(+\, V h_0)

    Attributes:
        layout: of its units.
        weights: (H_1, D + C), (H_2, H_1), ..., (D P, H_L); entries that the degrees forbid count
            as zero.
        biases: of each, or None for zeros.
        activation: phi, one of `ACTIVATIONS`.
        direct: V (D P, D + C), or None.
        skips: s_l of each hidden layer, the number, from 1 on, of one before it with the same
            degrees whose sums it adds to its own, or 0; () for none at all.

    Raises:
        ValueError: shapes, the activation or the skips do not fit.
    """

    layout: MaskedLayout
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]
    activation: str = "relu"
    direct: Tensor | None = None
    skips: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        layout = self.layout
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation must be one of {known}; got {self.activation!r}")

        sizes = [each.numel() for each in layout.units]
        expected = [(b, a) for a, b in pairwise(sizes)]
        found = [tuple(each.shape) for each in self.weights]
        if found != expected or len(self.biases) != len(expected):
            raise ValueError(f"weights must have shapes {expected}; got {found}")
        if self.direct is not None and tuple(self.direct.shape) != (sizes[-1], sizes[0]):
            got = tuple(self.direct.shape)
            raise ValueError(f"direct must have shape {(sizes[-1], sizes[0])}; got {got}")
        self._check_skips()

    def _check_skips(self) -> None:
        degrees = self.layout.degrees
        if len(self.skips) not in (0, len(degrees)):
            raise ValueError(f"skips must be one of each hidden layer; got {self.skips}")
        for level, skip in enumerate(self.skips, start=1):
            if not 0 <= skip < level or (
                skip > 0 and not torch.equal(degrees[skip - 1], degrees[level - 1])
            ):
                raise ValueError(
                    f"skips must be of earlier layers with the same degrees; got {self.skips}"
                )

    @property
    def is_direct(self) -> bool:
        """Whether inputs go to outputs beside hidden layers."""
        return self.direct is not None and len(self.layout.hidden) > 0

    @property
    def edges(self) -> list[tuple[int, int, Tensor]]:
        """Which level goes to which, by what weight; direct connections last."""
        edges = [(level, level + 1, weight) for level, weight in enumerate(self.weights)]
        if self.is_direct:
            edges.append((0, self.layout.levels, self.direct))
        return edges
