"""The benchmark of samplers: its columns draw the same, and one that does not is not timed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.columns import tensors
from benchmarks.run import Options
from benchmarks.sampling import __main__ as sampling
from benchmarks.sampling import flows, independent, masked, pixels, wavenet, words
from benchmarks.sampling.case import check_draws
from benchmarks.timing import Spread
from benchmarks.verify import RedContract
from dgm_fast.families import (
    IAF,
    MAF,
    HistogramConfig,
    IAFConfig,
    MAFConfig,
    PixelCNN,
    PixelCNNConfig,
    WaveNetConfig,
)

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


SIZES = 60, torch.device("cpu"), (), "small-batch60"
AT_ONCE = {
    "made": lambda: masked.batch_case(masked.BernoulliMADE, 20, (32,), *SIZES),
    "residual made": lambda: masked.batch_case(masked.ResidualMADE, 20, (32, 32, 32), *SIZES),
    "maf": lambda: masked.batch_case(masked.MAFStep, 20, (32,), *SIZES),
    "spline": lambda: masked.batch_case(masked.SplineStep, 20, (32,), *SIZES),
    "histogram": lambda: independent.histogram_case(HistogramConfig((4, 5), levels=6), *SIZES),
    "gradient": lambda: flows.gradient_case(20, (32,), *SIZES),
    "whole maf": lambda: flows.flow_case(MAF, MAFConfig((20,), hidden=(32,)), *SIZES),
    "whole iaf": lambda: flows.flow_case(IAF, IAFConfig((20,), hidden=(32,)), *SIZES),
}


@pytest.fixture(params=AT_ONCE)
def at_once(request, monkeypatch):
    for module in (masked, independent):
        monkeypatch.setattr(module, "COMPILE_MODES", {})
    return AT_ONCE[request.param]()


def test_all_columns_make_the_same_batch(at_once):
    found = set(at_once.columns) - {masked.JACOBI, "best_eager"}
    assert found == {"eager", "ours:auto"}
    check_draws(at_once)
    noise = at_once.noise(1)
    x, *gradients = tensors(at_once.columns["ours:auto"].draw(noise))
    assert x.shape == (60, 1 if at_once.anchor == "anchor:sample" else 20)
    assert len(x.unique(dim=0)) > 10
    # Of y, and of the weight and the bias of both layers.
    assert len(gradients) == (5 if at_once.direction == "forward_backward" else 0)


def test_a_batch_that_is_made_otherwise_is_not_timed(at_once):
    ours = at_once.columns["ours:auto"]
    wrong = replace(ours, draw=lambda noise: ours.draw(1 - noise))
    with pytest.raises(RedContract, match="small-batch60: ours:auto draws otherwise"):
        check_draws(replace(at_once, columns=at_once.columns | {"ours:auto": wrong}))


def test_a_gradient_that_is_another_is_not_timed():
    case = AT_ONCE["gradient"]()
    ours = case.columns["ours:auto"]

    def draw(noise):
        x, *gradients, last = ours.draw(noise)
        return x, *gradients, 1.1 * last

    wrong = {"ours:auto": replace(ours, draw=draw)}
    with pytest.raises(RedContract, match="ours:auto draws otherwise"):
        check_draws(replace(case, columns=case.columns | wrong))


def test_rows_are_of_the_direction_and_the_anchor(at_once):
    options = Options(quick=True, seconds=0.01, columns=("ours", "anchor"))
    rows = sampling.measure(at_once, options)
    assert {row.column for row in rows} == {*at_once.columns, at_once.anchor}
    assert {row.direction for row in rows} == {at_once.direction}


def test_what_the_naive_way_would_take_too_long_for_goes_without(monkeypatch, capsys):
    monkeypatch.setattr(masked, "COMPILE_MODES", {})
    monkeypatch.setattr(masked, "MOST_NAIVE", 10)
    monkeypatch.setattr(flows, "MOST_IN_A_GRAPH", 10)
    for name in ("maf", "gradient"):
        case = AT_ONCE[name]()
        assert "eager" not in case.columns
        check_draws(case)
    out = capsys.readouterr().out
    assert "small-batch60: no eager: the graph of 20 passes takes gigabytes" in out
    assert "ours:jacobi takes" in out


def test_every_model_is_timed_at_all_batches_and_has_its_words():
    batches, at_once = {}, {*masked.CASES, *flows.CASES, *independent.CASES}
    for case in sampling.CASES:
        model, batch = words.batch_of(case)
        if case not in flows.CASES:
            batches.setdefault(model, set()).add(batch)
        assert (words.step_of(case) == words.AT_ONCE) == (case in at_once)
    assert all(found >= {1, 4, 16, 64, 256} for found in batches.values())


@pytest.mark.parametrize(
    ("case", "us", "expected"),
    [
        ("made-8x9-batch100", 2000.0, "50,000 samples"),
        ("pixelcnn-28x28-batch16", 11.8, "1.36 million pixels"),
        ("lstm-1x384-batch1", 30.3, "33,000 tokens"),
        ("wavenet-20x64-skip256-batch4", 1e6, "4 samples"),
    ],
)
def test_what_is_drawn_a_second(case, us, expected):
    assert words.rate_text(case, us) == expected


@pytest.mark.parametrize(
    ("case", "torch_version", "columns", "expected"),
    [
        ("lstm-1x384-batch16", "2.11.0", ("eager", "compile_default"), ""),
        ("lstm-1x384-batch64", "2.13.0", ("compile_max_autotune",), words.NO_NAIVE),
        ("pixelcnnpp-3x32x32-batch1", "2.13.0", ("eager",), words.NO_PIXELCNNPP),
        ("maf-8x9-batch1", "2.11.0+cu130", ("eager",), "torch 2.11 cannot tell apart"),
        ("maf-8x9-batch256", "2.13.0+cpu", ("compile_default",), words.OTHERS),
    ],
)
def test_empty_cells_say_why(case, torch_version, columns, expected):
    rows = [{"case": case, "torch": torch_version, "column": column} for column in columns]
    shown = ("eager",), ("compile_default", "compile_max_autotune")
    found = words.empty_cells([rows], shown)
    assert found.count("Empty: ") == bool(expected)
    assert expected in found
