"""Which tokens may be drawn, to the letter: ties, the ends of each range, and the draw itself."""

from __future__ import annotations

import pytest
import torch

from dgm_fast.sampling import filter_logits, pick_token

P = torch.tensor([0.1, 0.4, 0.2, 0.3])


def kept(logits, **options):
    return filter_logits(logits, **options).isfinite().tolist()


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [
        (1, [0, 1, 0, 0]),
        (2, [0, 1, 0, 1]),
        (3, [0, 1, 1, 1]),
        (4, [1, 1, 1, 1]),
        (5, [1, 1, 1, 1]),
        (None, [1, 1, 1, 1]),
    ],
)
def test_top_k_keeps_the_k_likeliest(top_k, expected):
    logits = P.log() + 3
    found = filter_logits(logits, top_k=top_k)
    assert found.isfinite().tolist() == list(map(bool, expected))
    # What stays is as it was.
    assert torch.equal(found[found.isfinite()], logits[found.isfinite()])


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (1e-9, [0, 1, 0, 0]),
        (0.39, [0, 1, 0, 0]),
        (0.41, [0, 1, 0, 1]),
        (0.69, [0, 1, 0, 1]),
        (0.71, [0, 1, 1, 1]),
        (0.91, [1, 1, 1, 1]),
        (1.0, [1, 1, 1, 1]),
        (None, [1, 1, 1, 1]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p, expected):
    assert kept(P.log() - 7, top_p=top_p) == list(map(bool, expected))


def test_a_set_that_reaches_p_exactly_is_enough():
    # Powers of two, whose sums are exact.
    p = torch.tensor([0.125, 0.5, 0.25, 0.125]).log2() * torch.tensor(2.0).log()
    assert kept(p.double(), top_p=0.5) == [False, True, False, False]
    assert kept(p.double(), top_p=0.75) == [False, True, True, False]
    assert kept(p.double(), top_p=0.7500001) == [True] * 4


def test_equally_likely_tokens_stand_or_fall_together():
    logits = torch.tensor([1.0, 2.0, 1.0, 0.0, 1.0])
    assert kept(logits, top_k=2) == [True, True, True, False, True]
    assert kept(logits, top_p=float(logits.softmax(0)[1]) + 1e-3) == [True, True, True, False, True]
    assert kept(torch.zeros(4), top_k=1) == [True] * 4
    assert kept(torch.zeros(4), top_p=0.01) == [True] * 4
    assert kept(logits, temperature=0) == [False, True, False, False, False]
    assert kept(torch.tensor([3.0, 1.0, 3.0]), temperature=0) == [True, False, True]


def test_p_of_one_keeps_even_what_rounding_would_drop():
    # The likeliest token alone sums to 1 in float64.
    logits = torch.tensor([0.0, -50.0, -60.0], dtype=torch.float64)
    assert kept(logits, top_p=1.0) == [True] * 3
    assert kept(logits, top_p=1 - 1e-9) == [True, False, False]


def test_the_temperature_comes_first_and_the_nucleus_last():
    logits = P.log()
    # Colder, 0.4 is 16 / 30 and so enough for a half; of the two likeliest it is 4 / 7.
    assert kept(logits, top_p=0.5) == [False, True, False, True]
    assert kept(logits, top_p=0.5, temperature=0.5) == [False, True, False, False]
    assert kept(logits, top_p=0.5, top_k=2) == [False, True, False, False]
    torch.testing.assert_close(filter_logits(logits, temperature=0.5), logits * 2)


def test_rows_are_filtered_by_themselves_and_tokens_already_out_stay_out():
    rows = torch.stack([P.log(), P.flip(0).log()])
    found = filter_logits(rows.expand(3, 2, 4), top_k=2)
    assert torch.equal(found[1, 0], filter_logits(rows[0], top_k=2))
    assert torch.equal(found[2, 1], filter_logits(rows[1], top_k=2))
    again = filter_logits(filter_logits(P.log(), top_k=2), top_p=0.99, temperature=2.0)
    assert again.isfinite().tolist() == [False, True, False, True]


def test_narrow_logits_are_filtered_in_float32():
    found = filter_logits(P.log().bfloat16(), temperature=0.3, top_k=2)
    assert found.dtype is torch.float32
    assert filter_logits(P.log().double()).dtype is torch.float64


def test_gradients_are_of_what_stays():
    logits = P.log().requires_grad_()
    filter_logits(logits, temperature=0.5, top_k=2).softmax(0)[1].backward()
    assert torch.equal(logits.grad != 0, torch.tensor([False, True, False, True]))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"temperature": -0.1}, "temperature must be at least 0; got -0.1"),
        ({"temperature": float("nan")}, "temperature must be at least 0; got nan"),
        ({"top_k": 0}, "top_k must be at least 1; got 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]; got 0.0"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\]; got 1.1"),
        ({"top_p": float("nan")}, r"top_p must be in \(0, 1\]; got nan"),
    ],
)
def test_errors_name_the_option(options, match):
    with pytest.raises(ValueError, match=match):
        filter_logits(P.log(), **options)
    with pytest.raises(TypeError, match="logits must be a floating-point tensor"):
        filter_logits(torch.arange(3))
    with pytest.raises(TypeError, match=r"top_k must be an int; got 2.5"):
        filter_logits(P.log(), top_k=2.5)


def test_a_uniform_picks_the_stretch_it_lies_in():
    uniform = torch.tensor([0.0, 0.09, 0.11, 0.49, 0.51, 0.69, 0.71, 0.999999])[:, None]
    picked = pick_token(P.log().expand(8, -1), uniform)
    assert picked.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert picked.dtype is torch.int64


def test_what_is_out_is_never_picked():
    # The last of what rounding makes of a uniform near 1.
    largest = [torch.tensor([[u]]) for u in (1 - 2.0**-24, 1.0)]
    smallest = torch.zeros(1, 1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        logits = torch.randn(1, 50, generator=generator)
        left = filter_logits(logits, top_k=3)
        allowed = set(left.isfinite()[0].nonzero().flatten().tolist())
        assert {int(pick_token(left, u)) for u in (smallest, *largest)} == {
            min(allowed),
            max(allowed),
        }


def test_picks_follow_the_probabilities():
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(40_000, 1, generator=generator)
    left = filter_logits(P.log(), temperature=0.7, top_p=0.85)
    picked = pick_token(left.expand(40_000, -1), uniform)
    shares = picked.bincount(minlength=4) / 40_000
    torch.testing.assert_close(shares, left.softmax(0), atol=0.01, rtol=0)
    assert float(shares[0]) == 0
