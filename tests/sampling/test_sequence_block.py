"""The GPU's samplers of sequences, whose steps threads of this CPU make."""

from __future__ import annotations

import pytest
import torch

from dgm_fast._core import extension
from dgm_fast._core.random import draw_seed
from dgm_fast.ops import philox_uniform
from dgm_fast.sampling import (
    SeededNoise,
    SequenceSampler,
    filter_logits,
    pick_token,
    pieces,
)
from dgm_fast.sampling.noise import draw_uniforms
from dgm_fast.sampling.panels import in_rows
from dgm_fast.sampling.recurrent import blocks as recurrent_blocks
from dgm_fast.sampling.transformer import blocks as transformer_blocks
from tests.families.sequence_models import RNN, labels, rnn, tokens, transformer
from tests.sampling.block_programs import build, needs_compiler
from tests.sampling.sequence_blocks import on_blocks
from tests.sampling.test_sequence_kernels import (
    FILTERS,
    LOGITS,
    assert_picked,
    draw,
    forced,
    model_of,
    noise_of,
    sampler_of,
)

pytestmark = needs_compiler

SOURCE = "sequence_block.cpp"
T = 19
# Tables and embeddings, one layer and some, one part of a product's rows and many; windows that
# slide and such as do not, one block of places and two.
CONFIGS = {
    "gru": rnn(vocabulary=5, width=7),
    "gru of three": rnn(vocabulary=70, width=20, layers=3, embedding=5),
    "gru of many symbols": rnn(vocabulary=1030, width=9, embedding=18),
    "lstm": rnn(cell="lstm", width=16, classes=2),
    "lstm of two": rnn(cell="lstm", vocabulary=9, width=70, layers=2, embedding=3),
    "lstm of many symbols": rnn(cell="lstm", vocabulary=1030, width=17, layers=2),
    "learned": transformer(vocabulary=5, length=T, width=9, heads=3, layers=3),
    "rotary": transformer(vocabulary=70, length=8, width=20, heads=2, positions="rotary"),
    "labels, tied": transformer(length=T, width=32, heads=2, classes=3, tied=True),
    "one head": transformer(length=T, width=66, heads=1, positions="rotary", layers=1),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
SOME = ("gru of three", "lstm of two", "gru of many symbols", "learned", "rotary")
some = pytest.mark.parametrize("config", [CONFIGS[name] for name in SOME], ids=SOME)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program, compiled once."""
    return build(SOURCE, tmp_path_factory.mktemp("block"))


@pytest.fixture
def on(program, monkeypatch):
    """Makes samplers of a configuration on blocks."""

    def make(config, *options, **others):
        return on_blocks(model_of(config), monkeypatch, program, *options, **others)

    return make


@each_config
def test_a_block_draws_what_the_reference_draws(on, config):
    sampler, _ = on(config, 4, 8)
    noise = noise_of(sampler, 5, T)
    drawn, parameters = draw(sampler, config, noise)
    expected = forced(sampler_of(config, "reference"), config, drawn, noise)
    torch.testing.assert_close(parameters, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
    assert_picked(drawn, expected, noise)
    assert len(drawn.unique()) > 1


@some
def test_neither_sequences_nor_threads_of_a_block_change_a_bit(on, config):
    found = []
    for sequences, threads in ((1, 2), (2, 8), (4, 4), (8, 8), (8, 40)):
        sampler, _ = on(config, sequences, threads)
        noise = noise_of(sampler, 9, 3)
        found.append(draw(sampler, config, noise))
    for each in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(each, found[0], strict=True))

    # Nor does the batch.
    drawn, parameters = draw(sampler, config, noise[:1])
    assert torch.equal(drawn, found[0][0][:1])
    assert torch.equal(parameters, found[0][1][:1])


@some
def test_pieces_fed_and_drawn_are_the_whole(on, config):
    sampler, _ = on(config)
    noise = noise_of(sampler, 3, T)
    drawn, parameters = draw(sampler, config, noise)
    state, found = sampler.start(3, labels(config, 3)), torch.empty_like(parameters)
    for begin, end in ((0, 1), (4, 5), (5, 15), (15, T)):
        state = sampler.feed(state, drawn[:, state.time : begin])
        if end == T:
            # Parameters come a token a call where Python picks.
            sampler.pick = lambda logits, u: pick_token(logits, u)
        piece = slice(begin, end)
        _, state = sampler.draw(state, noise=noise[:, piece], parameters_out=found[:, piece])
        assert torch.equal(found[:, piece], parameters[:, piece])
    assert torch.equal(state.tokens, drawn)


@each_config
def test_a_seed_draws_what_its_noise_draws(on, config):
    sampler, _ = on(config)
    drawn, parameters = draw(sampler, config, noise_of(sampler, 3, T))
    seed = draw_seed(sampler.device, torch.Generator().manual_seed(0))
    noise = SeededNoise(seed, draw_uniforms, 1, range(3), range(T))
    state = sampler.start(3, labels(config, 3))
    for piece in (slice(0, 2), slice(2, 13), slice(13, T)):
        out = torch.empty_like(parameters[:, piece])
        _, state = sampler.draw(state, noise=noise[:, piece], parameters_out=out)
        assert torch.equal(out, parameters[:, piece])
    assert torch.equal(state.tokens, drawn)

    # Sequences that are some of a batch have its noise.
    context = labels(config, 3)
    state = sampler.start(2, None if context is None else context[1:])
    assert torch.equal(sampler.draw(state, noise=noise[1:])[0], drawn[1:])
    generator = torch.Generator().manual_seed(0)
    state = sampler.start(3, labels(config, 3))
    assert torch.equal(sampler.draw(state, T, generator=generator)[0], drawn)

    # Beside tokens that are given to some, and to all.
    given = drawn.where(torch.rand(3, T, generator=generator) < 0.5, -1)
    given[:, 3:7] = drawn[:, 3:7]
    found, _ = sampler.draw(sampler.start(3, labels(config, 3)), noise=noise, given=given)
    assert torch.equal(found, drawn)


def test_a_seed_has_samples_beyond_32_bits(on):
    config, seed = CONFIGS["gru"], torch.tensor(7)
    sampler, _ = on(config)
    rows = range(2**33 + 5, 2**33 + 8)
    noise = SeededNoise(seed, draw_uniforms, 1, rows, range(3, 3 + T))
    where = {"seed": seed, "sample_offset": rows.start, "dtype": torch.float32}
    uniforms = philox_uniform((3, 3 + T), **where)[:, 3:, None]
    expected, _ = sampler.draw(sampler.start(3), noise=uniforms)
    assert torch.equal(sampler.draw(sampler.start(3), noise=noise)[0], expected)


@pytest.mark.parametrize("name", ["lstm", "rotary"])
def test_noise_is_drawn_for_tokens_that_python_picks(on, name):
    config = CONFIGS[name]
    sampler, _ = on(config)
    drawn, _ = draw(sampler, config, noise_of(sampler, 3, T))
    sampler.pick = lambda logits, u: pick_token(logits, u)
    generator = torch.Generator().manual_seed(0)
    state = sampler.start(3, labels(config, 3))
    assert torch.equal(sampler.draw(state, T, generator=generator)[0], drawn)


@pytest.mark.parametrize("fed", [2, 9, 16])
@pytest.mark.parametrize("sequences", [1, 2, 4])
@pytest.mark.parametrize("name", ["learned", "rotary"])
def test_places_fed_together_are_those_fed_one_by_one(on, name, sequences, fed):
    config, found = CONFIGS[name], []
    tokens = torch.randint(config.vocabulary, (5, fed), generator=torch.Generator().manual_seed(1))
    for together in (False, True):
        sampler, _ = on(config, sequences, 16, together=together)
        noise = noise_of(sampler, 5, 3)
        parameters = torch.empty(5, 3, config.vocabulary)
        state = sampler.feed(sampler.start(5, labels(config, 5)), tokens)
        drawn, state = sampler.draw(state, noise=noise, parameters_out=parameters)
        found.append([drawn, parameters, *state.memory.kept])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["gru", "learned"])
def test_what_is_long_is_fed_in_pieces(on, monkeypatch, name):
    config = CONFIGS[name]
    sampler, blocks = on(config)
    noise = noise_of(sampler, 3, T)
    drawn, _ = draw(sampler, config, noise)
    calls = len(blocks.plans)
    monkeypatch.setattr(pieces, "_WORK", 8 * 4 * sampler._packed.multiply_adds)
    state = sampler.feed(sampler.start(3, labels(config, 3)), drawn[:, : T - 3])
    rest, _ = sampler.draw(state, noise=noise[:, -3:])
    assert torch.equal(rest, drawn[:, -3:])
    assert len(blocks.plans) - calls > 3


@pytest.mark.skipif(extension.cpp_missing is not None, reason=str(extension.cpp_missing))
@some
def test_a_stream_moves_from_a_cpu_to_a_block_and_back(on, config):
    cpp, sampler = sampler_of(config), on(config)[0]
    noise = noise_of(cpp, 3, T)
    whole, parameters = draw(cpp, config, noise)
    state, found = cpp.start(3, labels(config, 3)), torch.empty_like(parameters)
    for each, begin, end in ((cpp, 0, 4), (sampler, 4, 15), (cpp, 15, T)):
        piece = slice(begin, end)
        state = state.to(each.device)
        _, state = each.draw(state, noise=noise[:, piece], parameters_out=found[:, piece])
    assert torch.equal(state.tokens, whole)
    torch.testing.assert_close(found, parameters, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["lstm", "rotary"])
def test_a_state_is_moved_whole_or_refused(name):
    config = CONFIGS[name]
    sampler = sampler_of(config, "reference")
    _, state = sampler.draw(sampler.start(2, labels(config, 2)), 3)
    moved = state.to("meta")
    memory = moved.memory
    of_layers, last = memory.kept, memory.parameters
    assert all(x.is_meta for x in (moved.first, moved.buffer, last, *of_layers))
    assert (moved.time, memory.seen) == (state.time, state.memory.seen)
    with pytest.raises(ValueError, match="this sampler's, on cpu; got one on meta"):
        sampler.draw(moved, 1)
    with pytest.raises(ValueError, match="this sampler's, on cpu; got one on meta"):
        sampler.feed(moved, torch.zeros(2, 1, dtype=torch.int64))


def test_a_state_of_another_layout_is_refused(on):
    config = CONFIGS["rotary"]
    kernel, reference = on(config)[0], sampler_of(config, "reference")
    with pytest.raises(ValueError, match="state must be of this sampler's, on cpu; got"):
        kernel.draw(reference.start(2), 1)
    with pytest.raises(ValueError, match="state must be of this sampler's, on cpu; got"):
        reference.feed(kernel.start(2), tokens(2, 1))


def test_a_piece_is_longer_where_many_sequences_are_drawn_at_a_time(on):
    config = CONFIGS["gru"]
    lengths = [
        [each._tokens_of_a_piece(batch, 10**9, False) for batch in (1, 8, 800, 1600)]
        for each in (sampler_of(config), on(config)[0])
    ]
    assert lengths[0][0] == lengths[0][1] == pytest.approx(100 * lengths[0][2], rel=1e-3)
    assert lengths[1][0] == lengths[1][2] == pytest.approx(2 * lengths[1][3], rel=1e-3)


@pytest.mark.parametrize("name", ["lstm of two", "learned"])
def test_tokens_given_to_some_are_kept(on, name):
    config = CONFIGS[name]
    sampler, _ = on(config)
    noise = noise_of(sampler, 4, T)
    generator = torch.Generator().manual_seed(5)
    given = tokens(4, T).where(torch.rand(4, T, generator=generator) < 0.5, -1)
    given[:, 3:7] = 1
    drawn, parameters = draw(sampler, config, noise, given=given)
    assert torch.equal(drawn[given >= 0], given[given >= 0])
    expected = forced(sampler_of(config, "reference"), config, drawn, noise)
    assert_picked(drawn[given < 0], expected[given < 0], noise[given < 0])
    assert parameters[:, 3:7].isnan().all()


def logits_model(logits):
    """A model that draws all tokens from the same logits."""
    model = RNN(rnn(vocabulary=len(logits), width=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.bias.copy_(logits)
    return model.eval()


@pytest.mark.parametrize("filters", [FILTERS[i] for i in (0, 1, 3, 5, 8, 10, 13, 14)], ids=str)
def test_a_block_leaves_out_what_the_rule_leaves_out(program, monkeypatch, filters):
    u = torch.cat([torch.linspace(0, 1, 40)[:-1], torch.tensor([1 - 2**-24])])
    for logits in map(torch.tensor, LOGITS.values()):
        sampler, _ = on_blocks(logits_model(logits), monkeypatch, program, 1, 2)
        drawn, _ = sampler.draw(sampler.start(1), noise=u[None, :, None], **filters)
        kept = filter_logits(logits, **filters)
        assert_picked(drawn[0], kept.expand(len(u), -1), u[:, None])
        possible = kept.double().softmax(-1) > 0
        assert possible[drawn[0]].all() if possible.any() else (drawn == 0).all()


@pytest.mark.parametrize("name", ["gru", "gru of many symbols", "rotary"])
def test_what_is_no_token_comes_out_as_no_number(on, monkeypatch, name):
    config = CONFIGS[name]
    sampler, _ = on(config)
    # Nobody looks at tokens on a GPU.
    monkeypatch.setattr(SequenceSampler, "_check_tokens", lambda *arguments: None)
    wrong = torch.tensor([[0, 1], [0, 10**9], [-5, 0], [0, 2]])
    state = sampler.feed(sampler.start(4), wrong)
    parameters = torch.empty(4, 2, config.vocabulary)
    sampler.draw(state, 2, parameters_out=parameters)
    assert parameters.isnan().all(-1).all(-1).tolist() == [False, True, True, False]
    assert parameters[[0, 3]].isfinite().all()


@each_config
def test_python_knows_what_a_block_shares(on, config):
    sampler, blocks = on(config, 1)
    draw(sampler, config, noise_of(sampler, 1, 1))
    assert blocks.plans[-1][0] == shared_bytes(config)


def shared_bytes(config):
    """As Python knows them."""
    is_recurrent = isinstance(config, RNN.config_class)
    module = recurrent_blocks if is_recurrent else transformer_blocks
    return module.shared_bytes(model_of(config).described())


@pytest.mark.parametrize(
    ("batch", "processors", "share", "sequences"),
    [
        (66, 132, 1.0, 1),
        (67, 132, 1.0, 2),
        (264, 132, 1.0, 4),
        (5000, 132, 1.0, 8),
        (5000, 132, 0.5, 4),
        (5000, 132, 0.1, 1),
        (9, 1, 1.0, 8),
    ],
)
@pytest.mark.parametrize("config", [rnn(), transformer()], ids=["rnn", "transformer"])
def test_sequences_of_a_block_leave_half_the_processors_and_fit(
    on, config, batch, processors, share, sequences
):
    memory = int(8 * share * shared_bytes(config))
    # A block of none is planned alone.
    sampler, blocks = on(config, 0, processors=(processors, memory))
    sampler.draw(sampler.start(batch), 1)
    assert blocks.plans[-1][1] == sequences


def test_matrices_of_a_gpu_lie_row_after_row():
    matrix = torch.arange(1.0, 181.0).view(20, 9)
    rows = in_rows(matrix)
    assert rows.shape == (24, 16)
    assert torch.equal(rows[:20, :9], matrix)
    assert rows.sum() == matrix.sum()
