"""The public function `gaussian_rsample_kl`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dgm_fast._core.checks import (
    autocast_dtype,
    check_autocast_dtype,
    check_device,
    check_floating,
    check_shape,
)
from dgm_fast._core.random import noise_or_seed
from dgm_fast.ops.gaussian_rsample_kl import op

_FORMS = ("analytic", "monte_carlo")


def gaussian_rsample_kl(
    mean: Tensor,
    log_var: Tensor,
    prior_mean: Tensor | None = None,
    prior_log_var: Tensor | None = None,
    *,
    kl: str = "analytic",
    free_bits: float = 0,
    noise: Tensor | None = None,
    seed: int | Tensor | None = None,
    sample_offset: int = 0,
    stream: int = 0,
    generator: torch.Generator | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Draw z from a diagonal Gaussian and measure its divergence from a prior.

    .. math::
        z = \mu + \sigma \epsilon, \qquad
        \mathrm{KL} = \sum_d \tfrac12 \Big(\frac{\sigma_d^2 + (\mu_d - \mu'_d)^2}{\sigma'^2_d}
        - 1 - \log \frac{\sigma_d^2}{\sigma'^2_d}\Big)

    with :math:`\sigma = e^{\mathrm{log\_var} / 2}` and the prior :math:`N(\mu', \sigma'^2)`, by
    default N(0, I). `kl="monte_carlo"` gives :math:`\log q(z) - \log p(z)` at the drawn z instead,
    whose mean is the KL and which single samples can have below 0: what importance weighting
    needs. It is taken before z is rounded to its dtype.

    `free_bits` > 0 counts each element at no less than that many nats, and gives it no gradient
    below: :math:`\sum_d \max(\mathrm{free\_bits}, \mathrm{KL}_d)`, for each sample by itself.
    Kingma et al. (2016) average each element over the batch before they take the maximum, which
    needs every sample first and so stays with the caller.

    Noise is drawn inside the kernel and drawn again by the backward: element `e` of sample `s` is
    `philox_normal`'s for the same `seed`, `sample_offset` and `stream`.

    Arguments:
        mean: of z; dim 0 counts samples.
        log_var: logarithm of z's variance.
        prior_mean: None, together with `prior_log_var`, for N(0, I).
        prior_log_var: logarithm of the prior's variance.
        kl: `"analytic"` or `"monte_carlo"`.
        free_bits: in nats, for the analytic form.
        noise: taken as a constant instead of drawing it.
        seed: 64 bits; an int64 scalar tensor on the device stays there. Default: drawn from
            `generator`, else from torch's default generator, which `torch.manual_seed` governs.
        sample_offset: global index of the first sample.
        stream: 32 bits that separate independent uses of one seed.
        generator: where a seed is drawn from.
        impl: `"auto"`, `"reference"`, `"cpp"` or `"triton"`.

    Shapes:
        mean, log_var and noise (B, \*E), any number of event dims; each of the prior's (B, \*E),
        or (\*E) or (1, \*E) where all samples share it. Returns z (B, \*E) and kl (B,).

    Precision:
        float32, bfloat16 and float16, computed and summed in float32; z in the dtype of mean, kl
        in float32 and in nats. log_var from -30 to 20 is finite in every dtype, but for a float16
        z beyond 65504; 0 is returned exactly where the two Gaussians are equal, and no analytic kl
        is below. float64 runs on the reference. Under autocast mean, log_var and the prior are
        cast to its dtype.

    Gradients:
        For mean, log_var, prior_mean and prior_log_var, through z and kl; summed over the batch
        in a fixed order for a shared prior. Saves these, and the seed or the noise given. Second
        derivatives run on the reference.

    Raises:
        TypeError: an argument is not a floating-point tensor, or dtypes differ.
        ValueError: shapes or devices do not fit, half a prior is given, or `free_bits` does not
            go with `kl`.
        ImplementationUnavailable: the `impl` asked for cannot run this call.

    References:
        Kingma, Welling, "Auto-Encoding Variational Bayes", 2014, appendix B.
        Rezende, Mohamed, Wierstra, "Stochastic Backpropagation and Approximate Inference in Deep
        Generative Models", 2014.
        Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow", 2016,
        section C.8 (free bits).

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> z, kl = ops.gaussian_rsample_kl(torch.ones(3, 5), torch.zeros(3, 5), seed=7)
        >>> z.shape, kl.tolist()
        (torch.Size([3, 5]), [2.5, 2.5, 2.5])
    """
    prior = {"prior_mean": prior_mean, "prior_log_var": prior_log_var}
    _check(mean, log_var, prior)
    free_bits = _checked_free_bits(kl, free_bits)
    noise, seed = noise_or_seed(noise, seed, sample_offset, stream, generator, mean)

    z, divergence = op.run(
        impl,
        _rows(mean, mean),
        _rows(log_var, mean),
        _rows(prior_mean, mean),
        _rows(prior_log_var, mean),
        _noise_rows(noise, mean),
        seed,
        sample_offset,
        stream,
        kl == "monte_carlo",
        free_bits,
    )
    return z.view(mean.shape), divergence


