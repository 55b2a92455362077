"""What models of token sequences share: likelihood, and sampling token by token."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast.families import checks
from dgm_fast.families.pretrained import Pretrained
from dgm_fast.sampling import SeededNoise, SequenceSampler
from dgm_fast.sampling.interrupted import keeping
from dgm_fast.sampling.noise import AnyNoise, draw_uniforms

__all__ = ["TokenConfig", "TokenModel", "check_choices", "last_inputs"]


@dataclass(frozen=True)
class TokenConfig:
    """Hyperparameters that all models of tokens have.

    Attributes:
        vocabulary: V; tokens are 0 .. V - 1. Bytes have 256.
    """

    vocabulary: int = 256

    _lowest: ClassVar[dict[str, int]] = {"vocabulary": 1}

    def __post_init__(self) -> None:
        for name, low in self._lowest.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}; got {getattr(self, name)}")
        dropout = getattr(self, "dropout", 0.0)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1); got {dropout}")


def check_choices(name: str, value: str, known: Sequence[str]) -> None:
    """Raise ValueError unless a field has one of its values."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")


def last_inputs(inputs: Tensor, order: int, symbol: int) -> Tensor:
    """Return the last `order` inputs at each place, the symbol before the first, (B, T, order)."""
    if order == 0:
        return inputs.new_empty(*inputs.shape, 0)
    return F.pad(inputs, (order - 1, 0), value=symbol).unfold(1, order, 1)


