"""The staircase that `MaskStructure` finds in a mask."""

from __future__ import annotations

import copy
import pickle
import time
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgm_fast._core import extension
from dgm_fast.ops import MaskStructure

needs_extension = pytest.mark.skipif(
    extension.module is None, reason=f"compares with the extension: {extension.cpp_missing}"
)
sizes = st.integers(0, 40)
seeds = st.integers(0, 2**31)


def sorted_mask(structure):
    mask = structure.mask
    if structure.row_order is not None:
        mask = mask[structure.row_order.long()]
    if structure.column_order is not None:
        mask = mask[:, structure.column_order.long()]

    return mask


def inside_bounds(structure):
    return torch.arange(structure.in_features) < structure.row_bound[:, None]


def random_mask(ins, outs, seed, share=0.5):
    return torch.rand(outs, ins, generator=torch.Generator().manual_seed(seed)) < share


def random_degree_mask(ins, outs, seed):
    generator = torch.Generator().manual_seed(seed)
    in_degrees = torch.randint(-3, 12, (ins,), generator=generator)
    out_degrees = torch.randint(-3, 12, (outs,), generator=generator)
    return out_degrees[:, None] >= in_degrees


def best_ms(call):
    times_ms = []
    for _ in range(5):
        start = time.thread_time()
        call()
        times_ms.append(1e3 * (time.thread_time() - start))

    return min(times_ms)


@pytest.mark.parametrize("strict", [False, True])
@given(
    in_degrees=st.lists(st.integers(-9, 9), max_size=20),
    out_degrees=st.lists(st.integers(-9, 9), max_size=20),
)
def test_from_degrees_compares_every_pair(strict, in_degrees, out_degrees):
    structure = MaskStructure.from_degrees(
        torch.tensor(in_degrees, dtype=torch.long),
        torch.tensor(out_degrees, dtype=torch.long),
        strict=strict,
    )

    expected = [[o > i if strict else o >= i for i in in_degrees] for o in out_degrees]
    assert structure.mask.tolist() == expected
    assert (structure.out_features, structure.in_features) == (len(out_degrees), len(in_degrees))


def test_from_degrees_takes_lists():
    assert MaskStructure.from_degrees([1, 2], [1]).mask.tolist() == [[True, False]]


@given(ins=sizes, outs=sizes, seed=seeds)
def test_a_degree_mask_is_a_staircase_in_whatever_order(ins, outs, seed):
    structure = MaskStructure.from_mask(random_degree_mask(ins, outs, seed))

    assert structure.is_staircase
    assert torch.equal(sorted_mask(structure), inside_bounds(structure))
    assert structure.bounded_share == int(structure.mask.sum()) / max(1, structure.mask.numel())


@given(ins=sizes, outs=sizes, seed=seeds, share=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_bounds_hold_every_live_entry_and_reach_no_further(ins, outs, seed, share):
    structure = MaskStructure.from_mask(random_mask(ins, outs, seed, share))
    live = sorted_mask(structure)

    assert not (live & ~inside_bounds(structure)).any()
    assert (structure.row_bound.diff() >= 0).all()
    assert structure.is_staircase == torch.equal(live, inside_bounds(structure))

    if structure.is_staircase or structure.bounded_share <= 0.9:
        for row, bound in zip(live, structure.row_bound.tolist(), strict=True):
            assert bound == 0 or row[bound - 1]
    else:
        # Sorting would gather almost nothing: such a mask is left as it was given.
        assert structure.row_order is None
        assert structure.column_order is None
        assert structure.bounded_share == 1


@given(ins=sizes, outs=sizes, seed=seeds)
def test_orders_are_permutations_and_column_start_inverts_row_bound(ins, outs, seed):
    structure = MaskStructure.from_mask(random_mask(ins, outs, seed))

    for order, size in ((structure.row_order, outs), (structure.column_order, ins)):
        assert order is None or sorted(order.tolist()) == list(range(size))

    reaching = structure.row_bound[None, :] > torch.arange(ins)[:, None]
    assert torch.equal(structure.column_start, (~reaching).sum(1).int())


def test_a_sorted_mask_needs_no_orders_and_a_random_one_is_no_staircase():
    in_order = MaskStructure.from_degrees(torch.arange(9), torch.arange(9))
    assert in_order.row_order is None
    assert in_order.column_order is None

    irregular = MaskStructure.from_mask(random_mask(50, 60, seed=0))
    assert not irregular.is_staircase
    assert 0.5 < irregular.bounded_share <= 1


@needs_extension
@given(ins=sizes, outs=sizes, seed=seeds)
def test_the_extension_plans_what_numpy_plans(ins, outs, seed):
    mask = random_mask(ins, outs, seed)
    fast = MaskStructure.from_mask(mask)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extension, "module", None)
        slow = MaskStructure.from_mask(mask)

    assert fast.is_staircase == slow.is_staircase
    for name, table in fast.named_buffers():
        assert torch.equal(table, getattr(slow, name)), name


