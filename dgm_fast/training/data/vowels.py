"""Synthesised vowels: a glottal source through formants, embedded data that need no file."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["VOWELS", "synthesise_vowels"]

VOWELS: dict[str, tuple[int, int, int]] = {
    "i": (270, 2290, 3010),
    "ae": (660, 1720, 2410),
    "a": (730, 1090, 2440),
    "u": (300, 870, 2240),
    "er": (490, 1350, 1690),
}
"""Mean formant frequencies of men, in Hz, by Peterson and Barney."""

_BANDWIDTHS_HZ = (60, 90, 150)
# Shares of a glottal period in which the folds open and close.
_OPENING, _CLOSING = 0.4, 0.16


def synthesise_vowels(
    formants_hz: Tensor, length: int, generator: torch.Generator, sample_rate_hz: int = 8000
) -> Tensor:
    r"""Synthesise signals of vowels, each with a voice of its own.

    A train of glottal pulses, of a pitch of 90 to 220 Hz that drifts and trembles, is
    differentiated, which stands for the lips' radiation, and passes three resonators in a row:

    .. math:: y_t = (1 - b - c) x_t + b y_{t-1} + c y_{t-2}, \quad
              b = 2 e^{-\pi w / f_s} \cos(2 \pi f / f_s), \quad c = -e^{-2 \pi w / f_s}

    for a formant f of bandwidth w. Formants vary by 8 % from voice to voice, peaks lie between 0.1
    and 0.8, and breath is a noise of up to 2 % of the peak.

    Shapes:
        formants_hz (N, 3); returns (N, length), float32, in (-1, 1).

    References:
        Peterson and Barney, Control Methods Used in a Study of the Vowels, 1952, table II.
        Rosenberg, Effect of Glottal Pulse Shape on the Quality of Natural Vowels, 1971, shape C.
        Klatt, Software for a Cascade/Parallel Formant Synthesizer, 1980, equations 1 and 2.

    Example:
        >>> from dgm_fast.training.data import make_generator
        >>> formants_hz = torch.tensor([VOWELS["a"], VOWELS["i"]])
        >>> synthesise_vowels(formants_hz, 100, make_generator(0)).shape
        torch.Size([2, 100])
    """

    def uniform(low: float, high: float) -> Tensor:
        draw = torch.rand(len(formants_hz), 1, generator=generator, dtype=torch.float64)
        return low + (high - low) * draw

    # Beginnings are left out, in which the resonators swell.
    warm_up = sample_rate_hz // 20
    t = torch.arange(warm_up + length + 1, dtype=torch.float64) / sample_rate_hz
    pitch = uniform(math.log(90), math.log(220)).exp()
    tremble = 0.02 * torch.sin(2 * math.pi * (uniform(4, 6) * t + uniform(0, 1)))
    phase = (pitch * (1 + uniform(-0.3, 0.3) * t + tremble)).cumsum(1) / sample_rate_hz

    x = torch.diff(_glottal_flow((phase + uniform(0, 1)) % 1), dim=1)
    voice = uniform(0.92, 1.08)
    for frequency, bandwidth in zip(formants_hz.unbind(1), _BANDWIDTHS_HZ, strict=True):
        x = _resonate(x, frequency[:, None] * voice, bandwidth, sample_rate_hz)

    x = x[:, warm_up:] / x[:, warm_up:].abs().amax(1, keepdim=True)
    breath = torch.rand(x.shape, generator=generator, dtype=torch.float64) * 2 - 1
    peak = uniform(math.log(0.1), math.log(0.8)).exp()
    return (peak * (x + uniform(0.005, 0.02) * breath)).float()


def _glottal_flow(phase: Tensor) -> Tensor:
    """Return the flow through the folds at phases 0 ... 1 of their period."""
    opening = 0.5 * (1 - torch.cos(math.pi * phase / _OPENING))
    closing = torch.cos(0.5 * math.pi * (phase - _OPENING) / _CLOSING)
    flow = torch.where(phase < _OPENING, opening, closing)
    return torch.where(phase < _OPENING + _CLOSING, flow, 0)


def _resonate(x: Tensor, frequency: Tensor, bandwidth: float, sample_rate_hz: int) -> Tensor:
    radius = math.exp(-math.pi * bandwidth / sample_rate_hz)
    b = 2 * radius * torch.cos(2 * math.pi * frequency / sample_rate_hz).squeeze(1)
    c = -(radius**2)
    outputs, before, two_before = [], x.new_zeros(len(x)), x.new_zeros(len(x))
    for value in ((1 - b - c)[:, None] * x).unbind(1):
        before, two_before = value + b * before + c * two_before, before
        outputs.append(before)
    return torch.stack(outputs, dim=1)
