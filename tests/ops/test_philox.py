"""The Philox noise: published vectors, layout, statistics, and who governs the seed."""

from __future__ import annotations

import math

import pytest
import torch

from dgm_fast import use_impl
from dgm_fast.ops import philox_normal, philox_uniform
from dgm_fast.ops.philox.reference import philox4x32
from tests.contract.subjects import each_subject

implementations = each_subject(op="philox")
kernels = each_subject(op="philox", reference=False)
draws = pytest.mark.parametrize("draw", [philox_normal, philox_uniform])

UNIT = 2.0**-24


def on(subject, draw, shape, **options):
    """Draw on the subject's implementation and device, or skip with the reason it cannot."""
    name = {philox_normal: "normal", philox_uniform: "uniform"}[draw]
    where = {"distribution": name, "shape": shape, "device": subject.device}
    return subject.run(where | options)


def python_philox(counter, key):
    """Compute Philox4x32-10 with Python's whole numbers, from the paper's figure alone."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32

    return [c0, c1, c2, c3]


def python_words(seed, sample, element, stream):
    counter = (element // 4, sample % 2**32, sample // 2**32, stream)
    return python_philox(counter, (seed % 2**32, seed // 2**32 % 2**32))


def python_normal(seed, sample, element, stream):
    """Return a normal in float64 and the radius it has."""
    words = python_words(seed, sample, element, stream)
    radius_word, angle_word = words[0:2] if element % 4 < 2 else words[2:4]
    radius = math.sqrt(-2 * math.log((radius_word + 0.5) / 2**32))
    angle = 2 * math.pi * angle_word / 2**32
    return radius * (math.sin(angle) if element % 2 else math.cos(angle)), radius


# The file kat_vectors of Random123, the library of Salmon et al. 2011.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_published_known_answers(counter, key, answer):
    counter, key, answer = ([int(word, 16) for word in t.split()] for t in (counter, key, answer))

    got = philox4x32([torch.tensor(word) for word in counter], [torch.tensor(word) for word in key])
    assert [int(word) for word in got] == answer
    assert python_philox(counter, key) == answer


PLACES = [(0, 0, 0), (7, 3, 1), (2**64 - 1, 2**32 - 1, 2**32 - 1), (2**63 + 5, 2**62 + 2**33, 9)]


@pytest.mark.parametrize(("seed", "sample_offset", "stream"), PLACES)
@implementations
def test_every_uniform_is_its_word(subject, seed, sample_offset, stream):
    options = {"seed": seed, "sample_offset": sample_offset, "stream": stream}
    got = on(subject, philox_uniform, (3, 10), **options)

    for sample, row in enumerate(got.tolist()):
        for element, value in enumerate(row):
            words = python_words(seed, sample_offset + sample, element, stream)
            assert value == (words[element % 4] >> 8) * UNIT


@pytest.mark.parametrize(("seed", "sample_offset", "stream"), PLACES)
@implementations
def test_every_normal_is_box_and_muller_of_its_words(subject, seed, sample_offset, stream):
    options = {"seed": seed, "sample_offset": sample_offset, "stream": stream}
    got = on(subject, philox_normal, (3, 10), **options)

    for sample, row in enumerate(got.tolist()):
        for element, value in enumerate(row):
            expected, radius = python_normal(seed, sample_offset + sample, element, stream)
            # Half ulps as `cases.py` counts them: 18 relative to the radius, 4 over the radius.
            assert abs(value - expected) <= UNIT * (18 * radius + 4 / radius)


@draws
@kernels
def test_kernels_agree_with_the_reference(subject, draw):
    kernel = on(subject, draw, (37, 501), seed=11)
    plain = draw((37, 501), seed=11, device=subject.device, impl="reference")

    if draw is philox_uniform:
        assert torch.equal(kernel, plain)
    else:
        # Both round the uniform alike, so only log, sqrt, sin and cos differ: twice 18 half ulps.
        assert (kernel - plain).abs().max() <= 2 * 18 * UNIT * 6.77


@draws
@implementations
def test_a_batch_drawn_in_parts_is_the_batch_drawn_whole(subject, draw):
    whole = on(subject, draw, (11, 37), seed=3, stream=2)
    parts = [
        on(subject, draw, (stop - start, 37), seed=3, stream=2, sample_offset=start)
        for start, stop in ((0, 4), (4, 5), (5, 11))
    ]

    assert torch.equal(torch.cat(parts), whole)


@draws
@implementations
def test_an_element_does_not_depend_on_the_shape_around_it(subject, draw):
    flat = on(subject, draw, (3, 30), seed=3)

    assert torch.equal(on(subject, draw, (3, 2, 3, 5), seed=3).flatten(1), flat)
    assert torch.equal(on(subject, draw, (5, 7), seed=3)[:3], flat[:, :7])
    assert torch.equal(on(subject, draw, (3,), seed=3), flat[:, 0])


@draws
@implementations
def test_a_seed_is_64_bits_in_an_int_or_a_tensor(subject, draw):
    expected = on(subject, draw, (3, 10), seed=-2)
    seed = torch.tensor(-2, device=subject.device)

    assert torch.equal(on(subject, draw, (3, 10), seed=seed), expected)
    assert torch.equal(on(subject, draw, (3, 10), seed=seed.reshape(1, 1)), expected)
    assert torch.equal(on(subject, draw, (3, 10), seed=2**64 - 2), expected)
    assert not torch.equal(on(subject, draw, (3, 10), seed=2**32 - 2), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@draws
@implementations
def test_narrow_dtypes_are_float32_rounded(subject, draw, dtype):
    wide = on(subject, draw, (9, 101), seed=5, dtype=torch.float32)
    assert torch.equal(on(subject, draw, (9, 101), seed=5, dtype=dtype), wide.to(dtype))


def test_the_default_dtype_and_device_are_torchs():
    assert philox_normal((2, 3)).dtype is torch.float32

    torch.set_default_dtype(torch.float64)
    try:
        assert philox_uniform((2, 3)).dtype is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)

    with torch.device("meta"), use_impl("reference"):
        assert philox_normal((2, 3)).device.type == "meta"


@draws
def test_manual_seed_governs_and_each_call_draws_anew(draw):
    torch.manual_seed(1)
    first, second = draw((4, 8)), draw((4, 8))
    assert not torch.equal(first, second)

    torch.manual_seed(1)
    assert torch.equal(draw((4, 8)), first)
    assert torch.equal(draw((4, 8)), second)


@draws
def test_a_generator_governs_alone(draw):
    state = torch.get_rng_state()
    first = draw((4, 8), generator=torch.Generator().manual_seed(9))
    again = draw((4, 8), generator=torch.Generator().manual_seed(9))

    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)


@draws
def test_a_given_seed_leaves_the_generator_alone(draw):
    state = torch.get_rng_state()
    draw((4, 8), seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def standard_scores(z):
    """Return how many of its standard errors each sample moment is from a normal's."""
    z, n = z.double().flatten(), z.numel()
    moments = (z.mean(), z.square().mean() - 1, z.pow(3).mean(), z.pow(4).mean() - 3)
    # Variances of z, z^2, z^3 and z^4 over n: 1, 2, 15 and 96.
    errors = (math.sqrt(variance / n) for variance in (1, 2, 15, 96))
    return [float(moment) / error for moment, error in zip(moments, errors, strict=True)]


