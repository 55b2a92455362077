"""The public functions `ddpm_step` and `ddim_step`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dgm_fast._core.checks import check_device, check_floating, check_shape
from dgm_fast._core.random import noise_or_seed
from dgm_fast._core.schedule import check_tables, check_target, steps_of
from dgm_fast.ops.diffusion_step import op


def ddpm_step(
    x_t: Tensor,
    prediction: Tensor,
    t: int | Tensor,
    alpha: Tensor,
    sigma: Tensor,
    target: str = "noise",
    *,
    s: int | Tensor | None = None,
    variance: str = "small",
    clip_x0: float | None = None,
    prediction_unconditional: Tensor | None = None,
    guidance: float | None = None,
    noise: Tensor | None = None,
    seed: int | Tensor | None = None,
    sample_offset: int = 0,
    stream: int = 0,
    generator: torch.Generator | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""Draw x_s from q(x_s | x_t, x0) at the x0 that a prediction stands for.

    With :math:`\alpha_{t|s} = \alpha_t / \alpha_s` and
    :math:`\sigma_{t|s}^2 = \sigma_t^2 - \alpha_{t|s}^2 \sigma_s^2`

    .. math:: x_s = \frac{\alpha_{t|s} \sigma_s^2}{\sigma_t^2} x_t
              + \frac{\alpha_s \sigma_{t|s}^2}{\sigma_t^2} \hat x_0 + \sqrt{V} z, \qquad
              V_{small} = \frac{\sigma_{t|s}^2 \sigma_s^2}{\sigma_t^2}, \quad
              V_{large} = \sigma_{t|s}^2

    and :math:`\hat x_0` is :math:`(x_t - \sigma_t \hat\epsilon) / \alpha_t`, the prediction itself
    or :math:`(\alpha_t x_t - \sigma_t \hat v) / (\alpha_t^2 + \sigma_t^2)`. A step to s = -1 gives
    :math:`\hat x_0`, without noise.

    Arguments:
        x_t: the samples at step t.
        prediction: what the network says of them.
        t: each sample's step, or one for all (an int costs no look at a tensor).
        alpha: table of signal scales, float32 (or float64).
        sigma: table of noise scales; alpha^2 + sigma^2 = 1 is not assumed.
        target: what is predicted: `"noise"`, `"velocity"` or `"x0"`.
        s: the step to go to, earlier than t; -1 is x0. Default: t - 1.
        variance: `"small"`, the posterior's for a known x0, or `"large"`, that of q(x_t | x_s).
        clip_x0: bounds x0 to [-clip_x0, clip_x0].
        prediction_unconditional: of the network without its condition, for guidance.
        guidance: with it, the scale w in unconditional + w (prediction - unconditional): 0 ignores
            the condition, 1 is no guidance. It is 1 plus the weight in Ho and Salimans' equation 6.
        noise: used for z instead of drawn numbers; a constant of x_t's shape.
        seed: 64 bits, or an int64 scalar tensor on the device. Default: drawn from `generator`,
            else from torch's default generator.
        sample_offset: global index of the first sample.
        stream: 32 bits that separate independent uses of one seed, such as a sampler's steps.
        generator: where a seed is drawn from.
        impl: `"auto"`, `"reference"`, `"cpp"` or `"triton"`.

    Shapes:
        x_t, prediction, prediction_unconditional and the result (B, *E); t and s (B,), () or int;
        alpha and sigma (T,).

    Precision:
        The result has x_t's dtype: float32, bfloat16 or float16, with float32 arithmetic; the
        predictions' may be others. A schedule's differences are taken in float64, so the tables
        alone limit how small a variance is. float64 runs on the reference.

    Gradients:
        For x_t and both predictions; exactly zero through a clipped x0. Saves the arguments and
        nothing else. Noise and schedule are constants.

    Raises:
        TypeError: an argument is of the wrong kind or dtype.
        ValueError: shapes or devices do not fit, an option is not among those above, or a step is
            outside the tables. On a GPU and under `torch.compile`, where looking at a tensor
            would cost, a sample whose step is outside is NaN instead; as is one whose s is later
            than t.
        ImplementationUnavailable: the `impl` asked for cannot run this call.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, equations 6 and 7,
        section 3.2 (variances).
        Kingma, Salimans, Poole, Ho, "Variational Diffusion Models", 2021, appendix A (for any
        alpha and sigma).
        Ho, Salimans, "Classifier-Free Diffusion Guidance", 2022, equation 6.

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> alpha, sigma = torch.tensor([0.8, 0.6]), torch.tensor([0.6, 0.8])
        >>> x_t, eps = torch.full((2, 3), 2.0), torch.ones(2, 3)
        >>> ops.ddpm_step(x_t, eps, 0, alpha, sigma)[0, 0]  # (2 - 0.6) / 0.8
        tensor(1.7500)
    """
    if variance not in ("small", "large"):
        raise ValueError(f"variance must be 'small' or 'large'; got {variance!r}")

    options = (target, 1.0, variance == "large", True, clip_x0, guidance)
    drawn = (noise, seed, sample_offset, stream, generator)
    return _step(
        impl, x_t, prediction, prediction_unconditional, t, s, alpha, sigma, options, drawn
    )


