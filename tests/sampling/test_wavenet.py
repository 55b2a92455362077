"""WaveNet's samplers draw what windows of the network would, in pieces of any length."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import dgm_fast
from dgm_fast._core import extension
from dgm_fast._core.implementation import ImplementationUnavailable
from dgm_fast.families.autoregressive import wavenet as family
from dgm_fast.sampling import WaveNetSampler, filter_logits, naive_sample, pick_token
from dgm_fast.sampling.wavenet import op
from tests.families.wavenet_models import (
    MIXTURE,
    VARIANTS,
    condition_of,
    example,
    make_model,
    small,
)
from tests.processes import ROOT

needs_kernel = pytest.mark.skipif(
    extension.cpp_missing is not None, reason=str(extension.cpp_missing)
)
# Several blocks of times, the last one cut short; longer than any receptive field.
T = 45

CONFIGS = VARIANTS | {
    "kernel 3 of one-hot levels": small(kernel=3, stacks=2, layers=4),
    "mixture of one-hot levels": small(output="logistic_mixture", levels=256, first_kernel=1),
    "whole vectors": small(channels=16, gate_channels=32, skip_channels=48, head_channels=80),
    "wide": small(channels=40, gate_channels=72, skip_channels=272, head_channels=144, levels=256),
    "one layer": small(layers=1),
    "kernel 3 of features": small(kernel=3, features=3, hop=1, classes=2, input="scalar"),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
# Rounding does not move a level that is one of so few.
EXACT = {name: config for name, config in CONFIGS.items() if config.levels <= 256}
each_exact_config = pytest.mark.parametrize("config", EXACT.values(), ids=EXACT)


def make_sampler(config, impl="auto", dtype=torch.float32):
    """A sampler, and the model it is of."""
    model = make_model(config).to(dtype)
    sampler = model.sampler()
    return WaveNetSampler(sampler.network, model.output, impl=impl), model


def conditions(config, model, batch, length=T):
    """Labels of the state, features of every sample, and both as the model takes them."""
    inputs = example(config, batch, length, dtype=model.last.weight.dtype)
    label, features = inputs.get("context"), inputs.get("features")
    local = None if features is None else model.upsample(features, length).detach()
    return label, local, condition_of(inputs)


# The largest alone, more than one, all; next to none, some, nearly all; both.
FILTERS = [
    *({"top_k": k} for k in (1, 3, 1000)),
    *({"top_p": p} for p in (1e-6, 0.5, 0.99)),
    {"top_k": 5, "top_p": 0.7},
]


@torch.no_grad()
def drawn_by_windows(model, noise, condition, temperature, **filters):
    """The levels that a pass of the network a sample draws, in float64."""
    batch, length, _ = noise.shape

    def parameters_of(levels):
        x = model.quantizer.decode(levels, torch.float64)
        return model(x, **condition).transpose(1, 2)

    def pick(parameters, noise):
        if filters and temperature > 0:
            return pick_token(filter_logits(parameters, temperature=temperature, **filters), noise)
        return model.output.pick(parameters, noise, temperature)

    start = torch.zeros(batch, length, dtype=torch.int64)
    return naive_sample(parameters_of, pick, noise.double(), range(length), start)


def of(x, times):
    return None if x is None else x[..., times]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@each_exact_config
def test_every_implementation_draws_what_windows_draw(config, impl, temperature):
    sampler, model = make_sampler(config, impl)
    label, local, condition = conditions(config, model, 3)
    noise = sampler.draw_noise(3, T, torch.Generator().manual_seed(0))

    levels, state = sampler.draw(
        sampler.start(3, label), noise=noise, features=local, temperature=temperature
    )

    model.double()
    condition = {k: v.double() if v.is_floating_point() else v for k, v in condition.items()}
    assert torch.equal(levels, drawn_by_windows(model, noise, condition, temperature))
    assert levels.dtype == torch.int64
    assert state.time == T
    if temperature > 0:
        assert len(levels.unique()) > 3


@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("name", ["both", "wide"])
def test_levels_are_left_out_as_their_logits_say(name, impl, filters, temperature):
    config = CONFIGS[name]
    sampler, model = make_sampler(config, impl)
    label, local, condition = conditions(config, model, 3)
    noise = sampler.draw_noise(3, T, torch.Generator().manual_seed(0))
    options = {"temperature": temperature} | filters
    parameters = torch.empty(3, T, model.output.parameters)
    levels, _ = sampler.draw(
        sampler.start(3, label), noise=noise, features=local, parameters_out=parameters, **options
    )
    assert parameters.isfinite().all()

    model.double()
    condition = {k: v.double() if v.is_floating_point() else v for k, v in condition.items()}
    assert torch.equal(levels, drawn_by_windows(model, noise, condition, **options))


@each_config
def test_the_cached_loop_in_float64_draws_what_windows_draw(config):
    sampler, model = make_sampler(config, "reference", torch.float64)
    label, local, condition = conditions(config, model, 3)
    noise = sampler.draw_noise(3, T, torch.Generator().manual_seed(1))
    levels, _ = sampler.draw(sampler.start(3, label), noise=noise, features=local)
    assert torch.equal(levels, drawn_by_windows(model, noise, condition, 1.0))


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 5, 8, 9, 17])
@each_config
def test_parameters_are_the_networks_in_a_batch_of_any_size(config, impl, batch):
    sampler, model = make_sampler(config, impl)
    label, local, condition = conditions(config, model, batch)
    noise = sampler.draw_noise(batch, T, torch.Generator().manual_seed(2))
    parameters = torch.full((batch, T, model.output.parameters), float("nan"))

    levels, _ = sampler.draw(
        sampler.start(batch, label), noise=noise, features=local, parameters_out=parameters
    )

    assert levels.shape == (batch, T)
    if batch == 0:
        return
    x = model.quantizer.decode(levels, torch.float64)
    condition = {k: v.double() if v.is_floating_point() else v for k, v in condition.items()}
    with torch.no_grad():
        expected = model.double()(x, **condition).transpose(1, 2)
    error = (parameters.double() - expected).abs().amax()
    assert float(error) < 1e-4 * float(expected.abs().amax())

    # A level more or less where 65536 lie closer than float32 tells apart.
    picked = model.output.pick(parameters.flatten(0, 1), noise.flatten(0, 1)).view(batch, T)
    assert int((levels - picked).abs().max()) <= (config.levels > 256)
    assert float((levels == picked).double().mean()) > 0.9


@pytest.mark.parametrize("batch", [1, 3, 9])
@each_config
def test_pieces_are_the_whole_bit_for_bit(config, impl, batch):
    sampler, model = make_sampler(config, impl)
    label, local, _ = conditions(config, model, batch)
    noise = sampler.draw_noise(batch, T)
    whole_parameters = torch.empty(batch, T, model.output.parameters)
    whole, at_the_end = sampler.draw(
        sampler.start(batch, label), noise=noise, features=local, parameters_out=whole_parameters
    )

    state, done = sampler.start(batch, label), 0
    for length in (1, 0, 12, 7, 3, T - 23):
        times = slice(done, done + length)
        parameters = torch.empty(batch, length, model.output.parameters)
        levels, state = sampler.draw(
            state, noise=noise[:, times], features=of(local, times), parameters_out=parameters
        )
        assert torch.equal(levels, whole[:, times])
        assert torch.equal(parameters, whole_parameters[:, times])
        done = times.stop

    assert done == T
    assert state.time == at_the_end.time
    assert torch.equal(state.rings, at_the_end.rings)
    assert torch.equal(state.recent, at_the_end.recent)


@each_config
def test_levels_that_are_fed_count_like_levels_that_were_drawn(config, impl):
    sampler, model = make_sampler(config, impl)
    label, local, _ = conditions(config, model, 3)
    noise = sampler.draw_noise(3, T)
    whole, _ = sampler.draw(sampler.start(3, label), noise=noise, features=local)

    # The second time from half way on, without what is out of sight.
    sight = config.receptive_field
    for begin, middle in ((0, 13), (T - 1 - sight, T - 1)):
        before, after = slice(begin, middle), slice(middle, T)
        state = sampler.feed(sampler.start(3, label), whole[:, before], of(local, before))
        rest, _ = sampler.draw(state, noise=noise[:, after], features=of(local, after))
        assert torch.equal(rest, whole[:, after])

    # And they do count.
    found = []
    for before in (whole[:, :13], (whole[:, :13] + 1) % config.levels):
        state = sampler.feed(sampler.start(3, label), before, of(local, slice(0, 13)))
        parameters = torch.empty(3, 1, model.output.parameters)
        times = slice(13, 14)
        sampler.draw(
            state, noise=noise[:, times], features=of(local, times), parameters_out=parameters
        )
        found.append(parameters)
    assert bool((found[0] != found[1]).any(2).all())


# So large that two threads draw few signals together.
LARGE = small(
    layers=7, channels=64, gate_channels=64, skip_channels=256, head_channels=256, levels=256,
    features=2, hop=3, classes=3,
)  # fmt: skip


@needs_kernel
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 9, 17])
@pytest.mark.parametrize("config", [*CONFIGS.values(), LARGE], ids=[*CONFIGS, "large"])
def test_no_number_of_threads_changes_a_bit(config, batch):
    sampler, model = make_sampler(config, "cpp")
    label, local, _ = conditions(config, model, batch)
    noise, before, found = sampler.draw_noise(batch, T), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            parameters = torch.empty(batch, T, model.output.parameters)
            levels, state = sampler.draw(
                sampler.start(batch, label), noise=noise, features=local, parameters_out=parameters
            )
            found.append((levels, parameters, state.rings))
    finally:
        torch.set_num_threads(before)

    for each in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(each, found[0], strict=True))


ON_ONE_PROCESSOR = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import torch
from tests.sampling.test_wavenet import LARGE, T, conditions, make_sampler

sampler, model = make_sampler(LARGE, "cpp")
label, local, _ = conditions(LARGE, model, 2, 20 * T)
noise, found = sampler.draw_noise(2, 20 * T), []
for threads in (1, 2):
    torch.set_num_threads(threads)
    found.append(sampler.draw(sampler.start(2, label), noise=noise, features=local)[0])
assert torch.equal(*found)
"""


