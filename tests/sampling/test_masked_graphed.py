"""Passes on tensors that stay find what the blocks find."""

from __future__ import annotations

import pytest
import torch

import dgm_fast
from dgm_fast.families import MADE, MADEConfig
from dgm_fast.sampling import AffineInverse, Draw, MaskedSampler
from dgm_fast.sampling.masked_mlp import graphed
from dgm_fast.sampling.masked_mlp.blocks import MaskedBlocks
from dgm_fast.sampling.masked_mlp.graphed import GraphedBlocks
from tests.sampling.masked_cases import (
    CASES,
    FEW,
    SHAPES,
    STEPS,
    Shape,
    assert_same,
    make_context,
    make_network,
    make_noise,
    moved,
)

# On a CPU every step with one shape, and a few shapes with one step.
SOME = {f"direct-{step}": (SHAPES["direct"], STEPS[step]) for step in STEPS} | {
    f"{shape}-categorical": (SHAPES[shape], STEPS["categorical"])
    for shape in (*FEW, "no hidden", "one feature")
}


class Called(GraphedBlocks):
    """Passes that are called, not captured; the call that would warm up is made."""

    @staticmethod
    def capture(step, *inputs):
        step(*inputs)
        return step


@pytest.fixture(autouse=True)
def _nothing_is_kept():
    graphed._kept.clear()


def sampler_of(network, step, blocks, size, dtype=torch.float64):
    sampler = MaskedSampler(network, step, impl="reference")
    sampler._sweep = blocks(network, dtype, size)
    return sampler


def assert_states(found, expected, layout, step):
    assert found.step == expected.step
    assert_same(found.x, expected.x.double(), step)
    each = 1e-9 if found.x.dtype == torch.float64 else 1e-4
    tolerance = {"rtol": each, "atol": each}
    torch.testing.assert_close(found.log_det, expected.log_det, **tolerance)
    levels = (each.levels.split(layout.hidden, dim=1) for each in (found, expected))
    for level, both in enumerate(zip(*levels, strict=True), start=1):
        # Those that some feature sees.
        a, b = (each[:, : layout.start(level, layout.features)] for each in both)
        torch.testing.assert_close(a, b, **tolerance)


def compare(shape, step, blocks, dtype=torch.float64, device="cpu"):
    network, D = moved(make_network(shape, step.parameters)[0], device, dtype), shape.features
    noise, context = make_noise(step, 5, D).to(device), make_context(shape, 5)
    given = (torch.rand(5, D, generator=torch.Generator().manual_seed(3)) < 0.1).to(device)
    options = {"given": given.to(noise), "given_mask": given}
    size = max(1, D // 3)
    plain, mine = (sampler_of(network, step, each, size, dtype) for each in (MaskedBlocks, blocks))
    expected, state = (each.start(5, context, **options) for each in (plain, mine))
    plain.draw(expected, noise)
    # Into a block, on from there, and to its end; other batches lie between.
    for steps in (min(D, size + 2), 1, None):
        mine.draw(mine.start(2, None if context is None else context[:2]), noise[:2])
        mine.draw(state, noise, steps=None if steps is None else min(steps, D - state.step))
    assert_states(state, expected, network.layout, step)


@pytest.mark.parametrize(("shape", "step"), SOME.values(), ids=SOME)
def test_passes_on_tensors_that_stay_find_what_blocks_find(shape, step):
    compare(shape, step, Called)


@pytest.mark.parametrize("batch", [0, 1, 30])
def test_batches_share_graphs_and_networks_do(batch):
    step, captured = STEPS["categorical"], []

    class Counted(Called):
        @staticmethod
        def capture(step, *inputs):
            captured.append(step)
            return Called.capture(step, *inputs)

    for seed in (0, 1):
        network = moved(make_network(SHAPES["long"], 11, seed)[0], torch.float64)
        for B in (batch, max(0, batch - 1)):
            noise = make_noise(step, B, 101)
            plain, mine = (sampler_of(network, step, each, 40) for each in (MaskedBlocks, Counted))
            assert torch.equal(mine.draw(mine.start(B), noise), plain.draw(plain.start(B), noise))
    assert len(captured) == (batch > 0)
    assert [graphed._rows_of(each) for each in (1, 17, 256, 257)] == [16, 32, 256, 512]


def test_what_differs_has_its_own_graph_and_few_are_kept():
    residual = {"hidden": (40, 40), "skips": (0, 1)}
    shapes = [Shape(), Shape(**residual), Shape(hidden=(40, 40)), Shape(activation="tanh")]
    steps = [Draw(STEPS["categorical"].conditional, each) for each in (1.0, 0.5, 0.0)]
    for shape, step in [*((each, steps[0]) for each in shapes), *((shapes[0], s) for s in steps)]:
        network, noise = moved(make_network(shape, 11)[0], torch.float64), make_noise(step, 9, 37)
        plain, mine = (sampler_of(network, step, each, 16) for each in (MaskedBlocks, Called))
        assert torch.equal(mine.draw(mine.start(9), noise), plain.draw(plain.start(9), noise))
    assert len(graphed._kept) == graphed._MOST_KEPT


def test_what_other_implementations_ran_is_not_replayed():
    captured = []

    class Counted(Called):
        @staticmethod
        def capture(step, *inputs):
            captured.append(step)
            return Called.capture(step, *inputs)

    network = moved(make_network(Shape(), 2)[0], torch.float64)
    for impl in ("auto", "reference", "auto"):
        step = AffineInverse(2.0, impl=impl)
        mine = sampler_of(network, step, Counted, 16)
        mine.draw(mine.start(9), make_noise(step, 9, 37))
    with dgm_fast.use_impl("reference"):
        mine.draw(mine.start(9), make_noise(step, 9, 37))
    assert len(captured) == 2


def test_what_overflowed_before_harms_nothing():
    step, context = STEPS["categorical"], torch.ones(9, 3, dtype=torch.float64)
    network = moved(make_network(SHAPES["context"], 11)[0], torch.float64)
    noise = make_noise(step, 9, 37)
    plain, mine = (sampler_of(network, step, each, 37) for each in (MaskedBlocks, Called))
    mine.draw(mine.start(9, context / 0), noise)
    # Less than a block.
    found, expected = (each.draw(each.start(9, context), noise, steps=9) for each in (mine, plain))
    assert torch.equal(found, expected)


def test_what_is_kept_serves_those_that_infer_and_those_that_do_not():
    network, step = moved(make_network(Shape(), 11)[0], torch.float64), STEPS["categorical"]
    noise, found = make_noise(step, 9, 37), []
    for infers in (True, False):
        with torch.inference_mode(infers):
            mine = sampler_of(network, step, Called, 16)
            found.append(mine.draw(mine.start(9), noise).clone())
    assert torch.equal(*found)


def test_what_takes_long_is_not_captured(monkeypatch):
    monkeypatch.setattr(graphed, "_MOST_FLOATS", 10)
    monkeypatch.setattr(Called, "capture", None)
    compare(SHAPES["two layers"], STEPS["bernoulli"], Called)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "step"), CASES.values(), ids=CASES)
def test_captured_passes_find_what_blocks_find(shape, step, dtype):
    compare(shape, step, GraphedBlocks, dtype, "cuda")


@pytest.mark.gpu
def test_a_gpu_without_the_kernel_replays_graphs():
    model = MADE(MADEConfig(30, (40,))).double().cuda()
    assert isinstance(model.sampler()._sweep, GraphedBlocks)
    generators = [torch.Generator("cuda").manual_seed(3) for _ in range(2)]
    assert torch.equal(*(model.sample(50, None, each) for each in generators))
