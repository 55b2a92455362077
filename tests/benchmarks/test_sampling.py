"""The benchmark of samplers: its columns draw the same, and one that does not is not timed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.run import Options
from benchmarks.sampling import __main__ as sampling
from benchmarks.sampling import masked, pixels, wavenet
from benchmarks.sampling.case import check_draws
from benchmarks.timing import Spread
from benchmarks.verify import RedContract
from dgm_fast.families import PixelCNN, PixelCNNConfig, WaveNetConfig

SMALL = WaveNetConfig(
    stacks=2, layers=4, channels=8, gate_channels=8, skip_channels=16, head_channels=16, levels=32
)


IMAGES = PixelCNNConfig((12, 4), output="categorical", levels=32, channels=8, blocks=1)


@pytest.fixture(params=["signals", "images"])
def case(request, monkeypatch):
    for module in (wavenet, pixels):
        monkeypatch.setattr(module, "COMPILE_MODES", {})
    options = 3, torch.device("cpu"), (), "small-batch3"
    if request.param == "signals":
        return wavenet.wavenet_case(SMALL, *options)
    return pixels.pixelcnn_case(PixelCNN, IMAGES, *options)


def test_all_columns_draw_the_same(case):
    assert set(case.columns) - {"anchor:last_output"} == {"eager", "best_eager", "ours:auto"}
    check_draws(case)
    noise = case.noise(5)
    drawn = [draws.draw(noise) for draws in case.columns.values()]
    assert all(torch.equal(levels, drawn[0]) for levels in drawn)
    assert len(drawn[0].unique()) > 3


def test_a_column_that_draws_otherwise_is_not_timed(case):
    ours = case.columns["ours:auto"]
    wrong = replace(ours, draw=lambda noise: ours.draw(1 - noise))
    with pytest.raises(RedContract, match=r"small-batch3: .* draws? otherwise"):
        check_draws(replace(case, columns=case.columns | {"ours:auto": wrong}))


def test_a_draw_goes_on_and_starts_again(case):
    for draws in case.columns.values():
        noise = case.noise(4)
        draws.start()
        first, second = draws.draw(noise), draws.draw(noise)
        draws.start()
        assert torch.equal(draws.draw(noise), first)
        assert not torch.equal(first, second)


def test_rows_are_of_a_step():
    assert sampling._a_step(Spread(100.0, 90.0, 120.0, 7), 10) == Spread(10.0, 9.0, 12.0, 7)


def test_every_column_has_a_row(case):
    options = Options(quick=True, seconds=0.01, columns=("best_eager", "ours", "anchor"))
    rows = sampling.measure(case, options)
    assert {row.column for row in rows} == {*case.columns, "anchor:density"}
    assert all(0 < row.p20_us <= row.median_us <= row.p80_us < 1e5 for row in rows)
    density = next(row for row in rows if row.column == "anchor:density")
    assert density.median_us < 1e3


@pytest.fixture(params=[masked.BernoulliMADE, masked.MAFStep])
def at_once(request, monkeypatch):
    monkeypatch.setattr(masked, "COMPILE_MODES", {})
    sizes = 20, (32,), 60
    return masked.batch_case(request.param, *sizes, torch.device("cpu"), (), "small-batch60")


def test_all_columns_make_the_same_batch(at_once):
    assert set(at_once.columns) == {"eager", "best_eager", "ours:auto"}
    check_draws(at_once)
    x = at_once.columns["ours:auto"].draw(at_once.noise(1))
    assert x.shape == (60, 20)
    assert len(x.unique(dim=0)) > 10


def test_a_batch_that_is_made_otherwise_is_not_timed(at_once):
    ours = at_once.columns["ours:auto"]
    wrong = replace(ours, draw=lambda noise: ours.draw(1 - noise))
    with pytest.raises(RedContract, match="small-batch60: ours:auto draws otherwise"):
        check_draws(replace(at_once, columns=at_once.columns | {"ours:auto": wrong}))
