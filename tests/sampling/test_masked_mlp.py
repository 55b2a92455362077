"""Sweeps through masked networks draw what a pass of the network a feature draws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dgm_fast._core.implementation import ImplementationUnavailable
from dgm_fast.distributions import (
    BernoulliConditional,
    CategoricalConditional,
    GaussianMixtureConditional,
)
from dgm_fast.families import MADE, MADEConfig
from dgm_fast.sampling import (
    AffineInverse,
    Draw,
    MaskedLayout,
    MaskedNetwork,
    MaskedSampler,
)
from tests.processes import run_on_isa
from tests.sampling.filter_cases import FILTERS
from tests.sampling.masked_cases import (
    CONDITIONALS,
    FLOWS,
    SHAPES,
    STEPS,
    Shape,
    assert_same,
    each_case,
    each_left,
    each_of_few,
    make_context,
    make_network,
    make_noise,
    naive,
    naive_of_filters,
    work_of_logits,
)
from tests.sampling.pixel_cases import needs_kernel


@each_case
def test_networks_of_these_tests_do_not_run_away(shape, step):
    network, _ = make_network(shape, step.parameters)
    noise, context = make_noise(step, 4096, shape.features), make_context(shape, 4096)
    sampler = MaskedSampler(network, step)
    x = sampler.draw(sampler.start(4096, context), noise)
    # A GPU's tests draw as many. A sum of what overflowed says nothing about its other terms.
    assert float(x.abs().max()) < 100


@each_case
def test_every_implementation_draws_what_passes_draw(shape, step, impl):
    network, evaluate = make_network(shape, step.parameters)
    noise, context = make_noise(step, 21, shape.features), make_context(shape, 21)
    sampler = MaskedSampler(network, step, impl=impl)
    state = sampler.start(21, context)
    x = sampler.draw(state, noise)

    expected = naive(network, evaluate, step, noise, context)
    assert_same(x, expected, step)
    assert state.step == shape.features
    if step.is_flow:
        parameters = evaluate(expected, context)
        _, log_det = step.make(parameters, noise.double())
        torch.testing.assert_close(state.log_det.double(), log_det, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.7])
@pytest.mark.parametrize("conditional", CONDITIONALS.values(), ids=CONDITIONALS)
def test_temperature(conditional, temperature, impl):
    step = Draw(conditional, temperature)
    network, evaluate = make_network(Shape(shuffled=True), step.parameters)
    noise = make_noise(step, 10, 37)
    sampler = MaskedSampler(network, step, impl=impl)
    x = sampler.draw(sampler.start(10), noise)
    assert_same(x, naive(network, evaluate, step, noise, None), step)
    if temperature == 0:
        torch.testing.assert_close(x, x[:1].expand(10, -1))


@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_categories_are_left_out_as_their_logits_say(filters, temperature, impl):
    step = Draw(CategoricalConditional(11), temperature, **filters)
    network, evaluate = make_network(Shape(shuffled=True), 11)
    noise = make_noise(step, 21, 37)
    sampler = MaskedSampler(network, step, impl=impl)
    x = sampler.draw(sampler.start(21), noise)
    expected = naive_of_filters(network, evaluate, noise, temperature=temperature, **filters)
    assert torch.equal(x.double(), expected)


@each_left
def test_equal_categories_stay_together_and_none_of_no_probability(logits, filters, wanted, impl):
    step, network = work_of_logits(logits, filters)
    noise = torch.arange(128).div(128).view(64, 2, 1)
    # What rounding makes of the largest noise.
    noise[-1] = 1.0 if impl == "cpp" else 127 / 128
    sampler = MaskedSampler(network, step, impl=impl)
    x = sampler.draw(sampler.start(64), noise)
    assert set(x.flatten().tolist()) == wanted


@pytest.mark.parametrize(
    "activation", ["relu", "elu", "gelu", "silu", "softplus", "sigmoid", "tanh"]
)
def test_activations(activation, impl):
    step = AffineInverse(2.0)
    network, _ = make_network(Shape(activation=activation), 2)
    # Sums that reach both ends of every activation.
    weights = (network.weights[0] * 12, *network.weights[1:])
    network = replace(network, weights=weights)
    noise = make_noise(step, 9, 37)
    sampler = MaskedSampler(network, step, impl=impl)
    exact = MaskedSampler(
        replace(
            network,
            weights=tuple(w.double() for w in weights),
            biases=tuple(None if b is None else b.double() for b in network.biases),
        ),
        step,
    )
    assert exact.impl == "reference"
    expected = exact.draw(exact.start(9), noise)
    found = sampler.draw(sampler.start(9), noise)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@needs_kernel
@pytest.mark.parametrize("batch", [0, 1, 8, 9, 70])
@each_of_few
def test_bits_depend_neither_on_the_batch_nor_on_threads(shape, batch):
    step = FLOWS["standardizing"]
    network, _ = make_network(shape, step.parameters)
    noise, context = make_noise(step, 150, shape.features), make_context(shape, 150)
    sampler, before = MaskedSampler(network, step, impl="cpp"), torch.get_num_threads()
    whole = sampler.draw(sampler.start(150, context), noise)
    some = None if context is None else context[:batch]
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            x = sampler.draw(sampler.start(batch, some), noise[:batch])
            assert torch.equal(x, whole[:batch])
    finally:
        torch.set_num_threads(before)


@needs_kernel
@pytest.mark.parametrize("block", [1, 5, 1000])
@pytest.mark.parametrize("name", ["context", "residual", "long"])
def test_no_block_size_changes_a_bit(name, block):
    # Direct connections add a second source block by block, in an order that follows the blocks.
    shape = SHAPES[name]
    step = STEPS["gaussian"]
    network, _ = make_network(shape, step.parameters)
    noise, context = make_noise(step, 11, shape.features), make_context(shape, 11)
    found = []
    for size in (None, block):
        sampler = MaskedSampler(network, step, impl="cpp", block=size)
        found.append(sampler.draw(sampler.start(11, context), noise))
    assert torch.equal(*found)


@pytest.mark.parametrize("block", [1, 7, 37])
def test_the_reference_iterates_blocks_of_any_size(block):
    step = STEPS["spline"]
    network, evaluate = make_network(Shape(), step.parameters)
    noise = make_noise(step, 5, 37)
    sampler = MaskedSampler(network, step, impl="reference", block=block)
    x = sampler.draw(sampler.start(5), noise)
    assert_same(x, naive(network, evaluate, step, noise, None), step)


@each_of_few
@pytest.mark.parametrize("name", ["categorical", "standardizing"])
def test_pieces_are_the_whole(shape, name, impl):
    step, D = STEPS[name], shape.features
    network, _ = make_network(shape, step.parameters)
    noise, context = make_noise(step, 10, D), make_context(shape, 10)
    sampler = MaskedSampler(network, step, impl=impl)
    whole = sampler.start(10, context)
    sampler.draw(whole, noise)

    state = sampler.start(10, context)
    for steps in (1, 0, 4, 3, D):
        steps = min(steps, D - state.step)
        sampler.draw(state, noise, steps=steps)
        # Another way of the same state leaves this one alone.
        sampler.draw(state.clone(), 1 - noise)
        sampler.draw(state.to("cpu"), 1 - noise)
    assert state.step == D
    if impl == "cpp":
        assert torch.equal(state.x, whole.x)
    assert_same(state.x, whole.x.double(), step)
    torch.testing.assert_close(state.log_det, whole.log_det, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("which", ["prefix", "some", "all", "none"])
@pytest.mark.parametrize("name", ["bernoulli", "gaussian"])
def test_given_features_stay_and_count(which, name, impl):
    step, shape = STEPS[name], Shape(shuffled=True)
    network, evaluate = make_network(shape, step.parameters)
    noise = make_noise(step, 12, 37)
    values = naive(network, evaluate, step, 1 - noise if name != "gaussian" else -noise, None)
    mask = {
        "prefix": torch.isin(torch.arange(37), network.layout.order[:20]).expand(12, 37),
        "some": torch.rand(12, 37) < 0.5,
        "all": torch.ones(12, 37, dtype=torch.bool),
        "none": torch.zeros(12, 37, dtype=torch.bool),
    }[which]
    sampler = MaskedSampler(network, step, impl=impl)
    # What lies where nothing is given is not looked at.
    given = values.float().masked_fill(~mask, torch.nan)
    x = sampler.draw(sampler.start(12, given=given, given_mask=mask), noise)
    expected = naive(
        network, evaluate, step, noise, None, x=torch.where(mask, values, 0.0), given=mask
    )
    assert torch.equal(x[mask], values.float()[mask])
    assert_same(x, expected, step)


def test_progress_and_an_interruption_that_loses_nothing(impl):
    step = STEPS["bernoulli"]
    network, _ = make_network(Shape(features=200, hidden=(300,)), 1)
    noise = make_noise(step, 6, 200)
    sampler = MaskedSampler(network, step, impl=impl)
    told = []
    whole = sampler.draw(sampler.start(6), noise, progress=lambda done, of: told.append((done, of)))
    assert len(told) > 2
    assert told == sorted(told)
    assert told[-1] == (200, 200)

    def stop(done, of):
        if done > 100:
            raise KeyboardInterrupt

    state = sampler.start(6)
    with pytest.raises(KeyboardInterrupt):
        sampler.draw(state, noise, progress=stop)
    assert 100 < state.step < 200
    assert torch.equal(sampler.draw(state, noise), whole)


def test_float64_runs_on_the_reference_and_narrow_weights_in_float32(impl):
    step = STEPS["gaussian"]
    network, evaluate = make_network(Shape(), 2)
    noise = make_noise(step, 5, 37)

    def cast(dtype):
        return replace(
            network,
            weights=tuple(w.to(dtype) for w in network.weights),
            biases=tuple(None if b is None else b.to(dtype) for b in network.biases),
        )

    double = MaskedSampler(cast(torch.float64), step)
    assert double.impl == "reference"
    x = double.draw(double.start(5), noise)
    assert x.dtype == torch.float64
    torch.testing.assert_close(
        x, naive(network, evaluate, step, noise, None), rtol=1e-10, atol=1e-10
    )
    if impl == "cpp":
        with pytest.raises(ImplementationUnavailable):
            MaskedSampler(cast(torch.float64), step, impl="cpp")

    narrow = cast(torch.bfloat16)
    wide = replace(
        narrow,
        weights=tuple(w.float() for w in narrow.weights),
        biases=tuple(None if b is None else b.float() for b in narrow.biases),
    )
    found = [MaskedSampler(each, step, impl=impl) for each in (narrow, wide)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first, second = (each.draw(each.start(5), noise) for each in found)
    assert first.dtype == torch.float32
    assert torch.equal(first, second)
    assert torch.equal(first, found[0].draw(found[0].start(5), noise))


@pytest.mark.parametrize("name", ["bernoulli", "gaussian_mixture"])
def test_a_generator_draws_the_noise_that_is_not_given(name, impl):
    model = MADE(MADEConfig(9, (12,), output=name))
    sampler = model.sampler(impl=impl)
    noise, again, of_model, whole, piece = (
        draw(4, generator=torch.Generator().manual_seed(3))
        for draw in (
            sampler.draw_noise,
            sampler.draw_noise,
            model.draw_noise,
            lambda B, generator: sampler.draw(sampler.start(B), generator=generator),
            lambda B, generator: sampler.draw(sampler.start(B), steps=5, generator=generator),
        )
    )
    assert torch.equal(noise, again)
    assert torch.equal(noise, of_model)
    assert torch.equal(whole, sampler.draw(sampler.start(4), noise))
    assert torch.equal(piece, torch.where(torch.arange(9) < 5, whole, 0.0))
    assert not torch.equal(sampler.draw(sampler.start(4)), sampler.draw(sampler.start(4)))


def test_noise_of_a_flow_must_be_given(impl):
    step = FLOWS["spline"]
    sampler = MaskedSampler(make_network(Shape(), step.parameters)[0], step, impl=impl)
    for call in (lambda: sampler.draw_noise(3), lambda: sampler.draw(sampler.start(3))):
        with pytest.raises(ValueError, match="noise must be given: step SplineInverse does not"):
            call()


def test_a_sampler_keeps_the_weights_it_was_made_of(impl):
    step = STEPS["gaussian"]
    network, _ = make_network(Shape(), 2)
    noise, sampler = make_noise(step, 5, 37), MaskedSampler(network, step, impl=impl)
    before = sampler.draw(sampler.start(5), noise)
    for weight in network.weights:
        weight.mul_(-1)
    assert torch.equal(before, sampler.draw(sampler.start(5), noise))


def test_what_overflows_harms_nothing_that_does_not_depend_on_it(impl):
    step = AffineInverse(200.0)
    layout = MaskedLayout(torch.arange(1, 5), [], 2)
    weight = torch.zeros(8, 4)
    weight[2, 0] = 1e4
    network = MaskedNetwork(layout, (weight,), (None,))
    sampler = MaskedSampler(network, step, impl=impl)
    y = torch.tensor([[5.0, 2.0, 3.0, 4.0], [0.0, 2.0, 3.0, 4.0]])
    x = sampler.draw(sampler.start(2), y[..., None])
    assert x[0].tolist() == [5.0, float("inf"), 3.0, 4.0]
    assert torch.equal(x[1], y[1])


ON_AN_ISA = """
import torch
from dgm_fast._core import extension
from dgm_fast.sampling import MaskedSampler
from dgm_fast.sampling.masked_mlp import TransposedSweep
from tests.sampling import masked_cases as t

