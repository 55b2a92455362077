"""The public function `logistic_mixture_nll`."""

from __future__ import annotations

import torch
from torch import Tensor

from dgm_fast._core.checks import check_device, check_floating, may_look_at
from dgm_fast.ops.logistic_mixture_nll import op
from dgm_fast.ops.logistic_mixture_nll.reference import component_count, parameters_of_channel


def logistic_mixture_nll(x: Tensor, params: Tensor, *, impl: str = "auto") -> Tensor:
    r"""Compute the negative log-likelihood of images under a discretized mixture of logistics.

    .. math:: -\sum_{\text{pixels}} \log \sum_k \pi_k \prod_c
              \left[\sigma\!\left(\frac{x_c - m_{ck} + 1/255}{s_{ck}}\right)
              - \sigma\!\left(\frac{x_c - m_{ck} - 1/255}{s_{ck}}\right)\right]

    where :math:`\pi` is the softmax of the logits, the lower sigmoid is 0 at x = -1 and the upper
    1 at x = 1, so that the 256 values of a grey pixel have a probability of 1 together; the
    logarithm of a scale is at least -7. Of colours, the means depend on the channels before:

    .. math:: m_2 = \mu_2 + \tanh(\alpha_1) x_1, \qquad
              m_3 = \mu_3 + \tanh(\alpha_2) x_1 + \tanh(\alpha_3) x_2

    Arguments:
        x: images of 256 values, -1 ... 1 in steps of 2/255: `x / 127.5 - 1` of bytes. They are
            data: no gradient reaches them.
        params: in PixelCNN++'s order: K mixture logits; then for each channel K means, K log-scales
            and, of colours, K coefficients alpha.
        impl: `"auto"`, `"reference"`, `"cpp"` or `"triton"`.

    Shapes:
        x (B, 1, *) and params (B, K (1 + 2), *), or x (B, 3, *) and params (B, K (1 + 3 * 3), *).
        Returns (B,).

    Units:
        Nats, a sample; divided by :math:`\ln 2` and the number of values, bits/dim.

    Precision:
        params in float32, bfloat16 or float16, with arithmetic and result in float32. A bin's
        probability is never a difference of sigmoids, so that its logarithm is finite however far
        the means are and however wide the scales. float64 stays float64 and runs on the reference.

    Gradients:
        Of params; saves the arguments and recomputes the rest in one pass. Second derivatives run
        on the reference.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: shapes or devices do not fit, x requires grad or, where looking costs nothing
            (on a CPU, outside `torch.compile`), has a value outside of [-1, 1].
        ImplementationUnavailable: the `impl` asked for cannot run this call.

    References:
        Salimans, Karpathy, Chen, Kingma, "PixelCNN++: Improving the PixelCNN with Discretized
        Logistic Mixture Likelihood and Other Modifications", 2017, equations 1 to 3.

    Example:
        >>> import math, torch
        >>> from dgm_fast import ops
        >>> values = torch.arange(256)[:, None, None, None] / 127.5 - 1
        >>> params = torch.randn(1, 3, 1, 1).expand(256, -1, -1, -1)
        >>> p = (-ops.logistic_mixture_nll(values, params)).exp()
        >>> math.isclose(p.sum(), 1, rel_tol=1e-5)
        True
    """
    _check(x, params)
    return op.run(impl, x, params)


def _check(x: Tensor, params: Tensor) -> None:
    check_floating("x", x)
    check_floating("params", params)
    check_device("params", params, "x", x)
    if x.ndim < 2 or x.shape[1] not in (1, 3):
        raise ValueError(f"x must have shape (B, 1 or 3, *); got {tuple(x.shape)}")
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError("x must not require grad: no gradient reaches data; got True")

    each = f"(1 + {x.shape[1]} * {parameters_of_channel(x.shape[1])})"
    fits = params.ndim == x.ndim and (x.shape[0], *x.shape[2:]) == (
        params.shape[0],
        *params.shape[2:],
    )
    if not fits or component_count(x.shape[1], params.shape[1]) is None:
        raise ValueError(
            f"params must have shape (B, K {each}, *) for x {tuple(x.shape)}; "
            f"got {tuple(params.shape)}"
        )

    if not may_look_at(x):
        return

    least, most = (float(each) for each in torch.aminmax(x))
    if least < -1 or most > 1:
        wrong = least if least < -1 else most
        raise ValueError(f"x must be in [-1, 1]; got {wrong}")
