"""What a model of signals must beat: a histogram of samples, and linear prediction."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast.training.data import SignalDataset, make_generator

__all__ = ["histogram_of_samples_nats", "linear_prediction_nats", "log_cells"]

_DECAYS = (0.7, 0.8, 0.9, 0.95)
_STEPS = 150
# Of the training data, so many samples fit the two numbers of the scale.
_SAMPLES = 20_000


def histogram_of_samples_nats(dataset: SignalDataset) -> float:
    r"""Compute the test NLL of independent samples with one histogram of levels, in nats a segment.

    $$p(x_t = k) = \frac{1 + \#\{n, s : x_{ns} = k\}}{L + N T}$$
    """
    train, test = (dataset.quantizer.encode(x) for x in (dataset.fixed_train(), dataset.test))
    counts = 1 + torch.bincount(train.flatten(), minlength=dataset.levels).double()
    log_p = (counts / counts.sum()).log()
    return -log_p[test].sum(1).mean().item()


def linear_prediction_nats(dataset: SignalDataset, order: int = 16) -> float:
    r"""Compute the test NLL of linear prediction with a logistic residual, in nats a segment.

    $$p(x_t = k) = \sigma\!\left(\frac{b_{k+1} - m_t}{s_t}\right)
        - \sigma\!\left(\frac{b_k - m_t}{s_t}\right), \quad
      m_t = \sum_{i=1}^{p} a_i x_{t-i}, \quad
      s_t = \gamma \, (1 - \lambda) \sum_{i \ge 1} \lambda^{i - 1} |x_{t-i} - m_{t-i}| + \epsilon$$

    for the borders b of the levels, x as its levels have it, and zeros before a segment. The
    coefficients a are those of least squares on the training data. The scale follows the residuals
    before it, as adaptive lossless coders have it, which saves half a bit a sample of speech over
    the best fixed one; its three numbers maximise the likelihood of training samples. All that it
    takes are past levels and what was fitted to the training data: it is a code.

    References:
        Makhoul, Linear Prediction: A Tutorial Review, 1975, section II.
        Robinson, SHORTEN: Simple lossless and near-lossless waveform compression, 1994.
    """
    quantizer = dataset.quantizer
    levels = [quantizer.encode(x) for x in (dataset.fixed_train(), dataset.test)]
    train, test = (quantizer.decode(each, torch.float64) for each in levels)
    coefficients = _least_squares(train, order)
    residuals = [x - _past(x, order) @ coefficients for x in (train, test)]

    borders = F.pad(quantizer.borders(), (1, 1))
    # Far enough to be infinite, and of no NaN for a gradient.
    borders[0], borders[-1] = -1e6, 1e6
    # Where a level's cell begins and ends, seen from its prediction.
    cells = [
        (borders[k] - x + e, borders[k + 1] - x + e)
        for k, x, e in zip(levels, (train, test), residuals, strict=True)
    ]
    fits = [_fit_scale(_running_mean(residuals[0], decay), *cells[0]) for decay in _DECAYS]
    (gamma, epsilon, _), decay = min(zip(fits, _DECAYS, strict=True), key=lambda fit: fit[0][2])
    scale = gamma * _running_mean(residuals[1], decay) + epsilon
    return -log_cells(*cells[1], scale).sum(1).mean().item()


def log_cells(low: Tensor, high: Tensor, scale: Tensor) -> Tensor:
    r"""Return :math:`\ln [\sigma(h / s) - \sigma(l / s)]`, finite however far the cell lies."""
    # With h - l = d, the difference is (1 - e^-d) sigmoid(h) sigmoid(-l).
    inside = torch.log(-torch.expm1((low - high) / scale))
    return inside + F.logsigmoid(high / scale) + F.logsigmoid(-low / scale)


def _past(x: Tensor, order: int) -> Tensor:
    """Return the `order` samples before each, the latest last, (N, T, order)."""
    return F.pad(x, (order, 0))[:, :-1].unfold(1, order, 1)


def _least_squares(x: Tensor, order: int) -> Tensor:
    past = _past(x, order).flatten(0, 1)
    gram = past.T @ past
    # So little that it matters only where a silent signal leaves the equations singular.
    gram.diagonal().add_(1e-9 * gram.diagonal().mean() + 1e-12)
    return torch.linalg.solve(gram, past.T @ x.flatten())


def _running_mean(residuals: Tensor, decay: float) -> Tensor:
    mean, means = residuals.new_zeros(len(residuals)), []
    for size in residuals.abs().unbind(1):
        means.append(mean)
        mean = decay * mean + (1 - decay) * size
    return torch.stack(means, dim=1)


def _fit_scale(mean: Tensor, low: Tensor, high: Tensor) -> tuple[float, float, float]:
    """Return gamma, epsilon and the mean NLL of the training samples that they minimise."""
    place = torch.randint(mean.numel(), (_SAMPLES,), generator=make_generator(0))
    mean, low, high = (each.flatten()[place] for each in (mean, low, high))
    start = [math.log(0.5), math.log(0.1 * float(mean.mean()) + 1e-6)]
    logs = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logs], lr=0.05)
    with torch.enable_grad():
        for _ in range(_STEPS):
            gamma, epsilon = logs.exp()
            loss = -log_cells(low, high, gamma * mean + epsilon).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    gamma, epsilon = logs.detach().exp().tolist()
    with torch.no_grad():
        loss = -log_cells(low, high, gamma * mean + epsilon).mean()
    return gamma, epsilon, loss.item()
