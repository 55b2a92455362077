"""VAE: variational autoencoder (Kingma and Welling, 2014; Rezende, Mohamed and Wierstra, 2014).

A latent z ~ p(z) is decoded to the parameters of every value of x, independent given z; an encoder
gives a Gaussian q(z | x) near the posterior. Training maximises the evidence lower bound

    ELBO = E_q log p(x | z) - KL(q(z | x) || p(z)) <= log p(x)

through reparametrized samples z = mean + exp(log_var / 2) noise, drawn and priced by one fused op.

Deviations from the paper, each an option that is off by default:
- `training_samples=K` maximises the tighter bound of K importance weights (Burda, Grosse and
  Salakhutdinov, 2016) with the plain reparametrized gradient, whose signal for the encoder fades
  as K grows; the doubly reparametrized gradient (Tucker et al., 2019) is not here.
- `beta` weighs the KL (Higgins et al., 2017) and `beta_warmup_steps` lets it grow from 0.
- `free_bits` charges nothing for the first nats of each latent dimension (Kingma et al., 2016).
- `prior="flow"` and `posterior="flow"` bend the Gaussians by couplings (Rezende and Mohamed, 2015;
  Chen et al., 2017, with autoregressive steps).
- `classes` conditions encoder and decoder on a label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast import ops
from dgm_fast._core.random import draw_seed
from dgm_fast.distributions import (
    BernoulliConditional,
    CategoricalConditional,
    Conditional,
    DiscretizedLogisticConditional,
    GaussianConditional,
)
from dgm_fast.families.checks import as_shape, check_event, check_labels, context_rows
from dgm_fast.families.latent.config import VAEConfig
from dgm_fast.families.latent.diagnostics import kl_per_dimension, latent_diagnostics
from dgm_fast.families.latent.flows import LatentFlows
from dgm_fast.families.latent.networks import join, make_networks
from dgm_fast.families.pretrained import Pretrained

__all__ = ["VAE", "Posterior", "VAEOutput"]

_CONDITIONALS = {
    "bernoulli": lambda config: BernoulliConditional(),
    "categorical": lambda config: CategoricalConditional(config.levels),
    "logistic": lambda config: DiscretizedLogisticConditional(config.levels),
    "gaussian": lambda config: GaussianConditional(),
}

# The noise of the posterior has stream 0, that of values the streams from 0 on of another seed, the
# prior's this one.
_PRIOR_STREAM = 15

# Importance samples are decoded so many parameters at a time: 32 MiB of float32.
_DECODED_PARAMETERS = 2**23


class Posterior(NamedTuple):
    """The Gaussian q(z | x): mean (B, L) and log_var (B, L)."""

    mean: Tensor
    log_var: Tensor


@dataclass(frozen=True)
class VAEOutput:
    """What one pass of a VAE gives, all of it in nats.

    Attributes:
        loss: the training objective, a scalar: what beta, free bits and importance
            weights make of the two parts below.
        reconstruction: -log p(x | z), (B,), the mean over the samples of z.
        kl: KL(q(z | x) || p(z)), (B,), whatever beta and free bits: in closed form, to which
            flows add their part at the sample; with importance samples, the mean over them of
            log q(z | x) - log p(z).
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor

    @property
    def elbo(self) -> Tensor:
        """Evidence lower bound, (B,)."""
        return -self.reconstruction - self.kl


