"""A recurrent network's step on tensors that stay draws what the loop draws."""

from __future__ import annotations

import warnings

import pytest
import torch

from dgm_fast.sampling import RecurrentSampler
from tests.families.sequence_models import VARIANTS, labels, make_model


def called(step, *inputs):
    """A step that is called, not captured, on tensors that stay; the call to warm up is made."""
    kept, outputs = [each.clone() for each in inputs], [x.clone() for x in step(*inputs)]

    def replay(*given):
        for mine, each in zip(kept, given, strict=True):
            mine.copy_(each)
        for mine, each in zip(outputs, step(*kept), strict=True):
            mine.copy_(each)
        return tuple(outputs)

    return replay


def compare_replayed(config, device):
    model = make_model(config).to(device)
    eager, replayed = (RecurrentSampler(model.described(), impl="reference") for _ in range(2))
    eager.capture = None
    if device == "cpu":
        replayed.capture = called
    context, noise = labels(config, 3), eager.draw_noise(3, 30)
    context = None if context is None else context.to(device)
    whole, at_the_end = eager.draw(eager.start(3, context), noise=noise)

    found, state = [], replayed.start(3, context)
    for times in (slice(0, 7), slice(7, 9), slice(9, 30)):
        drawn, state = replayed.draw(state, noise=noise[:, times])
        found.append(drawn)
        # Another batch in between takes the graph's place, and a copy goes another way.
        replayed.draw(replayed.start(1, None if context is None else context[:1]), 2)
        replayed.draw(state.clone(), 3)
    assert torch.equal(torch.cat(found, dim=1), whole)
    for mine, expected in zip(state.memory.kept, at_the_end.memory.kept, strict=True):
        torch.testing.assert_close(mine, expected)


RECURRENT = {name: VARIANTS[name] for name in ("gru", "gru, tied", "lstm")}


@pytest.mark.parametrize("config", RECURRENT.values(), ids=RECURRENT)
def test_a_step_on_tensors_that_stay_draws_what_the_loop_draws(config):
    compare_replayed(config, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("config", RECURRENT.values(), ids=RECURRENT)
def test_a_recurrent_step_as_a_graph_draws_what_the_loop_draws(config):
    compare_replayed(config, "cuda")


@pytest.mark.parametrize("config", RECURRENT.values(), ids=RECURRENT)
def test_layers_in_one_chunk_are_the_same_layers(config):
    network = make_model(config).described()
    state = torch.random.get_rng_state()
    chunk = network.in_one_chunk()
    assert torch.equal(torch.random.get_rng_state(), state)
    for layer, given in zip(chunk.layers, network.layers, strict=True):
        for each, values in zip(layer, given, strict=True):
            assert torch.equal(each, values)
            assert not each.requires_grad


@pytest.mark.gpu
@pytest.mark.parametrize("config", RECURRENT.values(), ids=RECURRENT)
def test_cudnn_finds_layers_in_one_chunk(config):
    model = make_model(config).cuda()
    sampler, context = RecurrentSampler(model.described(), impl="reference"), labels(config, 3)
    weights = [weight for layer in sampler.network.layers for weight in layer]
    assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1
    state = sampler.start(3, None if context is None else context.cuda())
    tokens = torch.zeros(3, 8, dtype=torch.int64, device="cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.draw(sampler.feed(state, tokens), 2)
