"""Samplers of token sequences draw what a pass of the network a token draws, in any pieces."""

from __future__ import annotations

import pytest
import torch

from dgm_fast.families import RNN, Transformer
from dgm_fast.sampling import (
    filter_logits,
    naive_sample,
    pick_token,
)
from dgm_fast.training.compiler import compiler_missing
from tests.families.sequence_models import (
    LENGTH,
    NEURAL,
    VARIANTS,
    V,
    labels,
    make_model,
    tokens,
    transformer,
)

variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
neural = pytest.mark.parametrize("config", NEURAL.values(), ids=NEURAL)
FILTERS = ({}, {"temperature": 0.6}, {"top_k": 1}, {"top_k": 2}, {"top_p": 0.8, "temperature": 1.5})
FILTERS += ({"temperature": 0.0},)


every_impl = pytest.mark.usefixtures("sequence_impl")


def naive(model, noise, context, **filters):
    """What passes of the whole network draw, over windows that slide as the sampler says."""
    batch, length, _ = noise.shape
    sampler = model.sampler()

    def parameters_of(x):
        if length <= getattr(model.config, "length", length):
            return model(x, context)
        rows = []
        for t in range(length):
            begin = t - sampler.visible(t)
            rows.append(model(x[:, begin : t + 1], context)[:, -1])
        return torch.stack(rows, dim=1)

    def pick(logits, u):
        return pick_token(filter_logits(logits, **filters), u)

    start = torch.zeros(batch, length, dtype=torch.int64)
    return naive_sample(parameters_of, pick, noise, range(length), start)


@every_impl
@pytest.mark.parametrize("filters", FILTERS, ids=str)
@variants
@torch.no_grad()
def test_a_sampler_draws_what_the_naive_loop_draws(config, filters):
    model, context = make_model(config), labels(config, 5)
    sampler = model.sampler()
    noise = sampler.draw_noise(5, LENGTH, torch.Generator().manual_seed(0))
    drawn, state = sampler.draw(sampler.start(5, context), noise=noise, **filters)
    assert torch.equal(drawn, naive(model, noise, context, **filters))
    assert torch.equal(state.tokens, drawn)
    assert state.time == LENGTH
    assert 0 in filters.values() or 1 in filters.values() or len(drawn.unique()) > 1


@every_impl
@pytest.mark.parametrize("name", ["transformer", "transformer, rotary", "transformer, labels"])
@torch.no_grad()
def test_beyond_its_places_a_transformer_slides_its_window(name):
    model, T = make_model(VARIANTS[name]), 3 * LENGTH + 2
    context = labels(model.config, 4)
    sampler = model.sampler()
    assert [sampler.visible(t) for t in range(16)] == [*range(9), 4, 5, 6, 7, 8, 4, 5]
    noise = sampler.draw_noise(4, T, torch.Generator().manual_seed(1))
    drawn, _ = sampler.draw(sampler.start(4, context), noise=noise)
    assert torch.equal(drawn, naive(model, noise, context))


@every_impl
@variants
def test_pieces_are_the_whole(config):
    model, context, T = make_model(config), labels(config, 3), 2 * LENGTH + 3
    sampler = model.sampler()
    noise = sampler.draw_noise(3, T)
    whole, at_the_end = sampler.draw(sampler.start(3, context), noise=noise)
    state, done = sampler.start(3, context), 0
    for length in (1, 0, 7, 2, T - 10):
        piece, state = sampler.draw(state, noise=noise[:, done : done + length])
        assert torch.equal(piece, whole[:, done : done + length])
        done += length
    assert torch.equal(state.tokens, at_the_end.tokens)


