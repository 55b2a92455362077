"""The GPU's sampler of PixelCNNs, whose rows threads of this CPU draw."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from dgm_fast.distributions import make_pixel_output
from dgm_fast.layers import MaskedConv2d
from dgm_fast.sampling import PixelNetwork, PixelSampler
from dgm_fast.sampling.pixelcnn import conv_terms
from dgm_fast.sampling.pixelcnn.blocks import Sizes, shared_bytes
from tests.families.pixel_models import small
from tests.sampling.block_programs import build, build_watched, needs_compiler
from tests.sampling.picks import picked
from tests.sampling.pixel_blocks import Blocks
from tests.sampling.pixel_cases import (
    CONFIGS,
    FEW,
    LEFT_OUT,
    each_config,
    few_configs,
    model_of,
    needs_kernel,
    same,
    seeded_of,
    start_of,
)

pytestmark = needs_compiler

SOURCE = "pixel_block.cpp"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program, compiled once."""
    return build(SOURCE, tmp_path_factory.mktemp("block"))


def both(program, config, **options):
    """Blocks of a model, and a sampler of the reference, whose states are theirs too."""
    network = model_of(config)._describe()
    return Blocks(program, network, **options), PixelSampler(network, impl="reference")


def room_for(sampler, batch):
    each = sampler.output.parameters // sampler.output.ordered_channels
    return torch.full((batch, sampler.features, each), float("nan"))


def agrees(found, expected):
    """Whether numbers agree to 1e-4 of the largest."""
    return float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@each_config
def test_a_block_draws_what_the_reference_draws(program, config):
    """Around pixels that are given; the last block has one image of four."""
    blocks, sampler = both(program, config, images=4)
    state, found, expected = (
        start_of(sampler, config, 5, around=True),
        room_for(sampler, 5),
        room_for(sampler, 5),
    )
    drawn, plan = blocks.draw(state.clone(), parameters_out=found)
    sampler.draw(state, parameters_out=expected)

    assert plan[0] == shared_bytes(Sizes(*blocks.packed.sizes))
    assert torch.equal(drawn.images, state.images)
    assert agrees(found, expected)
    assert agrees(drawn.rows, state.rows)


@pytest.mark.parametrize("temperature", [0.0, 0.6])
@few_configs
def test_what_is_colder_is_what_the_reference_draws(program, config, temperature):
    blocks, sampler = both(program, config)
    drawn, _ = blocks.draw(start_of(sampler, config, 3), temperature=temperature)
    state = sampler.draw(start_of(sampler, config, 3), temperature=temperature)
    assert torch.equal(drawn.images, state.images)


@pytest.mark.parametrize(("config", "filters"), LEFT_OUT)
def test_a_block_leaves_out_what_the_reference_leaves_out(program, config, filters):
    blocks, sampler = both(program, config, images=4)
    drawn, _ = blocks.draw(start_of(sampler, config, 3), **filters)
    state = sampler.draw(start_of(sampler, config, 3), **filters)
    assert torch.equal(drawn.images, state.images)


@few_configs
def test_neither_images_nor_threads_of_a_block_change_a_bit(program, config):
    _, sampler = both(program, config)
    start, found = start_of(sampler, config, 9, around=True), []
    for images, threads in ((1, 8), (2, 24), (8, 8)):
        blocks = Blocks(program, model_of(config)._describe(), images, threads)
        parameters = room_for(sampler, 9)
        found.append((blocks.draw(start, parameters_out=parameters)[0], parameters))
    for state, parameters in found[1:]:
        assert same(state, found[0][0])
        assert torch.equal(parameters, found[0][1])

    # Nor does the batch.
    names = ["images", "given", "noise", "rows"] + ["condition"] * bool(sampler.classes)
    alone = replace(start, **{name: getattr(start, name)[4:5] for name in names})
    alone, _ = blocks.draw(alone)
    assert torch.equal(alone.images, found[0][0].images[4:5])
    assert torch.equal(alone.rows, found[0][0].rows[4:5])


@few_configs
def test_rows_in_pieces_are_the_whole(program, config):
    blocks, sampler = both(program, config)
    start = start_of(sampler, config, 3, around=True)
    whole, state = blocks.draw(start)[0], start
    for rows in (1, 0, 2, None):
        state, _ = blocks.draw(state, rows)
        done = int(state.done)
        assert torch.equal(state.images[:, :, :done], whole.images[:, :, :done])
    assert same(state, whole)


@needs_kernel
@few_configs
def test_a_state_moves_from_a_cpu_to_a_block_and_back(program, config):
    network = model_of(config)._describe()
    cpp, blocks = PixelSampler(network, impl="cpp"), Blocks(program, network)
    whole = cpp.draw(start_of(cpp, config, 3, around=True))
    state = cpp.draw(start_of(cpp, config, 3, around=True), 1).to("cpu")
    state, _ = blocks.draw(state, 1)
    assert int(state.done) == 2
    assert torch.equal(cpp.draw(state).images, whole.images)
    assert agrees(state.rows, whole.rows)