print(extension.build_info()["isa_live"])
for name, step in t.STEPS.items():
    shape = t.SHAPES["wide" if name in ("bernoulli", "affine") else "direct"]
    network, evaluate = t.make_network(shape, step.parameters)
    noise, context = t.make_noise(step, 70, shape.features), t.make_context(shape, 70)
    expected = t.naive(network, evaluate, step, noise, context)
    sampler = MaskedSampler(network, step, impl="cpp")
    for rows in (slice(0, 1), slice(0, 37), slice(0, 70)):
        some = None if context is None else context[rows]
        x = sampler.draw(sampler.start(rows.stop, some), noise[rows])
        t.assert_same(x, expected[rows], step)
for name in ("wide", "direct", "residual"):
    network, system, transposed = t.make_system(t.SHAPES[name], 2, 70)
    t.assert_solved(TransposedSweep(network).solve_transposed(*system), system, transposed)
"""


@needs_kernel
@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512"])
def test_every_instruction_set_draws_what_passes_draw_and_solves_back(isa):
    printed = run_on_isa(ON_AN_ISA, isa)
    order = ["generic", "avx2", "avx512"]
    assert order.index(printed) <= order.index(isa)


def test_what_does_not_fit_is_named(impl):
    step = STEPS["bernoulli"]
    network, _ = make_network(Shape(context=2), 1)
    sampler = MaskedSampler(network, step, impl=impl)
    context, noise = torch.zeros(3, 2), torch.zeros(3, 37, 1)
    state = sampler.start(3, context)
    x = torch.zeros(3, 37)
    for call, message in [
        (lambda: sampler.start(-1), "batch must not be negative; got -1"),
        (lambda: sampler.start(3), r"context must have shape \(B, C\) = \(3, 2\); got None"),
        (lambda: sampler.start(2, context), r"context must have .* got shape \(3, 2\)"),
        (lambda: sampler.start(3, context, given=x), "given_mask is None"),
        (lambda: sampler.start(3, context, given=x, given_mask=x[:2] > 0), "given_mask must have"),
        (lambda: sampler.draw_noise(-1), "batch must not be negative; got -1"),
        (lambda: sampler.draw(state, noise[:2]), r"noise must have shape \(B, D, N\) = \(3, 37, 1"),
        (lambda: sampler.draw(state, noise, steps=38), r"steps must be in 0 .. 37; got 38"),
        (lambda: MaskedSampler(network, STEPS["gaussian"]), "step must take the network's 1"),
        (lambda: MaskedSampler(network, step, block=0), "block must be at least 1; got 0"),
        (lambda: Draw(BernoulliConditional(), -1.0), "temperature must be at least 0"),
        (lambda: Draw(CategoricalConditional(3), top_k=0), "top_k must be at least 1; got 0"),
        (lambda: Draw(CategoricalConditional(3), top_p=0.0), r"top_p must be in \(0, 1\]; got 0"),
        (
            lambda: Draw(GaussianMixtureConditional(3), top_p=0.5),
            "top_k and top_p .* GaussianMixtureConditional: got None and 0.5",
        ),
        (lambda: replace(network, activation="mish"), "activation must be one of"),
        (lambda: replace(network, skips=(0, 1)), "skips must be of earlier layers"),
        (lambda: replace(network, weights=network.weights[:2]), "weights must have shapes"),
        (lambda: MaskedLayout(torch.tensor([1, 1]), [], 1), "places must be a permutation"),
        (lambda: MaskedLayout(torch.tensor([1]), [torch.tensor([-1])], 1), "not be negative"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="given_mask must be bool"):
        sampler.start(3, context, given=x, given_mask=x)
    with pytest.raises(TypeError, match="noise must be a floating-point tensor"):
        sampler.draw(state, noise.long())
    other = MaskedSampler(make_network(Shape(hidden=(5,)), 1)[0], step, impl=impl)
    with pytest.raises(ValueError, match="state must be of this sampler's"):
        sampler.draw(replace(state, levels=other.start(3, None).levels), noise)
    with pytest.raises(ValueError, match="state must be of this sampler's; got a context of"):
        sampler.draw(replace(state, context=torch.zeros(3, 7)), noise)
    with pytest.raises(ValueError, match=r"of this sampler's torch.float32 on cpu; got .* on meta"):
        sampler.draw(state.to("meta"), noise)
