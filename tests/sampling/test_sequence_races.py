"""Threads of a block that draw sequences never race, and any wait that is left out is caught."""

from __future__ import annotations

import pytest
import torch

from tests.families.sequence_models import rnn, transformer
from tests.sampling.block_programs import build_watched, needs_compiler
from tests.sampling.sequence_blocks import on_blocks
from tests.sampling.test_sequence_block import SOURCE
from tests.sampling.test_sequence_kernels import model_of

pytestmark = needs_compiler

# So wide, and drawn by so many threads, that none reads only what it wrote itself.
RACY = {
    "table": rnn(vocabulary=40, width=36),
    "embedding": rnn(cell="lstm", vocabulary=1030, width=20, layers=2),
    "rotary": transformer(vocabulary=40, length=9, width=40, layers=1, positions="rotary"),
}
# That for the states; two of the layer, of the head and of the softmax, the draw's; the next two.
LEFT_OUT = [("table", i) for i in range(1 + 2 + 2 + 2 + 1 + 2)] + [("embedding", 1)]
# Of the first token the draw's, and of the next, which sees two places, all but that: three a norm,
# five of the attention, two a product, of the head and of the softmax, one of the embedding.
OF_A_TOKEN = 1 + 3 * 3 + 5 + 4 * 2 + 2 + 2 + 1
LEFT_OUT += [("rotary", OF_A_TOKEN - 1 + i) for i in range(OF_A_TOKEN)]


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """The program under ThreadSanitizer."""
    folder = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        return build_watched(SOURCE, folder, lambda program: _run(program, patch, "table"))


def _run(program, monkeypatch, name, left_out=-1, batch=3, **filters):
    # Three a sequence: the parts of a sum fall to two or four threads as what they add does.
    options = {"threads": 6, "left_out": left_out}
    sampler, _ = on_blocks(model_of(RACY[name]), monkeypatch, program, **options)
    sampler.draw(sampler.start(batch), 2, **filters)


@pytest.mark.parametrize("filters", [{"top_k": 3, "top_p": 0.9}, {"temperature": 0.0}], ids=str)
@pytest.mark.parametrize("name", RACY)
def test_threads_of_a_block_never_race(watched, monkeypatch, name, filters):
    _run(watched, monkeypatch, name, **filters)


def _feed(program, monkeypatch, left_out=-1):
    # Three threads a place.
    options = {"sequences": 4, "threads": 24, "together": True, "left_out": left_out}
    sampler, _ = on_blocks(model_of(RACY["rotary"]), monkeypatch, program, **options)
    state = sampler.feed(sampler.start(2), torch.arange(6).view(2, 3))
    sampler.draw(state, 1)


def test_threads_never_race_where_places_are_fed_together(watched, monkeypatch):
    _feed(watched, monkeypatch)


# Of the embedding, of the norm, and of the product that keys and values are made of.
@pytest.mark.parametrize("left_out", [0, 1, 4])
def test_a_wait_left_out_while_places_are_fed_is_caught(watched, monkeypatch, left_out):
    monkeypatch.setenv("TSAN_OPTIONS", "halt_on_error=1:symbolize=0")
    with pytest.raises(RuntimeError, match="data race"):
        _feed(watched, monkeypatch, left_out)


@pytest.mark.parametrize(("name", "left_out"), LEFT_OUT)
def test_a_block_that_leaves_out_any_wait_is_caught(watched, monkeypatch, name, left_out):
    # Names of functions cost more than to find the race.
    monkeypatch.setenv("TSAN_OPTIONS", "halt_on_error=1:symbolize=0")
    with pytest.raises(RuntimeError, match="data race"):
        _run(watched, monkeypatch, name, left_out, batch=2)
