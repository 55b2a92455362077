"""`logistic_mixture_nll` in plain PyTorch: the oracle, the fallback and the baseline."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast._core.rows import as_rows

# Half the width of a bin: x = -1, -1 + 2/255, ..., 1.
HALF_BIN = 1 / 255
MIN_LOG_SCALE = -7.0
# Beyond it x is the first or the last of the values, whose bins reach to infinity.
EDGE = 0.999


def logistic_mixture_nll(x: Tensor, params: Tensor) -> Tensor:
    """Sum over the pixels what a mixture says of each, over (B, C, K, *) tensors."""
    dtype = torch.promote_types(params.dtype, torch.float32)
    x, params = x.to(dtype)[:, :, None], params.to(dtype)
    logits, means, log_scales = split_params(x, params)

    log_bins = log_bins_of(x, means, log_scales)
    log_p = torch.logsumexp(logits.log_softmax(1) + log_bins.sum(1), dim=1)
    return -as_rows(log_p).sum(1)


def log_bins_of(x: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """Return the logarithms of the bins' probabilities, (B, C, K, *), for x (B, C, 1, *)."""
    inverse = (-log_scales).exp()
    centred = x - means
    above, below = inverse * (centred + HALF_BIN), inverse * (centred - HALF_BIN)
    first, last = F.logsigmoid(above), F.logsigmoid(-below)
    # With a - b = d, sigmoid(a) - sigmoid(b) = (1 - e^-d) sigmoid(a) sigmoid(-b): no difference of
    # sigmoids that could vanish. ln (1 - e^-d) = ln d + _log_share(d).
    inside = math.log(2 * HALF_BIN) - log_scales + _log_share(2 * HALF_BIN * inverse) + first + last
    return torch.where(x < -EDGE, first, torch.where(x > EDGE, last, inside))


def component_count(channels: int, parameters: int) -> int | None:
    """Return K for that many channels of x and of params, or None where it is no whole number."""
    each = 1 + channels * parameters_of_channel(channels)
    return parameters // each if parameters > 0 and parameters % each == 0 else None


def parameters_of_channel(channels: int) -> int:
    """Return how many parameters a component has for a channel: grey needs no coefficient."""
    return 2 if channels == 1 else 3


def split_params(
    x: Tensor, params: Tensor, min_log_scale: float = MIN_LOG_SCALE
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (B, K, *), means and log-scales (B, C, K, *) for x (B, C, 1, *)."""
    channels, parameters = x.shape[1], parameters_of_channel(x.shape[1])
    components = params.shape[1] // (1 + channels * parameters)
    logits, rest = params[:, :components], params[:, components:]
    rest = rest.unflatten(1, (channels, parameters, components))

    means, log_scales = rest[:, :, 0], rest[:, :, 1].clamp(min=min_log_scale)
    if channels == 3:
        red, green, _ = x.unbind(1)  # each (B, 1, *)
        a, b, c = rest[:, :, 2].tanh().unbind(1)
        means = means + torch.stack((torch.zeros_like(a), a * red, b * red + c * green), dim=1)

    return logits, means, log_scales


def _log_share(d: Tensor) -> Tensor:
    """Return ln ((1 - e^-d) / d), by its series where d is small."""
    small = d < 1e-3
    safe = torch.where(small, 1.0, d)
    return torch.where(small, d * (d / 24 - 0.5), (-torch.expm1(-safe) / safe).log())