class VAE(Pretrained, nn.Module):
    r"""A variational autoencoder.

    .. math:: \log p(x) \ge \log \frac{1}{K} \sum_{k=1}^{K}
              \frac{p(x \mid z_k)\,p(z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x)

    `log_prob` is this bound with `evaluation_samples` samples, `validation_nats` the ELBO with one.

    Arguments:
        config: hyperparameters.
        impl: implementation of the ops.
        device: of the parameters; default torch's.
        dtype: of the parameters; default torch's.

    Shapes:
        x (B, *event_shape); context (B,) labels where `classes` is positive, else None.

    Precision:
        Likelihoods are in nats and at least float32, also under autocast; importance weights are
        summed in float64.

    Raises:
        ValueError: shapes do not fit; on the CPU also when a value is outside the support.

    References:
        Kingma, Welling, "Auto-Encoding Variational Bayes", ICLR 2014, eq. 3 and 10.
        Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, eq. 8.

    Example:
        >>> import torch
        >>> from dgm_fast.families import VAE, VAEConfig
        >>> model = VAE(VAEConfig(event_shape=(4, 4), latent_features=2, hidden=(8,)))
        >>> x = model.sample(10)
        >>> x.shape, model.log_prob(x, samples=5).shape
        (torch.Size([10, 4, 4]), torch.Size([10]))
    """

    family: ClassVar[str] = "vae"
    config_class: ClassVar[type] = VAEConfig

    def __init__(
        self,
        config: VAEConfig,
        *,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.impl = impl
        self.event_shape = config.event_shape
        self.conditional: Conditional = _CONDITIONALS[config.output](config)
        levels = {"bernoulli": 2, "gaussian": None}
        self.levels: int | None = levels.get(config.output, config.levels)
        self.classes = config.classes

        self.encoder, self.decoder = make_networks(config, self.conditional.parameters_per_feature)
        self.posterior = nn.Linear(self.encoder.features, 2 * config.latent_features)
        self.flows = LatentFlows(config, self.encoder.features, impl)
        # A tensor, because torch.compile would take a number for a constant.
        self.register_buffer("_beta", torch.tensor(float(config.beta)), persistent=False)
        self.to(device=device, dtype=dtype)

    def training_step_begin(self, step: int) -> None:
        """Set the weight of the KL for this training step."""
        if self.config.beta_warmup_steps > 0:
            grown = min(1.0, step / self.config.beta_warmup_steps)
            self._beta.fill_(self.config.beta * grown)

    def forward(self, x: Tensor, context: Tensor | None = None) -> VAEOutput:
        """Return the training objective and its parts.

        In training mode beta is that of the step, in evaluation mode its final value.
        """
        encoded = self._encode(x, context)
        K = self.config.training_samples
        seed = draw_seed(x.device)
        terms = self._draw(encoded, x, K, seed, "analytic" if K == 1 else "monte_carlo")

        beta = self._beta if self.training else self.config.beta
        if K == 1:
            charged = self._charged_kl(encoded.posterior, terms.kl)
            loss = beta * charged - terms.log_likelihood.mean()
        else:
            log_weight = terms.log_likelihood - beta * terms.kl  # (K, B)
            loss = math.log(K) - log_weight.logsumexp(0).mean()

        return VAEOutput(loss, -terms.log_likelihood.mean(0), terms.kl.mean(0))

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the training objective, a scalar in nats."""
        return self(x, context).loss

    def elbo(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        samples: int = 1,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Estimate the evidence lower bound by the mean over `samples` of z, (B,), in nats.

        The KL is the closed form; beta and free bits play no part.
        """
        encoded = self._encode(x, context)
        key = draw_seed(x.device, generator) if seed is None else seed
        terms = self._draw(encoded, x, _at_least_one(samples), key, "analytic")
        return (terms.log_likelihood - terms.kl).mean(0)

    def importance_weighted_bound(
        self,
        x: Tensor,
        samples: int,
        context: Tensor | None = None,
        *,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""Estimate log p(x) from below with `samples` importance weights, (B,), in nats.

        The sum of the weights is kept as a logarithm, in float64, and grows a chunk of samples at a
        time: no weight overflows, and memory does not depend on `samples` unless gradients are
        recorded. The noise of a sample does not depend on the chunks.
        """
        encoded = self._encode(x, context)
        key = draw_seed(x.device, generator) if seed is None else seed
        parameters = x.numel() * self.conditional.parameters_per_feature
        chunk = max(1, _DECODED_PARAMETERS // max(1, parameters))

        total = None
        for first in range(0, _at_least_one(samples), chunk):
            count = min(chunk, samples - first)
            terms = self._draw(encoded, x, count, key, "monte_carlo", first)
            part = (terms.log_likelihood - terms.kl).double().logsumexp(0)
            total = part if total is None else torch.logaddexp(total, part)

        return (total - math.log(samples)).to(terms.kl.dtype)

    def log_prob(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        samples: int | None = None,
        seed: int | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the importance-weighted bound on log p(x), (B,), in nats.

        Its expectation never exceeds log p(x) and grows with `samples`, which defaults to the
        configuration's `evaluation_samples`.
        """
        samples = self.config.evaluation_samples if samples is None else samples
        return self.importance_weighted_bound(x, samples, context, seed=seed, generator=generator)

    def validation_nats(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return -ELBO of one sample, (B,)."""
        return -self.elbo(x, context)

    def diagnostics(self, x: Tensor, context: Tensor | None = None) -> dict[str, float]:
        """Return what tells whether the latent is used: see `latent_diagnostics`."""
        return latent_diagnostics(self, x, context).summary()

    def encode(self, x: Tensor, context: Tensor | None = None) -> Posterior:
        """Return the Gaussian q(z | x), which a flow posterior bends further."""
        return self._encode(x, context).posterior

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the parameters (B, D, P) of every value given z (B, L)."""
        return self.decoder(join(z, self._one_hot(context, len(z))))

    def reconstruct(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the expected x given the mean of the posterior's Gaussian, (B, *event_shape)."""
        encoded = self._encode(x, context)
        z = self.flows.bend(encoded.posterior.mean, encoded.features)
        parameters = self.decoder(join(z, encoded.label))
        return self.conditional.mean(parameters).unflatten(1, self.event_shape)

    @torch.no_grad()
    def sample(
        self,
        shape: int | Sequence[int],
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw z from the prior, then x from p(x | z).

        Arguments:
            shape: leading dims of the result; an int counts as one dim.
            context: labels, broadcast to `shape`.
            generator: on the model's device; default torch's own.

        Shapes:
            Returns (*shape, *event_shape), dtype and device of the parameters.
        """
        shape = as_shape(shape)
        n, L, D = math.prod(shape), self.config.latent_features, math.prod(self.event_shape)
        weight = self.posterior.weight
        labels = context_rows(context, shape, labels=True)

        seed = draw_seed(weight.device, generator)
        z = ops.philox_normal((n, L), seed=seed, stream=_PRIOR_STREAM, dtype=weight.dtype)
        z = self.flows.draw(z)
        noise = self.conditional.draw_noise(n, D, seed, weight.dtype)
        x = self.conditional.pick(self.decode(z, labels), noise)
        return x.view(*shape, *self.event_shape)

    def _encode(self, x: Tensor, context: Tensor | None) -> _Encoded:
        check_event("x", x, self.event_shape)
        self.conditional.check_values(x)
        label = self._one_hot(context, len(x))
        values = self.conditional.encode(x.to(self.posterior.weight.dtype))
        features = self.encoder(values, label)
        mean, log_var = self.posterior(features).chunk(2, dim=1)
        return _Encoded(Posterior(mean, log_var), features, label)

    def _one_hot(self, context: Tensor | None, batch: int) -> Tensor | None:
        if (context is None) != (self.classes == 0):
            got = "None" if context is None else f"shape {tuple(context.shape)}"
            raise ValueError(f"context must be labels of {self.classes} classes; got {got}")
        if context is None:
            return None
        check_labels(context, self.classes, batch)
        return F.one_hot(context, self.classes).to(self.posterior.weight.dtype)

    def _draw(
        self,
        encoded: _Encoded,
        x: Tensor,
        samples: int,
        seed: int | Tensor,
        kl: Literal["analytic", "monte_carlo"],
        first: int = 0,
    ) -> _Terms:
        """Draw importance samples `first`, ... of z, each with its two terms of the bound."""
        B = len(x)
        mean, log_var = (_rows(part, samples) for part in encoded.posterior)
        z, kl_nats = ops.gaussian_rsample_kl(
            mean, log_var, kl=kl, seed=seed, sample_offset=first * B, impl=self.impl
        )
        # Only a flow posterior looks at the features, which are wide to repeat.
        features = encoded.features
        features = features if self.flows.posterior is None else _rows(features, samples)
        z, kl_nats = self.flows(z, kl_nats, features)

        label = None if encoded.label is None else _rows(encoded.label, samples)
        parameters = self.decoder(join(z, label)).unflatten(0, (samples, B))  # (K, B, D, P)
        log_likelihood = self.conditional.log_prob(parameters, x.flatten(1))
        return _Terms(log_likelihood, kl_nats.view(samples, B))

    def _charged_kl(self, posterior: Posterior, kl: Tensor) -> Tensor:
        """Return the KL that the loss charges, a scalar."""
        if self.config.free_bits == 0:
            return kl.mean()

        per_dimension = kl_per_dimension(*posterior).mean(0)  # (L,)
        return per_dimension.clamp(min=self.config.free_bits).sum()

    def extra_repr(self) -> str:
        return str(self.config)


class _Encoded(NamedTuple):
    """What the encoder makes of x: its Gaussian, the features before it, and the label's code."""

    posterior: Posterior
    features: Tensor
    label: Tensor | None


class _Terms(NamedTuple):
    """log p(x | z) and the KL, or log q(z | x) - log p(z), of K samples: both (K, B)."""

    log_likelihood: Tensor
    kl: Tensor


def _rows(part: Tensor, samples: int) -> Tensor:
    """Repeat (B, L) to (samples * B, L); one sample is not copied."""
    return part.expand(samples, *part.shape).flatten(0, 1)


def _at_least_one(samples: int) -> int:
    if samples < 1:
        raise ValueError(f"samples must be at least 1; got {samples}")
    return samples
