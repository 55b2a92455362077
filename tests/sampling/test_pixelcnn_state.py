"""The state of a sampler of images: pieces, interruptions, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import dgm_fast
from dgm_fast._core import extension
from dgm_fast._core.implementation import ImplementationUnavailable
from dgm_fast.families.autoregressive import convolutional_pixel_model
from dgm_fast.sampling import PixelSampler
from dgm_fast.sampling.pixelcnn import op
from dgm_fast.sampling.pixelcnn.eager import runs
from tests.families.pixel_models import make_model, small
from tests.sampling.pixel_cases import (
    CONFIGS,
    MIXTURE,
    few_configs,
    label_of,
    model_of,
    needs_kernel,
    same,
    seeded_of,
    start_of,
)


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
    for after in range(0, 1200, 149):
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
    model = model_of(CONFIGS["gated"])
    noise, label = model.draw_noise(7), label_of(model, 7)
    whole = model.sample(7, label, noise=noise)
    monkeypatch.setattr(convolutional_pixel_model, "_TOGETHER", 2 * 4 * model.sampler().floats)
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
    assert model.sampler(impl="reference").impl == "reference"
    with pytest.raises(ImplementationUnavailable, match="'triton'"):
        model.sampler(impl="triton")


@needs_kernel
@few_configs
def test_the_operator_is_what_its_schema_says(config):
    sampler = PixelSampler(model_of(config)._describe(), impl="cpp")
    arguments = []

    def call(*given):
        arguments.append(given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(op.draw, "cpp", call)
        each = sampler.output.parameters // sampler.output.ordered_channels
        for out in (None, torch.zeros(3, sampler.features, each)):
            sampler.draw(start_of(sampler, config, 3), 2, parameters_out=out)
    for each in arguments:
        torch.library.opcheck(op.draw["cpp"], each, test_utils=("test_schema", "test_faketensor"))

    # Noise, the sixth, is drawn beforehand.
    of_seed = [0, 0, sampler.features]
    seeded = [*arguments[0][:5], None, torch.tensor(7), of_seed, *arguments[0][8:]]
    seeded[2].zero_()
    with pytest.raises(RuntimeError, match="on a CPU a sampler takes noise, and not the seed"):
        op.draw["cpp"](*seeded)
    with pytest.raises(RuntimeError, match="needs noise, or the seed of it"):
        op.draw["cpp"](*seeded[:6], None, [], *seeded[8:])


@few_configs
def test_a_state_that_comes_with_a_seed_draws_its_noise(config, impl):
    sampler = PixelSampler(model_of(config)._describe(), impl=impl)
    state = start_of(sampler, config, 3, around=True)
    seeded = replace(state.clone(), noise=seeded_of(sampler, 3))
    expected = sampler.draw(state)
    half = sampler.draw(seeded, 2).to("cpu")
    assert same(sampler.draw(half.clone()), expected)
    assert seeded.to("meta").noise.seed.is_meta

    label = torch.arange(3) % sampler.classes if sampler.classes else None
    expected = sampler.start(3, label, noise=state.noise)
    assert torch.equal(sampler.start(3, label, noise=seeded_of(sampler, 3)).noise, expected.noise)


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
        ({"top_k": 0}, "top_k must be at least 1; got 0"),
        ({"top_p": 0.5}, "top_k and top_p .* BernoulliPixels: got None and 0.5"),
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
