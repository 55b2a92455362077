"""The sampler of PixelCNNs on a GPU draws what the cached loop draws."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dgm_fast._core import extension
from dgm_fast._core.implementation import ImplementationUnavailable
from dgm_fast.families.autoregressive import convolutional_pixel_model
from dgm_fast.sampling import PixelSampler, SeededNoise
from dgm_fast.sampling.pixelcnn import blocks, op
from dgm_fast.sampling.pixelcnn.eager import EagerLoop
from dgm_fast.sampling.pixelcnn.plan import make_plan
from tests.families.pixel_models import small
from tests.sampling.picks import picked
from tests.sampling.pixel_cases import (
    CONFIGS,
    LEFT_OUT,
    each_config,
    few_configs,
    model_of,
    needs_kernel,
    same,
    seeded_of,
    start_of,
)

needs_cuda_kernel = pytest.mark.skipif(
    extension.cuda_missing is not None, reason=str(extension.cuda_missing)
)


def on_gpu(config, impl="cuda"):
    sampler = PixelSampler(model_of(config).cuda()._describe(), impl=impl)
    if impl == "reference":
        # Called, not captured: an oracle apart from the graphs.
        sampler._loop = EagerLoop(sampler._loop.plan, sampler.output, sampler.size)
    return sampler


def start_on_gpu(config, batch, *, around=True):
    """A state that a GPU and a CPU begin alike."""
    sampler = PixelSampler(model_of(config)._describe(), impl="reference")
    return start_of(sampler, config, batch, around=around).to("cuda")


def room_for(sampler, batch):
    each = sampler.output.parameters // sampler.output.ordered_channels
    return torch.full((batch, sampler.features, each), float("nan"), device=sampler.device)


@pytest.mark.gpu
@needs_cuda_kernel
@pytest.mark.parametrize("batch", [0, 1, 3, 70, 300])
@each_config
def test_the_kernel_draws_what_the_reference_draws(config, batch):
    cuda, reference = on_gpu(config), on_gpu(config, "reference")
    start = start_on_gpu(config, batch, around=batch > 2)
    found, expected = room_for(cuda, batch), room_for(cuda, batch)
    state = cuda.draw(start.clone(), parameters_out=found)
    assert int(state.done) == config.image_shape[1]
    assert state.images.is_cuda
    if batch == 0:
        return

    # Along the same levels, so that a uniform at a border between two does not part them.
    along = replace(start.clone(), images=state.images.clone(), given=torch.ones_like(start.given))
    reference.draw(along, parameters_out=expected)
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    error = float((state.rows - along.rows).abs().max())
    assert error <= 1e-4 * float(along.rows.abs().max())

    noise = start.noise.flatten(0, 1)
    wanted = picked(cuda.output, found.flatten(0, 1), noise).unflatten(0, (batch, -1))
    wanted = cuda.output.to_images(wanted, *cuda.size)
    wanted = torch.where(start.given[:, None], start.images, wanted)
    assert int((state.images - wanted).abs().max()) <= (cuda.output.levels > 5)
    assert float((state.images == wanted).double().mean()) > 0.99


@pytest.mark.gpu
@needs_cuda_kernel
@pytest.mark.parametrize("batch", [3, 300])
@each_config
def test_a_generator_draws_what_its_noise_draws(config, batch):
    sampler = on_gpu(config)
    generators = [torch.Generator("cuda").manual_seed(5) for _ in range(2)]
    label = torch.arange(batch) % sampler.classes if sampler.classes else None
    state = sampler.start(batch, label, generator=generators[0])
    assert isinstance(state.noise, SeededNoise)
    given = sampler.start(batch, label, noise=sampler.draw_noise(batch, generators[1]))
    assert torch.equal(state.noise.tensor(), given.noise)

    # And wherever it moves.
    reference = on_gpu(config, "reference").draw(state.clone()).images
    expected = sampler.draw(given).images
    # A uniform at a border between two levels parts an image for good.
    same = (reference == expected).flatten(1).all(1)
    if batch > 100:
        assert float(same.double().mean()) > 0.9
    half = sampler.draw(state, config.image_shape[1] // 2)
    moved = half.to("cpu")
    assert torch.equal(sampler.draw(half).images, expected)
    assert torch.equal(sampler.draw(moved.to("cuda")).images, expected)


@pytest.mark.gpu
@needs_cuda_kernel
@pytest.mark.parametrize("name", ["pixelcnn", "pixelcnn of levels upside down", "gated", "pp"])
def test_a_model_draws_what_its_noise_draws(name, monkeypatch):
    model = model_of(CONFIGS[name]).cuda()
    assert model.sampler().impl == "cuda"
    label = None if not model.classes else torch.arange(5, device="cuda") % model.classes
    generators = [torch.Generator("cuda").manual_seed(3) for _ in range(2)]
    expected = model.sample(5, label, noise=model.draw_noise(5, generators[0]))
    # Some images at a time.
    together = 2 * 4 * model.sampler().floats
    monkeypatch.setattr(convolutional_pixel_model, "_TOGETHER", together)
    assert torch.equal(model.sample(5, label, generators[1]), expected)


@pytest.mark.gpu
@needs_cuda_kernel
@pytest.mark.parametrize(("config", "filters"), LEFT_OUT)
def test_what_the_reference_leaves_out_is_left_out(config, filters):
    found, expected = (
        on_gpu(config, impl).draw(start_on_gpu(config, 3), **filters)
        for impl in ("cuda", "reference")
    )
    assert torch.equal(found.images, expected.images)


@pytest.mark.gpu
@needs_cuda_kernel
@pytest.mark.parametrize("temperature", [0.0, 0.6])
@few_configs
def test_what_is_colder_is_what_the_reference_draws(config, temperature):
    found, expected = (
        on_gpu(config, impl).draw(start_on_gpu(config, 3), temperature=temperature)
        for impl in ("cuda", "reference")
    )
    assert torch.equal(found.images, expected.images)


@pytest.mark.gpu
@needs_cuda_kernel
@few_configs
def test_pieces_are_the_whole_and_no_batch_changes_a_bit(config):
    sampler, start = on_gpu(config), start_on_gpu(config, 300)
    whole = room_for(sampler, 300)
    at_the_end = sampler.draw(start.clone(), parameters_out=whole)

    state, parameters = start.clone(), room_for(sampler, 300)
    for rows in (1, 0, 2, None):
        state = sampler.draw(state, rows, parameters_out=parameters)
    assert same(state, at_the_end)
    assert torch.equal(parameters, whole)

    # As many as make blocks of one, two, four and eight images on any GPU.
    names = ["images", "given", "noise", "rows"] + ["condition"] * bool(sampler.classes)
    for images in (slice(7, 8), slice(0, 100), slice(0, 200)):
        some = {name: getattr(start, name)[images].clone() for name in names}
        state = sampler.draw(replace(start.clone(), **some))
        assert torch.equal(state.images, at_the_end.images[images])
        assert torch.equal(state.rows, at_the_end.rows[images])


@pytest.mark.gpu
@needs_cuda_kernel
@needs_kernel
@few_configs
def test_a_state_moves_between_a_cpu_and_a_gpu(config):
    cuda, cpp = on_gpu(config), PixelSampler(model_of(config)._describe(), impl="cpp")
    whole = cuda.draw(start_on_gpu(config, 3)).images
    state = start_on_gpu(config, 3).to("cpu")
    for sampler, rows in ((cpp, 1), (cuda, 1), (cpp, None)):
        state = sampler.draw(state.to(sampler.device), rows)
    assert torch.equal(state.images, whole.cpu())

    with pytest.raises(ValueError, match=r"state must be of this sampler's; got rows .* on cpu"):
        cuda.draw(state)


@pytest.mark.gpu
@needs_cuda_kernel
def test_a_gpu_takes_the_kernel_where_it_can():
    model = model_of(CONFIGS["gated"]).cuda()
    assert model.sampler().impl == "cuda"
    assert model_of(CONFIGS["gated"], "reference").cuda().sampler().impl == "reference"
    network = model.double()._describe()
    assert PixelSampler(network).impl == "reference"
    with pytest.raises(ImplementationUnavailable, match="float64"):
        PixelSampler(network, impl="cuda")

    wide = model_of(small("pixelcnn", (2, 2), channels=16384, blocks=0)).cuda()._describe()
    assert PixelSampler(wide).impl == "reference"
    with pytest.raises(ImplementationUnavailable, match="bytes of shared memory, of which"):
        PixelSampler(wide, impl="cuda")


@pytest.mark.gpu
@needs_cuda_kernel
@few_configs
def test_the_kernel_is_what_its_schema_says(config):
    sampler, arguments = on_gpu(config), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(op.draw, "cuda", lambda *given: arguments.append(given))
        state = start_on_gpu(config, 3)
        for noise in (state.noise, seeded_of(sampler, 3)):
            start = replace(state.clone(), noise=noise)
            sampler.draw(start, 2, parameters_out=room_for(sampler, 3))
    tests = ("test_schema", "test_faketensor")
    for each in arguments:
        torch.library.opcheck(op._op.kernels["draw", "cuda"], each, test_utils=tests)


GPU = {"name": "a GPU", "major": 8, "minor": 0, "shared_memory_per_block_optin": 163 * 1024}


@pytest.mark.parametrize(
    ("changes", "gpu", "reason"),
    [
        ({}, {}, None),
        ({}, {"major": 7, "minor": 5}, "it needs compute capability 8.0; a GPU has 7.5"),
        (
            {},
            {"shared_memory_per_block_optin": 5679},
            "an image needs 5680 bytes of shared memory, of which a GPU has 5679",
        ),
        (
            {"floats": 2**31},
            {},
            "what is kept of an image must hold less than 2147483648 floats; got 2147483648",
        ),
    ],
)
def test_a_network_that_does_not_fit_a_gpu_is_told_why(monkeypatch, changes, gpu, reason):
    properties = SimpleNamespace(**(GPU | gpu))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    plan = make_plan(model_of(CONFIGS["pixelcnn"])._describe(), torch.float32)
    plan = replace(plan, **changes)
    assert blocks.unavailable_reason(plan, torch.device("cuda")) == reason


@pytest.mark.parametrize(
    ("steps", "multiply_adds", "is_small"),
    [
        # Two blocks of 64 channels a scale of PixelCNN++, and as in its paper.
        (80, 1_787_392, True),
        (188, 53_000_000, False),
        (33, 74_304, True),
        (3, 1_000_000, False),
    ],
)
def test_a_network_is_small_where_a_graph_would_take_longer(
    monkeypatch, steps, multiply_adds, is_small
):
    works = [SimpleNamespace(ahead=False)] * steps + [SimpleNamespace(ahead=True)]
    plan = SimpleNamespace(works=works, multiply_adds=multiply_adds, bias=torch.zeros(1, 1))
    assert blocks.is_small(plan) == is_small

    monkeypatch.setattr(op, "unavailable_reason", lambda plan, device: None)
    monkeypatch.setattr(op._op, "choose", lambda impl, device, dtype: "cuda")
    assert op.choose("auto", plan) == ("cuda" if is_small else "reference")
    assert op.choose("cuda", plan) == "cuda"


def test_without_a_gpu_it_says_why_it_cannot_run():
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    network = model_of(CONFIGS["pixelcnn"])._describe()
    with pytest.raises(ImplementationUnavailable, match="pixel_sampler: impl='cuda' cannot run"):
        PixelSampler(network, impl="cuda")
