"""The C++ samplers of sequences give what the reference gives, and the same bits in any pieces."""

from __future__ import annotations

import pytest
import torch

from dgm_fast import use_impl
from dgm_fast._core import extension
from dgm_fast._core.implementation import ImplementationUnavailable
from dgm_fast.families import ImageTransformer, ImageTransformerConfig
from dgm_fast.sampling import (
    RecurrentNetwork,
    RecurrentSampler,
    TransformerSampler,
    filter_logits,
    pick_token,
    pieces,
)
from dgm_fast.sampling.recurrent import op as recurrent_op
from dgm_fast.sampling.transformer import op as transformer_op
from tests.families.sequence_models import labels, make_model, rnn, tokens, transformer
from tests.processes import run_on_isa
from tests.sampling.pixel_cases import needs_kernel

pytestmark = needs_kernel

# Odd and whole vectors, several panels and depths of them, several blocks of places.
CONFIGS = {
    "learned": transformer(vocabulary=5, length=37, width=9, heads=3, layers=3),
    "rotary": transformer(vocabulary=70, length=40, width=20, heads=2, positions="rotary"),
    "labels, tied": transformer(length=21, width=32, heads=2, classes=3, tied=True),
    "one head": transformer(vocabulary=7, length=18, width=66, heads=1, positions="rotary"),
    "wide": transformer(vocabulary=131, length=20, width=144, heads=2, layers=1, tied=False),
    "gru": rnn(vocabulary=5, width=7),
    "gru of three": rnn(vocabulary=70, width=20, layers=3, embedding=5),
    "gru of many symbols": rnn(vocabulary=1030, width=33, embedding=18),
    "lstm": rnn(cell="lstm", width=16, classes=2),
    "lstm of two": rnn(cell="lstm", vocabulary=9, width=150, layers=2, embedding=3),
    "lstm of many symbols": rnn(cell="lstm", vocabulary=1030, width=17, layers=2),
}
EXACT = ("learned", "rotary", "gru of three", "gru of many symbols", "lstm of two")
LENGTH = 45

configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
exact = pytest.mark.parametrize("config", [CONFIGS[name] for name in EXACT], ids=EXACT)


def model_of(config, device="cpu"):
    """A model of weights small enough that what differs by rounding stays as near."""
    model = make_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(min(1.0, 3 / parameter.shape[1] ** 0.5))
    return model.to(device)


def sampler_of(config, impl="cpp", device="cpu"):
    """A sampler of such a model."""
    return model_of(config, device).sampler(impl=impl)


def draw(sampler, config, noise, **options):
    """Return the tokens and the parameters that they were drawn from."""
    batch, length, _ = noise.shape
    parameters = noise.new_full((batch, length, config.vocabulary), float("nan"))
    state = sampler.start(batch, labels(config, batch))
    drawn, _ = sampler.draw(state, noise=noise, parameters_out=parameters, **options)
    return drawn, parameters


def noise_of(sampler, batch, length=LENGTH, seed=0):
    return sampler.draw_noise(batch, length, torch.Generator(sampler.device).manual_seed(seed))


def forced(sampler, config, drawn, noise):
    """Return the parameters that a sampler would draw tokens from, were they those drawn."""
    # One sequence more, to which no token is given.
    more = torch.cat([noise, noise[:1]])
    context = labels(config, len(drawn))
    context = None if context is None else torch.cat([context, context[:1]])
    parameters = noise.new_empty(len(more), drawn.shape[1], config.vocabulary)
    given = torch.cat([drawn, torch.full_like(drawn[:1], -1)])
    state = sampler.start(len(more), context)
    sampler.draw(state, noise=more, given=given, parameters_out=parameters)
    return parameters[:-1]


def assert_picked(drawn, logits, u):
    """Whether tokens are those of logits, but where a uniform lies within rounding of a border."""
    ends = logits.double().softmax(-1).cumsum(-1)
    near = ((u.double() - ends).abs() < 1e-5).any(-1)
    assert torch.equal(drawn[~near], pick_token(logits[~near], u[~near]))
    assert near.double().mean() < 0.1