def _rows(each: Tensor | None, mean: Tensor) -> Tensor | None:
    """Return one row a sample, or one for all, in the dtype the call computes with."""
    if each is None:
        return None

    count = each.shape[0] if each.ndim == mean.ndim else 1
    # Not -1: a reshape cannot infer it where there are no samples.
    rows = each.reshape(count, math.prod(mean.shape[1:]))
    dtype = autocast_dtype(mean.device, mean.dtype)
    return rows if rows.dtype == dtype else rows.to(dtype)


def _noise_rows(noise: Tensor | None, mean: Tensor) -> Tensor | None:
    # Noise of float32 beside bfloat16 means, such as philox_normal's, keeps its precision.
    if noise is None or noise.dtype is torch.float32:
        return None if noise is None else noise.reshape(noise.shape[0], math.prod(mean.shape[1:]))

    return _rows(noise, mean)


def _check(mean: Tensor, log_var: Tensor, prior: dict[str, Tensor | None]) -> None:
    check_floating("mean", mean)
    check_floating("log_var", log_var)
    if mean.ndim == 0:
        raise ValueError("mean must have at least one dim, the batch; got shape ()")
    check_shape("log_var", log_var, mean.shape, "that of mean")

    given = {name: value for name, value in prior.items() if value is not None}
    if len(given) == 1:
        (name,) = given
        other = "prior_log_var" if name == "prior_mean" else "prior_mean"
        raise ValueError(f"{other} must be given with {name}; got None")

    batch, event = mean.shape[:1], mean.shape[1:]
    for name, value in given.items():
        check_floating(name, value)
        if value.shape not in (mean.shape, event, (1, *event)):
            raise ValueError(
                f"{name} must have shape (B, *E) = {(*batch, *event)}, (1, *E) or (*E); "
                f"got {tuple(value.shape)}"
            )

    for name, value in {"log_var": log_var, **given}.items():
        check_device(name, value, "mean", mean)
        check_autocast_dtype(name, value, "mean", mean)


def _checked_free_bits(kl: str, free_bits: float) -> float:
    if kl not in _FORMS:
        raise ValueError(f"kl must be one of {', '.join(_FORMS)}; got {kl!r}")
    if not isinstance(free_bits, int | float):
        raise TypeError(f"free_bits must be a float; got {type(free_bits).__name__}")
    if not 0 <= free_bits < math.inf:
        raise ValueError(f"free_bits must be finite and not negative; got {free_bits}")
    if free_bits > 0 and kl != "analytic":
        raise ValueError(f"free_bits must be 0 where kl={kl!r}; got {free_bits}")

    return float(free_bits)
