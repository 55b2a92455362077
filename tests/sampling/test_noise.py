"""Noise that stands for the tensor of its seed."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from dgm_fast.distributions import BernoulliConditional, GaussianMixtureConditional
from dgm_fast.families import (
    MADE,
    RNN,
    MADEConfig,
    PixelCNN,
    PixelCNNConfig,
    RNNConfig,
    WaveNet,
    WaveNetConfig,
)
from dgm_fast.sampling import Draw, MaskedSampler, SeededNoise
from dgm_fast.sampling.masked_mlp import op
from dgm_fast.sampling.noise import draw_uniforms, noise_arguments, noise_for
from dgm_fast.sampling.pixelcnn import PixelState
from tests.sampling.pixel_cases import needs_kernel

B, D = 5, 11
DRAWS = {
    "uniform": (BernoulliConditional().draw_noise, 1),
    "both kinds": (GaussianMixtureConditional(3).draw_noise, 2),
    "tokens": (draw_uniforms, 1),
}


def seeded(name="both kinds", **options):
    """The noise of a batch."""
    draw, numbers = DRAWS[name]
    return SeededNoise(torch.tensor(-7), draw, numbers, range(B), range(D), **options)


@pytest.mark.parametrize("name", DRAWS)
def test_the_tensor_is_what_its_distribution_draws(name):
    noise, (draw, _) = seeded(name), DRAWS[name]
    assert torch.equal(noise.tensor(), draw(B, D, torch.tensor(-7), torch.float32))
    assert noise.tensor().shape == noise.shape
    assert replace(noise, seed=torch.tensor([-7])).seed.shape == ()
    assert noise.draw(B, D, noise.seed, torch.bfloat16).dtype is torch.float32
    assert seeded(name, dtype=torch.float64).tensor().dtype is torch.float64


@pytest.mark.parametrize("rows", [slice(None), slice(1, 4), slice(-2, None), slice(3, 99)])
@pytest.mark.parametrize("places", [slice(None), slice(2), slice(3, 10), slice(-1), slice(6, 6)])
def test_slices_are_those_of_the_tensor(rows, places):
    noise = seeded()
    whole, some = noise.tensor(), noise[rows, places]
    assert isinstance(some, SeededNoise)
    assert some.shape == whole[rows, places].shape
    assert torch.equal(some.tensor(), whole[rows, places])
    assert torch.equal(noise[rows].tensor(), whole[rows])
    again = some[1:, 1:]
    assert torch.equal(again.tensor(), whole[rows, places][1:, 1:])


@pytest.mark.parametrize(
    "index",
    [torch.tensor([3, 0]), (slice(None), torch.tensor([4])), (slice(None), slice(None, None, 2))],
    ids=["rows", "places", "every second"],
)
def test_what_is_no_slice_is_drawn(index):
    assert torch.equal(seeded()[index], seeded().tensor()[index])
    assert torch.equal(seeded()[..., 1], seeded().tensor()[..., 1])


def test_a_generator_is_drawn_from_once():
    draw, numbers = DRAWS["uniform"]
    where = torch.device("cpu"), torch.float32
    first, again = (
        SeededNoise.from_generator(torch.Generator().manual_seed(3), draw, (B, D, numbers), *where)
        for _ in range(2)
    )
    assert (first.seed, first.shape) == (again.seed, (B, D, 1))
    with pytest.raises(ValueError, match="shape must have no negative sizes"):
        SeededNoise.from_generator(None, draw, (B, -1, numbers), *where)
    seed = torch.randint(-(2**63), 2**63 - 1, (), generator=torch.Generator().manual_seed(3))
    assert first.seed == seed


def test_it_moves_and_pickles_as_its_seed():
    noise = seeded()[1:, 2:]
    moved = noise.to("meta")
    assert moved.seed.is_meta
    assert moved.shape == noise.shape
    assert torch.equal(pickle.loads(pickle.dumps(noise)).tensor(), noise.tensor())


def test_a_state_on_a_cpu_holds_the_numbers():
    others = {name: torch.zeros(B) for name in ("images", "given", "rows", "condition", "done")}
    state = PixelState(noise=seeded(), **others)
    assert isinstance(state.to("meta").noise, SeededNoise)
    assert torch.equal(state.to("cpu").noise, seeded().tensor())


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"seed": torch.tensor(7, dtype=torch.int32)}, TypeError, "seed must be .* int64"),
        ({"seed": torch.tensor([7, 8])}, ValueError, "seed must hold one value"),
        ({"seed": 7}, TypeError, "seed must be a torch.Tensor; got int"),
        ({"places": range(4, 2**34 + 1)}, ValueError, "places must end at 17179869184 at most"),
        ({"rows": range(0, 8, 2)}, ValueError, r"rows must be range\(begin, end\)"),
        ({"places": range(-1, 4)}, ValueError, "places must be range.* got range"),
    ],
)
def test_what_a_kernel_could_not_draw_is_refused(changes, error, match):
    with pytest.raises(error, match=match):
        replace(seeded(), **changes)


def test_kernels_of_gpus_are_given_the_seed():
    noise, cpu = seeded()[1:3, 4:], torch.device("cpu")
    assert isinstance(noise_for(noise, "cuda", cpu), SeededNoise)
    for impl in ("cpp", "reference"):
        assert torch.equal(noise_for(noise, impl, cpu), noise.tensor())
    given = noise.tensor()
    assert torch.equal(noise_for(given, "cuda", cpu), given)
    assert noise_for(given, "cuda", cpu, torch.float64).dtype is torch.float64
    with pytest.raises(TypeError, match="noise must be a floating-point tensor"):
        noise_for(given.long(), "cuda", cpu)
    assert noise_arguments(given) == (given, None, [])
    assert noise_arguments(noise) == (None, noise.seed, [1, 4, D - 4])
    assert noise_arguments(None) == (None, None, [])


# Each with the options of `sample` that say how long a sample is.
FAMILIES = {
    "made": (MADE(MADEConfig(6, (8,), order="random", num_masks=2)), {}),
    "pixelcnn": (PixelCNN(PixelCNNConfig((3, 4), channels=8, blocks=1)), {}),
    "upside down": (PixelCNN(PixelCNNConfig((3, 4), channels=8, blocks=1, flip=True)), {}),
    "wavenet": (WaveNet(WaveNetConfig(stacks=1, layers=2)), {"length": 7}),
    "rnn": (RNN(RNNConfig(5, width=8, embedding=4)), {"length": 7}),
}


@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize(("model", "options"), FAMILIES.values(), ids=FAMILIES)
def test_families_draw_what_the_noise_of_a_seed_draws(model, options, n):
    def draw_noise(samples, places, seed, dtype):
        generator = torch.Generator().manual_seed(seed.item())
        return model.draw_noise(samples, *options.values(), generator).to(dtype)

    tensor = draw_noise(n, None, torch.tensor(7), torch.float32)
    _, places, numbers = tensor.shape
    noise = SeededNoise(torch.tensor(7), draw_noise, numbers, range(n), range(places))
    torch.manual_seed(0)
    expected = model.sample(n, noise=tensor, **options)
    torch.manual_seed(0)
    assert torch.equal(model.sample(n, noise=noise, **options), expected)
    with pytest.raises(ValueError, match="noise must have shape"):
        model.sample(n + 1, noise=noise, **options)


@needs_kernel
def test_the_sweep_of_a_cpu_takes_noise_alone(monkeypatch):
    model, calls = FAMILIES["made"][0], []
    monkeypatch.setitem(op.go_on, "cpp", lambda *given: calls.append(given))
    sampler = MaskedSampler(model.description(), Draw(model.conditional), impl="cpp")
    sampler.draw(sampler.start(B), model.draw_noise(B))
    monkeypatch.undo()
    first, last = calls[0][:8], calls[0][11:]
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(op.go_on["cpp"], calls[0], test_utils=tests)
    with pytest.raises(RuntimeError, match="on a CPU a sampler takes noise, and not the seed"):
        op.go_on["cpp"](*first, None, torch.tensor(7), [0, 0, 6], *last)
    with pytest.raises(RuntimeError, match="needs noise, or the seed of it"):
        op.go_on["cpp"](*first, None, None, [], *last)
