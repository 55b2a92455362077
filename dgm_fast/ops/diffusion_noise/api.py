"""The public function `diffusion_noise`."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.random import noise_or_seed
from dgm_fast._core.schedule import check_samples, check_steps, check_tables, check_target
from dgm_fast.ops.diffusion_noise import op


def diffusion_noise(
    x0: Tensor,
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    target: str | None = "noise",
    *,
    dtype: torch.dtype | None = None,
    noise: Tensor | None = None,
    seed: int | Tensor | None = None,
    sample_offset: int = 0,
    stream: int = 0,
    generator: torch.Generator | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    r"""Add noise to clean samples, each at a step of its own, and make the training target.

    .. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad
              v = \alpha_t \epsilon - \sigma_t x_0

    with eps the normals of `philox_normal(x0.shape, seed=..., sample_offset=..., stream=...)`.
    `diffusion_loss` draws them again from the same seed, so that no target needs to be stored:
    `target=None` leaves it out.

    Arguments:
        x0: clean samples; uint8 images 0 ... 255 are read as -1 ... 1.
        t: each sample's step, int64 or int32.
        alpha: table of signal scales, float32 (or float64).
        sigma: table of noise scales; alpha^2 + sigma^2 = 1 is not assumed.
        target: `"noise"` (eps), `"velocity"` (v), `"x0"` or None.
        dtype: of the results where x0 is uint8; default `torch.get_default_dtype()`.
        noise: used for eps instead of drawn numbers; a constant of x0's shape.
        seed: 64 bits, or an int64 scalar tensor on the device. Default: drawn from `generator`,
            else from torch's default generator.
        sample_offset: global index of the first sample.
        stream: 32 bits that separate independent uses of one seed.
        generator: where a seed is drawn from.
        impl: `"auto"`, `"reference"`, `"cpp"` or `"triton"`.

    Shapes:
        x0 (B, *E), t (B,), alpha and sigma (T,). Returns x_t and the target, (B, *E) each. The
        target is None where none is asked for, and the very tensor where x0, floating-point, or
        the noise given is asked for.

    Precision:
        float32, bfloat16 and float16, with coefficients, noise and arithmetic in float32, so that
        the first steps' noise survives in a 16-bit image. float64 runs on the reference.

    Gradients:
        For a floating-point x0. Saves the arguments and nothing else; noise and schedule are
        constants.

    Raises:
        TypeError: an argument is of the wrong kind or dtype.
        ValueError: shapes or devices do not fit, or t is outside the tables. On a GPU and under
            `torch.compile`, where looking would cost, a sample whose t is outside is NaN instead.
        ImplementationUnavailable: the `impl` asked for cannot run this call.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, equation 4.
        Salimans, Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022,
        appendix D (velocity).

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> alpha, sigma = torch.tensor([1.0, 0.8]), torch.tensor([0.0, 0.6])
        >>> x0 = torch.ones(2, 3)
        >>> x_t, eps = ops.diffusion_noise(x0, torch.tensor([0, 1]), alpha, sigma, seed=0)
        >>> torch.equal(x_t[0], x0[0]), torch.allclose(x_t[1], 0.8 + 0.6 * eps[1])
        (True, True)
    """
    dtype = _check(x0, t, alpha, sigma, target, dtype)
    noise, seed = noise_or_seed(noise, seed, sample_offset, stream, generator, x0)
    where = (sample_offset, stream)

    # A target that was given needs no copy.
    given = {"x0": x0, "noise": noise}.get(target)
    given = given if given is not None and given.dtype is dtype else None
    wanted = target if target is not None and given is None else ""
    x_t, made = op.run(impl, x0, noise, seed, t, alpha, sigma, wanted, *where, dtype)
    if given is not None or target is None:
        return x_t, given

    # Noise is a constant, also where a gradient flows through x_t.
    return x_t, made.detach() if target == "noise" else made


def _check(
    x0: Tensor,
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    target: str | None,
    dtype: torch.dtype | None,
) -> torch.dtype:
    """Return the dtype of the results."""
    check_samples("x0", x0)
    if target is not None:
        check_target(target)

    check_tables(alpha, sigma, "x0", x0)
    check_steps("t", t, 0, alpha.shape[0], "x0", x0)
    default = x0.dtype if x0.is_floating_point() else torch.get_default_dtype()
    dtype = dtype or default
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be floating-point; got {dtype}")
    if x0.is_floating_point() and dtype is not x0.dtype:
        raise TypeError(f"dtype must be that of a floating-point x0, {x0.dtype}; got {dtype}")

    return dtype