@pytest.mark.parametrize("batch", [1, 3, 17])
@configs
def test_a_kernel_draws_what_the_reference_draws(config, batch):
    kernel, reference = sampler_of(config), sampler_of(config, "reference")
    assert (kernel.impl, reference.impl) == ("cpp", "reference")
    noise = noise_of(kernel, batch)
    drawn, parameters = draw(kernel, config, noise)
    expected = forced(reference, config, drawn, noise)
    torch.testing.assert_close(parameters, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
    assert_picked(drawn, expected, noise)
    assert len(drawn.unique()) > 1


@exact
def test_bits_depend_on_neither_batch_nor_pieces_nor_threads(config):
    sampler, threads = sampler_of(config), torch.get_num_threads()
    noise = noise_of(sampler, 53)
    drawn, parameters = draw(sampler, config, noise)
    for rows in (slice(0, 1), slice(0, 2), slice(0, 9)):
        some, of_some = draw(sampler, config, noise[rows])
        assert torch.equal(some, drawn[rows])
        assert torch.equal(of_some, parameters[rows])
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        again = draw(sampler, config, noise)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again[1], parameters)

    # Pieces, among them tokens that are fed, each of which may wait for others.
    state = sampler.start(53, labels(config, 53))
    found = torch.empty_like(parameters)
    for begin, end in ((0, 1), (1, 14), (19, 20), (20, LENGTH)):
        state = sampler.feed(state, drawn[:, state.time : begin])
        piece = slice(begin, end)
        _, state = sampler.draw(state, noise=noise[:, piece], parameters_out=found[:, piece])
        assert torch.equal(found[:, piece], parameters[:, piece])
    assert torch.equal(state.tokens, drawn)


@exact
def test_what_is_long_goes_in_pieces(config, monkeypatch):
    sampler, told = sampler_of(config), []
    noise = noise_of(sampler, 3)
    drawn, parameters = draw(sampler, config, noise)
    monkeypatch.setattr(pieces, "_WORK", 8 * 5 * sampler._packed.multiply_adds)
    again = draw(sampler, config, noise, progress=lambda done, of: told.append((done, of)))
    assert torch.equal(again[1], parameters)
    assert told[-1] == (LENGTH, LENGTH)
    assert 5 <= len(told) <= LENGTH
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    state = sampler.feed(sampler.start(3, labels(config, 3)), drawn[:, :30])
    rest, _ = sampler.draw(state, noise=noise[:, 30:])
    assert torch.equal(rest, drawn[:, 30:])


@pytest.mark.parametrize("place", ["_launch", "append", "_run"])
@exact
def test_an_interrupt_anywhere_leaves_the_state_whole(config, place, monkeypatch):
    sampler = sampler_of(config)
    noise = noise_of(sampler, 3)
    drawn, parameters = draw(sampler, config, noise)
    _, state = sampler.draw(sampler.start(3, labels(config, 3)), noise=noise[:, :11])
    owner = type(state) if place == "append" else type(sampler)
    whole = getattr(owner, place)

    def interrupted(*arguments):
        whole(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, place, interrupted)
        with pytest.raises(KeyboardInterrupt):
            sampler.draw(state, noise=noise[:, 11:16])
    assert torch.equal(state.tokens, drawn[:, : state.time])
    found, begin = torch.empty_like(parameters), state.time
    sampler.draw(state, noise=noise[:, begin:], parameters_out=found[:, begin:])
    assert torch.equal(state.tokens, drawn)
    assert torch.equal(found[:, begin:], parameters[:, begin:])


@exact
def test_tokens_given_to_some_or_all_are_kept(config):
    kernel, reference = sampler_of(config), sampler_of(config, "reference")
    noise = noise_of(kernel, 4)
    generator = torch.Generator().manual_seed(5)
    given = tokens(4, LENGTH).where(torch.rand(4, LENGTH, generator=generator) < 0.5, -1)
    given[:, 3:7], given[:, 11] = 1, -1
    drawn, parameters = draw(kernel, config, noise, given=given)
    assert torch.equal(drawn[given >= 0], given[given >= 0])
    expected = forced(reference, config, drawn, noise)
    assert_picked(drawn[given < 0], expected[given < 0], noise[given < 0])
    # Left as they were where a token is given to all.
    assert torch.equal(parameters.isnan().any(-1), (given >= 0).all(0).expand(4, -1))
    assert parameters[:, 3:7].isnan().all()


