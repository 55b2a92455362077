"""A uniform decides on the category whose stretch of the cumulative distribution holds it."""

import math

import pytest
import torch

from dgm_fast.distributions import CategoricalConditional, CategoricalWaveform, Quantizer
from dgm_fast.distributions.categories import pick_category

JUST_BELOW_1 = 1 - 2**-24


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [-1, 1, 0])
def test_each_has_its_stretch(dim, dtype):
    p = torch.tensor([0.25, 0.0, 0.5, 0.125, 0.125], dtype=dtype)
    uniform = torch.tensor([0.0, 0.2, 0.3, 0.7, 0.76, 0.9, JUST_BELOW_1, 1.0], dtype=dtype)
    logits = p.log().expand(8, 5)
    found = pick_category(logits.T if dim == 0 else logits, uniform, dim=dim)
    assert found.tolist() == [0, 0, 2, 2, 3, 4, 4, 4]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("uniform", [JUST_BELOW_1, 1.0])
def test_none_without_probability_is_picked_where_rounding_is_left_over(uniform, temperature):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 300, generator=generator)
    logits[:, -3:] = -math.inf
    logits[:, ::7] = -200.0
    ends = (logits / temperature).softmax(-1).cumsum(-1)
    # As they are in some rows.
    assert bool((ends[:, -1] < uniform).any())
    found = pick_category(logits, torch.full((4000,), uniform), temperature)
    picked = (logits / temperature).softmax(-1).gather(-1, found[:, None])
    assert float(picked.min()) > 0.0


def test_at_one_it_is_the_last_that_may_be_drawn():
    logits = torch.tensor([[0.0, 90.0, -1.0, -math.inf], [math.nan, 0.0, 0.0, 0.0]])
    assert pick_category(logits, torch.ones(2)).tolist() == [2, 0]


def test_of_temperature_zero_it_is_the_likeliest():
    logits = torch.tensor([[0.0, 2.0, 2.0], [1.0, -1.0, 0.0]])
    assert pick_category(logits, torch.tensor([0.9, 0.9]), 0.0).tolist() == [1, 0]


@pytest.mark.parametrize(
    "output", [CategoricalConditional(300), CategoricalWaveform(Quantizer(levels=300))]
)
def test_outputs_never_draw_a_category_that_they_rule_out(output):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 300, generator=generator)
    logits[:, -1] = -math.inf
    assert int(output.pick(logits, torch.full((4000, 1), 1.0)).max()) < 299
