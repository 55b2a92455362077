"""The GPU's sweep through a masked network, whose steps threads of this CPU make."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dgm_fast._core import extension
from dgm_fast.distributions import BernoulliConditional, CategoricalConditional
from dgm_fast.sampling import (
    AffineInverse,
    Draw,
    MaskedLayout,
    MaskedNetwork,
    MaskedSampler,
    SeededNoise,
)
from dgm_fast.sampling.masked_mlp.stretches import shared_bytes, stretches_of
from tests.sampling.block_programs import build, build_watched, needs_compiler
from tests.sampling.filter_cases import FILTERS
from tests.sampling.masked_cases import (
    CONDITIONALS,
    SHAPES,
    STEPS,
    Shape,
    assert_same,
    each_left,
    make_context,
    make_network,
    make_noise,
    naive,
    naive_of_filters,
    work_of_logits,
)
from tests.sampling.masked_sweep_blocks import Blocks

pytestmark = needs_compiler

SOURCE = "masked_sweep_block.cpp"
B = 3
CPU = torch.device("cpu")
# All shapes with two steps, and all steps with one shape.
CASES = {
    f"{shape}-{step}": (SHAPES[shape], STEPS[step])
    for shape in SHAPES
    for step in STEPS
    if step in ("categorical", "standardizing") or shape == "direct"
}
SOME = {
    "context": ("context", "spline"),
    "direct": ("direct", "gaussian_mixture"),
    "residual": ("residual", "standardizing"),
    "unseen": ("unseen", "standardizing"),
}
each_of_some = pytest.mark.parametrize(("name", "step"), SOME.values(), ids=SOME)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program, compiled once."""
    return build(SOURCE, tmp_path_factory.mktemp("block"))


def work_of(shape, step, batch=B):
    """A network, a function that evaluates it, a sampler of the reference, noise and a context."""
    network, evaluate = make_network(shape, step.parameters)
    noise, context = make_noise(step, batch, shape.features), make_context(shape, batch)
    return network, evaluate, MaskedSampler(network, step, impl="reference"), noise, context