@exact
def test_torchs_default_dtype_changes_nothing(config):
    model = make_model(config)
    sampler = model.sampler(impl="cpp")
    noise = noise_of(sampler, 2)
    drawn, _ = sampler.draw(sampler.start(2), noise=noise)
    torch.set_default_dtype(torch.float64)
    try:
        sampler = model.sampler(impl="cpp")
        again, state = sampler.draw(sampler.start(2), noise=noise[:, :10])
        sampler.pick = lambda parameters, u: pick_token(parameters, u)
        rest, _ = sampler.draw(state, noise=noise[:, 10:])
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.cat([again, rest], dim=1), drawn)


def test_a_window_may_keep_nothing():
    network = make_model(CONFIGS["rotary"]).described()
    found = [TransformerSampler(network, keep=0, impl=impl) for impl in ("cpp", "reference")]
    noise = noise_of(found[0], 3, 100)
    drawn, other = (each.draw(each.start(3), noise=noise)[0] for each in found)
    assert torch.equal(drawn, other)


def picker(logits, impl="cpp"):
    """A sampler that draws all tokens from the same logits."""
    V, H = len(logits), 2
    sizes = (3 * H, H), (3 * H, H), (3 * H,), (3 * H,)
    with logits.device:
        layer = tuple(torch.zeros(size) for size in sizes)
        network = RecurrentNetwork(
            "gru", torch.zeros(V + 1, H), (layer,), torch.zeros(V, H), logits
        )
    return RecurrentSampler(network, impl=impl)


INFINITY = float("inf")
LOGITS = {
    "ties": [1.0, 2.0, 1.0, 0.0, 1.0, 2.0],
    "one": [0.3],
    "equal": [0.0] * 17,
    "none at either end": [-INFINITY, -INFINITY, 0.5, 1.0, -INFINITY, 0.0, -INFINITY],
    "far apart": [-200.0, 0.0, 90.0, -3.0, 88.0, -INFINITY, 90.5],
    "many": torch.randn(301, generator=torch.Generator().manual_seed(0)).mul(2).tolist(),
    "NaN": [0.0, 1.0, float("nan"), 2.0],
    "infinite": [0.0, INFINITY, 2.0],
    "nothing": [-INFINITY] * 3,
}
FILTERS = [{}, {"temperature": 0.0}, {"temperature": 0.3}, {"temperature": 7.0}]
FILTERS += [{"top_k": k} for k in (1, 2, 3, 5, 400)] + [{"top_p": p} for p in (1e-9, 0.3, 0.9, 1.0)]
FILTERS += [{"temperature": 1.7, "top_k": 4, "top_p": 0.8}, {"top_k": 2, "temperature": 0.0}]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS)
def test_tokens_are_picked_by_the_rule(logits, filters):
    logits = torch.tensor(logits)
    sampler = picker(logits)
    u = torch.linspace(0, 1, 998)[:-1]
    u = torch.cat([u, torch.tensor([1 - 2**-24])])
    drawn, _ = sampler.draw(sampler.start(1), noise=u[None, :, None], **filters)
    kept = filter_logits(logits, **filters)
    assert_picked(drawn[0], kept.expand(len(u), -1), u[:, None])
    possible = kept.double().softmax(-1) > 0
    if possible.any():
        assert possible[drawn[0]].all()
    else:
        assert (drawn == 0).all()


