"""The samplers of images draw what a pass of the network for every value would draw."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from dgm_fast._core import extension
from dgm_fast.distributions import make_pixel_output
from dgm_fast.layers import MaskedConv2d
from dgm_fast.sampling import PixelNetwork, PixelSampler
from dgm_fast.sampling.pixelcnn import conv_terms
from tests.families.pixel_models import naive, small
from tests.processes import run_on_isa
from tests.sampling.picks import picked
from tests.sampling.pixel_cases import (
    IMPLEMENTATIONS,
    LEFT_OUT,
    each_config,
    few_configs,
    holes,
    label_of,
    model_of,
    needs_kernel,
    same,
    start_of,
)


@each_config
def test_every_implementation_draws_what_passes_draw(config):
    """Around pixels that are given, and in float64 too."""
    model, n = model_of(config, dtype=torch.float64), 3
    noise, label = model.draw_noise(n, torch.Generator().manual_seed(0)), label_of(model, n)
    given, mask = holes(config, n)
    shape = n, *config.event_shape
    around = {"given": given.view(shape), "given_mask": mask}
    expected = naive(model, noise, label, given, mask).reshape(shape)

    for impl, dtype in IMPLEMENTATIONS:
        x = model_of(config, impl, dtype).sample(n, label, noise=noise, **around)
        assert torch.equal(x.double(), expected)
    drawn = ~mask[:, None].expand_as(given).reshape(shape)
    assert expected.numel() == n or len(expected[drawn].unique()) > 1


@pytest.mark.parametrize("temperature", [0.0, 0.6])
@few_configs
def test_what_is_colder_draws_what_passes_draw(config, impl, temperature):
    model = model_of(config, impl)
    noise, label = model.draw_noise(3, torch.Generator().manual_seed(0)), label_of(model, 3)
    x = model.sample(3, label, noise=noise, temperature=temperature)
    expected = naive(model_of(config, dtype=torch.float64), noise, label, temperature=temperature)
    assert torch.equal(x.double(), expected.reshape(x.shape))
    assert not torch.equal(x, model.sample(3, label, noise=noise))


@pytest.mark.parametrize(("config", "filters"), LEFT_OUT)
def test_what_is_left_out_is_not_drawn(config, filters, impl):
    model = model_of(config, impl)
    noise, label = model.draw_noise(3, torch.Generator().manual_seed(0)), label_of(model, 3)
    x = model.sample(3, label, noise=noise, **filters)
    expected = naive(model_of(config, dtype=torch.float64), noise, label, **filters)
    assert torch.equal(x.double(), expected.reshape(x.shape))
    assert not torch.equal(x, model.sample(3, label, noise=noise))


@pytest.mark.parametrize("batch", [0, 1, 9])
@each_config
@torch.no_grad()
def test_parameters_are_the_networks_in_a_batch_of_any_size(config, impl, batch):
    model = model_of(config)
    sampler = PixelSampler(model._describe(), impl=impl)
    state = start_of(sampler, config, batch, around=batch > 2)
    each = model.output.parameters // model.output.ordered_channels
    parameters = torch.full((batch, sampler.features, each), float("nan"))

    sampler.draw(state, parameters_out=parameters)

    if batch == 0:
        assert state.images.shape == (0, *config.image_shape)
        return
    images = model._in_order(state.images, 2).double()
    expected = model.double()._run(images, label_of(model, batch))
    expected = model.output.to_features(model._in_order(expected, 2))
    error, size = (x.abs().amax() for x in (parameters - expected, expected))
    assert float(error) <= 1e-4 * float(size)

    noise = state.noise.flatten(0, 1)
    wanted = picked(model.output, parameters.flatten(0, 1), noise).unflatten(0, (batch, -1))
    wanted = model.output.to_images(wanted, *sampler.size)
    assert torch.equal(state.images, torch.where(state.given[:, None], state.images, wanted))


@needs_kernel
@pytest.mark.parametrize("batch", [3, 19])
@few_configs
def test_no_number_of_threads_changes_a_bit(config, batch):
    sampler, before = (
        PixelSampler(model_of(config)._describe(), impl="cpp"),
        torch.get_num_threads(),
    )
    found = []
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            found.append(sampler.draw(start_of(sampler, config, batch)))
    finally:
        torch.set_num_threads(before)
    assert all(same(each, found[0]) for each in found[1:])


@needs_kernel
@each_config
def test_an_image_does_not_depend_on_its_batch(config):
    sampler = PixelSampler(model_of(config)._describe(), impl="cpp")
    together = start_of(sampler, config, 19, around=True)
    alone = [
        replace(
            together.clone(),
            **{
                name: getattr(together, name)[i : i + 1].clone()
                for name in ("images", "given", "noise", "rows")
            },
            condition=together.condition[i : i + 1] if sampler.classes else together.condition,
        )
        for i in (0, 7, 18)
    ]
    sampler.draw(together)
    for i, state in zip((0, 7, 18), alone, strict=True):
        sampler.draw(state)
        assert torch.equal(state.images[0], together.images[i])
        assert torch.equal(state.rows[0], together.rows[i])


ON_AN_ISA = """
from dgm_fast._core import extension
from dgm_fast.sampling import PixelSampler
from tests.sampling import pixel_cases as t

