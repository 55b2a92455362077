"""Where plain PyTorch measured faster than the kernels; the table is in this op's README."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.precision import products_in_tf32
from dgm_fast.ops.masked_linear.structure import NOTHING_TO_SKIP, MaskStructure

# oneDNN multiplies bfloat16 with these units, ten times faster than float32 is multiplied.
_HAS_AMX = bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def reference_is_faster(x: Tensor, weight: Tensor, mask: MaskStructure) -> bool:
    """Whether `auto` should take the reference for this call."""
    if x.is_cuda:
        # A vendor's library multiplies a masked weight better than we do, and in float32, where no
        # tensor core helps, twice as fast: as much as half of a mask saves.
        no_tensor_core = x.dtype is torch.float32 and not products_in_tf32()
        return no_tensor_core or mask.bounded_share > NOTHING_TO_SKIP

    # Small calls, which feel what it takes to decide, are decided first. Masking the weight costs
    # the reference about 32 rows' worth of products; our call costs some 15 us more than torch's
    # own, in Python and in caches it has to fill.
    batch, entries = x.numel() // max(1, mask.in_features), weight.numel()
    if (batch + 32) * entries < 3 << 22 or (batch < 16 and entries < 1 << 20):
        return True

    return (mask.bounded_share > NOTHING_TO_SKIP and not _masking_dominates(batch, entries)) or (
        x.dtype is not torch.float32
        and _low_precision_suits_reference(x.dtype, batch, entries, mask)
    )


def _masking_dominates(batch: int, entries: int) -> bool:
    # A weight beyond the caches is masked at the speed of memory: 17 ms for 4096 x 4096.
    return entries >= 1 << 23 and batch <= 256


def _low_precision_suits_reference(
    dtype: torch.dtype, batch: int, entries: int, mask: MaskStructure
) -> bool:
    # Kernels convert to float32 as they read, entry by entry where columns are reordered.
    if mask.column_order is not None or mask.bounded_share > NOTHING_TO_SKIP:
        return True

    fast = dtype is torch.bfloat16 and _HAS_AMX
    return fast and batch > 64 and not _masking_dominates(batch, entries)
