"""The samplers of sequences on a GPU draw what the reference draws."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dgm_fast._core import extension
from dgm_fast._core.implementation import ImplementationUnavailable
from dgm_fast.sampling import RecurrentNetwork, filter_logits, pick_token
from dgm_fast.sampling.recurrent import blocks as recurrent_blocks
from dgm_fast.sampling.recurrent import op as recurrent_op
from dgm_fast.sampling.transformer import blocks as transformer_blocks
from dgm_fast.sampling.transformer import op as transformer_op
from tests.families.sequence_models import RNN, labels, make_model, rnn, tokens, transformer
from tests.sampling.test_sequence_block import CONFIGS, shared_bytes
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
    "rotary, wide": transformer(vocabulary=65, length=64, width=256, heads=8, positions="rotary"),
    "learned, wide": transformer(vocabulary=300, length=40, width=200, heads=5),
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
@pytest.mark.parametrize("batch", [3, 70, 300])
@each_config
def test_a_generator_draws_what_its_noise_draws(config, batch):
    sampler = sampler_of(config, "cuda", "cuda")
    drawn, parameters = draw(sampler, config, noise_of(sampler, batch))
    state, generator = sampler.start(batch, labels(config, batch)), torch.Generator("cuda")
    out, options = torch.empty_like(parameters), {"generator": generator.manual_seed(0)}
    found, _ = sampler.draw(state, LENGTH, parameters_out=out, **options)
    assert torch.equal(found, drawn)
    assert torch.equal(out, parameters)


@pytest.mark.gpu
@needs_kernel
@pytest.mark.parametrize("name", ["lstm of two", "rotary"])
def test_a_model_draws_what_its_noise_draws(name):
    model = make_model(CONFIGS[name]).cuda()
    generators = [torch.Generator("cuda").manual_seed(3) for _ in range(2)]
    noise = model.draw_noise(5, LENGTH, generators[0])
    given = tokens(5, 7).cuda()
    assert model.sampler().impl == "cuda"
    expected = model.sample(5, length=LENGTH, given=given, noise=noise)
    assert torch.equal(model.sample(5, None, generators[1], length=LENGTH, given=given), expected)


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
@pytest.mark.parametrize("name", ["lstm of two", "rotary"])
def test_tokens_given_to_some_are_kept(name):
    config = CONFIGS[name]
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
@pytest.mark.parametrize("name", ["lstm of many symbols", "rotary"])
def test_a_stream_moves_between_a_cpu_and_a_gpu(name):
    config = CONFIGS[name]
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
    with pytest.raises(ValueError, match="this sampler's, on cuda:0; got one on cpu"):
        gpu.draw(state, 1)


@pytest.mark.gpu
@needs_kernel
@pytest.mark.parametrize("name", ["gru of three", "rotary"])
def test_a_token_is_picked_in_python_a_launch(name):
    config = CONFIGS[name]
    sampler = sampler_of(config, "cuda", "cuda")
    noise = noise_of(sampler, 3)
    drawn, _ = draw(sampler, config, noise)
    sampler.pick = lambda logits, u: pick_token(logits, u)
    assert torch.equal(draw(sampler, config, noise)[0], drawn)


@pytest.mark.gpu
@needs_kernel
@pytest.mark.parametrize("name", ["gru", "rotary"])
def test_a_gpu_takes_the_kernel_where_it_can(name):
    model = make_model(CONFIGS[name]).cuda()
    assert model.sampler().impl == "cuda"
    assert model.bfloat16().sampler().impl == "cuda"
    assert model.double().sampler().impl == "reference"
    with pytest.raises(ImplementationUnavailable, match="float64"):
        model.sampler(impl="cuda")

    many = {"vocabulary": 2**17, "width": 8}
    wide = make_model(rnn(**many) if name == "gru" else transformer(**many)).cuda()
    assert wide.sampler().impl == "reference"
    with pytest.raises(ImplementationUnavailable, match="bytes of shared memory, of which"):
        wide.sampler(impl="cuda")


@pytest.mark.gpu
@needs_kernel
def test_a_large_transformer_is_a_graph_unless_the_kernel_is_asked_for():
    model = make_model(transformer(length=64, width=256, heads=4)).cuda()
    assert (model.sampler().impl, model.sampler().mode) == ("reference", "graph")
    assert (model.sampler(impl="cuda").impl, model.sampler(impl="cuda").mode) == ("cuda", None)
    small = make_model(CONFIGS["rotary"]).cuda()
    assert (small.sampler(mode="graph").impl, small.sampler().impl) == ("reference", "cuda")


@pytest.mark.gpu
@needs_kernel
@pytest.mark.parametrize("name", ["lstm of two", "learned"])
def test_the_kernel_is_what_its_schema_says(monkeypatch, name):
    config, arguments = CONFIGS[name], []
    op = recurrent_op if isinstance(config, RNN.config_class) else transformer_op
    sampler, call = sampler_of(config, "cuda", "cuda"), op.draw["cuda"]

    def recorded(*given):
        arguments.append(given)
        return call(*given)

    monkeypatch.setitem(op.draw, "cuda", recorded)
    parameters = torch.zeros(3, 4, config.vocabulary, device="cuda")
    sampler.draw(sampler.start(3), 4, parameters_out=parameters)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(call, arguments[0], test_utils=tests)


@pytest.fixture
def gpu(monkeypatch):
    """What a GPU would say of itself."""
    properties = SimpleNamespace(
        name="a GPU", major=8, minor=0, shared_memory_per_block_optin=163 * 1024
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return properties


def described(config):
    """The network of a configuration and the module that knows what it takes."""
    is_recurrent = isinstance(config, RNN.config_class)
    blocks = recurrent_blocks if is_recurrent else transformer_blocks
    return make_model(config).described(), blocks


@pytest.mark.parametrize("config", [rnn, transformer], ids=["rnn", "transformer"])
def test_a_network_that_does_not_fit_a_gpu_is_told_why(gpu, config):
    network, blocks = described(config(layers=32))
    assert blocks.unavailable_reason(network) is None
    gpu.shared_memory_per_block_optin = needed = shared_bytes(config(layers=32))
    assert blocks.unavailable_reason(network) is None
    gpu.shared_memory_per_block_optin -= 1
    reason = f"a sequence needs {needed} bytes of shared memory, of which a GPU has {needed - 1}"
    assert blocks.unavailable_reason(network) == reason

    deep, blocks = described(config(layers=33))
    assert blocks.unavailable_reason(deep) == "it has at most 32 layers; got 33"
    gpu.major, gpu.minor = 7, 5
    reason = "it needs compute capability 8.0; a GPU has 7.5"
    assert blocks.unavailable_reason(deep) == reason


def test_a_matrix_whose_places_are_too_many_is_told_why(gpu):
    H = 2**15
    sizes = (4 * H, 8), (4 * H, H), (4 * H,), (4 * H,)
    layer = tuple(torch.empty(size, device="meta") for size in sizes)
    head = torch.empty(5, H, device="meta")
    network = RecurrentNetwork("lstm", torch.empty(6, 8), (layer,), head, torch.empty(5))
    reason = "a layer's matrix must hold less than 2147483648 floats; got 4294967296"
    assert recurrent_blocks.unavailable_reason(network) == reason


@pytest.mark.parametrize(
    ("sizes", "is_small"),
    [
        ({"width": 128, "heads": 4, "length": 128}, True),
        ({"width": 192, "heads": 4, "length": 128}, True),
        ({"width": 256, "heads": 4, "length": 128}, False),
        # Of which keys and values are most.
        ({"width": 128, "heads": 4, "length": 2048}, False),
        # So few layers that the head is most.
        ({"width": 128, "heads": 4, "layers": 1, "vocabulary": 8000}, False),
        ({"width": 128, "heads": 4, "layers": 6, "vocabulary": 8000}, True),
    ],
)
def test_a_transformer_is_small_where_a_graph_would_launch_longer(sizes, is_small):
    network, blocks = described(transformer(**sizes))
    assert blocks.is_small(network) == is_small


@pytest.mark.parametrize(
    ("sizes", "is_small"),
    [
        ({"cell": "lstm", "width": 384}, True),
        ({"cell": "lstm", "width": 1024}, False),
        ({"cell": "gru", "width": 512, "layers": 2}, True),
        ({"cell": "gru", "width": 512, "layers": 3}, False),
        # The embedding is looked up, the head is a product.
        ({"cell": "gru", "width": 64, "vocabulary": 100_000}, False),
    ],
)
def test_a_recurrent_network_is_small_where_a_graph_would_take_longer(sizes, is_small):
    network, blocks = described(rnn(**sizes))
    assert blocks.is_small(network) == is_small


@pytest.mark.parametrize("name", ["gru", "rotary"])
def test_without_a_gpu_it_says_why_it_cannot_run(name):
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    model = make_model(CONFIGS[name])
    with pytest.raises(ImplementationUnavailable, match="_sampler: impl='cuda' cannot run"):
        model.sampler(impl="cuda")


@pytest.mark.parametrize("name", ["gru", "rotary"])
def test_auto_takes_the_reference_where_the_kernel_cannot_run(gpu, monkeypatch, name):
    config = CONFIGS[name]
    op = recurrent_op if name == "gru" else transformer_op
    monkeypatch.setattr(op._op, "choose", lambda impl, device, dtype: "cuda")
    network, _ = described(config)
    assert op.choose("auto", network) == "cuda"
    gpu.major = 7
    assert op.choose("auto", network) == "reference"
    with pytest.raises(ImplementationUnavailable, match=r"it needs compute capability 8\.0"):
        op.choose("cuda", network)


def test_of_large_transformers_auto_takes_the_graph(gpu, monkeypatch):
    monkeypatch.setattr(transformer_op._op, "choose", lambda impl, device, dtype: "cuda")
    network, _ = described(transformer(width=256, length=64))
    assert transformer_op.choose("auto", network) == "reference"
    assert transformer_op.choose("cuda", network) == "cuda"