@needs_kernel
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be tied here")
def test_a_thread_whose_mate_has_no_processor_goes_on_alone():
    run = [sys.executable, "-c", ON_ONE_PROCESSOR]
    # Minutes, if the threads went on waiting for one another.
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@needs_kernel
@each_config
def test_a_signal_does_not_depend_on_its_batch(config):
    sampler, model = make_sampler(config, "cpp")
    label, local, _ = conditions(config, model, 9)
    noise, parameters = sampler.draw_noise(9, T), torch.empty(9, T, model.output.parameters)
    sampler.draw(sampler.start(9, label), noise=noise, features=local, parameters_out=parameters)
    for i in (0, 4, 8):
        alone = torch.empty(1, T, model.output.parameters)
        sampler.draw(
            sampler.start(1, None if label is None else label[i : i + 1]),
            noise=noise[i : i + 1],
            features=None if local is None else local[i : i + 1],
            parameters_out=alone,
        )
        assert torch.equal(alone[0], parameters[i])


ON_AN_ISA = """
import torch
from dgm_fast._core import extension
from tests.sampling import test_wavenet as t

print(extension.build_info()["isa_live"])
for config in t.EXACT.values():
    for batch in (1, 9):
        sampler, model = t.make_sampler(config, "cpp")
        label, local, _ = t.conditions(config, model, batch)
        noise = sampler.draw_noise(batch, t.T, torch.Generator().manual_seed(3))
        expected, _ = t.make_sampler(config, "reference")[0].draw(
            t.make_sampler(config, "reference")[0].start(batch, label), noise=noise, features=local
        )
        levels, _ = sampler.draw(sampler.start(batch, label), noise=noise, features=local)
        assert torch.equal(levels, expected), config
"""


