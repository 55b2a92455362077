"""The public functions `philox_normal` and `philox_uniform`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dgm_fast._core.random import as_seed, check_stream, draw_seed
from dgm_fast.ops.philox import op


def philox_normal(
    shape: Sequence[int],
    *,
    seed: int | Tensor | None = None,
    sample_offset: int = 0,
    stream: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""Draw standard normals that depend only on (seed, stream, sample, element).

    Element `e` of sample `s` comes from the Philox4x32-10 words `w` of counter
    `(e // 4, sample_offset + s, stream)` under key `seed`, by Box and Muller's transform of the
    pairs (w0, w1) and (w2, w3):

    .. math:: \sqrt{-2 \ln u}\,(\cos 2\pi v, \sin 2\pi v), \quad
              u = (w_0 + \tfrac12) 2^{-32}, \quad v = \mathrm{int32}(w_1) 2^{-32}

    So a batch split over ranks, each with its `sample_offset`, is the batch drawn whole, and a
    CPU and a GPU draw the same noise up to the last bits of log, sin and cos.

    Arguments:
        shape: dim 0 counts samples, the other dims the elements of one.
        seed: 64 bits; an int64 scalar tensor on the device stays there. Default: drawn from
            `generator`, else from torch's default generator, which `torch.manual_seed` governs.
        sample_offset: global index of the first sample.
        stream: 32 bits that separate independent uses of one seed.
        dtype: default `torch.get_default_dtype()`.
        device: default the seed's, else the current default device.
        generator: where a seed is drawn from.
        impl: `"auto"`, `"reference"`, `"cpp"`, `"triton"` or `"cuda"`.

    Shapes:
        Returns `shape`.

    Precision:
        float32, then rounded to bfloat16 or float16; float64 on the reference. Absolute values
        reach 6.7 and no further.

    Gradients:
        None: the result is a constant.

    Raises:
        ValueError: `shape` has no dims or a negative one, or an index is out of range.
        TypeError: `seed` or `dtype` is of the wrong kind.
        ImplementationUnavailable: the `impl` asked for cannot run this call.

    References:
        Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
        Box, Muller, "A note on the generation of random normal deviates", 1958.

    Example:
        >>> from dgm_fast import ops
        >>> whole = ops.philox_normal((4, 10), seed=7)
        >>> half = ops.philox_normal((2, 10), seed=7, sample_offset=2)
        >>> bool((whole[2:] == half).all())
        True
    """
    where = (sample_offset, stream)
    return _draw(shape, True, seed, where, dtype, device, generator, impl)


def philox_uniform(
    shape: Sequence[int],
    *,
    seed: int | Tensor | None = None,
    sample_offset: int = 0,
    stream: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""Draw uniforms in [0, 1) that depend only on (seed, stream, sample, element).

    .. math:: u_{4g + j} = \lfloor w_j / 2^8 \rfloor \, 2^{-24}

    with `w` the words that `philox_normal` describes; its arguments and errors are the same.

    Precision:
        Multiples of 2^-24, exact in float32, equal on every implementation to the last bit.
        Rounding to bfloat16 or float16 can give 1.

    Example:
        >>> from dgm_fast import ops
        >>> u = ops.philox_uniform((1000, 8), seed=0)
        >>> bool((u >= 0).all() and (u < 1).all())
        True
    """
    where = (sample_offset, stream)
    return _draw(shape, False, seed, where, dtype, device, generator, impl)


def _draw(
    shape: Sequence[int],
    normal: bool,
    seed: int | Tensor | None,
    where: tuple[int, int],
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    generator: torch.Generator | None,
    impl: str,
) -> Tensor:
    shape = tuple(shape)
    dtype = dtype or torch.get_default_dtype()
    _check(shape, where, dtype)

    if device is None:
        # torch.get_default_device() breaks a compiled graph; an empty tensor's device does not.
        device = seed.device if isinstance(seed, Tensor) else torch.empty(()).device
    device = torch.device(device)
    key = draw_seed(device, generator) if seed is None else as_seed(seed, device)

    elements = math.prod(shape[1:])
    return op.run(impl, key, shape[0], elements, *where, normal, dtype).view(shape)


def _check(shape: tuple[int, ...], where: tuple[int, int], dtype: torch.dtype) -> None:
    if len(shape) == 0 or any(size < 0 for size in shape):
        raise ValueError(f"shape must have at least one dim and none negative; got {shape}")

    check_stream(*where)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be floating-point; got {dtype}")
    if math.prod(shape[1:]) >= 2**34:
        raise ValueError(f"shape must have fewer than 2^34 elements a sample; got {shape}")