@pytest.fixture(scope="module")
def normals():
    return philox_normal((1024, 2048), seed=1)


def test_moments_are_a_normals(normals):
    for name, z in {
        "all": normals,
        "first samples": normals[:64],
        "one sample": normals[7],
    }.items():
        scores = standard_scores(z)
        assert all(abs(score) < 4 for score in scores), (name, scores)


@pytest.mark.parametrize("bound", [1.0, 2.0, 3.0, 4.0, 4.5])
def test_tails_weigh_what_a_normals_do(normals, bound):
    share = math.erfc(bound / math.sqrt(2))
    expected = normals.numel() * share

    beyond = int((normals.abs() > bound).sum())
    assert abs(beyond - expected) < 4 * math.sqrt(expected * (1 - share))


@implementations
def test_no_normal_is_beyond_the_smallest_uniform(subject):
    z = on(subject, philox_normal, (64, 1024), seed=1)

    assert z.isfinite().all()
    assert z.abs().max() <= math.sqrt(2 * 33 * math.log(2)) * (1 + 4 * UNIT)


def kolmogorov_smirnov(uniforms):
    """Return sqrt(n) times the largest gap between the empirical and the uniform distribution."""
    ordered, _ = uniforms.double().flatten().sort()
    n = ordered.numel()
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    gap = torch.maximum((ordered - steps[:-1]).max(), (steps[1:] - ordered).max())
    return math.sqrt(n) * float(gap)


# The Kolmogorov distribution exceeds 1.95 once in a thousand times.
def test_normals_and_uniforms_pass_kolmogorov_and_smirnov(normals):
    assert kolmogorov_smirnov(philox_uniform((512, 1024), seed=2)) < 1.95
    assert kolmogorov_smirnov(torch.special.ndtr(normals.double())) < 1.95


def test_uniforms_are_multiples_of_2_to_the_minus_24_below_1():
    u = philox_uniform((512, 1024), seed=3)

    assert u.min() >= 0
    assert u.max() < 1
    assert torch.equal((u * 2**24).round() * UNIT, u)


def correlation(a, b):
    return float(torch.corrcoef(torch.stack((a.flatten(), b.flatten())).double())[0, 1])


def test_elements_samples_streams_and_seeds_are_uncorrelated(normals):
    z = normals[:, :512]
    others = {
        "next element": (z[:, :-1], z[:, 1:]),
        "other half of a group": (z[:, 0::4], z[:, 2::4]),
        "next group": (z[:, :-4], z[:, 4:]),
        "next sample": (z[:-1], z[1:]),
        "next stream": (z, philox_normal(z.shape, seed=1, stream=1)),
        "next seed": (z, philox_normal(z.shape, seed=2)),
        "far seed": (z, philox_normal(z.shape, seed=2**32 + 1)),
        "squares of a pair": (z[:, 0::2].square(), z[:, 1::2].square()),
    }

    for name, (a, b) in others.items():
        assert abs(correlation(a, b)) < 4 / math.sqrt(a.numel()), name


def test_float64_runs_on_the_reference():
    got = philox_normal((1, 6), seed=4, stream=1, dtype=torch.float64)[0].tolist()
    expected = [python_normal(4, 0, element, 1)[0] for element in range(6)]
    assert got == pytest.approx(expected, rel=1e-12)
