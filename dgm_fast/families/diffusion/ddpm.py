"""DDPM: Denoising Diffusion Probabilistic Models (Ho, Jain, Abbeel, 2020).

A fixed process turns data into noise in T steps, x_t = alpha_t x_0 + sigma_t eps. Each reverse
step is a Gaussian whose mean follows from an estimate of x_0, which one network, told the time,
predicts as noise, velocity or x_0 itself. The variational bound is then a sum of T squared errors
in closed form; the paper trains on their unweighted mean, which makes better pictures, or on the
bound itself, which makes better likelihoods. `loss` chooses.

Deviations from the paper:
- The times of a batch are spread evenly over 0 .. T - 1 from a random start (Kingma et al., 2021),
  each still uniform by itself; it lowers the variance. `times="uniform"` draws them independently.
- `sample` draws the last step from the decoder, as the model that `log_prob` bounds does; the
  paper shows its mean. The difference is below what a grey level can show.
- Besides the linear schedule a cosine one and one linear in the log signal-to-noise ratio, DDIM's
  samplers and encoder, classes with classifier-free guidance, real-valued data with a Gaussian
  decoder.
- No average of the weights in here: the training loop's `ema_decay` keeps one (the paper's 0.9999).

Times count from 0 for the least noise; the papers' t is one more, and their x_0 the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dgm_fast import ops
from dgm_fast._core.random import draw_seed
from dgm_fast._core.schedule import per_sample
from dgm_fast.families import checks
from dgm_fast.families.diffusion.bound import BoundTerms, decoder_nats, term_nats
from dgm_fast.families.diffusion.config import DDPMConfig
from dgm_fast.families.diffusion.parametrization import convert
from dgm_fast.families.diffusion.schedules import Schedule, draw_times, times_visited
from dgm_fast.families.diffusion.unet import make_unet
from dgm_fast.families.pretrained import Pretrained
from dgm_fast.sampling import ddim_encode, diffusion_sample

__all__ = ["DDPM"]

# Streams of one seed in training, where noise has 0. In sampling the decoder has 0, the steps those
# up to T - 1, and x_T has T.
_TIME_STREAM, _LABEL_STREAM = 1, 2

# Samples and times at once where the whole bound is computed: enough to fill the machine.
_ROWS = 512


class DDPM(Pretrained, nn.Module):
    r"""A denoising diffusion model: a network, a schedule and the bound that joins them.

    .. math:: -\log p(x_0) \le \underbrace{-\log p(x_0 \mid x_1)}_{L_0}
              + \sum_{t=2}^{T} \underbrace{\mathrm{KL}\left(q(x_{t-1} \mid x_t, x_0) \,\|\,
              p(x_{t-1} \mid x_t)\right)}_{L_{t-1}}
              + \underbrace{\mathrm{KL}(q(x_T \mid x_0) \,\|\, \mathcal{N}(0, I))}_{L_T}

    in expectation over the noise. `log_prob` is minus one draw of the right side, so its mean is a
    lower bound of the mean log-likelihood.

    Arguments:
        config: hyperparameters.
        network: maps x_t (B, *E) float, t (B,) int64 and label (B,) int64 or None (with `classes`,
            where label `classes` means that none is given) to a prediction (B, *E); default a
            `UNet` as the configuration says, which is what `from_pretrained` makes.
        impl: implementation of the ops; the state_dict does not depend on it.
        device: of the parameters; default torch's.
        dtype: of the parameters; default torch's.

    Shapes:
        x (B, *event_shape), context (B,) int64 labels.

    Precision:
        Noise, losses and terms are float32, float64 for float64 x, whatever the network computes
        in. Likelihoods are in nats of the data as given.

    Raises:
        ValueError: shapes do not fit; on the CPU also when a value or label is outside its range.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020.
        Nichol, Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML 2021.
        Kingma, Salimans, Poole, Ho, "Variational Diffusion Models", NeurIPS 2021.

    Example:
        >>> import torch
        >>> from dgm_fast.families import DDPM, DDPMConfig
        >>> config = DDPMConfig((8, 8), levels=17, timesteps=20, channels=8, multipliers=(1,))
        >>> model = DDPM(config).eval()
        >>> x = model.sample(3)
        >>> x.shape, model.log_prob(x).shape
        (torch.Size([3, 8, 8]), torch.Size([3]))
    """

    family: ClassVar[str] = "ddpm"
    config_class: ClassVar[type] = DDPMConfig

    def __init__(
        self,
        config: DDPMConfig,
        *,
        network: nn.Module | None = None,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.impl = config, impl
        self.event_shape, self.levels = config.event_shape, config.levels
        self.classes = config.classes
        self.network = (make_unet(config) if network is None else network).to(device, dtype)

        device = torch.get_default_device() if device is None else torch.device(device)
        with torch.device("cpu"):
            schedule = Schedule(config.betas(), config.variance, config.target)
        self.schedule = schedule.to(device)

    @property
    def features(self) -> int:
        """Number of values of one sample, D."""
        return math.prod(self.event_shape)

    def forward(self, x_t: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the prediction (B, *E) from x_t (B, *E), in units of the network, at t (B,)."""
        return self.network(x_t, t, self._labels(context, len(x_t)))

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        r"""Return the training loss of a batch, a scalar.

        `simple`: the mean over samples and values of the squared error at one time each, without
        a unit. `bound`: in nats, T times the term at that time (L_0 at the first) plus L_T, whose
        expectation over time and noise is the bound of `log_prob`.

        References:
            Ho, Jain, Abbeel, 2020, equations 14 and 5.
        """
        x0 = self._scaled(x)
        B, T = len(x0), self.config.timesteps
        seed = draw_seed(x0.device)
        t = draw_times(B, T, self.config.times, seed, _TIME_STREAM)
        label = self._labels(context, B)
        if label is not None and self.training:
            u = ops.philox_uniform((B, 1), seed=seed, stream=_LABEL_STREAM)[:, 0]
            label = torch.where(u < self.config.label_dropout, self.classes, label)

        tables, impl = self._tables, self.impl
        x_t, _ = ops.diffusion_noise(x0, t, *tables[:2], None, seed=seed, impl=impl)
        prediction = self.network(x_t, t, label)
        if self.config.loss == "simple":
            return ops.diffusion_loss(prediction, x0, t, *tables, seed=seed, impl=impl).mean()

        weight = self.schedule.target_weight
        error = ops.diffusion_loss(prediction, x0, t, *tables, weight, seed=seed, impl=impl)
        term = self.features * (error + self.schedule.kl_constant[t])
        if self.levels is not None:
            mean = self._estimate(x_t, t, prediction)
            # Elsewhere the decoder is asked about x0 itself, so that its gradients stay finite.
            mean = torch.where(per_sample(t, x0, t.dtype) == 0, mean, x0)
            term = torch.where(t == 0, decoder_nats(self.schedule, x0, mean, self.levels), term)

        return (T * term + self.schedule.prior_kl(x0)).mean()

    @torch.no_grad()
    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return minus the variational bound, (B,), in nats, from one draw of noise at every time.

        Costs T passes of the network a sample; `validation_nats` estimates the same with two. No
        gradients: `loss` is what trains.
        """
        return -self.bound_terms(x, context).total_nats

    @torch.no_grad()
    def bound_terms(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> BoundTerms:
        """Return the terms of the variational bound at all T times, each at one draw of noise.

        The estimate of x_0 is clipped to [-1, 1] where the data have levels, as `sample` does.

        Arguments:
            x: (B, *event_shape).
            context: labels (B,); without them a class-conditional model is unconditional.
            generator: of the noise, on the model's device; default torch's own.
        """
        x0, label = self._scaled(x), self._labels(context, len(x))
        B, T = len(x0), self.config.timesteps
        seed = draw_seed(x0.device, generator)

        chunks, step = [], max(1, _ROWS // max(1, B))
        for begin in range(0, T, step):
            times = torch.arange(begin, min(begin + step, T), device=x0.device)
            rows = x0.repeat(len(times), *[1] * (x0.ndim - 1))
            labels = None if label is None else label.repeat(len(times))
            terms_at = self._term_nats(rows, times.repeat_interleave(B), labels, seed, begin * B)
            chunks.append(terms_at.view(len(times), B))

        terms = torch.cat(chunks)  # (T, B)
        return BoundTerms(terms[0], terms[1:].T, self.schedule.prior_kl(x0), self.features)

    @torch.no_grad()
    def validation_nats(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return an unbiased estimate of the bound of each sample, (B,), in nats.

        L_0 and L_T at one draw of noise, and T - 1 times the term of one time a sample, the times
        of a batch being spread over all: two passes of the network.
        """
        l_0, l_t, l_T = self._estimated_terms(x, context)
        return l_0 + l_t + l_T

    def diagnostics(self, x: Tensor, context: Tensor | None = None) -> dict[str, float]:
        """Estimate the parts of the mean bound in bits a value, as `validation_nats` does."""
        bits = self.features * math.log(2)
        names = ("L_0_bpd", "L_1_to_T-1_bpd", "L_T_bpd")
        parts = self._estimated_terms(x, context)
        return {
            name: part.double().mean().item() / bits
            for name, part in zip(names, parts, strict=True)
        }

    @torch.no_grad()
    def sample(
        self,
        shape: int | Sequence[int],
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        sampler: Literal["ddpm", "ddim"] = "ddpm",
        steps: int | None = None,
        eta: float = 0.0,
        guidance: float = 1.0,
        noise: Tensor | None = None,
        sample_offset: int = 0,
        progress: Callable[[int, int], object] | None = None,
    ) -> Tensor:
        r"""Draw samples, by the model's own reverse process or by DDIM.

        The noise of a sample depends on the seed, its index and the step alone: a sample is the
        same in a batch of any size.

        Arguments:
            shape: leading dims of the result; an int counts as one dim.
            context: labels, broadcast to `shape`; without them a class-conditional model samples
                unconditionally.
            generator: on the model's device; default torch's own.
            sampler: `ddpm`, ancestral sampling, or `ddim`.
            steps: number of times visited, spread evenly; default all T.
            eta: noise of `ddim`: 0 draws none but x_T, 1 that of `ddpm` with small variances.
            guidance: w in :math:`(1 - w) \hat y(x_t) + w \hat y(x_t, c)`; 1 leaves the prediction
                alone, more exaggerates the class at the cost of a second pass of the network.
            noise: x_T, (*shape, *event_shape); default drawn.
            sample_offset: global index of the first sample.
            progress: told the number of steps done and that of all, after each.

        Shapes:
            Returns (*shape, *event_shape): integers 0 .. levels - 1 as floats, or real values.

        References:
            Ho, Jain, Abbeel, 2020, algorithm 2; Song, Meng, Ermon, "Denoising Diffusion Implicit
            Models", 2021, equation 12; Ho, Salimans, "Classifier-Free Diffusion Guidance", 2022.
        """
        if sampler not in ("ddpm", "ddim"):
            raise ValueError(f"sampler must be 'ddpm' or 'ddim'; got {sampler!r}")
        if guidance != 1 and (context is None or not self.classes):
            raise ValueError(f"guidance must be 1 without labels to follow; got {guidance}")

        shape, event = checks.as_shape(shape), self.event_shape
        if noise is not None and tuple(noise.shape) != (*shape, *event):
            expected = f"(*shape, *event_shape) = {(*shape, *event)}"
            raise ValueError(f"noise must have shape {expected}; got {tuple(noise.shape)}")
        n, device = math.prod(shape), self.schedule.alpha.device
        label = self._labels(checks.context_rows(context, shape, labels=True), n)
        free = torch.full_like(label, self.classes) if guidance != 1 else None
        ancestral = sampler == "ddpm"
        seed = draw_seed(device, generator)

        def draw(stream: int) -> Tensor:
            where = {"sample_offset": sample_offset, "stream": stream, "impl": self.impl}
            return ops.philox_normal((n, *event), seed=seed, dtype=torch.float32, **where)

        x = diffusion_sample(
            lambda x, t: self.network(x, t, label),
            draw(self.config.timesteps) if noise is None else noise.reshape(n, *event),
            times_visited(self.config.timesteps, steps),
            *self._tables,
            eta=None if ancestral else eta,
            variance=self.config.variance,
            clip_x0=self._clip,
            guidance=None if free is None else guidance,
            predict_unconditional=None if free is None else lambda x, t: self.network(x, t, free),
            seed=seed,
            sample_offset=sample_offset,
            progress=progress,
            impl=self.impl,
        )
        if ancestral:
            x = x + self.schedule.decoder_variance.sqrt().to(x.dtype) * draw(0).to(x.dtype)

        return self._unscaled(x).view(*shape, *event)

    @torch.no_grad()
    def encode(
        self, x: Tensor, context: Tensor | None = None, *, steps: int | None = None
    ) -> Tensor:
        """Run DDIM's deterministic steps backwards, from data to the x_T that gives them.

        `sample(..., sampler="ddim", noise=encode(x))` returns x, up to the error of taking each
        prediction one step late, which falls with the number of steps.

        Shapes:
            x (B, *event_shape); returns the same, in units of the network: standard normal if the
            model fits the data.

        References:
            Song, Meng, Ermon, 2021, section 4.3.
        """
        label = self._labels(context, len(x))
        return ddim_encode(
            lambda x, t: self.network(x, t, label),
            self._scaled(x),
            times_visited(self.config.timesteps, steps)[::-1],
            *self._tables,
            impl=self.impl,
        )

    @property
    def _tables(self) -> tuple[Tensor, Tensor, str]:
        return self.schedule.alpha, self.schedule.sigma, self.config.target

    @property
    def _clip(self) -> float | None:
        return None if self.levels is None else 1.0

    def _estimated_terms(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return L_0, an estimate of the sum of the terms between, and L_T, (B,) each."""
        x0, label = self._scaled(x), self._labels(context, len(x))
        B, T = len(x0), self.config.timesteps
        seed = draw_seed(x0.device)

        first = torch.zeros(B, dtype=torch.int64, device=x0.device)
        l_0 = self._term_nats(x0, first, label, seed, 0)
        l_t = torch.zeros_like(l_0)
        if T > 1:
            t = 1 + draw_times(B, T - 1, "stratified", seed, _TIME_STREAM)
            l_t = (T - 1) * self._term_nats(x0, t, label, seed, B)

        return l_0, l_t, self.schedule.prior_kl(x0)

    def _term_nats(
        self, x0: Tensor, t: Tensor, label: Tensor | None, seed: Tensor, sample_offset: int
    ) -> Tensor:
        """Return the term of the bound at each sample's time, (B,), at one draw of noise."""
        alpha, sigma, _ = self._tables
        where = {"seed": seed, "sample_offset": sample_offset, "impl": self.impl}
        x_t, _ = ops.diffusion_noise(x0, t, alpha, sigma, None, **where)
        estimate = self._estimate(x_t, t, self.network(x_t, t, label))
        if self._clip is not None:
            estimate = estimate.clamp(-self._clip, self._clip)

        return term_nats(self.schedule, x0, t, estimate, self.levels)

    def _estimate(self, x_t: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        """Return the estimate of x_0 that a prediction stands for."""
        alpha, sigma, target = self._tables
        return convert(prediction, x_t, alpha[t], sigma[t], target, "x0")

    def _labels(self, context: Tensor | None, B: int) -> Tensor | None:
        """Check the labels and return them, (B,), the one past all classes where none are given."""
        if not self.classes:
            if context is not None:
                got = tuple(context.shape)
                raise ValueError(f"context must be None without classes; got shape {got}")
            return None
        if context is None:
            device = self.schedule.alpha.device
            return torch.full((B,), self.classes, dtype=torch.int64, device=device)

        checks.check_labels(context, self.classes, B)
        return context

    def _scaled(self, x: Tensor) -> Tensor:
        """Return the data in the network's units: [-1, 1] for grey levels."""
        checks.check_event("x", x, self.event_shape)
        if x.dtype is not torch.float64:
            x = x.float()
        if self.levels is None:
            return x

        checks.check_integers("x", x, self.levels - 1)
        return x * (2 / (self.levels - 1)) - 1

    def _unscaled(self, x: Tensor) -> Tensor:
        if self.levels is None:
            return x
        return ((x + 1) * ((self.levels - 1) / 2)).round().clamp(0, self.levels - 1)

    def extra_repr(self) -> str:
        return str(self.config)
