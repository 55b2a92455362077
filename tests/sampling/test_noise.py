"""Noise that stands for the tensor of its seed."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from dgm_fast.distributions import BernoulliConditional, GaussianMixtureConditional
from dgm_fast.sampling import SeededNoise
from dgm_fast.sampling.noise import draw_uniforms, noise_arguments, noise_for
from dgm_fast.sampling.pixelcnn import PixelState

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
