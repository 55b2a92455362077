"""Hyperparameters of a diffusion model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dgm_fast._core.schedule import TARGETS
from dgm_fast.families.diffusion.schedules import cosine_betas, linear_betas, log_snr_betas

__all__ = ["DDPMConfig"]

_LOWEST = {
    "classes": 0,
    "timesteps": 1,
    "channels": 2,
    "blocks": 1,
    "heads": 1,
    "patch": 1,
    "groups": 1,
    "fourier": 0,
}

_CHOICES: dict[str, Sequence[str]] = {
    "schedule": ("linear", "cosine", "log_snr"),
    "target": TARGETS,
    "variance": ("small", "large"),
    "loss": ("simple", "bound"),
    "times": ("stratified", "uniform"),
}


@dataclass(frozen=True)
class DDPMConfig:
    """Hyperparameters of `DDPM`.

    Attributes:
        event_shape: (H, W) or (C, H, W) of an image.
        levels: the data are integers 0 .. levels - 1, which become [-1, 1]; None: real values, best
            of mean 0 and variance 1.
        classes: of the labels that `context` holds, 0 for none.
        label_dropout: share of the labels left out in training, for guidance.
        timesteps: T.
        schedule: `linear` (Ho et al., 2020), `cosine` (Nichol and Dhariwal, 2021) or `log_snr`
            (Kingma et al., 2021), which loses least of the likelihood to few steps.
        first_log_snr: log signal-to-noise ratio of `log_snr` at the first time; None: that of noise
            which leaves grey levels 3.4 standard deviations from where they would be confused,
            2 log(3.4 (levels - 1)).
        last_log_snr: that at the last time.
        target: what the network predicts: `noise`, `velocity` or `x0`.
        variance: of a reverse step: `small`, best for data that are a point, or `large`, best for
            data that are standard normal.
        loss: `simple`, the mean squared error of the target, or `bound`, an unbiased estimate of
            the variational bound in nats.
        times: of a batch in training: `stratified` or `uniform`.
        channels: of the network's first level; the next ones are those of `UNet`.
        multipliers: see `UNet`, as below.
        blocks: residual blocks of a level in each direction.
        attention: levels that attend, counted from 0.
        heads: of the attention.
        patch: pixels a side that are folded into channels.
        dropout: inside residual blocks.
        groups: of the group normalisation.
        fourier: sines and cosines of x_t beside it, the first of them with the period of a grey
            level, each further one twice as long: they make grey levels easy to tell apart
            (Kingma et al., "Variational Diffusion Models", 2021, section 5.3).
    """

    event_shape: tuple[int, ...] = (28, 28)
    levels: int | None = 256
    classes: int = 0
    label_dropout: float = 0.1
    timesteps: int = 1000
    schedule: Literal["linear", "cosine", "log_snr"] = "linear"
    first_log_snr: float | None = None
    last_log_snr: float = -5.0
    target: Literal["noise", "velocity", "x0"] = "noise"
    variance: Literal["small", "large"] = "small"
    loss: Literal["simple", "bound"] = "simple"
    times: Literal["stratified", "uniform"] = "stratified"
    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = ()
    heads: int = 1
    patch: int = 1
    dropout: float = 0.0
    groups: int = 8
    fourier: int = 0

    def __post_init__(self) -> None:
        # Lists come from JSON, integers of other kinds from NumPy.
        for name in ("event_shape", "multipliers", "attention"):
            object.__setattr__(self, name, tuple(map(int, getattr(self, name))))

        for name, low in _LOWEST.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}; got {getattr(self, name)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}"
                )
        if not self.event_shape or min(self.event_shape) < 1:
            raise ValueError(f"event_shape must hold positive sizes; got {self.event_shape}")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers must hold positive integers; got {self.multipliers}")
        if self.levels is not None and self.levels < 2:
            raise ValueError(f"levels must be at least 2, or None; got {self.levels}")
        if self.schedule == "log_snr":
            self._check_log_snr()
        for name in ("label_dropout", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1); got {getattr(self, name)}")
        places = range(len(self.multipliers))
        if any(level not in places for level in self.attention):
            raise ValueError(
                f"attention must hold levels in 0 .. {places[-1]}; got {self.attention}"
            )

    def _check_log_snr(self) -> None:
        if self.levels is None and self.first_log_snr is None:
            raise ValueError("first_log_snr must be given for real values; got None")
        if not self._first_log_snr > self.last_log_snr:
            raise ValueError(
                f"first_log_snr must be above last_log_snr; "
                f"got {self._first_log_snr} and {self.last_log_snr}"
            )

    @property
    def _first_log_snr(self) -> float:
        given = self.first_log_snr
        return 2 * math.log(3.4 * (self.levels - 1)) if given is None else given

    def betas(self) -> Tensor:
        """Return the variances of the schedule, (T,), float64."""
        if self.schedule == "log_snr":
            return log_snr_betas(self.timesteps, self._first_log_snr, self.last_log_snr)
        return {"linear": linear_betas, "cosine": cosine_betas}[self.schedule](self.timesteps)