@needs_kernel
@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512"])
def test_every_instruction_set_draws_the_same_levels(isa):
    environment = os.environ | {"DGM_FAST_ISA": isa, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", ON_AN_ISA],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    order = ["generic", "avx2", "avx512"]
    assert order.index(done.stdout.strip()) <= order.index(isa)


@pytest.mark.parametrize("output", ["categorical", "logistic_mixture"])
def test_noise_at_both_ends_and_certain_levels(impl, output):
    sampler, model = make_sampler(small(output=output, levels=256))
    network = sampler.network
    bias = torch.full_like(network.last_bias, -2.0)
    bias[1 if output == "logistic_mixture" else 77] = 60.0
    network = replace(network, last_weight=torch.zeros_like(network.last_weight), last_bias=bias)
    sampler = WaveNetSampler(network, model.output, impl=impl)

    below_one = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    noise = torch.tensor([0.0, 1e-30, 0.5, below_one, 1.0])
    noise = noise[None, :, None].expand(1, -1, model.output.uniforms)
    levels, _ = sampler.draw(sampler.start(1), noise=noise)
    expected = model.output.pick(bias.expand(5, -1), noise[0])
    assert torch.equal(levels[0], expected)


# Means and log-scales of the heaviest component, beyond any level and no numbers.
EXTREME = [(1e30, -2.0), (-1e30, -2.0), (float("inf"), -2.0), (float("nan"), -2.0)]
EXTREME += [(0.1, float("nan")), (0.1, -1e30), (0.1, 60.0)]


def extreme_network(network, mean, log_scale):
    """The network with a mixture of this component alone, whatever it sees."""
    bias = torch.full_like(network.last_bias, -2.0)
    bias.view(3, -1)[:, 1] = torch.tensor([60.0, mean, log_scale])
    return replace(network, last_weight=torch.zeros_like(network.last_weight), last_bias=bias)


@pytest.mark.parametrize(("mean", "log_scale"), EXTREME)
def test_a_component_beyond_all_levels_draws_one_of_them(impl, mean, log_scale):
    sampler, model = make_sampler(small(**MIXTURE, levels=256))
    network = extreme_network(sampler.network, mean, log_scale)
    sampler = WaveNetSampler(network, model.output, impl=impl)
    noise = torch.tensor([0.5, 0.3]).expand(1, 4, 2)
    levels, _ = sampler.draw(sampler.start(1), noise=noise)
    expected = model.output.pick(network.last_bias.expand(4, -1), noise[0])
    assert torch.equal(levels[0], expected)
    assert 0 <= int(levels.min()) <= int(levels.max()) < 256


def test_what_is_cold_leaves_no_chance(impl):
    for options in ({}, MIXTURE):
        sampler, _ = make_sampler(small(**options), impl)
        levels, _ = sampler.draw(sampler.start(4), 30, temperature=0.0)
        assert torch.equal(levels, levels[:1].expand(4, -1))


def test_a_clone_goes_another_way(impl):
    sampler, _ = make_sampler(VARIANTS["categorical"], impl)
    _, state = sampler.draw(sampler.start(2), 9)
    kept, noise = state.clone(), sampler.draw_noise(2, 20)
    first, _ = sampler.draw(state, noise=noise)
    other, _ = sampler.draw(kept.clone(), noise=1 - noise)
    again, _ = sampler.draw(kept, noise=noise)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_parameters_are_computed_on_in_float32(impl, dtype):
    narrow, model = make_sampler(VARIANTS["both"], impl, dtype)
    wide = WaveNetSampler(model.float().sampler().network, model.output, impl=impl)
    label, local, _ = conditions(VARIANTS["both"], model, 2)
    noise = narrow.draw_noise(2, T)
    assert noise.dtype == torch.float32
    found = [
        each.draw(each.start(2, label), noise=noise, features=local)[0] for each in (narrow, wide)
    ]
    assert torch.equal(*found)


def test_a_sampler_keeps_the_weights_it_was_made_of(impl):
    sampler, model = make_sampler(VARIANTS["categorical"], impl)
    noise = sampler.draw_noise(2, T)
    before, _ = sampler.draw(sampler.start(2), noise=noise)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1)
    assert torch.equal(before, sampler.draw(sampler.start(2), noise=noise)[0])
    after, _ = model.sampler().draw(model.sampler().start(2), noise=noise)
    assert not torch.equal(before, after)