@torch.no_grad()
def test_networks_described_by_hand(program):
    """Dilated, without a bias; and a sum of rows above alone beside a value of its own row."""
    torch.manual_seed(0)
    output = make_pixel_output("categorical", 3, 4, 1)
    first = MaskedConv2d(3, 9, (3, 5), "A", 3, (2, 1))
    second = MaskedConv2d(9, 12, 3, "B", 3, (1, 2), gated=True)
    net = PixelNetwork((5, 6), output)
    h = net.maps("gate", net.masked(net.maps("elu", net.masked(net.image, first)), second))
    dilated = net.draw(net.masked(h, MaskedConv2d(6, 12, 1, "B", 3, bias=False)))

    output = make_pixel_output("bernoulli", 1, 2, 1)
    net = PixelNetwork((5, 6), output)
    left = net.affine(conv_terms(net.image, torch.randn(20, 1, 1, 2), (0, 2)))
    above = conv_terms(net.image, torch.randn(20, 1, 1, 3), (1, 1))
    h = net.affine(above, torch.randn(20), add=net.map("relu", left))
    beside = net.draw([net.affine(conv_terms([h], torch.randn(1, 20, 1, 1), (0, 0)))])

    for network in (dilated, beside):
        sampler = PixelSampler(network, impl="reference")
        start, found, expected = sampler.start(3), room_for(sampler, 3), room_for(sampler, 3)
        drawn, _ = Blocks(program, network).draw(start.clone(), parameters_out=found)
        assert torch.equal(sampler.draw(start, parameters_out=expected).images, drawn.images)
        assert agrees(found, expected)


@pytest.mark.parametrize("output", ["bernoulli", "categorical", "logistic_mixture"])
def test_noise_at_both_ends_and_what_is_no_number(program, output):
    config = small("pixelcnn", (1, 5), output=output, levels=256, blocks=0)
    model = model_of(config)
    below_one = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    noise = torch.tensor([0.0, 1e-30, 0.5, below_one, 1.0])[:, None]
    noise = noise.expand(-1, model.output.uniforms)
    last = model.head[-1]
    nn.init.zeros_(last.weight)
    for heaviest in (0.0, 60.0, float("inf"), float("nan")):
        with torch.no_grad():
            last.bias.fill_(-2.0)
            last.bias[77 if output == "categorical" else 0] = heaviest
        blocks = Blocks(program, model._describe())
        sampler = PixelSampler(blocks.network, impl="reference")
        drawn, _ = blocks.draw(sampler.start(1, noise=noise[None]))
        wanted = picked(model.output, last.bias.detach().expand(5, -1), noise)
        assert torch.equal(drawn.images.flatten(), wanted.flatten())


@each_config
def test_a_seed_draws_what_its_noise_draws(program, config):
    blocks, sampler = both(program, config)
    state = start_of(sampler, config, 3, around=True)
    seeded = seeded_of(sampler, 3)
    assert torch.equal(seeded.tensor(), state.noise)
    drawn, _ = blocks.draw(state)
    half, _ = blocks.draw(replace(state, noise=seeded), config.image_shape[1] // 2)
    assert same(blocks.draw(half)[0], drawn)

    # Images that are some of a batch have its noise.
    tensors = {name: getattr(state, name)[1:] for name in ("images", "given", "rows")}
    labels = state.condition[1:] if len(state.condition) > 1 else state.condition
    some = replace(state, **tensors, condition=labels, noise=seeded[1:])
    assert torch.equal(blocks.draw(some)[0].images, drawn.images[1:])


@few_configs
def test_pixels_that_are_given_need_neither_noise_nor_parameters(program, config):
    blocks, sampler = both(program, config)
    state = start_of(sampler, config, 3, around=True)
    draws = sampler.output.ordered_channels
    known = state.given.flatten(1).repeat_interleave(draws, 1)[..., None]
    noise = torch.where(known, float("nan"), state.noise)
    drawn, _ = blocks.draw(replace(state.clone(), noise=noise))
    assert torch.equal(drawn.images, sampler.draw(state).images)


@pytest.mark.parametrize(
    ("batch", "processors", "share", "images"),
    [
        (1, 132, 1.0, 1),
        (66, 132, 1.0, 1),
        (67, 132, 1.0, 2),
        (264, 132, 1.0, 4),
        (265, 132, 1.0, 8),
        (600, 132, 1.0, 8),
        (600, 132, 0.125, 1),
        (9, 1, 1.0, 8),
    ],
)
def test_images_of_a_block_leave_half_the_processors_and_fit(
    program, batch, processors, share, images
):
    config = CONFIGS["gated"]
    blocks, sampler = both(program, config)
    memory = int(8 * share * shared_bytes(Sizes(*blocks.packed.sizes)))
    blocks = replace(blocks, processors=(processors, memory))
    assert blocks.draw(start_of(sampler, config, batch), 0)[1][1] == images


# So wide that no thread reads only what it wrote itself, and so short that a row's pointers lie
# where the last draw's did.
RACY = small("gated", (2, 1), layers=0, output="categorical", levels=40)
# Of two sums and a map; of four sums, a map, a draw and the end.
ROW, PIXEL = 2 * 2 + 1, 4 * 2 + 1 + 3 + 1
# Up to the second row. A row's map waits for what was made two steps before.
WAITS = [wait for wait in range(1 + ROW + PIXEL) if wait != ROW]


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """The program under ThreadSanitizer."""
    folder = tmp_path_factory.mktemp("watched")
    return build_watched(SOURCE, folder, lambda program: _draw_watched(program, RACY))


def _draw_watched(program, config, batch=1, **options):
    blocks, sampler = both(program, config, **({"images": 1, "threads": 24} | options))
    blocks.draw(start_of(sampler, config, batch), parameters_out=room_for(sampler, batch))


@pytest.mark.parametrize("config", [RACY, *(CONFIGS[name] for name in FEW)], ids=["racy", *FEW])
def test_threads_of_a_block_never_race(watched, config):
    _draw_watched(watched, config, 3, images=2, threads=8)


@pytest.mark.parametrize("left_out", WAITS)
def test_a_block_that_leaves_out_any_wait_is_caught(watched, left_out):
    with pytest.raises(RuntimeError, match="ThreadSanitizer"):
        _draw_watched(watched, RACY, left_out=left_out)