print(extension.build_info()["isa_live"])
for name in t.VARIED:
    config = t.CONFIGS[name]
    network = t.model_of(config)._describe()
    found = []
    for impl in ("cpp", "reference"):
        sampler = PixelSampler(network, impl=impl)
        found.append(sampler.draw(t.start_of(sampler, config, 9, 3, around=True)).images)
    assert (found[0] == found[1]).all(), name
"""


@needs_kernel
@pytest.mark.parametrize("isa", ["generic", "avx2"])
def test_narrower_instruction_sets_draw_the_same_images(isa):
    if extension.build_info()["isa_live"] == isa:
        pytest.skip(f"every other test runs on {isa}")
    printed = run_on_isa(ON_AN_ISA, isa)
    assert printed in ("generic", isa)


@pytest.mark.parametrize("dilation", [(1, 2), (2, 1), (3, 2)])
@torch.no_grad()
def test_a_network_described_by_hand_with_dilations(impl, dilation):
    torch.manual_seed(0)
    first = MaskedConv2d(3, 9, (3, 5), "A", 3, dilation)
    second = MaskedConv2d(9, 12, 3, "B", 3, dilation, gated=True)
    last = MaskedConv2d(6, 3 * 4, 1, "B", 3, bias=False)
    output = make_pixel_output("categorical", 3, 4, 1)
    net = PixelNetwork((5, 6), output)
    h = net.maps("elu", net.masked(net.image, first))
    h = net.maps("gate", net.masked(h, second))
    sampler = PixelSampler(net.draw(net.masked(h, last)), impl=impl)

    parameters = torch.empty(2, 5 * 6 * 3, 4)
    images = sampler.draw(sampler.start(2), parameters_out=parameters).images

    h = second(nn.functional.elu(first(output.encode(images))))
    torch.testing.assert_close(parameters, output.to_features(last(h)), rtol=1e-4, atol=1e-5)


def test_networks_must_see_what_comes_before():
    output = make_pixel_output("bernoulli", 1, 2, 1)
    weight = torch.ones(1, 1, 1, 1)
    for origin in ((0, 0), (0, -1), (-1, 1)):
        net = PixelNetwork((3, 3), output)
        net.draw([net.affine(conv_terms(net.image, weight, origin))])
        with pytest.raises(ValueError, match="must see what comes before their pixel; got one"):
            PixelSampler(net)
    net = PixelNetwork((3, 3), output)
    with pytest.raises(ValueError, match="gate must be of 2 parts; got 1"):
        net.map("gate", net.affine(conv_terms(net.image, weight, (0, 1))))


@few_configs
def test_every_live_weight_is_used_once_a_pixel(config):
    model = model_of(config)
    masks = [getattr(layer, "mask", None) for layer in model.modules()]
    live = sum(
        int(mask.sum()) if isinstance(mask, torch.Tensor) else layer.weight.numel()
        for layer, mask in zip(model.modules(), masks, strict=True)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    )
    used = model.sampler().multiply_adds
    # At two scales some weights are used at every fourth pixel alone.
    assert used == live if model.family != "pixelcnn_pp" else 0.4 * live < used < live


@pytest.mark.parametrize("output", ["bernoulli", "categorical", "logistic_mixture"])
def test_noise_at_both_ends_and_certain_levels(impl, output):
    config = small("pixelcnn", (1, 5), output=output, levels=256, blocks=0)
    model = model_of(config)
    with torch.no_grad():
        model.head[-1].weight.zero_()
        model.head[-1].bias.fill_(-2.0)
        model.head[-1].bias[0 if output != "categorical" else 77] = 60.0
    sampler = PixelSampler(model._describe(), impl=impl)
    below_one = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    noise = torch.tensor([0.0, 1e-30, 0.5, below_one, 1.0])[:, None]
    noise = noise.expand(-1, model.output.uniforms)
    x = sampler.draw(sampler.start(1, noise=noise[None])).images
    parameters = model.head[-1].bias.expand(5, -1)
    assert torch.equal(x.flatten(), model.output.pick(parameters, noise).flatten())


@few_configs
def test_what_is_cold_leaves_no_chance(config, impl):
    sampler = PixelSampler(model_of(config)._describe(), impl=impl)
    label = torch.zeros(4).long() if sampler.classes else None
    x = sampler.draw(sampler.start(4, label), temperature=0.0).images
    assert torch.equal(x, x[:1].expand_as(x))
