"""Seeds: drawn from torch's generators, or given, as 64 bits on a device."""

from __future__ import annotations

import pytest
import torch

from dgm_fast._core.random import as_seed, draw_seed

CPU = torch.device("cpu")


def test_a_drawn_seed_is_an_int64_scalar_that_manual_seed_governs():
    torch.manual_seed(3)
    first, second = draw_seed(CPU), draw_seed(CPU)
    assert first.shape == ()
    assert first.dtype is torch.int64
    assert first != second

    torch.manual_seed(3)
    assert draw_seed(CPU) == first


def test_drawn_seeds_use_all_64_bits():
    generator = torch.Generator().manual_seed(0)
    seeds = [int(draw_seed(CPU, generator)) % 2**64 for _ in range(64)]

    always, never = 2**64 - 1, 0
    for seed in seeds:
        always, never = always & seed, never | seed

    # Each bit is set half of the time: one that is the same 64 times has odds of 128 in 2^64.
    assert always == 0
    assert never == 2**64 - 1


def test_a_generator_governs_the_drawn_seed_and_spares_the_default_one():
    state = torch.get_rng_state()
    seeds = [draw_seed(CPU, torch.Generator().manual_seed(5)) for _ in range(2)]

    assert seeds[0] == seeds[1]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("seed", "held"),
    [
        (0, 0),
        (7, 7),
        (-1, -1),
        (2**63, -(2**63)),
        (2**64 - 1, -1),
        (2**64, 0),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_an_int_is_held_in_twos_complement(seed, held):
    tensor = as_seed(seed, CPU)
    assert tensor.dtype is torch.int64
    assert tensor.shape == ()
    assert int(tensor) == held


def test_a_tensor_stays_where_it_is():
    seed = torch.tensor([9])
    assert as_seed(seed, CPU).data_ptr() == seed.data_ptr()
    assert as_seed(seed, CPU).shape == ()


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (0.5, TypeError, "seed must be an int or an int64 tensor; got float"),
        (True, TypeError, "seed must be an int or an int64 tensor; got bool"),
        (None, TypeError, "seed must be an int or an int64 tensor; got NoneType"),
        (torch.tensor(1.0), TypeError, "got torch.float32"),
        (torch.zeros(3).long(), ValueError, r"seed must hold one value .*\(3,\)"),
        (torch.zeros((), dtype=torch.long, device="meta"), ValueError, "seed must .*on meta"),
    ],
    ids=["float", "bool", "none", "float-tensor", "three", "device"],
)
def test_anything_else_is_refused(seed, error, message):
    with pytest.raises(error, match=message):
        as_seed(seed, CPU)
