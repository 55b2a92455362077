"""Philox4x32-10 uniforms and normals in plain PyTorch: the oracle of every kernel's noise.

Here rather than with `ops.philox`, because the reference of every op that makes noise draws it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Multipliers and Weyl increments of Salmon et al. 2011, table 2 and section 3.3.
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF

# In half ulps of float32, relative to the radius: the angle's conversion, constant and product, at
# most pi of each, 9.4; sine or cosine to 2 ulps, 4; log to 2 ulps, halved by the root, 2; the root
# and the last product, 2.
NORMAL_ROUNDINGS = 18


def philox4x32(counter: list[Tensor], key: list[Tensor], rounds: int = 10) -> list[Tensor]:
    """Run the Philox4x32 bijection on four counter words under two key words.

    Shapes:
        Words are int64 tensors that hold unsigned 32-bit values; they broadcast.

    References:
        Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key

    for _ in range(rounds):
        high0, low0 = _multiply(_M0, c0)
        high1, low1 = _multiply(_M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW

    return [c0, c1, c2, c3]


def _multiply(constant: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """Return the high and low 32 bits of a 32 x 32 bit product."""
    # The full product overflows int64, so the word is multiplied by halves of 16 bits.
    low = constant * (word & 0xFFFF)
    high = constant * (word >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox_words(
    seed: Tensor, samples: int, elements: int, sample_offset: int, stream: int
) -> Tensor:
    """Return the words of each element's group, (samples, groups, 4), as int64 in [0, 2^32)."""
    device = seed.device
    group = torch.arange((elements + 3) // 4, dtype=torch.int64, device=device)[None, :]
    sample = sample_offset + torch.arange(samples, dtype=torch.int64, device=device)[:, None]

    stream_word = torch.full((1, 1), stream & _LOW, dtype=torch.int64, device=device)
    counter = [group, sample & _LOW, (sample >> 32) & _LOW, stream_word]
    key = [seed & _LOW, (seed >> 32) & _LOW]
    return torch.stack(torch.broadcast_tensors(*philox4x32(counter, key)), dim=-1)


def philox(
    seed: Tensor,
    samples: int,
    elements: int,
    sample_offset: int,
    stream: int,
    normal: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Compute (samples, elements) uniforms or normals; float64 keeps the arithmetic in float64."""
    work = torch.float64 if dtype is torch.float64 else torch.float32
    words = philox_words(seed, samples, elements, sample_offset, stream)
    values = _box_muller(words, work) if normal else (words >> 8).to(work) * 2.0**-24
    return values.flatten(1)[:, :elements].to(dtype)


def _box_muller(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn pairs of words into pairs of normals: the even word a radius, the odd one an angle."""
    # (w + 1/2) / 2^32 is never 0, and in float32 keeps full precision where it is small: that is
    # where the tail comes from, so normals reach 6.7.
    uniform = words[..., 0::2].to(dtype) * 2.0**-32 + 2.0**-33
    radius = torch.sqrt(-2.0 * torch.log(uniform))

    # Read as signed, a word is an angle in [-1/2, 1/2) turns, symmetric about 0.
    signed = words[..., 1::2] - ((words[..., 1::2] >> 31) << 32)
    angle = signed.to(dtype) * (2.0 * math.pi * 2.0**-32)
    return torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1).flatten(-2)


# Inductor inlines the ten rounds into each other, which doubles the expression at every one: a
# compiled graph calls the reference as one operator instead.
@torch.library.custom_op("dgm_fast::philox_forward_reference", mutates_args=())
def opaque_philox(
    seed: Tensor,
    samples: int,
    elements: int,
    sample_offset: int,
    stream: int,
    normal: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Compute `philox` as one operator of a graph."""
    return philox(seed, samples, elements, sample_offset, stream, normal, dtype)


@opaque_philox.register_fake
def _fake(
    seed: Tensor,
    samples: int,
    elements: int,
    sample_offset: int,
    stream: int,
    normal: bool,
    dtype: torch.dtype,
) -> Tensor:
    return seed.new_empty(samples, elements, dtype=dtype)


def normals(
    seed: Tensor, shape: torch.Size, sample_offset: int, stream: int, dtype: torch.dtype
) -> Tensor:
    """Return the normals of samples of `shape`, for the references of ops that make noise."""
    draw = opaque_philox if torch.compiler.is_compiling() else philox
    drawn = draw(seed, shape[0], math.prod(shape[1:]), sample_offset, stream, True, dtype)
    return drawn.view(shape)


def normals_magnitude(
    seed: Tensor, shape: torch.Size, sample_offset: int, stream: int, dtype: torch.dtype
) -> Tensor:
    """Return what the NORMAL_ROUNDINGS of each of `normals` are relative to, for error budgets.

    The angle's move a normal by a share of its radius r, however small its cosine is. The two of u
    in r = sqrt(-2 ln u) move it by at most 4 of them over r, which counts near u = 1.
    """
    elements = math.prod(shape[1:])
    words = philox_words(seed, shape[0], elements, sample_offset, stream)
    radius = (-2 * ((words[..., 0::2].to(dtype) + 0.5) * 2.0**-32).log()).sqrt()
    magnitude = (radius + 4 / NORMAL_ROUNDINGS / radius).repeat_interleave(2, dim=-1)
    return magnitude.flatten(1)[:, :elements].reshape(shape)
