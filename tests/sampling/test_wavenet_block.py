"""The GPU's sampler of WaveNet, whose steps threads of this CPU make."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dgm_fast._core import extension
from dgm_fast.sampling import SeededNoise, WaveNetSampler
from dgm_fast.sampling.wavenet.blocks import shared_bytes
from tests.families.wavenet_models import VARIANTS, small
from tests.sampling.block_programs import build, build_watched, needs_compiler
from tests.sampling.filter_cases import FILTERS
from tests.sampling.picks import picked
from tests.sampling.wavenet_blocks import Blocks
from tests.sampling.wavenet_cases import (
    CONFIGS,
    EXTREME,
    conditions,
    each_config,
    extreme_network,
    make_sampler,
    of,
)

pytestmark = needs_compiler

SOURCE = "wavenet_block.cpp"
T = 21


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program, compiled once."""
    return build(SOURCE, tmp_path_factory.mktemp("block"))


def work_of(config, batch, length=T):
    """A sampler of the reference, labels, features and noise."""
    sampler, model = make_sampler(config, "reference")
    label, local, _ = conditions(config, model, batch, length)
    return (
        sampler,
        label,
        local,
        sampler.draw_noise(batch, length, torch.Generator().manual_seed(0)),
    )


def agrees(found, expected):
    """Whether parameters agree to 1e-4 of the largest."""
    return float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


@each_config
def test_a_seed_draws_what_its_noise_draws(program, config):
    sampler, label, local, noise = work_of(config, 3)
    generator, draw = torch.Generator().manual_seed(0), sampler.output.draw_noise
    where = noise.shape, sampler.device, sampler.dtype
    seeded = SeededNoise.from_generator(generator, draw, *where)
    assert torch.equal(seeded.tensor(), noise)
    blocks = Blocks(program, sampler)
    levels, parameters, *_ = blocks.draw(blocks.start(3, label), noise=noise, features=local)
    state, drawn = blocks.start(3, label), []
    for times in (slice(0, 5), slice(5, 6), slice(6, T)):
        piece = {"noise": seeded[:, times], "features": of(local, times)}
        found, of_piece, state, _ = blocks.draw(state, **piece)
        drawn.append(found)
        assert torch.equal(of_piece, parameters[:, times])
    assert torch.equal(torch.cat(drawn, 1), levels)


COLD = [(CONFIGS[name], 0.0) for name in ("categorical", "mixture of 256")]


@pytest.mark.parametrize(("config", "temperature"), [(c, 0.7) for c in CONFIGS.values()] + COLD)
def test_a_block_draws_what_the_reference_draws(program, config, temperature):
    sampler, label, local, noise = work_of(config, 5)
    expected = torch.empty(5, T, sampler.output.parameters)
    options = {"noise": noise, "features": local, "temperature": temperature}
    wanted, at_the_end = sampler.draw(sampler.start(5, label), parameters_out=expected, **options)

    blocks = Blocks(program, sampler, signals=4)
    levels, parameters, state, _ = blocks.draw(blocks.start(5, label), **options)

    # A level more or less where 65536 lie closer than float32 tells apart.
    assert int((levels - wanted).abs().max()) <= (config.levels > 256)
    assert float((levels == wanted).double().mean()) > 0.9
    if config.levels <= 256:
        assert agrees(parameters, expected)
        assert torch.equal(state.recent, at_the_end.recent)
        assert agrees(state.rings, at_the_end.rings)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("name", ["categorical", "wide"])
def test_a_block_leaves_out_what_the_reference_leaves_out(program, name, filters, temperature):
    sampler, label, local, noise = work_of(CONFIGS[name], 5)
    options = {"noise": noise, "features": local, "temperature": temperature} | filters
    wanted, _ = sampler.draw(sampler.start(5, label), **options)
    blocks = Blocks(program, sampler, signals=4)
    assert torch.equal(blocks.draw(blocks.start(5, label), **options)[0], wanted)


NAMES = ("both", "mixture of 256", "kernel 3 of features", "whole vectors")
SOME = {name: CONFIGS[name] for name in NAMES}
each_of_some = pytest.mark.parametrize("config", SOME.values(), ids=SOME)


@each_of_some
def test_neither_signals_nor_threads_of_a_block_change_a_bit(program, config):
    sampler, label, local, noise = work_of(config, 9, 4)
    found = []
    for signals, threads in ((1, 8), (2, 8), (4, 8), (8, 8), (8, 24), (8, 64)):
        blocks = Blocks(program, sampler, signals, threads)
        drawn = blocks.draw(blocks.start(9, label), noise=noise, features=local)
        found.append((*drawn[:2], drawn[2].rings))
    for each in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(each, found[0], strict=True))

    # Nor does the batch.
    blocks = Blocks(program, sampler)
    alone = blocks.start(1, None if label is None else label[4:5])
    drawn = blocks.draw(alone, noise=noise[4:5], features=None if local is None else local[4:5])
    assert torch.equal(drawn[0], found[0][0][4:5])
    assert torch.equal(drawn[1], found[0][1][4:5])


@each_of_some
def test_pieces_of_a_blocks_stream_are_the_whole(program, config):
    sampler, label, local, noise = work_of(config, 3)
    blocks = Blocks(program, sampler)
    whole, parameters, at_the_end, _ = blocks.draw(
        blocks.start(3, label), noise=noise, features=local
    )

    state, done = blocks.start(3, label), 0
    for length in (1, 12, T - 13):
        times = slice(done, done + length)
        levels, some, state, _ = blocks.draw(
            state, noise=noise[:, times], features=of(local, times)
        )
        assert torch.equal(levels, whole[:, times])
        assert torch.equal(some, parameters[:, times])
        done = times.stop
    assert torch.equal(state.rings, at_the_end.rings)
    assert torch.equal(state.recent, at_the_end.recent)

    # Levels that are given count like those that were drawn.
    before, after = slice(0, 13), slice(13, T)
    state = blocks.start(3, label)
    nothing, _, state, _ = blocks.draw(state, given=whole[:, before], features=of(local, before))
    rest = blocks.draw(state, noise=noise[:, after], features=of(local, after), keep=False)
    assert nothing.numel() == 0
    assert torch.equal(rest[0], whole[:, after])


