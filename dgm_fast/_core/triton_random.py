"""Philox4x32-10 inside Triton kernels: the noise of `ops.philox`, drawn where it is used."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def philox_words(seed, sample, group, stream):
    """Return the four uint32 words of element group `group` of global sample `sample`.

    Counter (group, sample low, sample high, stream) under key `seed`; elements 4 group + 0..3 of
    the sample take one word each.

    Shapes:
        sample (int64) and group (uint32) are tiles of one shape; seed (64 bits) and stream (32
        bits) are scalars. Each word has the tiles' shape.
    """
    low = sample.to(tl.uint32)
    high = (sample >> 32).to(tl.uint32)
    # Philox multiplies the first word, so all four must be tiles of uint32.
    stream = tl.zeros_like(low) + stream.to(tl.uint32)
    return tl.philox(seed, group.to(tl.uint32), low, high, stream)


@triton.jit
def word_to_uniform(word):
    """Return `floor(word / 2^8) 2^-24`, exact in float32 and in [0, 1)."""
    return (word >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2^-24


@triton.jit
def words_to_normals(even, odd):
    r"""Return two standard normals, by Box and Muller: `even` makes the radius, `odd` the angle."""
    # (even + 1/2) / 2^32 is never 0, and keeps full precision where it is small: that is where the
    # tail comes from.
    uniform = even.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    radius = tl.sqrt_rn(-2.0 * tl.log(uniform))
    cos, sin = _cos_sin_turns(odd)
    return radius * cos, radius * sin


@triton.jit
def _cos_sin_turns(word):
    """Return cos and sin of `2 pi int32(word) / 2^32`."""
    # An angle in turns reduces exactly in integers, so no library call with its slow path (and its
    # local memory) is needed: word = quarter 2^30 + rest, |rest| <= 2^29, an eighth of a turn.
    quarter = (word + 0x20000000) >> 30
    rest = (word - (quarter << 30)).to(tl.int32, bitcast=True)
    angle = rest.to(tl.float32) * 1.4629180792671596e-09  # 2 pi / 2^32

    # Taylor's series: on |angle| <= pi/4 the first term left out is below 2^-26 (sin) and 2^-27.
    square = angle * angle
    sin = -1.98412698e-4 + square * 2.75573192e-6
    sin = 8.33333333e-3 + square * sin
    sin = -1.66666667e-1 + square * sin
    sin = angle + angle * square * sin
    cos = 2.48015873e-5 - square * 2.75573192e-7
    cos = -1.38888889e-3 + square * cos
    cos = 4.16666667e-2 + square * cos
    cos = 1.0 - 0.5 * square + square * square * cos

    # Each quarter turn maps (cos, sin) to (-sin, cos).
    swap = (quarter & 1) != 0
    cos, sin = tl.where(swap, sin, cos), tl.where(swap, cos, sin)
    cos = tl.where(((quarter + 1) & 2) != 0, -cos, cos)
    sin = tl.where((quarter & 2) != 0, -sin, sin)
    return cos, sin


@triton.jit
def interleave(v0, v1, v2, v3):
    """Put four [..., G] tiles side by side into one [..., 4 G] tile, element 4 g + j from v_j."""
    # tl.join appends the minor dim, so the pairs joined first are those two apart.
    pairs = tl.join(tl.join(v0, v2), tl.join(v1, v3))  # [..., G, 2, 2]
    return pairs.reshape(v0.shape[:-1] + [4 * v0.shape[-1]])  # noqa: RUF005 (Triton has no stars)
