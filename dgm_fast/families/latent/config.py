"""Hyperparameters of a VAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dgm_fast.families.activations import ACTIVATIONS

__all__ = ["VAEConfig"]

_CHOICES = {
    "output": ("bernoulli", "categorical", "logistic", "gaussian"),
    "network": ("mlp", "conv"),
    "prior": ("gaussian", "flow"),
    "posterior": ("gaussian", "flow"),
    "activation": tuple(ACTIVATIONS),
}

_LOWEST = {
    "levels": 2,
    "latent_features": 1,
    "flow_steps": 1,
    "classes": 0,
    "beta": 0,
    "beta_warmup_steps": 0,
    "free_bits": 0,
    "training_samples": 1,
    "evaluation_samples": 1,
}


@dataclass(frozen=True)
class VAEConfig:
    """Hyperparameters of `VAE`.

    Attributes:
        event_shape: shape of one x; (H, W) or (C, H, W) for `network="conv"`.
        output: distribution of a value given z. The decoder puts out P = 1 logit (bernoulli), a
            logit for each level (categorical), or mean and log_scale (logistic, gaussian) for each.
        levels: of `categorical` and `logistic`, whose values are 0..levels-1.
        latent_features: L.
        network: `mlp`, or `conv`, which halves the image once for each of `channels` and goes on
            as an MLP.
        hidden: widths of the encoder's dense layers; the decoder has them in reverse. `()` makes
            both linear.
        channels: of the encoder's convolutions; the decoder has them in reverse.
        activation: `relu`, `elu`, `gelu`, `silu`, `softplus`, `sigmoid` or `tanh`.
        dropout: probability of dropping a dense hidden unit in training.
        prior: `gaussian`, N(0, I), or `flow`, what couplings map to N(0, I).
        posterior: `gaussian`, or `flow`, a Gaussian bent by couplings that see the encoder's
            features.
        flow_steps: couplings of each flow; two let every dimension act on every other.
        flow_hidden: widths of the hidden layers of a coupling's network.
        classes: number of labels that x is conditioned on, 0 for none.
        beta: weight of the KL in the training loss.
        beta_warmup_steps: steps over which that weight grows from 0.
        free_bits: nats of each latent dimension that the training loss charges in any case:
            max(free_bits, mean over the batch of its KL), so below it there is no pressure.
        training_samples: importance samples K of the training loss; 1 is the ELBO.
        evaluation_samples: importance samples of `log_prob`.
    """

    event_shape: tuple[int, ...] = (784,)
    output: Literal["bernoulli", "categorical", "logistic", "gaussian"] = "bernoulli"
    levels: int = 256
    latent_features: int = 50
    network: Literal["mlp", "conv"] = "mlp"
    hidden: tuple[int, ...] = (500, 500)
    channels: tuple[int, ...] = (32, 64)
    activation: str = "relu"
    dropout: float = 0.0
    prior: Literal["gaussian", "flow"] = "gaussian"
    posterior: Literal["gaussian", "flow"] = "gaussian"
    flow_steps: int = 4
    flow_hidden: tuple[int, ...] = (128,)
    classes: int = 0
    beta: float = 1.0
    beta_warmup_steps: int = 0
    free_bits: float = 0.0
    training_samples: int = 1
    evaluation_samples: int = 500

    def __post_init__(self) -> None:
        # Lists come from JSON, integers of other kinds from NumPy.
        for name in ("event_shape", "hidden", "channels", "flow_hidden"):
            object.__setattr__(self, name, tuple(map(int, getattr(self, name))))
            if any(size < 1 for size in getattr(self, name)):
                raise ValueError(f"{name} must hold positive sizes; got {getattr(self, name)}")
        for name, low in _LOWEST.items():
            if not getattr(self, name) >= low:
                raise ValueError(f"{name} must be at least {low}; got {getattr(self, name)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}"
                )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1); got {self.dropout}")
        if not self.event_shape:
            raise ValueError("event_shape must have at least one dim; got ()")
        if self.network == "conv":
            self._check_image()
        self._check_latent()

    def _check_image(self) -> None:
        image, stages = self.event_shape, len(self.channels)
        if len(image) not in (2, 3) or stages == 0:
            raise ValueError(
                f"event_shape must be (H, W) or (C, H, W), with channels, for network='conv'; got "
                f"{image} and channels={self.channels}"
            )
        if min(image[-2:]) >> stages == 0:
            raise ValueError(
                f"channels must be few enough to halve {image} so often; got {self.channels}"
            )

    def _check_latent(self) -> None:
        flows = [name for name in ("prior", "posterior") if getattr(self, name) == "flow"]
        if flows and self.latent_features < 2:
            raise ValueError(
                f"latent_features must be at least 2 for a flow, whose steps take halves; got "
                f"{self.latent_features}"
            )
        if self.free_bits > 0 and (flows or self.training_samples > 1):
            raise ValueError(
                f"free_bits must be 0 without a KL of each dimension: with a flow or importance "
                f"weights; got {self.free_bits}"
            )