@pytest.mark.parametrize(("shape", "step"), CASES.values(), ids=CASES)
def test_a_block_draws_what_passes_draw(program, shape, step):
    network, evaluate, sampler, noise, context = work_of(shape, step)
    state, _ = Blocks(program, network, step).go_on(
        sampler.start(B, context), noise, shape.features
    )

    expected = naive(network, evaluate, step, noise, context)
    assert_same(state.x, expected, step)
    assert state.step == shape.features
    if step.is_flow:
        _, log_det = step.make(evaluate(expected, context), noise.double())
        torch.testing.assert_close(state.log_det.double(), log_det, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("conditional", CONDITIONALS.values(), ids=CONDITIONALS)
def test_a_seed_draws_what_its_noise_draws(program, conditional):
    step, shape = Draw(conditional), SHAPES["direct"]
    network, _, sampler, noise, context = work_of(shape, step)
    D = shape.features
    seeded = SeededNoise(torch.tensor(0), conditional.draw_noise, step.noise, range(B), range(D))
    blocks, start = Blocks(program, network, step), sampler.start(B, context)
    expected, _ = blocks.go_on(start, noise, D)
    # In pieces, of which one ends within a stretch.
    half, _ = blocks.go_on(start, seeded, D // 2)
    found, _ = blocks.go_on(half, seeded, D)
    some, _ = blocks.go_on(sampler.start(2, context[1:]), seeded[1:], D)
    uniforms = isinstance(conditional, CategoricalConditional | BernoulliConditional)
    # Of normals, a logarithm, a sine and a cosine round.
    tolerance = {"rtol": 0, "atol": 0} if uniforms else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(found.x, expected.x, **tolerance)
    assert torch.equal(some.x, found.x[1:])

    # Beside features that are given.
    mask = torch.zeros(B, D, dtype=torch.bool)
    mask[:, ::3] = True
    start = sampler.start(B, context, given=expected.x, given_mask=mask)
    found, _ = blocks.go_on(start, seeded, D)
    assert torch.equal(found.x[:, ::3], expected.x[:, ::3])
    torch.testing.assert_close(found.x, expected.x, **tolerance)


@pytest.mark.parametrize("temperature", [0.0, 0.6])
@pytest.mark.parametrize("conditional", CONDITIONALS.values(), ids=CONDITIONALS)
def test_temperature(program, conditional, temperature):
    step = Draw(conditional, temperature)
    network, evaluate, sampler, noise, _ = work_of(Shape(features=11), step)
    state, _ = Blocks(program, network, step).go_on(sampler.start(B), noise, 11)
    assert_same(state.x, naive(network, evaluate, step, noise, None), step)


@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_categories_are_left_out_as_their_logits_say(program, filters, temperature):
    step = Draw(CategoricalConditional(11), temperature, **filters)
    network, evaluate, sampler, noise, _ = work_of(Shape(features=11), step)
    state, _ = Blocks(program, network, step).go_on(sampler.start(B), noise, 11)
    expected = naive_of_filters(network, evaluate, noise, temperature=temperature, **filters)
    assert torch.equal(state.x.double(), expected)


@each_left
def test_equal_categories_stay_together_and_none_of_no_probability(
    program, logits, filters, wanted
):
    step, network = work_of_logits(logits, filters)
    sampler = MaskedSampler(network, step, impl="reference")
    noise = torch.arange(32).div(31).view(16, 2, 1)
    state, _ = Blocks(program, network, step).go_on(sampler.start(16), noise, 2)
    assert set(state.x.flatten().tolist()) == wanted


@pytest.mark.parametrize("activation", ["elu", "gelu", "silu", "softplus", "sigmoid", "tanh"])
def test_activations(program, activation):
    step = AffineInverse(2.0)
    network, _, _, noise, _ = work_of(Shape(features=11, activation=activation), step)
    # Sums that reach both ends of every activation.
    network = replace(network, weights=(network.weights[0] * 12, *network.weights[1:]))
    sampler = MaskedSampler(network, step, impl="reference")
    expected = sampler.draw(sampler.start(B), noise)
    state, _ = Blocks(program, network, step).go_on(sampler.start(B), noise, 11)
    torch.testing.assert_close(state.x, expected, rtol=1e-4, atol=1e-4)


@each_of_some
def test_nothing_but_the_sample_changes_a_bit(program, name, step):
    shape, step = SHAPES[name], STEPS[step]
    network, _, sampler, noise, context = work_of(shape, step, 9)
    blocks, start = Blocks(program, network, step), sampler.start(9, context)
    whole, _ = blocks.go_on(start, noise, shape.features)
    # The last is a GPU's.
    for samples, threads, warp, crew in [
        (1, 8, 3, 3),
        (4, 24, 8, 6),
        (8, 16, 1, 1),
        (2, 256, 32, 32),
    ]:
        other = blocks.like(samples=samples, threads=threads, warp=warp, crew=crew)
        found, _ = other.go_on(start, noise, shape.features)
        assert torch.equal(found.x, whole.x)
        assert torch.equal(found.log_det, whole.log_det)

    alone = sampler.start(1, None if context is None else context[4:5])
    found, _ = blocks.go_on(alone, noise[4:5], shape.features)
    assert torch.equal(found.x, whole.x[4:5])


@each_of_some
def test_pieces_are_the_whole(program, name, step):
    shape, step = SHAPES[name], STEPS[step]
    network, _, sampler, noise, context = work_of(shape, step)
    blocks, state = Blocks(program, network, step, block=5), sampler.start(B, context)
    whole, _ = blocks.go_on(state, noise, shape.features)
    for end in (1, 5, 20, 22, 23, shape.features):
        state, _ = blocks.go_on(state, noise, end)
    assert torch.equal(state.x, whole.x)
    torch.testing.assert_close(state.log_det, whole.log_det, rtol=1e-5, atol=1e-5)

    # Those that end where stretches do add up their slopes alike.
    state = sampler.start(B, context)
    for end in (10, 15, shape.features):
        state, _ = blocks.go_on(state, noise, end)
    assert torch.equal(state.x, whole.x)
    assert torch.equal(state.log_det, whole.log_det)


@pytest.mark.skipif(extension.cpp_missing is not None, reason=str(extension.cpp_missing))
@each_of_some
def test_a_sweep_moves_from_a_cpu_to_a_block_and_back(program, name, step):
    shape, step = SHAPES[name], STEPS[step]
    network, _, _, noise, context = work_of(shape, step)
    sampler = MaskedSampler(network, step, impl="cpp")
    expected = sampler.start(B, context)
    sampler.draw(expected, noise)

    state = sampler.start(B, context)
    sampler.draw(state, noise, steps=13)
    state, _ = Blocks(program, network, step, block=6).go_on(state, noise, 27)
    sampler.draw(state, noise)
    torch.testing.assert_close(state.x, expected.x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state.log_det, expected.log_det, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "block", "crew"),
    [
        # Weights within a stretch that are left where they are, and more units than a warp's.
        (SHAPES["wide"], 9, 2),
        (Shape(features=2, hidden=(530,), context=1), 2, 4),
        (Shape(features=2, hidden=(530,), context=1), 1, 2),
        (SHAPES["two layers"], 1, 2),
    ],
)
def test_stretches_of_any_size(program, shape, block, crew):
    step = STEPS["gaussian"]
    network, evaluate, sampler, noise, context = work_of(shape, step)
    blocks = Blocks(program, network, step, block=block, crew=crew)
    state, plan = blocks.go_on(sampler.start(B, context), noise, shape.features)
    assert_same(state.x, naive(network, evaluate, step, noise, context), step)
    assert plan[0] == shared_bytes(stretches_of(network.layout, block, False, CPU), step.kernel)


@pytest.mark.parametrize("which", ["some", "all"])
@pytest.mark.parametrize("name", ["bernoulli", "categorical", "standardizing"])
def test_given_features_stay_and_count(program, which, name):
    step, shape = STEPS[name], Shape(features=13, shuffled=True)
    network, _, sampler, noise, _ = work_of(shape, step)
    mask = (torch.rand(B, 13) < 0.5) | (which == "all")
    # What lies where nothing is given is not looked at.
    given = (torch.arange(39).view(B, 13) % 2).float().masked_fill(~mask, torch.nan)
    start = sampler.start(B, given=given, given_mask=mask)
    state, _ = Blocks(program, network, step).go_on(start, noise, 13)
    expected = start.clone()
    sampler.draw(expected, noise)
    assert torch.equal(state.x[mask], given[mask])
    torch.testing.assert_close(state.x, expected.x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state.log_det, expected.log_det, rtol=1e-4, atol=1e-4)


def test_what_overflows_harms_nothing_that_does_not_depend_on_it(program):
    step, weight = AffineInverse(200.0), torch.zeros(8, 4)
    weight[2, 0] = 1e4
    network = MaskedNetwork(MaskedLayout(torch.arange(1, 5), [], 2), (weight,), (None,))
    sampler = MaskedSampler(network, step, impl="reference")
    y = torch.tensor([[5.0, 2.0, 3.0, 4.0], [0.0, 2.0, 3.0, 4.0]])
    state, _ = Blocks(program, network, step).go_on(sampler.start(2), y[..., None], 4)
    assert state.x[0].tolist() == [5.0, float("inf"), 3.0, 4.0]
    assert torch.equal(state.x[1], y[1])


@pytest.mark.parametrize("name", [*CONDITIONALS, "standardizing", "spline"])
@pytest.mark.parametrize("bias", [0.0, 60.0, float("inf"), float("nan")])
def test_noise_at_both_ends_and_what_is_no_number(program, name, bias):
    step = STEPS[name]
    layout = MaskedLayout(torch.arange(1, 6), [], step.parameters)
    biases = torch.full((5, step.parameters), -2.0)
    biases[:, 0] = bias
    weight = torch.zeros(5 * step.parameters, 5)
    network = MaskedNetwork(layout, (weight,), (biases.flatten(),))
    below_one = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    noise = torch.tensor([0.0, 1e-30, 0.5, below_one, 1.0])[None, :, None]
    noise = noise.expand(1, -1, step.noise)
    sampler = MaskedSampler(network, step, impl="reference")
    state, _ = Blocks(program, network, step).go_on(sampler.start(1), noise, 5)
    expected, _ = step.make(biases[None], noise)
    torch.testing.assert_close(state.x, expected, equal_nan=True)


def test_units_that_no_feature_sees_are_passed_over(program):
    step = AffineInverse(2.0)
    degrees = [torch.tensor([1, 7, 0, 3, 2, 9]), torch.tensor([8, 2, 0, 3])]
    layout = MaskedLayout(torch.tensor([2, 1, 4, 3]), degrees, 2)
    sizes = [(6, 4), (4, 6), (8, 4)]
    generator = torch.Generator().manual_seed(0)
    weights = tuple(torch.randn(size, generator=generator) for size in sizes)
    network = MaskedNetwork(layout, weights, (None,) * 3)
    sampler = MaskedSampler(network, step, impl="reference")
    noise = make_noise(step, B, 4)
    expected = sampler.draw(sampler.start(B), noise)
    blocks, state = Blocks(program, network, step, block=2), sampler.start(B)
    for end in (2, 4):
        state, _ = blocks.go_on(state, noise, end)
    torch.testing.assert_close(state.x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_python_knows_what_a_block_shares(program, name):
    shape, step = SHAPES[name], STEPS["gaussian_mixture"]
    network, _, sampler, noise, context = work_of(shape, step, 1)
    blocks = Blocks(program, network, step, samples=1)
    _, plan = blocks.go_on(sampler.start(1, context), noise, 0)
    direct = network.is_direct
    stretches = stretches_of(network.layout, None, direct, CPU)
    assert plan[0] == shared_bytes(stretches, step.kernel)


@pytest.mark.parametrize(
    ("batch", "processors", "kilobytes", "samples"),
    [
        (0, 132, 227, 1),
        (66, 132, 227, 1),
        (67, 132, 227, 2),
        (264, 132, 227, 4),
        (1000, 132, 227, 8),
        (1000, 132, 60, 4),
        (1000, 132, 25, 1),
        (9, 1, 227, 8),
    ],
)
def test_samples_of_a_block_leave_half_the_processors_and_fit(
    program, batch, processors, kilobytes, samples
):
    step = STEPS["bernoulli"]
    network, _, sampler, noise, _ = work_of(Shape(features=20, hidden=(500, 500)), step, batch)
    blocks = Blocks(program, network, step, processors=(processors, 1024 * kilobytes))
    state = replace(sampler.start(batch), step=20)
    assert blocks.go_on(state, noise, 20)[1][1] == samples


# So wide that no thread reads only what it wrote itself, in the second and third of its stretches.
RACY = Shape(features=6, hidden=(72, 72), context=2)
# Of a block, and of a crew in a stretch.
WAITS = 2 + 2 * 7
WAITS_OF_CREW = {"gaussian": 5, "spline": 9, "categorical": 11, "filtered": 19}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """The program under ThreadSanitizer."""
    folder = tmp_path_factory.mktemp("watched")
    return build_watched(SOURCE, folder, lambda program: _watch(program, "spline"))


def _watch(program, name, **left_out):
    step = STEPS[name]
    network, _, sampler, noise, context = work_of(RACY, step)
    state = sampler.start(B, context)
    state = replace(state, levels=torch.zeros_like(state.levels), step=2)
    blocks = Blocks(program, network, step, block=2)
    return blocks.like(**left_out).go_on(state, noise, 6)[1][2:]


@pytest.mark.parametrize("name", STEPS)
def test_threads_of_a_block_never_race(watched, name):
    waits, waits_of_crew = _watch(watched, name)
    assert waits == WAITS
    if name in WAITS_OF_CREW:
        assert waits_of_crew == 2 * WAITS_OF_CREW[name]


@pytest.mark.parametrize("left_out", range(WAITS))
def test_a_block_that_leaves_out_any_wait_is_caught(watched, left_out):
    # What is read before it is there may be a place that is none.
    with pytest.raises(RuntimeError, match=r"data race|SEGV"):
        _watch(watched, "gaussian", left_out=left_out)


@pytest.mark.parametrize(
    ("name", "left_out"), [(n, i) for n, count in WAITS_OF_CREW.items() for i in range(count)]
)
def test_a_crew_that_leaves_out_any_wait_is_caught(watched, name, left_out):
    with pytest.raises(RuntimeError, match="data race"):
        _watch(watched, name, left_out_of_crew=left_out)
