"""The GPU's sampler of recurrent networks, whose steps threads of this CPU make."""

from __future__ import annotations

import pytest
import torch

from dgm_fast._core import extension
from dgm_fast.sampling import RecurrentSampler, SequenceSampler, filter_logits, pick_token
from dgm_fast.sampling.panels import in_rows
from dgm_fast.sampling.recurrent import op
from dgm_fast.sampling.recurrent.blocks import shared_bytes
from dgm_fast.sampling.recurrent.packed import PackedRecurrent
from tests.families.sequence_models import labels, make_model, rnn, tokens
from tests.sampling.block_programs import build, build_watched, needs_compiler
from tests.sampling.sequence_blocks import SequenceBlocks
from tests.sampling.test_sequence_kernels import (
    FILTERS,
    LOGITS,
    assert_picked,
    draw,
    forced,
    noise_of,
    picker,
    sampler_of,
)

pytestmark = needs_compiler

SOURCE = "recurrent_block.cpp"
T = 13
# A table and embeddings, one layer and some, one part of a product's rows and many.
CONFIGS = {
    "gru": rnn(vocabulary=5, width=7),
    "gru of three": rnn(vocabulary=70, width=20, layers=3, embedding=5),
    "gru of many symbols": rnn(vocabulary=1030, width=9, embedding=18),
    "lstm": rnn(cell="lstm", width=16, classes=2),
    "lstm of two": rnn(cell="lstm", vocabulary=9, width=70, layers=2, embedding=3),
    "lstm of many symbols": rnn(cell="lstm", vocabulary=1030, width=17, layers=2),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
SOME = ("gru of three", "gru of many symbols", "lstm of two")
some = pytest.mark.parametrize("config", [CONFIGS[name] for name in SOME], ids=SOME)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program, compiled once."""
    return build(SOURCE, tmp_path_factory.mktemp("block"))


def on_blocks(sampler, monkeypatch, program, *options, **others):
    """A sampler of the same network whose kernel a program is, and its calls."""
    blocks = SequenceBlocks(program, *options, **others)

    def call(hidden, parameters, inputs, given, noise, weights, sizes, lstm, *filters):
        network = lstm, len(weights[0])
        return blocks.call(
            hidden, parameters, inputs, given, noise, weights, sizes, network, filters
        )

    monkeypatch.setitem(op.draw, "cuda", call)
    found = RecurrentSampler(sampler.network, impl="reference")
    found.impl, found._packed = "cuda", PackedRecurrent(sampler.network, in_rows)
    return found, blocks


@each_config
def test_a_block_draws_what_the_reference_draws(program, monkeypatch, config):
    reference = sampler_of(config, "reference")
    sampler, _ = on_blocks(reference, monkeypatch, program, 4, 8)
    noise = noise_of(sampler, 5, T)
    drawn, parameters = draw(sampler, config, noise)
    expected = forced(reference, config, drawn, noise)
    torch.testing.assert_close(parameters, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
    assert_picked(drawn, expected, noise)
    assert len(drawn.unique()) > 1


@some
def test_neither_sequences_nor_threads_of_a_block_change_a_bit(program, monkeypatch, config):
    reference, found = sampler_of(config, "reference"), []
    noise = noise_of(reference, 9, 4)
    for sequences, threads in ((1, 8), (2, 8), (4, 8), (8, 8), (8, 24), (8, 64)):
        sampler, _ = on_blocks(reference, monkeypatch, program, sequences, threads)
        found.append(draw(sampler, config, noise))
    for each in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(each, found[0], strict=True))

    # Nor does the batch.
    drawn, parameters = draw(sampler, config, noise[:1])
    assert torch.equal(drawn, found[0][0][:1])
    assert torch.equal(parameters, found[0][1][:1])


@some
def test_pieces_fed_and_drawn_are_the_whole(program, monkeypatch, config):
    sampler, _ = on_blocks(sampler_of(config, "reference"), monkeypatch, program)
    noise = noise_of(sampler, 3, T)
    drawn, parameters = draw(sampler, config, noise)
    state, found = sampler.start(3, labels(config, 3)), torch.empty_like(parameters)
    for begin, end in ((0, 1), (4, 5), (5, 9), (9, T)):
        state = sampler.feed(state, drawn[:, state.time : begin])
        if end == T:
            # Parameters come a token a call where Python picks.
            sampler.pick = lambda logits, u: pick_token(logits, u)
        piece = slice(begin, end)
        _, state = sampler.draw(state, noise=noise[:, piece], parameters_out=found[:, piece])
        assert torch.equal(found[:, piece], parameters[:, piece])
    assert torch.equal(state.tokens, drawn)


@some
def test_what_is_long_is_fed_in_pieces(program, monkeypatch, config):
    sampler, blocks = on_blocks(sampler_of(config, "reference"), monkeypatch, program)
    noise = noise_of(sampler, 3, T)
    drawn, _ = draw(sampler, config, noise)
    calls = len(blocks.plans)
    monkeypatch.setattr("dgm_fast.sampling.sequence._PIECE", 8 * 4 * sampler._multiply_adds)
    state = sampler.feed(sampler.start(3, labels(config, 3)), drawn[:, :10])
    rest, _ = sampler.draw(state, noise=noise[:, 10:])
    assert torch.equal(rest, drawn[:, 10:])
    assert len(blocks.plans) - calls == 3


@pytest.mark.skipif(extension.cpp_missing is not None, reason=str(extension.cpp_missing))
@some
def test_a_stream_moves_from_a_cpu_to_a_block_and_back(program, monkeypatch, config):
    cpp = sampler_of(config)
    sampler, _ = on_blocks(cpp, monkeypatch, program)
    noise = noise_of(cpp, 3, T)
    whole, parameters = draw(cpp, config, noise)
    state, found = cpp.start(3, labels(config, 3)), torch.empty_like(parameters)
    for each, begin, end in ((cpp, 0, 4), (sampler, 4, 9), (cpp, 9, T)):
        piece = slice(begin, end)
        state = state.to(each.device)
        _, state = each.draw(state, noise=noise[:, piece], parameters_out=found[:, piece])
    assert torch.equal(state.tokens, whole)
    torch.testing.assert_close(found, parameters, rtol=1e-4, atol=1e-4)


def test_a_state_is_moved_whole_or_refused():
    sampler = sampler_of(CONFIGS["lstm"], "reference")
    sampler.pick = lambda logits, u: logits.argmax(-1)
    _, state = sampler.draw(sampler.start(2, labels(CONFIGS["lstm"], 2)), 3)
    moved = state.to("meta")
    memory = moved.memory
    kept = [moved.first, moved.buffer, memory.logits, *(x for each in memory.hidden for x in each)]
    assert all(each.device.type == "meta" for each in kept)
    assert (moved.time, memory.seen) == (state.time, state.memory.seen)
    with pytest.raises(ValueError, match="state must be on cpu; got one on meta"):
        sampler.draw(moved, 1)
    with pytest.raises(ValueError, match="state must be on cpu; got one on meta"):
        sampler.feed(moved, torch.zeros(2, 1, dtype=torch.int64))


def test_a_piece_is_longer_where_many_sequences_are_drawn_at_a_time(program, monkeypatch):
    cpu = sampler_of(CONFIGS["gru"])
    sampler, _ = on_blocks(cpu, monkeypatch, program)
    lengths = [
        [each._tokens_of_a_piece(batch, 10**9, False) for batch in (1, 8, 800, 1600)]
        for each in (cpu, sampler)
    ]
    assert lengths[0][0] == lengths[0][1] == pytest.approx(100 * lengths[0][2], rel=1e-3)
    assert lengths[1][0] == lengths[1][2] == pytest.approx(2 * lengths[1][3], rel=1e-3)


def test_tokens_given_to_some_are_kept(program, monkeypatch):
    config = CONFIGS["lstm of two"]
    reference = sampler_of(config, "reference")
    sampler, _ = on_blocks(reference, monkeypatch, program)
    noise = noise_of(sampler, 4, T)
    given = tokens(4, T).where(
        torch.rand(4, T, generator=torch.Generator().manual_seed(5)) < 0.5, -1
    )
    given[:, 3:7] = 1
    drawn, parameters = draw(sampler, config, noise, given=given)
    assert torch.equal(drawn[given >= 0], given[given >= 0])
    expected = forced(reference, config, drawn, noise)
    assert_picked(drawn[given < 0], expected[given < 0], noise[given < 0])
    assert parameters[:, 3:7].isnan().all()


@pytest.mark.parametrize("filters", FILTERS[:4:2] + FILTERS[1::3] + FILTERS[-2:], ids=str)
def test_a_block_leaves_out_what_the_rule_leaves_out(program, monkeypatch, filters):
    u = torch.cat([torch.linspace(0, 1, 60)[:-1], torch.tensor([1 - 2**-24])])
    for logits in map(torch.tensor, LOGITS.values()):
        sampler, _ = on_blocks(picker(logits), monkeypatch, program, 1, 2)
        drawn, _ = sampler.draw(sampler.start(1), noise=u[None, :, None], **filters)
        kept = filter_logits(logits, **filters)
        assert_picked(drawn[0], kept.expand(len(u), -1), u[:, None])
        possible = kept.double().softmax(-1) > 0
        assert possible[drawn[0]].all() if possible.any() else (drawn == 0).all()


@pytest.mark.parametrize("name", ["gru", "gru of many symbols"])
def test_what_is_no_token_comes_out_as_no_number(program, monkeypatch, name):
    config = CONFIGS[name]
    sampler, _ = on_blocks(sampler_of(config, "reference"), monkeypatch, program)
    # Nobody looks at tokens on a GPU.
    monkeypatch.setattr(SequenceSampler, "_check_tokens", lambda *arguments: None)
    wrong = torch.tensor([[0, 1], [0, 10**9], [-5, 0], [0, 2]])
    state = sampler.feed(sampler.start(4), wrong)
    parameters = torch.empty(4, 2, config.vocabulary)
    sampler.draw(state, 2, parameters_out=parameters)
    assert parameters.isnan().all(-1).all(-1).tolist() == [False, True, True, False]
    assert parameters[[0, 3]].isfinite().all()


@each_config
def test_python_knows_what_a_block_shares(program, monkeypatch, config):
    sampler, blocks = on_blocks(sampler_of(config, "reference"), monkeypatch, program, 1)
    draw(sampler, config, noise_of(sampler, 1, 1))
    assert blocks.plans[-1][0] == shared_bytes(sampler.network)


@pytest.mark.parametrize(
    ("batch", "processors", "share", "sequences"),
    [(66, 132, 1.0, 1), (67, 132, 1.0, 2), (264, 132, 1.0, 4), (5000, 132, 1.0, 8)]
    + [(5000, 132, 0.5, 4), (5000, 132, 0.1, 1), (9, 1, 1.0, 8)],
)
def test_sequences_of_a_block_leave_half_the_processors_and_fit(
    program, monkeypatch, batch, processors, share, sequences
):
    reference = sampler_of(rnn(), "reference")
    memory = int(8 * share * shared_bytes(reference.network))
    sampler, blocks = on_blocks(reference, monkeypatch, program, 3, processors=(processors, memory))
    sampler.draw(sampler.start(batch), 1)
    assert blocks.plans[-1][1] == sequences


# So wide that no thread reads only what it wrote itself.
RACY = {
    "table": rnn(vocabulary=40, width=36),
    "embedding": rnn(cell="lstm", vocabulary=1030, width=20, layers=2),
}
# The states', which an embedding's wait is for, too; two a layer, of the head and of the softmax; the
# draw's; those of the next token.
WAITS = {"table": (0, 1 + 2 + 5 + 2), "embedding": (1, 2 + 4 + 5 + 1)}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """The program under ThreadSanitizer."""
    folder = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        return build_watched(SOURCE, folder, lambda program: _draw_watched(program, patch, "table"))


def _draw_watched(program, monkeypatch, name, left_out=-1, **filters):
    reference = make_model(RACY[name]).sampler(impl="reference")
    sampler, _ = on_blocks(reference, monkeypatch, program, left_out=left_out)
    sampler.draw(sampler.start(3), 2, **filters)


@pytest.mark.parametrize("filters", [{}, {"top_k": 3, "top_p": 0.9}, {"temperature": 0.0}], ids=str)
@pytest.mark.parametrize("name", RACY)
def test_threads_of_a_block_never_race(watched, monkeypatch, name, filters):
    _draw_watched(watched, monkeypatch, name, **filters)


@pytest.mark.parametrize(
    ("name", "left_out"), [(name, i) for name in RACY for i in range(*WAITS[name])]
)
def test_a_block_that_leaves_out_any_wait_is_caught(watched, monkeypatch, name, left_out):
    with pytest.raises(RuntimeError, match="data race"):
        _draw_watched(watched, monkeypatch, name, left_out)


def test_matrices_of_a_gpu_lie_row_after_row():
    matrix = torch.arange(1.0, 181.0).view(20, 9)
    rows = in_rows(matrix)
    assert rows.shape == (24, 16)
    assert torch.equal(rows[:20, :9], matrix)
    assert rows.sum() == matrix.sum()
