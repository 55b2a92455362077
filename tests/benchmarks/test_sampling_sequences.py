"""The benchmark of token samplers: its columns draw the same, past the end of a window too."""

from __future__ import annotations

import pytest
import torch

from benchmarks.run import Options
from benchmarks.sampling import __main__ as sampling
from benchmarks.sampling import image_transformer, sequences
from benchmarks.sampling.case import check_draws
from dgm_fast.families import (
    RNN,
    ImageTransformerConfig,
    Markov,
    MarkovConfig,
    MarkovMLP,
    MarkovMLPConfig,
    RNNConfig,
    Transformer,
    TransformerConfig,
)

SMALL = {
    "transformer": (
        Transformer,
        TransformerConfig(32, length=24, layers=2, width=16, positions="rotary"),
    ),
    "gru": (RNN, RNNConfig(32, width=24, layers=2)),
    "lstm": (RNN, RNNConfig(32, width=24, cell="lstm")),
    "markov_mlp": (MarkovMLP, MarkovMLPConfig(32, order=3, embedding=8, hidden=24)),
    "markov": (Markov, MarkovConfig(32, order=2)),
}
# Whose second half is as long as what is drawn below.
IMAGES = ImageTransformerConfig((8, 10), "categorical", levels=32, layers=2, width=16)


@pytest.fixture(params=[*SMALL, "images"])
def case(request, monkeypatch):
    for module in (sequences, image_transformer):
        monkeypatch.setattr(module, "COMPILE_MODES", {})
    monkeypatch.setattr(sequences, "PROMPT", 24)
    options = 3, torch.device("cpu"), (), "small-batch3"
    if request.param == "images":
        return image_transformer.image_case(IMAGES, *options)
    return sequences.sequence_case(*SMALL[request.param], *options)


def test_all_columns_draw_the_same(case):
    assert set(case.columns) == {"eager", "best_eager", "ours:auto"}
    check_draws(case)
    noise = case.noise(40)
    drawn = [draws.draw(noise) for draws in case.columns.values()]
    assert all(torch.equal(tokens, drawn[0]) for tokens in drawn)
    assert len(drawn[0].unique()) > 3


def test_a_draw_goes_on_and_starts_again(case):
    for draws in case.columns.values():
        noise = case.noise(4)
        draws.start()
        first, second = draws.draw(noise), draws.draw(noise)
        draws.start()
        assert torch.equal(draws.draw(noise), first)
        assert not torch.equal(first, second)


def test_every_column_has_a_row(case):
    options = Options(quick=True, seconds=0.01, columns=("best_eager", "ours", "anchor"))
    rows = sampling.measure(case, options)
    assert {row.column for row in rows} == {*case.columns, "anchor:density"}
    assert all(0 < row.p20_us <= row.median_us <= row.p80_us < 1e6 for row in rows)


def test_the_command_knows_the_cases():
    assert sequences.CASES.keys() | image_transformer.CASES.keys() <= sampling.CASES.keys()
