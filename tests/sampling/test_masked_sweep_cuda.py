"""The sweep through a masked network on a GPU draws what a pass of the network a feature draws."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dgm_fast._core import extension
from dgm_fast._core.implementation import ImplementationUnavailable
from dgm_fast.distributions import CategoricalConditional
from dgm_fast.families import MADE, MADEConfig
from dgm_fast.families.flows import masked_autoregressive as flows
from dgm_fast.layers import SplineShape
from dgm_fast.sampling import Draw, MaskedLayout, MaskedSampler, SeededNoise
from dgm_fast.sampling.masked_mlp import op
from dgm_fast.sampling.masked_mlp.stretches import unavailable_reason
from tests.sampling.filter_cases import FILTERS
from tests.sampling.masked_cases import (
    CONDITIONALS,
    SHAPES,
    STEPS,
    Shape,
    make_context,
    make_network,
    make_noise,
    moved,
)

needs_kernel = pytest.mark.skipif(
    extension.cuda_missing is not None, reason=str(extension.cuda_missing)
)
# All shapes with two steps, and all steps with one shape.
CASES = {
    f"{shape}-{step}": (shape, step)
    for shape in SHAPES
    for step in STEPS
    if step in ("categorical", "standardizing") or shape == "direct"
}
SOME = [("context", "spline"), ("direct", "gaussian_mixture"), ("residual", "standardizing")]
each_of_some = pytest.mark.parametrize(("shape", "step"), SOME)


def work_of(shape, step, batch, device="cuda"):
    """A sampler on a GPU, a function that evaluates its network on a CPU, noise and a context."""
    shape, step = SHAPES[shape], STEPS[step]
    network, evaluate = make_network(shape, step.parameters)
    sampler = MaskedSampler(moved(network, device), step, impl="cuda")
    context = make_context(shape, batch)
    noise = make_noise(step, batch, shape.features).to(device)
    return sampler, evaluate, noise, None if context is None else context.to(device)


def assert_drawn(state, evaluate, step, noise, context):
    """That each feature is what its step makes of the parameters that those before it give."""
    assert bool(state.x.isfinite().all())
    x, noise = state.x.cpu().double(), noise.cpu().double()
    parameters = evaluate(step.encode(x), None if context is None else context.cpu())
    made, log_det = step.make(parameters, noise)
    if step.is_flow:
        torch.testing.assert_close(state.log_det.cpu().double(), log_det, rtol=1e-4, atol=1e-3)
    far = ~((x - made).abs() <= 1e-4 * (1 + made.abs()))
    # A uniform within rounding of the border between two values or components may fall to either
    # side.
    may_part = not step.is_flow and "uniform" in step.conditional.noise_kinds
    assert float(far.double().mean()) <= (1e-3 if may_part else 0.0)


@pytest.mark.gpu
@needs_kernel
@pytest.mark.parametrize("batch", [0, 1, 3, 100, 300, 4096])
@pytest.mark.parametrize(("shape", "step"), CASES.values(), ids=CASES)
def test_the_kernel_draws_what_passes_draw(shape, step, batch):
    sampler, evaluate, noise, context = work_of(shape, step, batch)
    state = sampler.start(batch, context)
    x = sampler.draw(state, noise)
    assert x.is_cuda
    assert x.shape == (batch, SHAPES[shape].features)
    assert state.step == SHAPES[shape].features
    if batch > 0:
        assert_drawn(state, evaluate, STEPS[step], noise, context)


def assert_alike(found, expected, conditional):
    """That samples are the same, but for the rounding of normals."""
    tolerance = 1e-5 if "normal" in conditional.noise_kinds else 0.0
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
@needs_kernel
@pytest.mark.parametrize("batch", [3, 1200])
@pytest.mark.parametrize("conditional", CONDITIONALS.values(), ids=CONDITIONALS)
def test_a_seed_draws_what_its_noise_draws(conditional, batch):
    network, _ = make_network(SHAPES["two layers"], conditional.parameters_per_feature)
    sampler = MaskedSampler(moved(network, "cuda"), Draw(conditional), impl="cuda")
    seed, (D, N) = torch.tensor(7, device="cuda"), (37, len(conditional.noise_kinds))
    noise = SeededNoise(seed, conditional.draw_noise, N, range(batch), range(D))
    expected = sampler.draw(sampler.start(batch), noise.tensor())
    found = sampler.start(batch)
    for steps in (1, 12, None):
        sampler.draw(found, noise, steps=steps)
    assert_alike(found.x, expected, conditional)
    assert torch.equal(sampler.draw(sampler.start(batch - 2), noise[2:]), found.x[2:])


@pytest.mark.gpu
@needs_kernel
@pytest.mark.parametrize("num_masks", [1, 3])
@pytest.mark.parametrize("output", ["bernoulli", "gaussian_mixture"])
def test_a_model_draws_what_its_noise_draws(output, num_masks):
    config = MADEConfig(features=20, hidden=(64,), output=output, num_masks=num_masks)
    model = MADE(config).cuda().eval()
    generators = [torch.Generator("cuda").manual_seed(3) for _ in range(4)]
    noise = model.draw_noise(50, generators[0])
    expected = model.sample(50, None, generators[1], noise=noise)
    assert_alike(model.sample(50, None, generators[2]), expected, model.conditional)
    assert torch.equal(model.sample(50, None, generators[3], noise=noise.cpu()), expected)


@pytest.mark.gpu
@needs_kernel
@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_the_kernel_leaves_out_what_the_reference_leaves_out(filters, temperature):
    step = Draw(CategoricalConditional(11), temperature, **filters)
    network, evaluate = make_network(SHAPES["two layers"], 11)
    sampler = MaskedSampler(moved(network, "cuda"), step, impl="cuda")
    noise = make_noise(step, 300, 37).cuda()
    state = sampler.start(300)
    sampler.draw(state, noise)
    assert_drawn(state, evaluate, step, noise, None)


@pytest.mark.gpu
@needs_kernel
@each_of_some
def test_pieces_are_the_whole_and_no_batch_changes_a_bit(shape, step):
    sampler, _, noise, context = work_of(shape, step, 1200)
    whole = sampler.start(1200, context)
    sampler.draw(whole, noise)

    state = sampler.start(1200, context)
    for steps in (1, 0, 12, 3, None):
        sampler.draw(state, noise, steps=steps)
    assert torch.equal(state.x, whole.x)
    torch.testing.assert_close(state.log_det, whole.log_det, rtol=1e-5, atol=1e-5)

    # As many as make blocks of one, two, four and eight samples on any GPU.
    for some in (slice(7, 8), slice(0, 100), slice(0, 200), slice(0, 300)):
        start = sampler.start(len(noise[some]), None if context is None else context[some])
        x = sampler.draw(start, noise[some])
        assert torch.equal(x, whole.x[some])
        assert torch.equal(start.log_det, whole.log_det[some])


@pytest.mark.gpu
@needs_kernel
@pytest.mark.skipif(extension.cpp_missing is not None, reason=str(extension.cpp_missing))
@each_of_some
def test_a_sweep_moves_between_a_cpu_and_a_gpu(shape, step):
    cuda, _, noise, context = work_of(shape, step, 3)
    whole = cuda.start(3, context)
    cuda.draw(whole, noise)

    cpp = MaskedSampler(make_network(SHAPES[shape], STEPS[step].parameters)[0], STEPS[step])
    state = cpp.start(3, None if context is None else context.cpu())
    for sampler, steps in ((cpp, 13), (cuda, 14), (cpp, None)):
        state = state.to(sampler.device)
        sampler.draw(state, noise, steps=steps)
    torch.testing.assert_close(state.x, whole.x.cpu(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state.log_det, whole.log_det.cpu(), rtol=1e-4, atol=1e-4)

    with pytest.raises(ValueError, match=r"state must be of this sampler's .* on cpu"):
        cuda.draw(state, noise)


@pytest.mark.gpu
@needs_kernel
def test_given_features_stay_and_count():
    sampler, evaluate, noise, _ = work_of("two layers", "categorical", 50)
    mask = torch.rand(50, 37, device="cuda") < 0.5
    given = torch.randint(11, (50, 37), device="cuda").float()
    state = sampler.start(50, given=given, given_mask=mask)
    x = sampler.draw(state, noise)
    assert torch.equal(x[mask], given[mask])
    parameters = evaluate(sampler.step.encode(x.cpu().double()), None)
    made, _ = sampler.step.make(parameters, noise.cpu().double())
    assert float((made != x.cpu())[~mask.cpu()].double().mean()) < 1e-2


@pytest.mark.gpu
@needs_kernel
def test_it_keeps_its_place_in_a_stream():
    sampler, _, noise, _ = work_of("two layers", "gaussian", 64)
    expected = sampler.draw(sampler.start(64), noise)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        state = sampler.start(64)
        late = torch.full_like(noise, float("nan"))
        torch.cuda._sleep(10_000_000)
        late.copy_(noise)
        found = sampler.draw(state, late) + 0.0
    stream.synchronize()
    assert torch.equal(found, expected)


@pytest.mark.gpu
@needs_kernel
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is no second GPU")
def test_it_runs_where_its_network_is():
    first, _, noise, _ = work_of("two layers", "gaussian", 64)
    second, *_ = work_of("two layers", "gaussian", 64, "cuda:1")
    expected = first.draw(first.start(64), noise)
    found = second.draw(second.start(64), noise)
    assert found.device == torch.device("cuda:1")
    torch.testing.assert_close(found.cpu(), expected.cpu(), rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@needs_kernel
def test_a_gpu_takes_the_kernel_where_it_can():
    model = MADE(MADEConfig(features=20, hidden=(64,))).cuda()
    assert model.sampler().impl == "cuda"
    assert model.sampler(impl="reference").impl == "reference"
    assert model.double().sampler().impl == "reference"
    with pytest.raises(ImplementationUnavailable, match="float64"):
        model.sampler(impl="cuda")

    wide = MADE(MADEConfig(features=20, hidden=(80_000,))).cuda()
    assert wide.sampler().impl == "reference"
    with pytest.raises(ImplementationUnavailable, match="bytes of shared memory, of which"):
        wide.sampler(impl="cuda")


@pytest.mark.gpu
@needs_kernel
@pytest.mark.parametrize("kind", ["standardizing", "affine", "spline"])
def test_the_inverse_of_a_flow_solves_what_passes_solve(kind, monkeypatch):
    torch.manual_seed(1)
    with torch.device("cuda"):
        if kind == "spline":
            step = flows.SplineAutoregressive(70, (90,), SplineShape(5, 3.0), 3)
        else:
            step = flows.AffineAutoregressive(70, (90,), 3, standardize=kind == "standardizing")
        x, context = torch.randn(10, 70), torch.randn(10, 3)
    with torch.no_grad():
        for p in step.parameters():
            p += 0.05 * torch.randn_like(p)
        y, log_det = step(x, context)
        passes = []
        step.network.register_forward_hook(lambda *_: passes.append(1))
        back, minus_log_det = step.inverse(y, context)
        assert not passes
        monkeypatch.setattr(flows, "_takes_passes", lambda y: True)
        expected, _ = step.inverse(y, context)
        assert passes
    for found in (back, expected):
        torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(minus_log_det, -log_det, atol=1e-3, rtol=1e-4)


@pytest.mark.gpu
@needs_kernel
def test_no_call_waits_for_the_gpu():
    model = MADE(MADEConfig(features=20, hidden=(64,))).cuda()
    with torch.device("cuda"):
        flow, y = flows.AffineAutoregressive(20, (64,)), torch.randn(10, 20)

    @torch.no_grad()
    def run():
        return model.sample(10), flow.inverse(y)

    # The first one lays out what is kept.
    run()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.gpu
@needs_kernel
def test_the_kernel_is_what_its_schema_says():
    sampler, _, noise, context = work_of("residual", "standardizing", 3)
    state, sweep = sampler.start(3, context), sampler._sweep
    packed = sweep.packed
    state.levels.zero_()
    tests, seed = ("test_schema", "test_faketensor"), torch.tensor(7, device="cuda")
    for noises in ((noise, None, []), (None, seed, [0, 0, 37])):
        arguments = (
            *(state.x, state.levels, state.log_det, state.context),
            *(packed.weights, packed.biases, packed.starts, packed.order, *noises, None),
            *(packed.sizes, sweep.skips, sweep.activation, sweep.kind, sweep.constants),
            *(0, 20, True),
        )
        torch.library.opcheck(op.go_on["cuda"], arguments, test_utils=tests)


GPU = {"name": "a GPU", "major": 8, "minor": 0, "shared_memory_per_block_optin": 163 * 1024}


@pytest.mark.parametrize(
    ("shape", "gpu", "reason"),
    [
        (Shape(), {}, None),
        (
            Shape(),
            {"major": 7, "minor": 5},
            "it needs compute capability 8.0; a GPU has 7.5",
        ),
        (Shape(features=3, hidden=(2,) * 33), {}, "it has at most 32 hidden layers; got 33"),
        (
            Shape(),
            {"shared_memory_per_block_optin": 20143},
            "a sample needs 20144 bytes of shared memory, of which a GPU has 20143",
        ),
    ],
)
def test_a_network_that_does_not_fit_a_gpu_is_told_why(monkeypatch, shape, gpu, reason):
    properties = SimpleNamespace(**(GPU | gpu))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    network, _ = make_network(shape, 1)
    assert unavailable_reason(network, STEPS["bernoulli"].kernel, None) == reason


def test_a_weight_whose_places_are_too_many_is_told_so(monkeypatch):
    properties = SimpleNamespace(**GPU)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    layout = MaskedLayout(torch.arange(1, 4097), [torch.arange(1, 4096)], 256)
    # What the check asks of a network, without the 4 GiB.
    network = SimpleNamespace(
        layout=layout,
        weights=[torch.zeros(0)],
        is_direct=False,
        edges=[(0, 1, None), (1, 2, None)],
    )
    found = unavailable_reason(network, STEPS["bernoulli"].kernel, 32)
    assert found.startswith("a weight must hold less than 2147483648 floats; got ")


def test_without_a_gpu_it_says_why_it_cannot_run():
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    network, _ = make_network(Shape(), 1)
    with pytest.raises(ImplementationUnavailable, match="masked_sweep: impl='cuda' cannot run"):
        MaskedSampler(network, STEPS["bernoulli"], impl="cuda")
