"""MADE: Masked Autoencoder for Distribution Estimation (Germain, Gregor, Murray, Larochelle, 2015).

An autoencoder becomes a density model when output d may depend only on the inputs before d in some
order: its outputs are then the parameters of p(x_d | x_<d), and one pass gives the likelihood.
Every unit has a degree, the number of leading features it may know about, and a weight is masked
where information would flow down in degree. Several sets of masks over one set of weights, cycled
during training, make one network learn many orders (the paper's order-agnostic training) and many
connectivities (its connectivity-agnostic training) at once.

Deviations from the paper:
- Hidden degrees are spread evenly and sorted instead of drawn at random, so that masks are
  staircases; `random_connectivity=True` draws them, uniformly as in the paper.
- At evaluation the sets of masks are averaged as whole models: p(x) is the mean of the joint
  probabilities p_m(x), as the paper's ensembles of orders. That is a normalised density for any
  mix of orders; the mean of the conditionals would be one only where the order is shared.
- Outputs other than Bernoulli, a context on which everything may depend, and residual blocks are
  additions; the blocks have their activations before their weights, as in He, Zhang, Ren, Sun,
  "Identity Mappings in Deep Residual Networks", 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast._core.random import draw_seed
from dgm_fast.distributions import Conditional
from dgm_fast.families.activations import ACTIVATIONS
from dgm_fast.families.autoregressive.degrees import Degrees, residual_skips
from dgm_fast.families.autoregressive.made_config import CONDITIONALS, MADEConfig, degrees_of
from dgm_fast.families.checks import as_shape, context_rows, rows_of
from dgm_fast.families.pretrained import Pretrained
from dgm_fast.layers import MaskedLinear
from dgm_fast.ops import MaskStructure, philox_uniform
from dgm_fast.sampling import Draw, MaskedLayout, MaskedNetwork, MaskedSampler, SeededNoise
from dgm_fast.sampling.choice import impl_of_model
from dgm_fast.sampling.interrupted import keeping
from dgm_fast.sampling.noise import AnyNoise, drawn

__all__ = ["MADE", "MADEConfig"]


# The noise of a value has the streams from 0 on, the choice of a set of masks this one.
_SET_STREAM = 15


class MADE(Pretrained, nn.Module):
    r"""A masked autoencoder whose outputs are the conditionals of a density.

    .. math:: \log p(x \mid c) = \log \frac{1}{M} \sum_{m=1}^{M}
              \prod_{d=1}^{D} p_m(x_d \mid x_{<_m d}, c)

    with M sets of masks over shared weights. In training mode everything concerns one set alone,
    the active one, which `training_step_begin` chooses; in evaluation mode `log_prob` and
    `sample` are those of the mixture of all.

    Masks take a byte a weight and set, and are shared between sets where equal: 7 MiB a set for
    784-2048-2048-784. The reference implementation keeps them as floats besides, 28 MiB a set.

    Arguments:
        config: hyperparameters.
        impl: implementation of `ops.masked_linear` and of the sampler; the state_dict does not
            depend on it.
        device: of the parameters; default torch's.
        dtype: of the parameters; default torch's.

    Shapes:
        x (*, D), context (*, C) of any leading dims that broadcast to those of x.

    Precision:
        Likelihoods are in nats and at least float32, also under autocast.

    Gradients:
        Of `log_prob` and `loss` for every parameter, the context and real-valued x; a masked
        weight's is exactly zero. Second derivatives run on the reference. None of `sample`.

    Raises:
        ValueError: shapes do not fit; on the CPU also when a value is outside the support.

    References:
        Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution
        Estimation", ICML 2015.

    Example:
        >>> import torch
        >>> from dgm_fast.families import MADE, MADEConfig
        >>> model = MADE(MADEConfig(features=6, hidden=(32, 32))).eval()
        >>> x = model.sample(10)
        >>> model.log_prob(x).shape
        torch.Size([10])
    """

    family: ClassVar[str] = "made"
    config_class: ClassVar[type] = MADEConfig
    classes: ClassVar[int] = 0

    def __init__(
        self,
        config: MADEConfig,
        *,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.impl = config, impl
        self.event_shape = (config.features,)
        levels = {"bernoulli": 2, "categorical": config.categories, "logistic": config.categories}
        self.levels = levels.get(config.output)
        self.conditional: Conditional = CONDITIONALS[config.output](config)

        device = torch.get_default_device() if device is None else torch.device(device)
        known: dict[bytes, MaskStructure] = {}
        # Masks are planned on the CPU and then moved, whatever the default device.
        with torch.device("cpu"):
            self.degrees = [degrees_of(config, mask_set) for mask_set in range(config.num_masks)]
            mask_sets = [self._masks(degrees, known) for degrees in self.degrees]
            parameters = self.conditional.parameters_per_feature
            self._layouts = [
                MaskedLayout(each.features, each.hidden, parameters, config.context_features)
                for each in self.degrees
            ]
        self.mask_sets = nn.ModuleList(mask_sets).to(device)

        first = list(self.mask_sets[0])
        options = {"impl": impl, "device": device, "dtype": dtype}
        self.direct = MaskedLinear(first.pop(), bias=False, **options) if config.direct else None
        self.layers = nn.ModuleList(MaskedLinear(mask, **options) for mask in first)
        self.skips = residual_skips(config.hidden, config.residual)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = nn.Dropout(config.dropout)
        self.training_step_begin(0)

    def _masks(self, degrees: Degrees, known: dict[bytes, MaskStructure]) -> nn.ModuleList:
        """Return the mask of every layer from the input up, then that of the direct connections."""
        # The context comes after the features and has degree 0: every unit knows it.
        inputs = F.pad(degrees.features, (0, self.config.context_features))
        # Each feature's P parameters are neighbours: rows of equal degree stay together, so the
        # last mask is a staircase with steps of P.
        outputs = degrees.features.repeat_interleave(self.conditional.parameters_per_feature)

        units = [inputs, *degrees.hidden]
        edges = [(a, b, False) for a, b in pairwise(units)]
        edges.append((units[-1], outputs, True))
        if self.config.direct:
            edges.append((inputs, outputs, True))

        masks = nn.ModuleList()
        for a, b, strict in edges:
            key = a.numpy().tobytes() + b"%d" % strict + b.numpy().tobytes()
            if key not in known:
                known[key] = MaskStructure.from_degrees(a, b, strict)
            masks.append(known[key])

        return masks

    def training_step_begin(self, step: int) -> None:
        """Make `step` modulo the number of sets the active set of masks.

        The choice depends on `step` alone: every rank makes the same, and so does a resumed run.
        """
        self._active_set = step % self.config.num_masks
        # A tuple of modules already owned by mask_sets, not an index: torch.compile would take
        # an index for a constant and compile once for each.
        self._active = tuple(self.mask_sets[self._active_set])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the parameters (*, D, P) of every conditional under the active set of masks."""
        return self._network(x, context, self._active)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        r"""Return the log-likelihood of x (*, D), (*), in nats.

        In evaluation mode that of the mixture over all M sets of masks,
        :math:`\log \sum_m p_m(x) - \log M`, at the cost of M passes; in training mode that of the
        active set.
        """
        self.conditional.check_values(x)
        if self.training or self.config.num_masks == 1:
            return self.conditional.log_prob(self(x, context), x)

        log_probs = [
            self.conditional.log_prob(self._network(x, context, masks), x)
            for masks in self.mask_sets
        ]
        return torch.stack(log_probs).logsumexp(0) - math.log(len(log_probs))

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the mean negative log-likelihood, a scalar in nats."""
        return -self.log_prob(x, context).mean()

    def sampler(
        self,
        mask_set: int = 0,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        impl: str | None = None,
    ) -> MaskedSampler:
        """Return the sampler of one set of masks with the weights as they are now.

        Arguments:
            mask_set: its number.
            temperature: divides logits and multiplies scales; 0 leaves no chance.
            top_k: of a categorical output, draw among so many likeliest categories alone.
            top_p: likewise among the likeliest that together have this probability.
            impl: of the sampler; default that of the model.
        """
        step = Draw(self.conditional, temperature, top_k, top_p)
        impl = impl or impl_of_model(self.impl)
        return MaskedSampler(self.description(mask_set), step, impl=impl)

    def description(self, mask_set: int = 0) -> MaskedNetwork:
        """Return what samplers are made from: the parameters, as they are, and a set's degrees."""
        return MaskedNetwork(
            self._layouts[mask_set],
            tuple(layer.weight for layer in self.layers),
            tuple(layer.bias for layer in self.layers),
            self.config.activation,
            None if self.direct is None else self.direct.weight,
            self.skips,
        )

    @torch.no_grad()
    def sample(
        self,
        shape: int | Sequence[int],
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        given: Tensor | None = None,
        given_mask: Tensor | None = None,
        noise: AnyNoise | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Tensor:
        """Draw samples of the density that `log_prob` reports in the same mode.

        A mixture over sets of masks is sampled by choosing a set for each sample. All features
        together cost about one evaluation of the density. Nothing is dropped out.

        Arguments:
            shape: leading dims of the result; an int counts as one dim.
            context: (*, C), broadcast to `shape`: each sample has its own, or all share one.
            generator: on the model's device; default torch's own.
            temperature: divides logits and multiplies scales; 0 leaves no chance.
            top_k: of a categorical output, draw among so many likeliest categories alone.
            top_p: likewise among the likeliest that together have this probability.
            given: values of features that are kept where `given_mask` says so, broadcast to the
                result. Others are drawn given those before them in the order.
            given_mask: True for the features that are given, broadcast to the result.
            noise: (n, D, N) for all n samples, as `draw_noise` makes it, or the
                `SeededNoise` of it; default drawn.
            progress: told the number of features done and that of all, now and then.

        Shapes:
            Returns (*shape, D), dtype and device of the parameters.

        Raises:
            SamplingInterrupted: Ctrl-C; it has the samples as far as they were drawn.
        """
        step = Draw(self.conditional, temperature, top_k, top_p)
        shape = as_shape(shape)
        D, n = self.config.features, math.prod(shape)
        weight = self.layers[0].weight
        rows = {"context": context_rows(context, shape, labels=False)}
        rows |= {"given": given, "given_mask": given_mask}
        for name in ("given", "given_mask"):
            if rows[name] is not None:
                each = rows_of(name, rows[name], (*shape, D), 0)
                rows[name] = each.view(n, D).to(weight.device)
        seed = draw_seed(weight.device, generator)
        if noise is None:
            noise = self._seeded(n, seed)
        elif len(noise.shape) != 3 or noise.shape[:2] != (n, D):
            expected = f"(n, D, N) with n = {n} and D = {D}"
            raise ValueError(f"noise must have shape {expected}; got {tuple(noise.shape)}")
        parts = self._parts(n, seed)
        if len(parts) > 1:
            noise = drawn(noise).to(weight.device)

        x = weight.new_zeros(n, D)
        with keeping(lambda: x.view(*shape, D)):
            for done, (mask_set, at) in enumerate(parts):
                sampler = MaskedSampler(self.description(mask_set), step)
                some = {name: None if each is None else each[at] for name, each in rows.items()}
                its_noise = noise[at]
                state = sampler.start(len(its_noise), **some)
                try:
                    told = progress and _after(progress, done, len(parts))
                    sampler.draw(state, its_noise, progress=told)
                finally:
                    x[at] = state.x.to(x)

        return x.view(*shape, D)

    def _parts(self, n: int, seed: Tensor) -> list[tuple[int, Tensor | slice]]:
        """Return the sets of masks of n samples, and which of these are of each."""
        if self.training or self.config.num_masks == 1:
            # All, as a slice: it copies nothing, and nobody waits for a GPU to count them.
            return [(self._active_set, slice(None))]

        # Those whose uniform falls to it.
        uniform = philox_uniform((n, 1), seed=seed, stream=_SET_STREAM)[:, 0]
        which = (uniform * self.config.num_masks).long()
        return [(place, (which == place).nonzero().squeeze(1)) for place in which.unique().tolist()]

    def draw_noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the noise (n, D, N) that n samples are made from."""
        weight = self.layers[0].weight
        seed = draw_seed(weight.device, generator)
        return self._seeded(n, seed).tensor()

    def _seeded(self, n: int, seed: Tensor) -> SeededNoise:
        dtype = self.layers[0].weight.dtype
        return Draw(self.conditional).seeded_noise(n, self.config.features, seed, dtype)

    def _network(self, x: Tensor, context: Tensor | None, masks: Sequence[MaskStructure]) -> Tensor:
        inputs = self._inputs(x, context)
        *hidden_layers, output_layer = self.layers

        h = inputs  # (*, D + C)
        sums: list[Tensor] = []
        for layer, mask, skip in zip(hidden_layers, masks, self.skips, strict=False):
            z = layer(h, mask)
            sums.append(z + sums[skip - 1] if skip else z)
            h = self.dropout(self.activation(sums[-1]))  # (*, H)

        y = output_layer(h, masks[len(hidden_layers)])  # (*, D * P)
        if self.direct is not None:
            y = y + self.direct(inputs, masks[-1])

        return y.unflatten(-1, (self.config.features, -1))

    def _inputs(self, x: Tensor, context: Tensor | None) -> Tensor:
        D, C = self.config.features, self.config.context_features
        if x.ndim == 0 or x.shape[-1] != D:
            raise ValueError(f"x must have shape (*, features = {D}); got {tuple(x.shape)}")
        if (context is None) != (C == 0):
            got = "None" if context is None else f"shape {tuple(context.shape)}"
            raise ValueError(f"context must have context_features = {C} columns; got {got}")

        dtype = self.layers[0].weight.dtype
        encoded = self.conditional.encode(x.to(dtype))
        if context is None:
            return encoded

        if context.ndim == 0 or context.shape[-1] != C:
            raise ValueError(
                f"context must have shape (*, context_features = {C}); got {tuple(context.shape)}"
            )
        return torch.cat([encoded, context.to(dtype).expand(*x.shape[:-1], C)], dim=-1)

    def extra_repr(self) -> str:
        return str(self.config)


def _after(
    progress: Callable[[int, int], object], done: int, sets: int
) -> Callable[[int, int], object]:
    """Tell of several sweeps as if they were one."""
    return lambda features, D: progress(done * D + features, sets * D)