def test_progress_is_told_and_may_interrupt(monkeypatch):
    model, told = make_model(VARIANTS["features"]), []
    features = torch.randn(3, 2, 6)
    noise = model.draw_noise(3, 23)
    options = {"features": features, "length": 23, "noise": noise}
    whole = model.sample(3, **options)

    weights = sum(parameter.numel() for parameter in model.parameters())
    monkeypatch.setattr(family, "_PIECE", 8 * 3 * weights)
    x = model.sample(3, progress=lambda *done: told.append(done), **options)
    assert told == [(8, 23), (16, 23), (23, 23)]
    assert torch.equal(x, whole)

    def interrupt(done, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.sample(3, progress=interrupt, **options)
    assert torch.equal(model.sample(3, **options), whole)


def test_the_choice_of_an_implementation():
    sampler, model = make_sampler(VARIANTS["categorical"])
    assert sampler.impl == ("reference" if extension.cpp_missing else "cpp")
    assert make_sampler(VARIANTS["categorical"], dtype=torch.float64)[0].impl == "reference"
    with pytest.raises(ImplementationUnavailable, match="float64"):
        make_sampler(VARIANTS["categorical"], "cpp", torch.float64)
    with pytest.raises(ImplementationUnavailable, match="'triton'"):
        make_sampler(VARIANTS["categorical"], "triton")
    for name in ("reference", "triton"):
        with dgm_fast.use_impl(name):
            assert model.sampler().impl == "reference"
    assert make_model(VARIANTS["categorical"], impl="reference").sampler().impl == "reference"


@needs_kernel
def test_the_operator_is_what_its_schema_says():
    sampler, model = make_sampler(VARIANTS["both"], "cpp")
    label, local, _ = conditions(VARIANTS["both"], model, 3)
    state, packed = sampler.start(3, label), sampler._packed
    condition, features = state.condition, local.transpose(1, 2).contiguous()
    first = state.rings, state.recent, packed.weights, packed.sizes, packed.dilations
    last = (0, model.output.parameters, 8, False, 1.0, 3, 0.9, -7.0)
    noise, given = sampler.draw_noise(3, T), torch.zeros(3, T, dtype=torch.int64)
    tests = ("test_schema", "test_faketensor")
    for levels, keep in (((None, noise), True), ((None, noise), False), ((given, None), False)):
        arguments = (*first, condition, features, *levels, *last, keep)
        torch.library.opcheck(op.draw["cpp"], arguments, test_utils=tests)


GOOD = {"noise": torch.rand(3, 5, 1), "features": torch.zeros(3, 2, 5)}


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"noise": torch.rand(2, 5, 1)}, ValueError, r"noise must have shape \(B, n, N\) = \(3,"),
        ({"noise": torch.rand(3, 5)}, ValueError, "noise must have shape"),
        ({"noise": torch.ones(3, 5, 1).long()}, TypeError, "noise must be a floating-point"),
        ({"noise": None}, ValueError, "length must be given where noise is not; got None"),
        ({"length": 5}, ValueError, "length must be given where noise is not; got 5"),
        ({"temperature": -1.0}, ValueError, "temperature must be at least 0; got -1.0"),
        ({"temperature": float("nan")}, ValueError, "temperature must be at least 0; got nan"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1; got 0"),
        ({"top_p": 1.5}, ValueError, r"top_p must be in \(0, 1\]; got 1.5"),
        ({"features": None}, ValueError, "features must hold 2 features of each sample; got None"),
        ({"features": torch.zeros(3, 2, 4)}, ValueError, r"features must have .*\(3, 2, 4\)"),
        ({"features": torch.zeros(3, 2, 5).long()}, TypeError, "features must be a floating"),
        ({"parameters_out": torch.zeros(3, 5, 7)}, ValueError, "parameters_out must have shape"),
    ],
)
def test_drawing_errors_name_the_argument(impl, options, error, match):
    sampler, _ = make_sampler(VARIANTS["both"], impl)
    state = sampler.start(3, torch.zeros(3).long())
    with pytest.raises(error, match=match):
        sampler.draw(state, **(GOOD | options))


