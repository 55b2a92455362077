"""The samplers of images draw what a pass of the network for every value would draw."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

import dgm_fast
from dgm_fast._core import extension
from dgm_fast._core.implementation import ImplementationUnavailable
from dgm_fast.distributions import make_pixel_output
from dgm_fast.layers import MaskedConv2d
from dgm_fast.sampling import PixelNetwork, PixelSampler
from dgm_fast.sampling.pixelcnn import conv_terms, op
from dgm_fast.sampling.pixelcnn.eager import runs
from tests.families.pixel_models import make_model, naive, small
from tests.processes import ROOT

needs_kernel = pytest.mark.skipif(
    extension.cpp_missing is not None, reason=str(extension.cpp_missing)
)

LEVELS = {"output": "categorical", "levels": 5}
MIXTURE = {"output": "logistic_mixture", "levels": 17}
CONFIGS = {
    "pixelcnn": small("pixelcnn", (5, 7)),
    "pixelcnn of levels upside down": small("pixelcnn", (6, 5), flip=True, **LEVELS),
    "pixelcnn of colours": small("pixelcnn", (3, 3, 4), **LEVELS),
    "pixelcnn of binary colours upside down": small("pixelcnn", (3, 4, 3), flip=True),
    "pixelcnn of a mixture": small("pixelcnn", (4, 5), **MIXTURE),
    "pixelcnn of large kernels": small("pixelcnn", (7, 6), first_kernel=7, kernel=5),
    "pixelcnn of single pixels": small("pixelcnn", (4, 4), kernel=1, blocks=1),
    "pixelcnn of whole vectors": small("pixelcnn", (4, 5), channels=64, head_channels=48),
    "one row": small("pixelcnn", (1, 9)),
    "one column": small("gated", (9, 1)),
    "one pixel": small("pp", (1, 1), output="bernoulli"),
    "gated": small("gated", (5, 6), classes=3),
    "gated of colours": small("gated", (3, 3, 4), classes=2, **LEVELS),
    "gated of a mixture of colours": small("gated", (3, 4, 4), **MIXTURE),
    "gated of large kernels": small("gated", (7, 5), first_kernel=7, kernel=5, flip=True),
    "gated of one layer": small("gated", (4, 5), layers=0),
    "pp": small("pp", (3, 4, 5), classes=2, **MIXTURE),
    "pp of three scales": small("pp", (5, 7), scales=3, **LEVELS),
    "pp of more scales than rows": small("pp", (3, 5), scales=4, output="bernoulli"),
    "pp of one scale": small("pp", (4, 5), scales=1, blocks=2, flip=True, **MIXTURE),
    "pp of whole vectors": small("pp", (4, 4), channels=32, **MIXTURE),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
FEW = ["pixelcnn of colours", "gated", "pp"]
IMPLEMENTATIONS = [("reference", torch.float64), ("reference", torch.float32)]
if extension.cpp_missing is None:
    IMPLEMENTATIONS.append(("cpp", torch.float32))
# Narrow and whole vectors, every function and every output.
VARIED = [*FEW, "pixelcnn of whole vectors", "gated of a mixture of colours", "pp of whole vectors"]
few_configs = pytest.mark.parametrize("config", [CONFIGS[name] for name in FEW], ids=FEW)


def model_of(config, impl="auto", dtype=torch.float32):
    return make_model(config, gain=1.5, impl=impl).eval().to(dtype)


def label_of(model, n):
    return torch.arange(n) % model.classes if model.classes else None


def holes(config, n, seed=0):
    """Images of which some pixels are given, among them a stretch of every image's."""
    C, H, W = config.image_shape
    generator = torch.Generator().manual_seed(seed)
    levels = 2 if config.output == "bernoulli" else config.levels
    given = torch.randint(levels, (n, C, H, W), generator=generator).float()
    mask = torch.rand(n, H, W, generator=generator) < 0.3
    mask[:, H // 2, W // 3 :] = True
    return given, mask


def start_of(sampler, config, n, seed=0, *, around=False):
    """The state of n images, some of their pixels given."""
    given, mask = holes(config, n, seed) if around else (None, None)
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % sampler.classes if sampler.classes else None
    return sampler.start(n, label, images=given, given=mask, generator=generator)


def same(a, b):
    return all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("images", "rows", "done")
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
    picked = model.output.pick(parameters.flatten(0, 1), noise).unflatten(0, (batch, -1))
    picked = model.output.to_images(picked, *sampler.size)
    assert torch.equal(state.images, torch.where(state.given[:, None], state.images, picked))


@pytest.mark.parametrize("batch", [1, 9])
@few_configs
def test_pieces_are_the_whole_bit_for_bit(config, impl, batch):
    sampler = PixelSampler(model_of(config)._describe(), impl=impl)
    whole = sampler.draw(start_of(sampler, config, batch, around=batch > 1))
    state, done = start_of(sampler, config, batch, around=batch > 1), 0
    while done < sampler.size[0]:
        for rows in (0, 1, 2):
            state = sampler.draw(state, rows)
            done = min(done + rows, sampler.size[0])
            assert int(state.done) == done
            assert torch.equal(state.images[:, :, :done], whole.images[:, :, :done])
    assert same(state, whole)
    assert same(sampler.draw(state), whole)


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
from tests.sampling import test_pixelcnn as t

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
    environment = os.environ | {"DGM_FAST_ISA": isa, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ON_AN_ISA],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("generic", isa)


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


@few_configs
def test_a_clone_goes_another_way(config, impl):
    sampler = PixelSampler(model_of(config)._describe(), impl=impl)
    kept = sampler.draw(start_of(sampler, config, 2), 2)
    state, other = kept.clone(), replace(kept.clone(), noise=1 - kept.noise)
    sampler.draw(state)
    sampler.draw(other)
    assert int(kept.done) == 2
    assert torch.equal(state.images, sampler.draw(kept).images)
    assert not torch.equal(state.images, other.images)
    assert torch.equal(state.images[:, :, :2], other.images[:, :, :2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@few_configs
def test_narrow_parameters_are_computed_on_in_float32(config, impl, dtype):
    model = model_of(config, dtype=dtype)
    narrow = PixelSampler(model._describe(), impl=impl)
    wide = PixelSampler(model.float()._describe(), impl=impl)
    found = [each.draw(start_of(each, config, 2)).images for each in (narrow, wide)]
    assert found[0].dtype == torch.float32
    assert torch.equal(*found)


def test_a_sampler_keeps_the_weights_it_was_made_of(impl):
    config = CONFIGS["pp"]
    model = model_of(config)
    sampler = PixelSampler(model._describe(), impl=impl)
    before = sampler.draw(start_of(sampler, config, 2)).images
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1)
    assert torch.equal(before, sampler.draw(start_of(sampler, config, 2)).images)
    after = PixelSampler(model._describe(), impl=impl)
    assert not torch.equal(before, after.draw(start_of(after, config, 2)).images)


class Interrupting(torch.utils._python_dispatch.TorchDispatchMode):
    """Raises KeyboardInterrupt at one of the operators that come."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return func(*args, **(kwargs or {}))


@few_configs
def test_an_interrupted_row_is_done_again_to_the_same_bits(config, impl):
    sampler = PixelSampler(model_of(config)._describe(), impl=impl)
    whole = sampler.draw(start_of(sampler, config, 3, around=True))
    state, interrupted = start_of(sampler, config, 3, around=True), 0
    # Whatever the operator that a row is interrupted at; by and by rows get done.
    for after in range(0, 1200, 103):
        try:
            with Interrupting(after):
                sampler.draw(state, 1)
        except KeyboardInterrupt:
            interrupted += 1
        assert torch.equal(
            state.images[:, :, : int(state.done)], whole.images[:, :, : int(state.done)]
        )
    assert interrupted > 0
    assert same(sampler.draw(state), whole)


def test_what_is_given_to_all_needs_no_draw(impl, monkeypatch):
    config = CONFIGS["pixelcnn"]
    sampler = PixelSampler(model_of(config)._describe(), impl=impl)
    given, mask = torch.ones(2, 1, 5, 7), torch.zeros(2, 5, 7, dtype=torch.bool)
    mask[:, :2] = True
    mask[:, 3, 2:5] = True
    mask[0, 4] = True
    noise = sampler.draw_noise(2)
    free = sampler.draw(sampler.start(2, images=given, given=mask, noise=noise)).images
    # Nothing looks at noise where all is given, and nothing at a given image's own noise.
    noise[mask.flatten(1)] = float("nan")
    x = sampler.draw(sampler.start(2, images=given, given=mask, noise=noise)).images
    assert torch.equal(x, free)
    assert bool(x[mask[:, None]].all())
    assert list(runs([False, True, True, False])) == [
        (0, 1, False),
        (1, 3, True),
        (3, 4, False),
    ]


def test_images_are_drawn_in_parts_that_fit_in_memory(monkeypatch):
    from dgm_fast.families.autoregressive import pixel_model

    model = model_of(CONFIGS["gated"])
    noise, label = model.draw_noise(7), label_of(model, 7)
    whole = model.sample(7, label, noise=noise)
    monkeypatch.setattr(pixel_model, "_TOGETHER", 2 * 4 * model.sampler().floats)
    assert torch.equal(model.sample(7, label, noise=noise), whole)

    def interrupt(done, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.sample(7, label, noise=noise, progress=interrupt)
    assert torch.equal(model.sample(7, label, noise=noise), whole)


def test_a_model_in_training_samples_without_dropout():
    model = make_model(small("pp", (4, 5), dropout=0.5, **MIXTURE))
    noise = model.draw_noise(2)
    assert torch.equal(model.train().sample(2, noise=noise), model.eval().sample(2, noise=noise))


def test_the_choice_of_an_implementation():
    config = CONFIGS["pixelcnn"]
    model = model_of(config)
    assert model.sampler().impl == ("reference" if extension.cpp_missing else "cpp")
    with pytest.raises(ImplementationUnavailable, match="float64"):
        PixelSampler(model_of(config, dtype=torch.float64)._describe(), impl="cpp")
    with pytest.raises(ImplementationUnavailable, match="'triton'"):
        PixelSampler(model._describe(), impl="triton")
    for name in ("reference", "triton"):
        with dgm_fast.use_impl(name):
            assert model.sampler().impl == "reference"
    assert model_of(config, "reference").sampler().impl == "reference"


@needs_kernel
@few_configs
def test_the_operator_is_what_its_schema_says(config):
    sampler = PixelSampler(model_of(config)._describe(), impl="cpp")
    arguments = []

    def call(*given):
        arguments.append(given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(op, "draw", call)
        each = sampler.output.parameters // sampler.output.ordered_channels
        for out in (None, torch.zeros(3, sampler.features, each)):
            sampler.draw(start_of(sampler, config, 3), 2, parameters_out=out)
    for each in arguments:
        torch.library.opcheck(op.draw, each, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"batch": -1}, ValueError, "batch must not be negative; got -1"),
        ({"context": None}, ValueError, "context must hold labels of 3 classes; got None"),
        ({"context": torch.zeros(3)}, TypeError, "context must be int64 labels"),
        (
            {"context": torch.zeros(2).long()},
            ValueError,
            r"context must have shape \(B,\) = \(3,\)",
        ),
        (
            {"noise": torch.rand(3, 5, 1)},
            ValueError,
            r"noise must have shape \(B, D, N\) = \(3, 30",
        ),
        ({"noise": torch.ones(3, 30, 1).long()}, TypeError, "noise must be a floating-point"),
        ({"images": torch.zeros(3, 1, 5, 6)}, ValueError, "given must not be None"),
        ({"given": torch.ones(3, 5, 6).bool()}, ValueError, "images must not be None"),
        (
            {"images": torch.zeros(3, 5, 6), "given": torch.ones(3, 5, 6).bool()},
            ValueError,
            r"images must have shape \(B, C, H, W\) = \(3, 1, 5, 6\); got \(3, 5, 6\)",
        ),
        (
            {"images": torch.zeros(3, 1, 5, 6), "given": torch.ones(5, 6).bool()},
            ValueError,
            r"given must have shape \(B, H, W\) = \(3, 5, 6\); got \(5, 6\)",
        ),
        (
            {"images": torch.zeros(3, 1, 5, 6), "given": torch.ones(3, 5, 6)},
            TypeError,
            "given must be bool; got torch.float32",
        ),
        (
            {"images": torch.full((3, 1, 5, 6), 2), "given": torch.ones(3, 5, 6).bool()},
            ValueError,
            r"images must hold values in 0 \.\. 1; got 2",
        ),
    ],
)
def test_starting_errors_name_the_argument(impl, options, error, match):
    sampler = PixelSampler(model_of(CONFIGS["gated"])._describe(), impl=impl)
    with pytest.raises(error, match=match):
        sampler.start(**({"batch": 3, "context": torch.zeros(3).long()} | options))


def test_drawing_errors_name_the_argument(impl):
    config = CONFIGS["gated"]
    sampler = PixelSampler(model_of(config)._describe(), impl=impl)
    state = start_of(sampler, config, 3)
    for options, match in (
        ({"temperature": -1.0}, "temperature must be at least 0; got -1.0"),
        ({"temperature": float("nan")}, "temperature must be at least 0; got nan"),
        ({"rows": -1}, "rows must not be negative; got -1"),
        ({"parameters_out": torch.zeros(3, 5, 1)}, r"parameters_out must have shape \(B, D, P\)"),
    ):
        with pytest.raises(ValueError, match=match):
            sampler.draw(state, **options)
    other = PixelSampler(model_of(CONFIGS["pp"])._describe(), impl=impl)
    with pytest.raises(ValueError, match="state must be of this sampler's; got rows"):
        other.draw(state)
    with pytest.raises(ValueError, match="temperature must be at least 0; got -2"):
        model_of(CONFIGS["pixelcnn"]).sample(2, temperature=-2)