def ddim_step(
    x_t: Tensor,
    prediction: Tensor,
    t: int | Tensor,
    alpha: Tensor,
    sigma: Tensor,
    target: str = "noise",
    *,
    s: int | Tensor | None = None,
    eta: float = 0.0,
    clip_x0: float | None = None,
    recompute_noise: bool = False,
    prediction_unconditional: Tensor | None = None,
    guidance: float | None = None,
    noise: Tensor | None = None,
    seed: int | Tensor | None = None,
    sample_offset: int = 0,
    stream: int = 0,
    generator: torch.Generator | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""Move x_t to step s along the x0 and the eps that a prediction stands for.

    .. math:: x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - V} \, \hat\epsilon + \sqrt{V} z, \qquad
              V = \eta^2 \, \frac{\sigma_s^2}{\sigma_t^2}
                  \left(\sigma_t^2 - \frac{\alpha_t^2}{\alpha_s^2} \sigma_s^2\right)

    and :math:`\hat x_0, \hat\epsilon` solve
    :math:`x_t = \alpha_t \hat x_0 + \sigma_t \hat\epsilon` with the prediction. eta = 1 is
    `ddpm_step` with the small variance; eta = 0 draws no noise, and then s may be later than t
    (which encodes a sample).

    `eta`, in [0, 1], is the share of the posterior's standard deviation that is drawn afresh.
    `recompute_noise` makes eps again from the clipped x0, as `ddpm_step` does; without it eps stays
    what the prediction says (diffusers' `use_clipped_model_output` is the same choice). All else is
    as `ddpm_step` documents it.

    References:
        Song, Meng, Ermon, "Denoising Diffusion Implicit Models", 2021, equations 12 and 16.

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> alpha, sigma = torch.tensor([0.8, 0.6]), torch.tensor([0.6, 0.8])
        >>> x_t, eps = torch.full((2, 3), 2.0), torch.ones(2, 3)
        >>> ops.ddim_step(x_t, eps, 1, alpha, sigma)[0, 0]  # 0.8 * (2 - 0.8) / 0.6 + 0.6
        tensor(2.2000)
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1]; got {eta}")

    options = (target, float(eta), False, recompute_noise, clip_x0, guidance)
    drawn = (noise, seed, sample_offset, stream, generator)
    return _step(
        impl, x_t, prediction, prediction_unconditional, t, s, alpha, sigma, options, drawn
    )


def _step(
    impl: str,
    x_t: Tensor,
    prediction: Tensor,
    unconditional: Tensor | None,
    t: int | Tensor,
    s: int | Tensor | None,
    alpha: Tensor,
    sigma: Tensor,
    options: tuple[str, float, bool, bool, float | None, float | None],
    drawn: tuple[Tensor | None, int | Tensor | None, int, int, torch.Generator | None],
) -> Tensor:
    target, eta, large, recompute, clip_x0, guidance = options
    check_floating("x_t", x_t)
    if x_t.ndim == 0:
        raise ValueError(f"x_t must have shape (B, *E); got {tuple(x_t.shape)}")

    _check_prediction("prediction", prediction, x_t)
    if unconditional is not None:
        _check_prediction("prediction_unconditional", unconditional, x_t)
    if (guidance is None) != (unconditional is None):
        raise ValueError(
            f"guidance must be given with prediction_unconditional, and only then; got {guidance}"
        )

    check_target(target)
    if clip_x0 is not None and not clip_x0 > 0:
        raise ValueError(f"clip_x0 must be above 0, or None; got {clip_x0}")

    check_tables(alpha, sigma, "x_t", x_t)
    t = steps_of("t", t, 0, alpha.shape[0], "x_t", x_t)
    s = None if s is None else steps_of("s", s, -1, alpha.shape[0], "x_t", x_t)

    *given, sample_offset, stream, generator = drawn
    noise, seed = (None, None)
    if eta > 0:
        noise, seed = noise_or_seed(*given, sample_offset, stream, generator, x_t)

    clip = math.inf if clip_x0 is None else float(clip_x0)
    scale = 1.0 if guidance is None else float(guidance)
    how = (target, eta, large, recompute, clip, scale, sample_offset, stream)
    return op.run(impl, x_t, prediction, unconditional, noise, seed, t, s, alpha, sigma, *how)


def _check_prediction(name: str, prediction: Tensor, x_t: Tensor) -> None:
    check_floating(name, prediction)
    check_shape(name, prediction, x_t.shape, "(B, *E) of x_t")
    check_device(name, prediction, "x_t", x_t)