@pytest.mark.skipif(extension.cpp_missing is not None, reason=str(extension.cpp_missing))
@each_of_some
def test_a_stream_moves_from_a_cpu_to_a_block_and_back(program, config):
    sampler, label, local, noise = work_of(config, 3)
    wanted, _ = sampler.draw(sampler.start(3, label), noise=noise, features=local)

    cpp = WaveNetSampler(sampler.network, sampler.output, impl="cpp")
    blocks, state, found = Blocks(program, cpp), cpp.start(3, label).to("cpu"), []
    for i, end in enumerate((5, 11, T)):
        times = slice((0, 5, 11)[i], end)
        options = {"noise": noise[:, times], "features": of(local, times)}
        if i == 1:
            levels, _, state, _ = blocks.draw(state, **options)
        else:
            levels, state = cpp.draw(state, **options)
        found.append(levels)
    assert torch.equal(torch.cat(found, dim=1), wanted)


@pytest.mark.parametrize("output", ["categorical", "logistic_mixture"])
def test_noise_at_both_ends_and_what_is_no_number(program, output):
    sampler, *_ = work_of(small(output=output, levels=256), 1)
    below_one = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    noise = torch.tensor([0.0, 1e-30, 0.5, below_one, 1.0])[None, :, None]
    noise = noise.expand(1, -1, sampler.output.uniforms)
    for heaviest in (0.0, 60.0, float("inf"), float("nan")):
        bias = torch.full_like(sampler.network.last_bias, -2.0)
        bias[1 if output == "logistic_mixture" else 77] = heaviest
        weight = torch.zeros_like(sampler.network.last_weight)
        network = replace(sampler.network, last_weight=weight, last_bias=bias)
        blocks = Blocks(program, WaveNetSampler(network, sampler.output))
        levels, *_ = blocks.draw(blocks.start(1), noise=noise)
        assert torch.equal(levels[0], picked(sampler.output, bias.expand(5, -1), noise[0]))


@pytest.mark.parametrize(("mean", "log_scale"), EXTREME)
def test_a_component_beyond_all_levels_draws_one_of_them(program, mean, log_scale):
    sampler, *_ = work_of(CONFIGS["mixture of 256"], 1)
    network = extreme_network(sampler.network, mean, log_scale)
    blocks = Blocks(program, WaveNetSampler(network, sampler.output))
    noise = torch.tensor([0.5, 0.3]).expand(1, 4, 2)
    levels, *_ = blocks.draw(blocks.start(1, torch.zeros(1).long()), noise=noise)
    assert torch.equal(levels[0], sampler.output.pick(network.last_bias.expand(4, -1), noise[0]))


@each_config
def test_python_knows_what_a_block_shares(program, config):
    sampler, label, local, noise = work_of(config, 1, 1)
    blocks = Blocks(program, sampler, signals=1)
    plan = blocks.draw(blocks.start(1, label), noise=noise, features=local)[3]
    assert plan[0] == shared_bytes(sampler.network)


@pytest.mark.parametrize(
    ("batch", "processors", "share", "signals"),
    [
        (1, 132, 1.0, 1),
        (66, 132, 1.0, 1),
        (67, 132, 1.0, 2),
        (264, 132, 1.0, 4),
        (265, 132, 1.0, 8),
        (5000, 132, 1.0, 8),
        (5000, 132, 0.5, 4),
        (5000, 132, 0.1, 1),
        (9, 1, 1.0, 8),
    ],
)
def test_signals_of_a_block_leave_half_the_processors_and_fit(
    program, batch, processors, share, signals
):
    sampler, *_ = work_of(VARIANTS["categorical"], 1)
    memory = int(8 * share * shared_bytes(sampler.network))
    blocks = Blocks(program, sampler, 8, processors=(processors, memory))
    noise = torch.zeros(batch, 0, 1)
    plan = blocks.draw(blocks.start(batch), noise=noise, keep=False)[3]
    assert plan[1] == signals


# So wide that no thread reads only what it wrote itself.
RACY = small(levels=64, features=2, hop=3, channels=20, gate_channels=36)
WAITS = 1 + 4 * RACY.layers - 2 + 6 + 2 + 1


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """The program under ThreadSanitizer."""
    folder = tmp_path_factory.mktemp("watched")
    return build_watched(SOURCE, folder, lambda program: _draw_watched(program, RACY))


def _draw_watched(program, config, left_out=-1):
    sampler, label, local, noise = work_of(config, 3, 3)
    blocks = Blocks(program, sampler, left_out=left_out)
    blocks.draw(blocks.start(3, label), noise=noise, features=local)
    if left_out < 0:
        blocks.draw(blocks.start(3, label), given=torch.zeros(3, 3).long(), features=local)


@pytest.mark.parametrize("config", [RACY, *SOME.values()], ids=["racy", *SOME])
def test_threads_of_a_block_never_race(watched, config):
    _draw_watched(watched, config)


@pytest.mark.parametrize("left_out", range(1, WAITS + 1))
def test_a_block_that_leaves_out_any_wait_is_caught(watched, left_out):
    with pytest.raises(RuntimeError, match="data race"):
        _draw_watched(watched, RACY, left_out)