def test_components_of_a_mixture_are_not_left_out(impl):
    sampler, model = make_sampler(VARIANTS["mixture of 256"], impl)
    with pytest.raises(ValueError, match=r"top_k and top_p .* LogisticMixtureWaveform: got 3 and"):
        sampler.draw(sampler.start(2, torch.zeros(2).long()), 5, top_k=3)
    with pytest.raises(ValueError, match=r"top_k and top_p .* logistic_mixture: got None and"):
        model.sample(2, torch.zeros(2).long(), length=5, top_p=0.5)


@pytest.mark.parametrize(
    ("levels", "error", "match"),
    [
        (torch.zeros(3, 5), TypeError, "levels must be int64; got torch.float32"),
        (torch.zeros(2, 5).long(), ValueError, r"levels must have shape \(B, n\) = \(3, n\)"),
        (torch.full((3, 5), 8), ValueError, "levels must hold values in 0 .. 7; got 8 to 8"),
        (torch.full((3, 5), -1), ValueError, "levels must hold values in 0 .. 7; got -1 to -1"),
    ],
)
def test_feeding_errors_name_the_argument(impl, levels, error, match):
    sampler, _ = make_sampler(VARIANTS["both"], impl)
    state = sampler.start(3, torch.zeros(3).long())
    with pytest.raises(error, match=match):
        sampler.feed(state, levels, torch.zeros(3, 2, 5))


def test_starting_errors_name_the_argument(impl):
    sampler, _ = make_sampler(VARIANTS["both"], impl)
    for context, error, match in (
        (None, ValueError, "context must hold labels of 3 classes; got None"),
        (torch.zeros(3), TypeError, "context must be int64 labels"),
        (torch.zeros(2).long(), ValueError, r"context must have shape \(B,\) = \(3,\)"),
        (torch.full((3,), 3), ValueError, "context must hold values in 0 .. 2; got 3 to 3"),
    ):
        with pytest.raises(error, match=match):
            sampler.start(3, context)
    with pytest.raises(ValueError, match="batch must not be negative; got -1"):
        sampler.start(-1)
    plain, _ = make_sampler(VARIANTS["categorical"], impl)
    with pytest.raises(ValueError, match="context must be None without classes; got shape"):
        plain.start(3, torch.zeros(3).long())
    with pytest.raises(ValueError, match="state must be of this sampler"):
        plain.draw(make_sampler(VARIANTS["scalar"], impl)[0].start(3), 5)