@every_impl
@pytest.mark.parametrize("middle", [1, 5, LENGTH, LENGTH + 1, 2 * LENGTH + 1])
@variants
def test_tokens_that_are_fed_count_like_tokens_that_were_drawn(config, middle):
    model, context, T = make_model(config), labels(config, 3), 2 * LENGTH + 5
    sampler = model.sampler()
    noise = sampler.draw_noise(3, T)
    whole, _ = sampler.draw(sampler.start(3, context), noise=noise)
    state = sampler.feed(sampler.start(3, context), whole[:, : middle // 2])
    state = sampler.feed(state, whole[:, middle // 2 : middle])
    rest, state = sampler.draw(state, noise=noise[:, middle:])
    assert torch.equal(rest, whole[:, middle:])
    assert torch.equal(state.tokens, whole)


@every_impl
@neural
@torch.no_grad()
def test_parameters_are_the_networks_in_a_batch_of_any_size(config):
    model = make_model(config)
    sampler = model.sampler()
    noise = sampler.draw_noise(17, LENGTH, torch.Generator().manual_seed(2))
    context = labels(config, 17)
    largest, _ = sampler.draw(sampler.start(17, context), noise=noise)
    for batch in (0, 1, 2, 9, 17):
        parameters = torch.full((batch, LENGTH, V), float("nan"))
        some = None if context is None else context[:batch]
        drawn, _ = sampler.draw(
            sampler.start(batch, some), noise=noise[:batch], parameters_out=parameters
        )
        assert torch.equal(drawn, largest[:batch])
        if batch:
            expected = model.double()(drawn, some)
            model.float()
            torch.testing.assert_close(parameters.double(), expected, atol=1e-5, rtol=1e-5)


@every_impl
@variants
def test_a_copy_of_a_state_goes_its_own_way(config):
    model, context = make_model(config), labels(config, 2)
    sampler = model.sampler()
    noise = sampler.draw_noise(2, 14)
    _, state = sampler.draw(sampler.start(2, context), noise=noise[:, :6])
    copy = state.clone()
    expected, _ = sampler.draw(state, noise=noise[:, 6:])
    sampler.draw(copy.clone(), noise=1 - noise[:, 6:].clamp(min=1e-6))
    assert torch.equal(sampler.draw(copy, noise=noise[:, 6:])[0], expected)


class Stop:
    """Interrupts when so many tokens are drawn."""

    def __init__(self, after):
        self.after = after

    def __call__(self, done, of):
        if done == self.after:
            raise KeyboardInterrupt


@every_impl
@variants
def test_an_interrupted_draw_loses_nothing(config, monkeypatch):
    model, context, T = make_model(config), labels(config, 3), 2 * LENGTH
    sampler = model.sampler()
    noise = sampler.draw_noise(3, T)
    whole, _ = sampler.draw(sampler.start(3, context), noise=noise)

    state = sampler.start(3, context)
    with pytest.raises(KeyboardInterrupt):
        sampler.draw(state, noise=noise, progress=Stop(5))
    assert torch.equal(state.tokens, whole[:, :5])

    # And in the midst of a step, when it has written half of what it writes.
    pick = sampler.pick

    def interrupted(parameters, u):
        if state.time == 11:
            raise KeyboardInterrupt
        return pick(parameters, u)

    sampler.pick = interrupted
    with pytest.raises(KeyboardInterrupt):
        sampler.draw(state, noise=noise[:, 5:])
    sampler.pick = pick
    assert torch.equal(state.tokens, whole[:, :11])
    rest, state = sampler.draw(state, noise=noise[:, 11:])
    assert torch.equal(rest, whole[:, 11:])


def test_an_interrupted_pass_is_done_again():
    model = make_model(VARIANTS["transformer"])
    sampler = model.sampler(mode="eager")
    noise = sampler.draw_noise(3, LENGTH)
    whole, _ = sampler.draw(sampler.start(3), noise=noise)
    state, calls = sampler.start(3), []
    finish = sampler.passes._after_attention

    def interrupted(*arguments):
        calls.append(None)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return finish(*arguments)

    sampler.passes._after_attention = interrupted
    with pytest.raises(KeyboardInterrupt):
        sampler.draw(state, noise=noise)
    assert state.time == 3
    _rest, state = sampler.draw(state, noise=noise[:, 3:])
    assert torch.equal(state.tokens, whole)


@every_impl
@variants
def test_a_sampler_keeps_the_weights_it_was_made_of(config):
    model, context = make_model(config), labels(config, 2)
    sampler = model.sampler()
    noise = sampler.draw_noise(2, 12)
    before, _ = sampler.draw(sampler.start(2, context), noise=noise)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1)
    if not list(model.parameters()):
        model.fit(torch.zeros(9))
    assert torch.equal(sampler.draw(sampler.start(2, context), noise=noise)[0], before)
    again = model.sampler()
    assert not torch.equal(again.draw(again.start(2, context), noise=noise)[0], before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@neural
def test_a_sampler_computes_in_float32_at_least(config, dtype):
    sampler = make_model(config).to(dtype).sampler()
    assert sampler.dtype is torch.promote_types(dtype, torch.float32)
    noise = sampler.draw_noise(2, 12)
    assert noise.dtype is sampler.dtype
    context = labels(config, 2)
    drawn, _ = sampler.draw(sampler.start(2, context), noise=noise)
    wide = make_model(config).to(dtype).to(sampler.dtype).sampler()
    with torch.autocast("cpu", torch.bfloat16):
        again, _ = wide.draw(wide.start(2, context), noise=noise)
    assert torch.equal(drawn, again)


@every_impl
@variants
def test_tokens_may_be_given_here_and_there(config):
    model, context, T = make_model(config), labels(config, 4), LENGTH
    sampler = model.sampler()
    noise = sampler.draw_noise(4, T)
    free, _ = sampler.draw(sampler.start(4, context), noise=noise)
    generator = torch.Generator().manual_seed(5)
    given = tokens(4, T).where(torch.rand(4, T, generator=generator) < 0.5, -1)
    # A place at which all are given, and one at which none is.
    given[:, 3], given[:, 5] = 1, -1
    drawn, _ = sampler.draw(sampler.start(4, context), noise=noise, given=given)
    assert torch.equal(drawn[given >= 0], given[given >= 0])
    assert not torch.equal(drawn, free)

    def parameters_of(x):
        return model(x, context)

    with torch.no_grad():
        expected = naive_sample(
            parameters_of, pick_token, noise, range(T), given.clamp(min=0), given=given >= 0
        )
    assert torch.equal(drawn, expected)
    nothing = sampler.draw(sampler.start(4, context), noise=noise, given=torch.full((4, T), -1))
    assert torch.equal(nothing[0], free)


@pytest.mark.skipif(
    compiler_missing(torch.device("cpu")) is not None,
    reason=str(compiler_missing(torch.device("cpu"))),
)
@pytest.mark.parametrize("name", ["transformer", "transformer, rotary"])
def test_a_compiled_step_draws_the_same_and_is_compiled_once(name):
    model = make_model(VARIANTS[name])
    eager = model.sampler(mode="eager")
    noise = eager.draw_noise(3, 2 * LENGTH)
    expected, _ = eager.draw(eager.start(3), noise=noise)
    torch._dynamo.reset()
    compiled = model.sampler(mode="compiled")
    step, calls = compiled.passes.step, []
    compiled._step = torch.compile(step, fullgraph=True, dynamic=False, backend=counting(calls))
    drawn, _ = compiled.draw(compiled.start(3), noise=noise)
    assert torch.equal(drawn, expected)
    assert len(calls) == 1


def counting(calls):
    """A compiler that counts its graphs and runs them as they are."""

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    return backend


class PlainCalls:
    """Stands for a captured step: its inputs and its outputs are the same tensors each time."""

    def __init__(self, step, *inputs):
        self.step, self.inputs = step, [each.clone() for each in inputs]
        self.outputs = step(*self.inputs)

    def __call__(self, *inputs):
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        for mine, made in zip(self.outputs, self.step(*self.inputs), strict=True):
            mine.copy_(made)
        return self.outputs


@pytest.mark.parametrize("name", ["transformer", "transformer, rotary"])
def test_a_step_that_is_replayed_draws_the_same(name, monkeypatch):
    monkeypatch.setattr("dgm_fast.sampling.transformer.sampler.StepGraph", PlainCalls)
    sampler = make_model(VARIANTS[name]).sampler(mode="eager")
    noise = sampler.draw_noise(3, 2 * LENGTH)
    expected, _ = sampler.draw(sampler.start(3), noise=noise)
    sampler.mode = "graph"
    _, state = sampler.draw(sampler.start(3), noise=noise[:, :7])
    assert len(state.memory.graphs) == 1
    copy = state.clone()
    sampler.draw(state, noise=1 - noise[:, 7:].clamp(min=1e-6))
    assert torch.equal(sampler.draw(copy, noise=noise[:, 7:])[0], expected[:, 7:])


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["transformer", "transformer, rotary", "transformer, labels"])
def test_a_cuda_graph_of_a_step_draws_the_same(name):
    model = make_model(VARIANTS[name]).cuda()
    context = labels(model.config, 5)
    context = None if context is None else context.cuda()
    samplers = [model.sampler(mode=mode) for mode in ("eager", "graph", "compiled")]
    noise = samplers[0].draw_noise(5, 3 * LENGTH)
    found = [each.draw(each.start(5, context), noise=noise)[0] for each in samplers]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    # Another state's graph is of another cache, and a copy's too.
    graph = samplers[1]
    _, state = graph.draw(graph.start(5, context), noise=noise[:, :7])
    copy = state.clone()
    graph.draw(state, noise=1 - noise[:, 7:].clamp(min=1e-6))
    assert torch.equal(graph.draw(copy, noise=noise[:, 7:])[0], found[0][:, 7:])


@every_impl
@variants
def test_models_sample_with_leading_dims_a_beginning_and_progress(config):
    model, told = make_model(config), []
    classes = model.classes
    context = torch.tensor([0, 1, 1]) if classes else None
    given = torch.tensor([[1, 0, 2, 1]])
    noise = model.draw_noise(6, 12)
    x = model.sample(
        (2, 3),
        context,
        length=12,
        given=given,
        noise=noise,
        progress=lambda done, of: told.append((done, of)),
    )
    assert x.shape == (2, 3, 12)
    assert torch.equal(x[..., :4], given.expand(2, 3, 4))
    assert told == [(t, 12) for t in range(5, 13)]
    one = None if context is None else context[1]
    seeded = [
        model.sample(n, one, torch.Generator().manual_seed(4), length=9, top_k=2) for n in (5, 2)
    ]
    assert torch.equal(seeded[0][:2], seeded[1])
    assert model.sample((), one, length=4).shape == (4,)
    assert model.sample(0, None if one is None else context[:0], length=4).shape == (0, 4)


@every_impl
def test_streams_may_be_long_and_many():
    for kind in (Transformer, RNN):
        name = {Transformer: "transformer", RNN: "gru"}[kind]
        sampler = make_model(VARIANTS[name]).sampler()
        drawn, state = sampler.draw(sampler.start(4096), 3)
        assert drawn.shape == (4096, 3)
        drawn, state = sampler.draw(sampler.start(1), 300)
        assert state.time == 300
        assert len(drawn.unique()) == V


@every_impl
def test_a_transformers_cache_does_not_grow():
    sampler = make_model(transformer()).sampler()
    state = sampler.start(2)
    cache = state.memory.cache
    _, state = sampler.draw(state, 40)
    assert all(a is b for a, b in zip(cache, state.memory.cache, strict=True))
    shapes = [tuple(each.shape) for pair in cache for each in pair]
    # Of a kernel, blocks of 16 places' keys, and values of whole vectors.
    kernels = [(2, 2, 1, 4, 16), (2, 2, LENGTH, 16)]
    assert shapes == (kernels * 2 if sampler.impl == "cpp" else [(2, 2, LENGTH, 4)] * 4)
