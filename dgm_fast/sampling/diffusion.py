"""Samplers of diffusion models: the reverse process step by step, and DDIM both ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dgm_fast import ops

__all__ = ["ddim_encode", "diffusion_sample"]

Predict = Callable[[Tensor, Tensor], Tensor]


def diffusion_sample(
    predict: Predict,
    x_t: Tensor,
    times: Sequence[int],
    alpha: Tensor,
    sigma: Tensor,
    target: str = "noise",
    *,
    eta: float | None = None,
    variance: str = "small",
    clip_x0: float | None = None,
    guidance: float | None = None,
    predict_unconditional: Predict | None = None,
    seed: int | Tensor | None = None,
    sample_offset: int = 0,
    progress: Callable[[int, int], object] | None = None,
    impl: str = "auto",
) -> Tensor:
    """Go back from noise through falling times to the last estimate of the clean samples.

    The noise of the step that arrives at time s has stream s + 1; stream 0 stays free for a
    decoder. So a sample depends on the seed, its index and its network's predictions alone.

    Arguments:
        predict: maps x_t and the time (B,) int64 to the prediction of `target`.
        x_t: samples at time times[0]. Not modified.
        times: falling; the last step goes from the last of them to the clean samples.
        alpha: table of signal scales, float32.
        sigma: table of noise scales.
        target: what is predicted: `"noise"`, `"velocity"` or `"x0"`.
        eta: of `ops.ddim_step`; None takes `ops.ddpm_step`, ancestral sampling.
        variance: of `ops.ddpm_step`.
        clip_x0: bounds each estimate of the clean samples.
        guidance: of both steps, given with `predict_unconditional`.
        predict_unconditional: `predict` without its condition.
        seed: of the noise; default drawn at every step.
        sample_offset: global index of the first sample.
        progress: told the number of steps done and that of all, after each.
        impl: implementation of the steps.

    Shapes:
        x_t and the result (B, *E); alpha and sigma (T,).

    Precision:
        The dtype of x_t.

    Gradients:
        None: call it under `torch.no_grad()`.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, algorithm 2.
        Song, Meng, Ermon, "Denoising Diffusion Implicit Models", 2021, equation 12.
        Ho, Salimans, "Classifier-Free Diffusion Guidance", 2022, algorithm 2.

    Example:
        >>> import torch
        >>> from dgm_fast.sampling import diffusion_sample
        >>> alpha, sigma = torch.tensor([0.8, 0.6]), torch.tensor([0.6, 0.8])
        >>> half = lambda x, t: x / 2  # a network that takes half of everything for noise
        >>> x_T = torch.ones(1, 3)
        >>> diffusion_sample(half, x_T, [1, 0], alpha, sigma, eta=0.0)
        tensor([[0.9625, 0.9625, 0.9625]])
    """
    options = {
        "clip_x0": clip_x0,
        "guidance": guidance,
        "seed": seed,
        "sample_offset": sample_offset,
        "impl": impl,
    }
    for done, (t, s) in enumerate(pairwise([*times, -1])):
        at = torch.full(x_t.shape[:1], t, device=x_t.device)
        if predict_unconditional is not None:
            options["prediction_unconditional"] = predict_unconditional(x_t, at)

        step = x_t, predict(x_t, at), t, alpha, sigma, target
        options |= {"s": s, "stream": s + 1}
        if eta is None:
            x_t = ops.ddpm_step(*step, variance=variance, **options)
        else:
            # A clipped estimate and the noise that goes with it keep x_t = alpha x0 + sigma eps.
            x_t = ops.ddim_step(*step, eta=eta, recompute_noise=True, **options)
        if progress is not None:
            progress(done + 1, len(times))

    return x_t


def ddim_encode(
    predict: Predict,
    x: Tensor,
    times: Sequence[int],
    alpha: Tensor,
    sigma: Tensor,
    target: str = "noise",
    *,
    impl: str = "auto",
) -> Tensor:
    """Run DDIM's deterministic steps backwards, from clean samples up to their noise.

    Clean samples stand in for those at the first time, whose noise they all but lack; each step
    uses the prediction of the time it leaves, so the inverse is exact only in the limit of many.

    Arguments:
        predict: as in `diffusion_sample`.
        x: clean samples (B, *E). Not modified.
        times: rising.
        alpha: table of signal scales, float32.
        sigma: table of noise scales.
        target: what is predicted.
        impl: implementation of the steps.

    Shapes:
        Returns (B, *E), the samples at the last of `times`.

    Gradients:
        None: call it under `torch.no_grad()`.

    References:
        Song, Meng, Ermon, 2021, section 4.3 and equation 14.

    Example:
        >>> import torch
        >>> alpha, sigma = torch.tensor([0.8, 0.6]), torch.tensor([0.6, 0.8])
        >>> nothing = lambda x, t: torch.zeros_like(x)  # takes nothing for noise
        >>> ddim_encode(nothing, torch.full((1, 1), 0.8), [0, 1], alpha, sigma)
        tensor([[0.6000]])
    """
    for t, s in pairwise(times):
        at = torch.full(x.shape[:1], t, device=x.device)
        x = ops.ddim_step(x, predict(x, at), t, alpha, sigma, target, s=s, impl=impl)

    return x
