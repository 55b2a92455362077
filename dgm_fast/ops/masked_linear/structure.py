"""Find the staircase in a 0/1 mask: the order of rows and columns that gathers its zeros."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dgm_fast._core import extension
from dgm_fast._core.checks import check_tensor

# Share of the weight inside the bounds above which skipping the rest does not pay.
NOTHING_TO_SKIP = 0.9


class MaskStructure(nn.Module):
    r"""A 0/1 mask of a linear map with its rows and columns sorted into a staircase.

    Rows sorted by how far they reach and columns by how many rows see them turn an
    autoregressive mask into a staircase: sorted row `r` is live in the leading `row_bound[r]`
    sorted columns and nowhere else,

    .. math:: M_{\pi(r), \sigma(c)} = [c < b_r], \qquad b_0 \le b_1 \le \dots

    For such a mask `is_staircase` holds and kernels need no mask at all, only the bounds. For any
    other mask the bounds still hold every live entry, and kernels consult `mask` inside them.

    It is a module without parameters only so that `.to()` carries its tables; none of them is
    saved in a state_dict, because layers rebuild them.

    Attributes:
        mask: bool, (out, in), in the order of the weight.
        row_bound: int32, (out,), nondecreasing.
        column_start: int32, (in,): the first sorted row that reaches sorted column `c`.
        row_order: int32, (out,), row of the weight at each sorted place, or None where the given
            order is already sorted.
        column_order: int32, (in,), likewise.
        is_staircase: whether the bounds alone say which entries are live.
        bounded_share: share of the weight's entries inside the bounds, which kernels visit.
        shape: (out, in).
        tables: (row_bound, column_start, row_order, column_order, mask or None if `is_staircase`).

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> m = ops.MaskStructure.from_degrees(torch.tensor([1, 2, 3]), torch.tensor([1, 2]))
        >>> m.mask.int().tolist()
        [[1, 0, 0], [1, 1, 0]]
    """

    mask: Tensor
    row_bound: Tensor
    column_start: Tensor
    row_order: Tensor | None
    column_order: Tensor | None

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        row_order, column_order, row_bound, self.is_staircase = _plan(mask)
        columns = np.arange(mask.shape[1])
        column_start = np.searchsorted(row_bound, columns, side="right")

        tables = {
            "mask": mask,
            "row_bound": _table(row_bound, mask.device),
            "column_start": _table(column_start, mask.device),
            "row_order": None if _is_sorted(row_order) else _table(row_order, mask.device),
            "column_order": None if _is_sorted(column_order) else _table(column_order, mask.device),
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

        self._gather_tables()
        self.shape = mask.shape
        self.out_features, self.in_features = mask.shape
        inside = int(row_bound.sum(dtype=np.int64))
        self.bounded_share = inside / max(1, self.out_features * self.in_features)
        self._dense: dict[torch.dtype, Tensor] = {}

    @classmethod
    def from_degrees(
        cls,
        in_degrees: Tensor | Sequence[int],
        out_degrees: Tensor | Sequence[int],
        strict: bool = False,
    ) -> MaskStructure:
        r"""Build the mask of an autoregressive layer from the degrees of its units.

        .. math:: M_{oi} = [d^{out}_o \ge d^{in}_i], \quad\text{or}\quad
                  [d^{out}_o > d^{in}_i] \text{ if strict}

        Shapes:
            in_degrees (in,), out_degrees (out,), integers of any range.

        Raises:
            TypeError: degrees are not integers.
            ValueError: degrees are not one-dimensional.

        References:
            Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution
            Estimation", 2015, equations 12 and 13.
        """
        ins = _degrees("in_degrees", in_degrees)
        outs = _degrees("out_degrees", out_degrees).to(ins.device)
        below = torch.gt if strict else torch.ge
        return cls(below(outs[:, None], ins[None, :]).contiguous())

    @classmethod
    def from_mask(cls, mask: Tensor) -> MaskStructure:
        """Build from any 0/1 mask.

        Shapes:
            mask (out, in), bool or any dtype that holds only 0 and 1.

        Raises:
            TypeError: `mask` is not a tensor.
            ValueError: `mask` is not two-dimensional or holds something other than 0 and 1.
        """
        check_tensor("mask", mask)
        if mask.ndim != 2:
            raise ValueError(f"mask must be (out, in); got shape {tuple(mask.shape)}")

        if mask.dtype is torch.bool:
            # A copy: the plan would not follow edits that the caller makes later.
            return cls(mask.clone(memory_format=torch.contiguous_format))

        live = (mask != 0).contiguous()
        if bool((live & (mask != 1)).any()):
            raise ValueError("mask must hold only 0 and 1; got other values")

        return cls(live)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """Return the mask as a 0/1 tensor of `dtype`, converted once."""
        dense = self._dense.get(dtype)
        if dense is not None:
            return dense

        # An inference tensor could never be saved for a later backward.
        with torch.inference_mode(False):
            dense = self.mask.to(dtype)

        # What a transform or a tracer makes is not to be kept beyond it.
        traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        if not traced and type(dense) is Tensor:
            self._dense[dtype] = dense
        return dense

    def _apply(self, fn, recurse: bool = True):  # noqa: ANN001, ANN202 (torch's own signature)
        self._dense = {}
        super()._apply(fn, recurse)
        self._gather_tables()
        return self

    def _gather_tables(self) -> None:
        # As kernels take them. Looking five buffers up in a module costs as much as a small kernel.
        irregular = None if self.is_staircase else self.mask
        orders = (self.row_order, self.column_order)
        self.tables = (self.row_bound, self.column_start, *orders, irregular)

    def extra_repr(self) -> str:
        kind = "staircase" if self.is_staircase else "irregular"
        share = f"bounded_share={self.bounded_share:.3f}"
        return f"{self.out_features} x {self.in_features}, {kind}, {share}"


def _degrees(name: str, degrees: Tensor | Sequence[int]) -> Tensor:
    tensor = torch.as_tensor(degrees)
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype is torch.bool:
        raise TypeError(f"{name} must be integers; got dtype {tensor.dtype}")

    if tensor.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional; got shape {tuple(tensor.shape)}")

    return tensor


def _plan(mask: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Return row order, column order, bounds of the sorted rows, and whether they are exact."""
    live = mask.cpu().contiguous().numpy()

    if extension.module is not None:
        live_in_row, live_in_column = extension.module.count_live(live)
    else:
        live_in_row = live.sum(axis=1, dtype=np.int32)
        live_in_column = live.sum(axis=0, dtype=np.int32)

    column_order = np.argsort(-live_in_column, kind="stable").astype(np.int32)

    if extension.module is not None:
        reach = extension.module.reach_of_rows(live, column_order)
    elif live.shape[1] == 0:
        reach = np.zeros(live.shape[0], dtype=np.int32)
    else:
        rank = np.empty_like(column_order)
        rank[column_order] = np.arange(live.shape[1], dtype=np.int32)
        reach = np.where(live, rank + 1, 0).max(axis=1)

    is_staircase = bool((reach == live_in_row).all())
    if not is_staircase and reach.sum(dtype=np.int64) > NOTHING_TO_SKIP * live.size:
        # Sorting gathers almost nothing here, and the given order is the cheaper one to read.
        rows, columns = (np.arange(size, dtype=np.int32) for size in live.shape)
        return rows, columns, np.full_like(reach, live.shape[1]), False

    row_order = np.argsort(reach, kind="stable")
    return row_order, column_order, reach[row_order], is_staircase


def _table(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.int32)).to(device)


def _is_sorted(order: np.ndarray) -> bool:
    return bool((order == np.arange(order.size)).all())