@needs_extension
@pytest.mark.parametrize("kind", ["staircase", "random"])
def test_planning_8192_by_8192_takes_at_most_50_ms(kind):
    """The plan itself, whoever asks for it; `from_mask` may copy the mask's 64 MiB on top.

    The copy alone takes half as long as is allowed, most of it the first touch of new memory.
    """
    generator = torch.Generator().manual_seed(0)
    degrees = torch.randint(0, 8192, (2, 8192), generator=generator)
    mask = degrees[1][:, None] >= degrees[0]
    if kind == "random":
        mask = mask & (torch.rand(mask.shape, generator=generator) < 0.5)

    # On one thread its own CPU time bounds the wall-clock time, and other processes add little.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plan_ms, public_ms, copy_ms = (
            best_ms(partial(call, mask))
            for call in (MaskStructure, MaskStructure.from_mask, torch.clone)
        )
    finally:
        torch.set_num_threads(threads)

    assert plan_ms <= 50
    assert public_ms <= 50 + copy_ms


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_from_mask_takes_zeros_and_ones_of_any_dtype_and_layout(dtype):
    mask = random_mask(7, 5, seed=1)
    expected = MaskStructure.from_mask(mask)

    for given_mask in (mask.to(dtype), mask.t().contiguous().t().to(dtype)):
        structure = MaskStructure.from_mask(given_mask)
        assert structure.mask.dtype is torch.bool
        assert torch.equal(structure.mask, expected.mask)
        assert torch.equal(structure.row_bound, expected.row_bound)


def test_a_structure_keeps_its_own_mask():
    mask = random_mask(7, 5, seed=1)
    structure = MaskStructure.from_mask(mask)
    expected = structure.mask.clone()

    mask.logical_not_()
    assert torch.equal(structure.mask, expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_pickles_hold_the_same_tables(copied):
    structure = MaskStructure.from_mask(random_degree_mask(9, 11, seed=2))
    structure.dense(torch.float32)
    again = copied(structure)

    assert again.is_staircase
    assert (again.out_features, again.in_features, again.bounded_share) == (
        structure.out_features,
        structure.in_features,
        structure.bounded_share,
    )
    for name, table in structure.named_buffers():
        assert torch.equal(table, getattr(again, name)), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_casting_a_model_leaves_the_tables_alone(dtype):
    structure = MaskStructure.from_mask(random_degree_mask(9, 11, seed=2)).to(dtype)

    assert structure.mask.dtype is torch.bool
    assert structure.row_bound.dtype is torch.int32
    assert structure.dense(dtype).dtype is dtype
    assert torch.equal(structure.dense(dtype).bool(), structure.mask)


def test_moving_to_another_device_moves_the_dense_mask_too():
    structure = MaskStructure.from_mask(random_degree_mask(9, 11, seed=2))
    structure.dense(torch.float32)
    structure.to("meta")

    assert structure.row_bound.device.type == "meta"
    assert structure.dense(torch.float32).device.type == "meta"


def test_nothing_of_a_structure_is_saved_in_a_state_dict():
    assert not MaskStructure.from_mask(torch.ones(2, 3)).state_dict()


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(3), ValueError, r"mask must .*\(3,\)"),
        (torch.ones(3, 3, 1), ValueError, r"mask must .*\(3, 3, 1\)"),
        (torch.tensor([[0.0, 0.5]]), ValueError, "mask must hold only 0 and 1"),
        (torch.tensor([[0, 2]]), ValueError, "mask must hold only 0 and 1"),
        (torch.tensor([[0.0, torch.nan]]), ValueError, "mask must hold only 0 and 1"),
        (np.ones((2, 2)), TypeError, "mask must be a torch.Tensor; got ndarray"),
    ],
    ids=["1-d", "3-d", "half", "two", "nan", "numpy"],
)
def test_from_mask_refuses(mask, error, message):
    with pytest.raises(error, match=message):
        MaskStructure.from_mask(mask)


@pytest.mark.parametrize(
    ("degrees", "error", "message"),
    [
        (torch.ones(3), TypeError, "must be integers; got dtype torch.float32"),
        (torch.ones(3, dtype=torch.bool), TypeError, "must be integers; got dtype torch.bool"),
        (torch.ones(3, 1, dtype=torch.long), ValueError, r"one-dimensional; got shape \(3, 1\)"),
    ],
    ids=["float", "bool", "2-d"],
)
@pytest.mark.parametrize("name", ["in_degrees", "out_degrees"])
def test_from_degrees_refuses(name, degrees, error, message):
    arguments = {"in_degrees": torch.arange(2), "out_degrees": torch.arange(2), name: degrees}

    with pytest.raises(error, match=f"{name} .*{message}"):
        MaskStructure.from_degrees(**arguments)
