"""Hyperparameters of MADE, and the degrees and conditionals that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dgm_fast.distributions import (
    BernoulliConditional,
    CategoricalConditional,
    DiscretizedLogisticConditional,
    GaussianConditional,
    GaussianMixtureConditional,
)
from dgm_fast.families.activations import ACTIVATIONS
from dgm_fast.families.autoregressive.degrees import (
    Degrees,
    even_degrees,
    random_degrees,
    random_places,
    residual_skips,
)

__all__ = ["CONDITIONALS", "MADEConfig", "degrees_of"]


@dataclass(frozen=True)
class MADEConfig:
    """Hyperparameters of `MADE`.

    Attributes:
        features: D.
        hidden: width of each hidden layer; `()` makes a logistic autoregression.
        output: distribution of a feature. The network puts out P = 1 logit (bernoulli), K logits
            (categorical), mean and log_scale (logistic, gaussian), or K logits, K means and K
            log_scales (gaussian_mixture) for each.
        categories: K of `categorical`, and the number of levels of `logistic`.
        components: K of `gaussian_mixture`.
        context_features: width of the context, 0 for none.
        order: `natural`, `random`, or the place of every feature: `order=(2, 0, 1)` draws
            feature 1 first, then 2, then 0.
        num_masks: sets of masks; more than one needs something random to tell them apart.
        random_connectivity: draw the degrees of hidden units, anew for each set of masks.
        direct: connect the inputs to the outputs directly as well.
        residual: add the sums before each two hidden layers after the first to those after them;
            layers at odd places are then of one width.
        activation: `relu`, `elu`, `gelu`, `silu`, `softplus`, `sigmoid` or `tanh`.
        dropout: probability of dropping a hidden unit in training.
        seed: of orders and connectivities; weights follow `torch.manual_seed`.
    """

    features: int
    hidden: tuple[int, ...] = (500,)
    output: Literal["bernoulli", "categorical", "logistic", "gaussian", "gaussian_mixture"] = (
        "bernoulli"
    )
    categories: int = 256
    components: int = 10
    context_features: int = 0
    order: Literal["natural", "random"] | tuple[int, ...] = "natural"
    num_masks: int = 1
    random_connectivity: bool = False
    direct: bool = False
    residual: bool = False
    activation: str = "relu"
    dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        # Lists come from JSON, integers of other kinds from NumPy.
        object.__setattr__(self, "hidden", tuple(map(int, self.hidden)))
        if not isinstance(self.order, str):
            object.__setattr__(self, "order", tuple(map(int, self.order)))

        for name, low in _LOWEST.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}; got {getattr(self, name)}")
        for name, choices in (("output", CONDITIONALS), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}"
                )
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden must hold positive widths; got {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1); got {self.dropout}")

        self._check_masks()

    def _check_masks(self) -> None:
        if self.order not in ("natural", "random") and (
            isinstance(self.order, str) or sorted(self.order) != list(range(self.features))
        ):
            raise ValueError(
                f"order must be 'natural', 'random' or a permutation of 0..{self.features - 1}; "
                f"got {self.order!r}"
            )
        residual_skips(self.hidden, self.residual)
        if self.residual and self.random_connectivity:
            raise ValueError(
                "residual needs random_connectivity=False: each end of a block has the same degrees"
            )
        for name in ("random_connectivity", "direct"):
            if getattr(self, name) and not self.hidden:
                raise ValueError(f"{name} needs hidden units; got hidden=()")
        if self.num_masks > 1 and self.order != "random" and not self.random_connectivity:
            raise ValueError(
                f"num_masks={self.num_masks} needs order='random' or random_connectivity=True: "
                f"otherwise all masks are the same"
            )


_LOWEST = {"features": 1, "categories": 2, "components": 1, "context_features": 0, "num_masks": 1}

CONDITIONALS = {
    "bernoulli": lambda config: BernoulliConditional(),
    "categorical": lambda config: CategoricalConditional(config.categories),
    "logistic": lambda config: DiscretizedLogisticConditional(config.categories),
    "gaussian": lambda config: GaussianConditional(),
    "gaussian_mixture": lambda config: GaussianMixtureConditional(config.components),
}


def degrees_of(config: MADEConfig, mask_set: int) -> Degrees:
    """Lay out one set of masks; depends on the configuration alone."""
    D = config.features
    # Degree 0 knows no feature: worth having when there is a context to know, or no other degree.
    low = 0 if config.context_features > 0 or D == 1 else 1
    high = max(low, D - 1)

    hidden: list[Tensor] = []
    for layer, H in enumerate(config.hidden):
        if not config.random_connectivity:
            hidden.append(even_degrees(H, low, high))
            continue

        below = int(hidden[-1].min()) if hidden else low
        degrees = random_degrees(H, below, high, seed=config.seed, draw=mask_set, layer=layer)
        # With several sets a unit must change its degree from one to the next, so those stay
        # unsorted; the mask structure finds their order.
        hidden.append(degrees.sort().values if config.num_masks == 1 else degrees)

    if config.order == "random":
        places = random_places(D, seed=config.seed, draw=mask_set)
    elif config.order == "natural":
        places = torch.arange(1, D + 1)
    else:
        places = torch.tensor(config.order) + 1

    return Degrees(places, tuple(hidden))
