"""The sampler of WaveNet on a GPU draws what the cached loop draws."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dgm_fast._core import extension
from dgm_fast._core.implementation import ImplementationUnavailable
from dgm_fast.families import WaveNet, WaveNetConfig
from dgm_fast.sampling import WaveNetSampler, pieces
from dgm_fast.sampling.wavenet import blocks, op
from dgm_fast.sampling.wavenet.eager import EagerLoop
from tests.families.wavenet_models import VARIANTS, make_model, small
from tests.sampling.filter_cases import FILTERS
from tests.sampling.picks import picked
from tests.sampling.wavenet_cases import CONFIGS, T, conditions, make_sampler, of

needs_kernel = pytest.mark.skipif(
    extension.cuda_missing is not None, reason=str(extension.cuda_missing)
)
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def make_both(config, batch, length=T):
    """Samplers of the kernel and of the reference on a GPU, labels, features and noise there."""
    model = make_model(config)
    label, local, _ = conditions(config, model, batch, length)
    network = model.cuda().sampler().network
    cuda, reference = (
        WaveNetSampler(network, model.output, impl=impl) for impl in ("cuda", "reference")
    )
    # Called, not captured: an oracle apart from the graph.
    reference._loop = EagerLoop(reference.network, reference.output)
    label, local = (None if each is None else each.cuda() for each in (label, local))
    return cuda, reference, label, local, cuda.draw_noise(batch, length)


def room_for(sampler, noise):
    return noise.new_full((*noise.shape[:2], sampler.output.parameters), float("nan"))


@pytest.mark.gpu
@needs_kernel
@pytest.mark.parametrize("batch", [0, 1, 3, 70, 150, 300])
@each_config
def test_the_kernel_draws_what_the_reference_draws(config, batch):
    cuda, reference, label, local, noise = make_both(config, batch)
    found, expected = room_for(cuda, noise), room_for(cuda, noise)
    levels, state = cuda.draw(
        cuda.start(batch, label), noise=noise, features=local, parameters_out=found
    )
    assert levels.shape == (batch, T)
    assert levels.is_cuda
    assert state.time == T
    if batch == 0:
        return

    # Along the same levels, so that a uniform at a border between two does not part them.
    state = reference.start(batch, label)
    for t in range(T):
        now = slice(t, t + 1)
        reference.draw(
            state.clone(),
            noise=noise[:, now],
            features=of(local, now),
            parameters_out=expected[:, now],
        )
        state = reference.feed(state, levels[:, now], of(local, now))
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())

    wanted = picked(reference.output, found.flatten(0, 1), noise.flatten(0, 1)).view(batch, T)
    assert int((levels - wanted).abs().max()) <= (config.levels > 256)
    assert float((levels == wanted).double().mean()) > 0.9


@pytest.mark.gpu
@needs_kernel
@pytest.mark.parametrize("batch", [3, 300])
@each_config
def test_a_generator_draws_what_its_noise_draws(config, batch):
    sampler, _, label, local, _ = make_both(config, batch)
    generators = [torch.Generator("cuda").manual_seed(5) for _ in range(2)]
    options = {"noise": sampler.draw_noise(batch, T, generators[0]), "features": local}
    expected, _ = sampler.draw(sampler.start(batch, label), **options)
    options = {"generator": generators[1], "features": local}
    assert torch.equal(sampler.draw(sampler.start(batch, label), T, **options)[0], expected)


@pytest.mark.gpu
@needs_kernel
@pytest.mark.parametrize("output", ["categorical", "logistic_mixture"])
def test_a_model_draws_in_pieces_what_its_noise_draws(monkeypatch, output):
    model = make_model(small(output=output, levels=256)).cuda()
    assert model.sampler().impl == "cuda"
    # One step a piece.
    monkeypatch.setattr(pieces, "_SECONDS", 0.0)
    generators = [torch.Generator("cuda").manual_seed(3) for _ in range(2)]
    noise = model.draw_noise(5, T, generators[0])
    given = torch.linspace(-1, 1, 9, device="cuda")
    expected = model.sample(5, length=T, given=given, noise=noise)
    found = model.sample(5, None, generators[1], length=T, given=given)
    assert torch.equal(found, expected)


@pytest.mark.gpu
@needs_kernel
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_the_kernel_leaves_out_what_the_reference_leaves_out(filters, temperature):
    cuda, reference, label, local, noise = make_both(CONFIGS["wide"], 70)
    options = {"noise": noise, "features": local, "temperature": temperature} | filters
    levels = cuda.draw(cuda.start(70, label), **options)[0]
    wanted = reference.draw(reference.start(70, label), **options)[0]
    # A uniform at a border between two parts them for good.
    assert float((levels == wanted).all(1).double().mean()) > 0.9


@pytest.mark.gpu
@needs_kernel
@each_config
def test_pieces_are_the_whole_and_no_batch_changes_a_bit(config):
    sampler, _, label, local, noise = make_both(config, 300)
    whole = room_for(sampler, noise)
    options = {"noise": noise, "features": local, "parameters_out": whole}
    levels, at_the_end = sampler.draw(sampler.start(300, label), **options)

    state, done = sampler.start(300, label), 0
    for length in (1, 0, 12, T - 13):
        times = slice(done, done + length)
        some = torch.empty_like(whole[:, times])
        options = {"noise": noise[:, times], "features": of(local, times)}
        drawn, state = sampler.draw(state, parameters_out=some, **options)
        assert torch.equal(drawn, levels[:, times])
        assert torch.equal(some, whole[:, times])
        done = times.stop
    assert torch.equal(state.rings, at_the_end.rings)
    assert torch.equal(state.recent, at_the_end.recent)

    # As many as make blocks of one, two, four and eight signals on any GPU.
    for signals in (slice(7, 8), slice(0, 100), slice(0, 200)):
        some = torch.empty_like(whole[signals])
        of_some = [None if each is None else each[signals] for each in (label, local)]
        start = sampler.start(len(some), of_some[0])
        options = {"noise": noise[signals], "features": of_some[1], "parameters_out": some}
        drawn, _ = sampler.draw(start, **options)
        assert torch.equal(drawn, levels[signals])
        assert torch.equal(some, whole[signals])


@pytest.mark.gpu
@needs_kernel
@pytest.mark.skipif(extension.cpp_missing is not None, reason=str(extension.cpp_missing))
def test_a_stream_moves_between_a_cpu_and_a_gpu():
    config = VARIANTS["both"]
    cuda, _, label, local, noise = make_both(config, 3)
    whole, _ = cuda.draw(cuda.start(3, label), noise=noise, features=local)
    cpp, _ = make_sampler(config, "cpp")

    state, found = cpp.start(3, label.cpu()), []
    for i, end in enumerate((9, 30, T)):
        times = slice((0, 9, 30)[i], end)
        sampler = (cpp, cuda, cpp)[i]
        options = {"noise": noise[:, times], "features": of(local, times)}
        levels, state = sampler.draw(state.to(sampler.device), **options)
        found.append(levels.cpu())
    assert torch.equal(torch.cat(found, dim=1), whole.cpu())

    with pytest.raises(ValueError, match=r"state must be of this sampler's; got rings .* on cpu"):
        cuda.draw(state, noise=noise, features=local)


@pytest.mark.gpu
@needs_kernel
def test_a_gpu_takes_the_kernel_where_it_can():
    model = make_model(VARIANTS["categorical"]).cuda()
    assert model.sampler().impl == "cuda"
    assert make_model(small(), impl="reference").cuda().sampler().impl == "reference"
    network = model.double().sampler().network
    assert WaveNetSampler(network, model.output).impl == "reference"
    with pytest.raises(ImplementationUnavailable, match="float64"):
        WaveNetSampler(network, model.output, impl="cuda")

    wide = make_model(small(channels=16384, gate_channels=8)).cuda()
    assert wide.sampler().impl == "reference"
    with pytest.raises(ImplementationUnavailable, match="bytes of shared memory, of which"):
        WaveNetSampler(wide.sampler().network, wide.output, impl="cuda")


@pytest.mark.gpu
@needs_kernel
def test_the_kernel_is_what_its_schema_says():
    sampler, _, label, local, noise = make_both(VARIANTS["both"], 3)
    state, packed = sampler.start(3, label), sampler._packed
    first = state.rings, state.recent, packed.weights, packed.sizes, packed.dilations
    arguments = (*first, state.condition, local.transpose(1, 2).contiguous(), None)
    last = (0, sampler.output.parameters, 8, False, 1.0, 3, 0.9, -7.0, True)
    tests, seed = ("test_schema", "test_faketensor"), torch.tensor(7, device="cuda")
    for noises in ((noise, None, []), (None, seed, [0, 0, T])):
        torch.library.opcheck(op.draw["cuda"], (*arguments, *noises, *last), test_utils=tests)


GPU = {"name": "a GPU", "major": 8, "minor": 0, "shared_memory_per_block_optin": 163 * 1024}


@pytest.mark.parametrize(
    ("layers", "dilation", "gpu", "reason"),
    [
        (3, 1, {}, None),
        (3, 1, {"major": 7, "minor": 5}, "it needs compute capability 8.0; a GPU has 7.5"),
        (201, 1, {}, "it has at most 200 layers; got 201"),
        (3, 2**27, {}, "a signal's rings must hold less than 2147483648 floats; got 6442450944"),
        (
            3,
            1,
            {"shared_memory_per_block_optin": 1631},
            "a signal needs 1632 bytes of shared memory, of which a GPU has 1631",
        ),
    ],
)
def test_a_network_that_does_not_fit_a_gpu_is_told_why(monkeypatch, layers, dilation, gpu, reason):
    properties = SimpleNamespace(**(GPU | gpu))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    network = make_sampler(small(), "reference")[0].network
    layer = replace(network.layers[0], dilation=dilation)
    found = blocks.unavailable_reason(replace(network, layers=(layer,) * layers))
    assert found == reason


@pytest.mark.parametrize(
    ("sizes", "is_small"),
    [
        ({"stacks": 2, "layers": 10}, True),
        ({"stacks": 1, "layers": 10, "channels": 128, "gate_channels": 128}, True),
        ({"stacks": 1, "layers": 10, "channels": 256, "gate_channels": 256}, False),
        # Of which the skips are most.
        ({"stacks": 1, "layers": 10, "skip_channels": 2048}, False),
    ],
)
def test_a_network_is_small_where_a_graph_would_take_longer(monkeypatch, sizes, is_small):
    network = WaveNet(WaveNetConfig(**sizes), impl="reference").sampler().network
    assert blocks.is_small(network) == is_small

    monkeypatch.setattr(op, "unavailable_reason", lambda network: None)
    monkeypatch.setattr(op._op, "choose", lambda impl, device, dtype: "cuda")
    assert op.choose("auto", network) == ("cuda" if is_small else "reference")
    assert op.choose("cuda", network) == "cuda"


def test_without_a_gpu_it_says_why_it_cannot_run():
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    sampler, model = make_sampler(VARIANTS["categorical"], "reference")
    with pytest.raises(ImplementationUnavailable, match="wavenet_sampler: impl='cuda' cannot run"):
        WaveNetSampler(sampler.network, model.output, impl="cuda")
