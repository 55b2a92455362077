"""The public function `gaussian_mixture_log_prob`."""

from __future__ import annotations

from torch import Tensor

from dgm_fast._core.checks import check_device, check_floating, check_shape
from dgm_fast.ops.gaussian_mixture_log_prob import op


def gaussian_mixture_log_prob(
    z: Tensor,
    means: Tensor,
    log_vars: Tensor,
    log_weights: Tensor,
    *,
    impl: str = "auto",
) -> Tensor:
    r"""Compute the log-density of a mixture of diagonal Gaussians.

    .. math:: \log p(z) = \log \sum_k e^{\text{log\_weights}_k} \prod_d
              \mathcal{N}(z_d; \mu_{kd}, e^{\text{log\_vars}_{kd}})

    No tensor of rows by components by dims is made, in the backward either, and none of rows by
    components is kept for it.

    Arguments:
        z: the points.
        means: of the components.
        log_vars: logarithms of the variances; one row for all components, or one column for all
            dims, will do.
        log_weights: logarithms of the weights, taken as they are: `log_softmax` makes any logits
            add to a density of 1; -inf leaves a component out.
        impl: `"auto"`, `"reference"`, `"cpp"` or `"triton"`.

    Shapes:
        z (B, D), means (K, D), log_vars (K or 1, D or 1), log_weights (K,); returns (B,), in nats.

    Precision:
        float32, bfloat16 and float16; the arithmetic and the result are float32. Distances are
        sums of squared differences, never differences of squares, and so as exact far from 0 and at
        small variances. float64 stays float64 and runs on the reference.

    Gradients:
        For every argument; saves the arguments and recomputes the rest. Second derivatives run on
        the reference.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: shapes or devices do not fit, or there is no component.
        ImplementationUnavailable: the `impl` asked for cannot run this call.

    References:
        Tomczak, Welling, "VAE with a VampPrior", 2018, equation 9: a prior of this form.

    Example:
        >>> import torch
        >>> from dgm_fast import ops
        >>> means = torch.tensor([[-1.0], [1.0]])
        >>> halves = torch.full((2,), 0.5).log()
        >>> log_p = ops.gaussian_mixture_log_prob(torch.zeros(3, 1), means, means * 0, halves)
        >>> round(log_p[0].item(), 4)  # both components at one standard deviation
        -1.4189
    """
    _check(z, means, log_vars, log_weights)
    return op.run(impl, z, means, log_vars, log_weights)


def _check(z: Tensor, means: Tensor, log_vars: Tensor, log_weights: Tensor) -> None:
    named = {"z": z, "means": means, "log_vars": log_vars, "log_weights": log_weights}
    for name, value in named.items():
        check_floating(name, value)
        check_device(name, value, "z", z)

    if z.ndim != 2:
        raise ValueError(f"z must have shape (B, D); got {tuple(z.shape)}")
    if means.ndim != 2 or means.shape[0] == 0 or means.shape[1] != z.shape[1]:
        raise ValueError(
            f"means must have shape (K, D = {z.shape[1]}), K at least 1; got {tuple(means.shape)}"
        )

    components, dims = means.shape
    fits = log_vars.ndim == 2 and log_vars.shape[0] in (1, components)
    if not fits or log_vars.shape[1] not in (1, dims):
        raise ValueError(
            f"log_vars must have shape (K or 1, D or 1) for means {tuple(means.shape)}; "
            f"got {tuple(log_vars.shape)}"
        )
    check_shape("log_weights", log_weights, (components,), "(K,)")
