"""The benchmark of reversible training: the memory it is there to save, gradients that agree."""

from __future__ import annotations

import pytest
import torch

from benchmarks import memory, reversible_glow
from benchmarks.timing import Timed
from benchmarks.verify import RedContract
from dgm_fast.families import GlowConfig

SMALL = GlowConfig((1, 8, 8), levels=17, scales=1, steps=32, hidden=16)


def make_batch():
    x = torch.randint(17, (64, 1, 8, 8)).float()
    return reversible_glow.make_model(SMALL, x), x


def test_a_deep_reversible_step_holds_a_fifth_of_the_memory():
    model, x = make_batch()
    peaks = {
        column: memory.peak_mib(
            Timed(lambda column=column: reversible_glow.step(model, x, column)), x.device
        )
        for column in reversible_glow.COLUMNS
    }
    assert peaks["reversible"] < peaks["stored"] / 5


def test_gradients_are_compared():
    model, x = make_batch()
    difference = reversible_glow.gradient_difference(model, x)
    assert 0 < difference < reversible_glow.GRADIENT_TOLERANCE
    reversible_glow.check_gradients(difference)
    with pytest.raises(RedContract, match="gradients differ by 2"):
        reversible_glow.check_gradients(2e-4)