class TokenModel(Pretrained, nn.Module, ABC):
    r"""A density of token sequences of any length, one conditional a token.

    .. math:: \log p(x \mid c) = \sum_{t=1}^{T} \log p(x_t \mid x_1, \dots, x_{t-1}, c)

    The network reads what stands before each token: before the first a symbol of its own, V, or of
    class-conditional models V plus the label. A subclass builds its layers in `_build`, runs them
    in `_network` and makes its `sampler`.

    Arguments:
        config: hyperparameters.
        impl: of the sampler; the layers are torch's.
        device: of the parameters; default torch's.
        dtype: of the parameters; default torch's.

    Shapes:
        x (B, T), integers of any dtype; context (B,) int64 labels of a class-conditional model.

    Units:
        Log-likelihoods are of a whole sequence, in nats; by T they are nats a token.

    Precision:
        Likelihoods are at least float32, also under autocast.

    Gradients:
        Of `log_prob` and `loss` for every parameter, by torch's layers. None of `sample`.

    Raises:
        TypeError: context is not int64.
        ValueError: shapes do not fit; on the CPU also when a token or label is outside its range.
    """

    def __init__(
        self,
        config: TokenConfig,
        *,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.impl = config, impl
        self.vocabulary = self.levels = config.vocabulary
        self.classes = getattr(config, "classes", 0)
        with torch.get_default_device() if device is None else torch.device(device):
            self._build(config)
        self.to(dtype)

    @abstractmethod
    def _build(self, config: Any) -> None:
        """Make the layers."""

    @abstractmethod
    def _network(self, inputs: Tensor) -> Tensor:
        """Return the logits (B, T, V) of what follows each input (B, T)."""

    @abstractmethod
    def sampler(self) -> SequenceSampler:
        """Return a sampler of the weights as they are now, for sequences in pieces."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the logits (B, T, V) of every token."""
        return self._logits(*self._tokens(x, context))

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the log-likelihood of x (B, T), (B,), in nats."""
        tokens, first = self._tokens(x, context)
        logits = self._logits(tokens, first)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        nll = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
        return -nll.view(tokens.shape).sum(1)

    def loss(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the mean negative log-likelihood of a sequence, a scalar in nats."""
        return -self.log_prob(x, context).mean()

    @torch.no_grad()
    def sample(
        self,
        shape: int | Sequence[int],
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        length: int = 100,
        given: Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        noise: AnyNoise | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Tensor:
        """Draw sequences token by token, or go on from their beginning.

        Each token costs one product with every weight; `sampler` is what draws it. The noise of a
        sequence depends on the seed and its index alone: it is the same in a batch of any size.

        Arguments:
            shape: leading dims of the result; an int counts as one dim.
            context: labels, broadcast to `shape`.
            generator: on the model's device; default torch's own.
            length: T, of the result.
            given: the sequences' beginning, (*, up to T), integers of any dtype, broadcast to
                `shape`.
            temperature: divides the logits; 0 leaves the likeliest tokens alone.
            top_k: draw among so many likeliest tokens alone.
            top_p: draw among the likeliest tokens that together have this probability alone.
            noise: (n, T, 1) for all n sequences, as `draw_noise` makes it, or the
                `SeededNoise` of it; default drawn.
            progress: told the number of tokens done and that of all, some times a second.

        Shapes:
            Returns (*shape, T), int64.

        Raises:
            TypeError: given is no tensor, or its rows differ in length.
            ValueError: an argument does not fit; names it.
            SamplingInterrupted: Ctrl-C; it has the samples as far as they were drawn.
        """
        shape = checks.as_shape(shape)
        n = math.prod(shape)
        context = checks.context_rows(context, shape, labels=True)
        start = self._beginning(given, shape, length)
        if noise is None:
            noise = self._seeded(n, length, generator)
        elif noise.shape != (n, length, 1):
            expected, got = (n, length, 1), tuple(noise.shape)
            raise ValueError(f"noise must have shape (n, T, 1) = {expected}; got {got}")

        sampler, done = self.sampler(), start.shape[1]
        state = sampler.feed(sampler.start(n, context), start)
        with keeping(lambda: state.tokens.reshape(*shape, state.time)):
            sampler.draw(
                state,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                noise=noise[:, done:],
                progress=None if progress is None else lambda new, _: progress(done + new, length),
            )
        return state.tokens.reshape(*shape, length)

    def draw_noise(self, n: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the noise (n, T, 1) that n sequences are made from."""
        return self._seeded(n, length, generator).tensor()

    def _seeded(self, n: int, length: int, generator: torch.Generator | None) -> SeededNoise:
        shape = n, length, 1
        return SeededNoise.from_generator(generator, draw_uniforms, shape, *self._where())

    def _where(self) -> tuple[torch.device, torch.dtype]:
        """Return the device of the weights and the dtype that samples are drawn in."""
        weight = next(self.parameters())
        return weight.device, torch.promote_types(weight.dtype, torch.float32)

    def _logits(self, tokens: Tensor, first: Tensor) -> Tensor:
        return self._network(torch.cat([first[:, None], tokens[:, :-1]], dim=1))

    def _tokens(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Check what the model is given; return tokens (B, T) and the symbols before them (B,)."""
        if x.ndim != 2 or x.shape[1] == 0:
            raise ValueError(f"x must have shape (B, T) with T > 0; got {tuple(x.shape)}")
        checks.check_integers("x", x, self.vocabulary - 1)
        label = checks.some_labels(context, self.classes, len(x))
        tokens = x.long()
        first = tokens.new_full((len(x),), self.vocabulary)
        return tokens, first if label is None else first + label

    def _beginning(self, given: Tensor | None, shape: tuple[int, ...], length: int) -> Tensor:
        """Return the tokens (n, P) to begin with."""
        if length < 1:
            raise ValueError(f"length must be positive; got {length}")
        device, _ = self._where()
        if given is None:
            return torch.zeros(math.prod(shape), 0, dtype=torch.int64, device=device)
        checks.check_rows("given", given)
        if given.ndim == 0 or given.shape[-1] > length:
            raise ValueError(
                f"given must have shape (*, at most length = {length}); got {tuple(given.shape)}"
            )
        checks.check_integers("given", given, self.vocabulary - 1)
        return checks.rows_of("given", given, shape, 1).long().to(device)

    def extra_repr(self) -> str:
        return str(self.config)