@pytest.mark.parametrize("output", ["categorical", "bernoulli"])
def test_images_are_picked_by_their_own_rule(output):
    levels = {"levels": 3} if output == "categorical" else {}
    config = ImageTransformerConfig((3, 4), output, layers=2, heads=2, width=12, **levels)
    torch.manual_seed(0)
    model = ImageTransformer(config).eval()
    noise = model.sampler().draw_noise(5, 12)
    assert model.sampler().impl == "cpp"
    found = []
    for name in ("cpp", "reference"):
        with use_impl(name):
            found.append(model.sample(5, noise=noise, temperature=0.7))
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["rotary", "gru", "lstm"])
def test_the_operator_is_what_its_schema_says(name, monkeypatch):
    config, arguments = CONFIGS[name], []
    op = transformer_op if name == "rotary" else recurrent_op
    sampler, call = sampler_of(config), op.draw["cpp"]

    def recorded(*given):
        arguments.append(given)
        return call(*given)

    monkeypatch.setitem(op.draw, "cpp", recorded)
    state = sampler.start(3, labels(config, 3))
    given = tokens(3, 4)
    given[0] = -1
    _, state = sampler.draw(
        state, 4, given=given, parameters_out=torch.zeros(3, 4, config.vocabulary)
    )
    sampler.pick = lambda parameters, u: pick_token(parameters, u)
    sampler.draw(state, 1)
    assert len(arguments) == 2
    for each in arguments:
        torch.library.opcheck(call, each, test_utils=("test_schema", "test_faketensor"))

    # Noise, the fifth, is drawn beforehand.
    seeded = [*arguments[0][:4], None, torch.tensor(7), [0, 0, 4], *arguments[0][7:]]
    with pytest.raises(RuntimeError, match="on a CPU a sampler takes noise, and not the seed"):
        call(*seeded)


def test_who_asks_for_what_gets_it_or_learns_why_not():
    model = make_model(CONFIGS["rotary"])
    assert model.sampler().impl == "cpp"
    assert model.sampler().mode is None
    for mode in ("eager", "compiled"):
        assert (model.sampler(mode=mode).impl, model.sampler(mode=mode).mode) == ("reference", mode)
    with pytest.raises(ValueError, match="mode must be auto where impl is 'cpp'; got 'eager'"):
        model.sampler(mode="eager", impl="cpp")
    for name in ("rotary", "lstm"):
        model = make_model(CONFIGS[name])
        for other in ("reference", "triton"):
            with use_impl(other):
                assert model.sampler().impl == "reference"
        with pytest.raises(ImplementationUnavailable, match="has no 'triton' kernel"):
            model.sampler(impl="triton")
        with pytest.raises(ValueError, match="impl must be one of"):
            model.sampler(impl="fast")
        assert model.double().sampler().impl == "reference"
        with pytest.raises(ImplementationUnavailable, match=r"no torch\.float64 kernel"):
            model.sampler(impl="cpp")
        assert model.bfloat16().sampler().impl == "cpp"


ON_AN_ISA = """
import torch
from dgm_fast._core import extension
from tests.sampling import test_sequence_kernels as t

print(extension.build_info()["isa_live"])
for name in t.EXACT:
    t.test_a_kernel_draws_what_the_reference_draws(t.CONFIGS[name], 8)
    t.test_bits_depend_on_neither_batch_nor_pieces_nor_threads(t.CONFIGS[name])
for filters in t.FILTERS:
    t.test_tokens_are_picked_by_the_rule(t.LOGITS["none at either end"], filters)
"""


@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_narrower_instruction_sets_draw_the_same_tokens(isa):
    if extension.build_info()["isa_live"] == isa:
        pytest.skip(f"every other test runs on {isa}")
    printed = run_on_isa(ON_AN_ISA, isa)
    assert printed in ("generic", isa)


@pytest.mark.parametrize("kind", [rnn, transformer])
def test_a_state_of_another_network_is_refused(kind):
    small, large = (make_model(kind(width=width)).sampler() for width in (8, 32))
    for sampler, other in ((small, large), (large, small)):
        for act in (
            lambda state, s=sampler: s.draw(state, 3),
            lambda state, s=sampler: s.feed(state, torch.zeros(2, 1).long()),
        ):
            with pytest.raises(ValueError, match="state must be of this sampler's, on cpu; got"):
                act(other.start(2))


def test_a_table_made_under_autocast_is_of_float32():
    model = make_model(rnn(cell="lstm"))
    plain = model.sampler()
    with torch.autocast("cpu", torch.bfloat16):
        under = model.sampler()
    noise = plain.draw_noise(3, 9)
    found = [torch.empty(3, 9, plain.vocabulary) for _ in range(2)]
    for sampler, parameters in zip((plain, under), found, strict=True):
        sampler.draw(sampler.start(3), noise=noise, parameters_out=parameters)
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", [rnn, transformer])
def test_the_models_implementation_is_the_samplers(kind):
    assert make_model(kind(), impl="reference").sampler().impl == "reference"
    assert make_model(kind(), impl="triton").sampler().impl == make_model(kind()).sampler().impl
