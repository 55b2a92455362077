"""The sampler of recurrent networks on a GPU draws what the reference draws."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dgm_fast._core import extension
from dgm_fast._core.implementation import ImplementationUnavailable
from dgm_fast.sampling import RecurrentNetwork, filter_logits, pick_token
from dgm_fast.sampling.recurrent import blocks, op
from tests.families.sequence_models import labels, make_model, rnn, tokens
from tests.sampling.test_recurrent_block import CONFIGS
from tests.sampling.test_sequence_kernels import (
    FILTERS,
    LENGTH,
    LOGITS,
    assert_picked,
    draw,
    forced,
    noise_of,
    picker,
    sampler_of,
)

needs_kernel = pytest.mark.skipif(
    extension.cuda_missing is not None, reason=str(extension.cuda_missing)
)
ALL = CONFIGS | {
    "gru, wide": rnn(vocabulary=256, width=512, embedding=64),
    "lstm, wide": rnn(cell="lstm", vocabulary=65, width=384, layers=2, embedding=64),
}
each_config = pytest.mark.parametrize("config", ALL.values(), ids=ALL)


@pytest.mark.gpu
@needs_kernel
@pytest.mark.parametrize("batch", [0, 1, 3, 70, 150, 300])
@each_config
def test_the_kernel_draws_what_the_reference_draws(config, batch):
    kernel, reference = (sampler_of(config, impl, "cuda") for impl in ("cuda", "reference"))
    noise = noise_of(kernel, batch)
    drawn, parameters = draw(kernel, config, noise)
    assert drawn.shape == (batch, LENGTH)
    assert drawn.is_cuda
    if batch == 0:
        return

    expected = forced(reference, config, drawn, noise)
    torch.testing.assert_close(parameters, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
    assert_picked(drawn, expected, noise)


@pytest.mark.gpu
@needs_kernel
@each_config
def test_pieces_are_the_whole_and_no_batch_changes_a_bit(config):
    sampler = sampler_of(config, "cuda", "cuda")
    noise = noise_of(sampler, 300)
    drawn, parameters = draw(sampler, config, noise)
    state, found = sampler.start(300, labels(config, 300)), torch.empty_like(parameters)
    for begin, end in ((0, 1), (1, 14), (19, 20), (20, LENGTH)):
        state = sampler.feed(state, drawn[:, state.time : begin])
        piece = slice(begin, end)
        _, state = sampler.draw(state, noise=noise[:, piece], parameters_out=found[:, piece])
        assert torch.equal(found[:, piece], parameters[:, piece])
    assert torch.equal(state.tokens, drawn)

    # As many as make blocks of one, two, four and eight sequences on any GPU.
    for batch in (1, 100, 200):
        some, of_some = draw(sampler, config, noise[:batch])
        assert torch.equal(some, drawn[:batch])
        assert torch.equal(of_some, parameters[:batch])


@pytest.mark.gpu
@needs_kernel
@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("logits", LOGITS.values(), ids=LOGITS)
def test_tokens_are_picked_by_the_rule(logits, filters):
    logits = torch.tensor(logits, device="cuda")
    sampler = picker(logits, "cuda")
    u = torch.cat([torch.linspace(0, 1, 998)[:-1], torch.tensor([1 - 2**-24])]).cuda()
    drawn, _ = sampler.draw(sampler.start(1), noise=u[None, :, None], **filters)
    kept = filter_logits(logits, **filters)
    assert_picked(drawn[0], kept.expand(len(u), -1), u[:, None])
    possible = kept.double().softmax(-1) > 0
    assert possible[drawn[0]].all() if possible.any() else (drawn == 0).all()


@pytest.mark.gpu
@needs_kernel
def test_tokens_given_to_some_are_kept():
    config = CONFIGS["lstm of two"]
    kernel, reference = (sampler_of(config, impl, "cuda") for impl in ("cuda", "reference"))
    noise = noise_of(kernel, 4)
    generator = torch.Generator().manual_seed(5)
    given = tokens(4, LENGTH).where(torch.rand(4, LENGTH, generator=generator) < 0.5, -1)
    given[:, 3:7] = 1
    # It need not lie on the GPU.
    drawn, _ = draw(kernel, config, noise, given=given)
    given, expected = given.cuda(), forced(reference, config, drawn, noise)
    assert torch.equal(drawn[given >= 0], given[given >= 0])
    assert_picked(drawn[given < 0], expected[given < 0], noise[given < 0])


@pytest.mark.gpu
@needs_kernel
@pytest.mark.skipif(extension.cpp_missing is not None, reason=str(extension.cpp_missing))
def test_a_stream_moves_between_a_cpu_and_a_gpu():
    config = CONFIGS["lstm of many symbols"]
    cpu, gpu = sampler_of(config), sampler_of(config, "cuda", "cuda")
    noise = noise_of(cpu, 3)
    whole, parameters = draw(cpu, config, noise)
    state, found = cpu.start(3), torch.empty_like(parameters)
    for sampler, begin, end in ((cpu, 0, 9), (gpu, 9, 30), (cpu, 30, LENGTH)):
        piece = slice(begin, end)
        state = state.to(sampler.device)
        _, state = sampler.draw(state, noise=noise[:, piece], parameters_out=found[:, piece])
    assert torch.equal(state.tokens, whole)
    torch.testing.assert_close(found, parameters, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="state must be on cuda:0; got one on cpu"):
        gpu.draw(state, 1)


@pytest.mark.gpu
@needs_kernel
def test_a_token_is_picked_in_python_a_launch():
    config = CONFIGS["gru of three"]
    sampler = sampler_of(config, "cuda", "cuda")
    noise = noise_of(sampler, 3)
    drawn, _ = draw(sampler, config, noise)
    sampler.pick = lambda logits, u: pick_token(logits, u)
    assert torch.equal(draw(sampler, config, noise)[0], drawn)


@pytest.mark.gpu
@needs_kernel
def test_a_gpu_takes_the_kernel_where_it_can():
    model = make_model(CONFIGS["gru"]).cuda()
    assert model.sampler().impl == "cuda"
    assert model.bfloat16().sampler().impl == "cuda"
    assert model.double().sampler().impl == "reference"
    with pytest.raises(ImplementationUnavailable, match="float64"):
        model.sampler(impl="cuda")

    wide = make_model(rnn(width=16384)).cuda()
    assert wide.sampler().impl == "reference"
    with pytest.raises(ImplementationUnavailable, match="bytes of shared memory, of which"):
        wide.sampler(impl="cuda")


@pytest.mark.gpu
@needs_kernel
def test_the_kernel_is_what_its_schema_says(monkeypatch):
    config, arguments = CONFIGS["lstm of two"], []
    sampler, call = sampler_of(config, "cuda", "cuda"), op.draw["cuda"]

    def recorded(*given):
        arguments.append(given)
        return call(*given)

    monkeypatch.setitem(op.draw, "cuda", recorded)
    sampler.draw(sampler.start(3), 4, parameters_out=torch.zeros(3, 4, 9, device="cuda"))
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(call, arguments[0], test_utils=tests)


GPU = {"name": "a GPU", "major": 8, "minor": 0, "shared_memory_per_block_optin": 163 * 1024}


@pytest.mark.parametrize(
    ("layers", "gpu", "reason"),
    [
        (1, {}, None),
        (1, {"major": 7, "minor": 5}, "it needs compute capability 8.0; a GPU has 7.5"),
        (33, {}, "it has at most 32 layers; got 33"),
        (
            1,
            {"shared_memory_per_block_optin": 719},
            "a sequence needs 720 bytes of shared memory, of which a GPU has 719",
        ),
    ],
)
def test_a_network_that_does_not_fit_a_gpu_is_told_why(monkeypatch, layers, gpu, reason):
    properties = SimpleNamespace(**(GPU | gpu))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    network = make_model(rnn(layers=layers)).sampler(impl="reference").network
    assert blocks.unavailable_reason(network) == reason


def test_a_matrix_whose_places_are_too_many_is_told_why(monkeypatch):
    properties = SimpleNamespace(**GPU)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    H = 2**15
    sizes = (4 * H, 8), (4 * H, H), (4 * H,), (4 * H,)
    layer = tuple(torch.empty(size, device="meta") for size in sizes)
    head = torch.empty(5, H, device="meta")
    network = RecurrentNetwork("lstm", torch.empty(6, 8), (layer,), head, torch.empty(5))
    reason = "a layer's matrix must hold less than 2147483648 floats; got 4294967296"
    assert blocks.unavailable_reason(network) == reason


def test_without_a_gpu_it_says_why_it_cannot_run():
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    with pytest.raises(ImplementationUnavailable, match="recurrent_sampler: impl='cuda' cannot"):
        make_model(CONFIGS["gru"]).sampler(impl="cuda")
