"""The public function `diffusion_loss`."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.checks import check_device, check_floating, check_shape
from dgm_fast._core.random import noise_or_seed
from dgm_fast._core.schedule import (
    check_samples,
    check_steps,
    check_table,
    check_tables,
    check_target,
)
from dgm_fast.ops.diffusion_loss import op


def diffusion_loss(
    prediction: Tensor,
    x0: Tensor,
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    target: str = "noise",
    weight: Tensor | None = None,
    *,
    noise: Tensor | None = None,
    seed: int | Tensor | None = None,
    sample_offset: int = 0,
    stream: int = 0,
    generator: torch.Generator | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""Measure a prediction against the target that `diffusion_noise` made from the same seed.

    .. math:: L_b = w_{t_b} \frac{1}{|E|} \sum_{e \in E} (\hat y_{be} - y_{be})^2, \qquad
              y = \epsilon, \quad \alpha_t \epsilon - \sigma_t x_0 \quad \text{or} \quad x_0

    The mean is over the elements of a sample, so that `diffusion_loss(...).mean()` is the simple
    loss of Ho et al.; the sum that a variational bound needs is |E| times it. The target is made
    again where it is used, and never stored.

    Arguments:
        prediction: what the network says the target is.
        x0: clean samples; uint8 images 0 ... 255 are read as -1 ... 1.
        t: each sample's step, int64 or int32.
        alpha: table of signal scales, float32 (or float64).
        sigma: table of noise scales; alpha^2 + sigma^2 = 1 is not assumed.
        target: `"noise"`, `"velocity"` or `"x0"`.
        weight: table of the steps' weights; None weighs every step 1.
        noise: the eps that x_t was made with, where it was given rather than drawn.
        seed: the one x_t was made with. Nothing is drawn in its place, because another seed's
            target has nothing to do with x_t: unless the target is x0, it is this, `noise` or a
            `generator` in the state it then had.
        sample_offset: the one x_t was made with.
        stream: the one x_t was made with.
        generator: where a seed is drawn from.
        impl: `"auto"`, `"reference"`, `"cpp"` or `"triton"`.

    Shapes:
        prediction and x0 (B, *E), t (B,), alpha, sigma and weight (T,). Returns (B,).

    Precision:
        float32 for float32, bfloat16 and float16 inputs, which may differ, with noise, differences
        and sums in float32; float64 on the reference. The mean of no elements is NaN.

    Gradients:
        For prediction and a floating-point x0. Saves the arguments and nothing else: the backward
        draws the noise again. Noise, schedule and weights are constants.

    Raises:
        TypeError: an argument is of the wrong kind or dtype.
        ValueError: shapes or devices do not fit, or t is outside the tables. On a GPU and under
            `torch.compile`, where looking would cost, the loss of a sample that a step outside
            concerns is NaN instead.
        ImplementationUnavailable: the `impl` asked for cannot run this call.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, equation 14.
        Salimans, Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022,
        section 4 (targets and weights).

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> alpha, sigma = torch.tensor([1.0, 0.8]), torch.tensor([0.0, 0.6])
        >>> x0, t = torch.ones(2, 3), torch.tensor([0, 1])
        >>> x_t, eps = ops.diffusion_noise(x0, t, alpha, sigma, seed=0)
        >>> ops.diffusion_loss(eps + 2, x0, t, alpha, sigma, seed=0)
        tensor([4., 4.])
    """
    _check(prediction, x0, t, alpha, sigma, target, weight)
    if target == "x0":
        noise, seed = None, None
    elif noise is None and seed is None and generator is None:
        raise ValueError("seed must be the one that x_t was made with, or noise given; got None")
    else:
        noise, seed = noise_or_seed(noise, seed, sample_offset, stream, generator, x0)

    where = (sample_offset, stream)
    return op.run(impl, prediction, x0, noise, seed, t, alpha, sigma, weight, target, *where)


def _check(
    prediction: Tensor,
    x0: Tensor,
    t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    target: str,
    weight: Tensor | None,
) -> None:
    check_floating("prediction", prediction)
    check_samples("x0", x0)

    check_shape("prediction", prediction, x0.shape, "(B, *E) of x0")
    check_device("prediction", prediction, "x0", x0)
    check_target(target)
    check_tables(alpha, sigma, "x0", x0)
    check_steps("t", t, 0, alpha.shape[0], "x0", x0)
    if weight is not None:
        check_table("weight", weight, "x0", x0)
        check_shape("weight", weight, alpha.shape, "(T,) of alpha")
