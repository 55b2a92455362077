"""A linear layer whose weight is masked."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dgm_fast._core.checks import is_on
from dgm_fast.ops import MaskStructure, masked_linear


class MaskedLinear(nn.Linear):
    r"""Apply `y = x (W * M)^T + b`, skipping what the mask removes.

    It is an `nn.Linear` with the same parameters, initialisation and state_dict. The weight is
    stored whole and never edited; its gradient is exactly zero where the mask is.

    Arguments:
        mask: the structure, or any 0/1 tensor (out, in).
        bias: whether to add one.
        impl: as in `ops.masked_linear`.
        device: of the parameters; default the mask's.
        dtype: of the parameters.

    Shapes:
        (*, in) -> (*, out)

    Raises:
        TypeError, ValueError: as `MaskStructure.from_mask` and `ops.masked_linear`.

    Example:
        >>> import torch
        >>> from dgm_fast.layers import MaskedLinear
        >>> layer = MaskedLinear(torch.ones(3, 4).tril())
        >>> layer(torch.randn(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        mask: MaskStructure | Tensor,
        bias: bool = True,
        *,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(mask, MaskStructure):
            mask = MaskStructure.from_mask(mask)

        device = mask.mask.device if device is None else torch.device(device)
        super().__init__(mask.in_features, mask.out_features, bias, device=device, dtype=dtype)
        # A module moves in place, and other layers may share the caller's structure.
        self.mask = mask if is_on(mask.mask, device) else copy.deepcopy(mask).to(device)
        self.impl = impl

    def forward(self, x: Tensor, mask: MaskStructure | None = None) -> Tensor:
        """Apply the layer; `mask` takes the place of its own for this call."""
        mask = self.mask if mask is None else mask
        return masked_linear(x, self.weight, self.bias, mask, impl=self.impl)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bounded_share={self.mask.bounded_share:.3f}"
