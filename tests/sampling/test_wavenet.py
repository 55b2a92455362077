"""WaveNet's samplers draw what windows of the network would, in pieces of any length."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from dgm_fast.sampling import WaveNetSampler, filter_logits, naive_sample, pick_token
from tests.families.wavenet_models import (
    MIXTURE,
    VARIANTS,
    small,
)
from tests.processes import ROOT, run_on_isa
from tests.sampling.filter_cases import FILTERS
from tests.sampling.picks import picked
from tests.sampling.pixel_cases import needs_kernel
from tests.sampling.wavenet_cases import (
    CONFIGS,
    EXTREME,
    LARGE,
    T,
    conditions,
    each_config,
    extreme_network,
    make_sampler,
    of,
)

# Rounding does not move a level that is one of so few.
EXACT = {name: config for name, config in CONFIGS.items() if config.levels <= 256}
each_exact_config = pytest.mark.parametrize("config", EXACT.values(), ids=EXACT)


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
    wanted = picked(model.output, parameters.flatten(0, 1), noise.flatten(0, 1)).view(batch, T)
    assert int((levels - wanted).abs().max()) <= (config.levels > 256)
    assert float((levels == wanted).double().mean()) > 0.9


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
from tests.sampling.wavenet_cases import LARGE, T, conditions, make_sampler

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
from tests.sampling import wavenet_cases as t
from tests.sampling.test_wavenet import EXACT

print(extension.build_info()["isa_live"])
for config in EXACT.values():
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
    printed = run_on_isa(ON_AN_ISA, isa, threads=2)
    order = ["generic", "avx2", "avx512"]
    assert order.index(printed) <= order.index(isa)


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
