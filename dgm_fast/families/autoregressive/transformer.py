"""Transformer: a language model of characters or bytes (Vaswani, 2017; Radford, 2019).

Each token is embedded, its place is added or turns queries and keys, and every block lets it look
at all tokens before it. What the last block puts out for a place gives the logits of the next
token, so that one pass has the conditionals of a whole sequence.

As GPT-2: norms before the maps of each block and after the last, GELU, weights that begin at a
deviation of 0.02, less by the square root of the number of summed terms where outputs add up, and
one matrix for embedding and logits. Deviations:
- No map and no norm has a bias, and dropout is off by default.
- The GELU is the exact one: oneDNN has it, at half the time of its approximation by a tanh.
- What stands before the first token is a token of its own, or one a class: the model is a density
  of whole sequences, and a label is what a sequence begins with.
- Rotary positions, by choice, where a head turns all of its channels.

References: Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, "Attention Is All
You Need", 2017; Radford, Wu, Child, Luan, Amodei, Sutskever, "Language Models are Unsupervised
Multitask Learners", 2019, section 2.3; Su et al., "RoFormer", 2021; Press, Wolf, "Using the Output
Embedding to Improve Language Models", 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from dgm_fast.families.autoregressive.token_model import TokenConfig, TokenModel, check_choices
from dgm_fast.families.autoregressive.transformer_blocks import Stack, StackSizes, begin_small
from dgm_fast.sampling import TransformerNetwork, TransformerSampler
from dgm_fast.sampling.choice import impl_of_model

__all__ = ["Transformer", "TransformerConfig"]


@dataclass(frozen=True)
class TransformerConfig(TokenConfig):
    """Hyperparameters of `Transformer`.

    Attributes:
        length: T, the longest sequence that it sees whole.
        layers: number of blocks.
        heads: of the attention.
        width: W, of the residual stream; the maps between two GELUs are four times as wide.
        positions: `learned` ones are added, `rotary` ones turn queries and keys.
        tied: whether the logits' map is the embedding.
        dropout: probability of dropping a channel of a sum's terms, and an attention's link.
        classes: of the labels that `context` holds, 0 for none.
    """

    length: int = 128
    layers: int = 4
    heads: int = 4
    width: int = 128
    positions: Literal["learned", "rotary"] = "learned"
    tied: bool = True
    dropout: float = 0.0
    classes: int = 0

    _lowest: ClassVar[dict[str, int]] = TokenConfig._lowest | StackSizes.lowest
    _lowest |= {"length": 1, "classes": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices("positions", self.positions, ("learned", "rotary"))
        channels = self.sizes.width // self.heads
        if self.positions == "rotary" and channels % 2:
            raise ValueError(
                f"width must give heads = {self.heads} an even number of channels each, whose "
                f"pairs turn; got {self.width}"
            )

    @property
    def sizes(self) -> StackSizes:
        """Sizes of the stack."""
        return StackSizes(self.layers, self.heads, self.width, self.dropout)


class Transformer(TokenModel):
    r"""A density of sequences of at most T tokens, one conditional a token.

    .. math:: \log p(x \mid c) = \sum_{t=1}^{T} \log p(x_t \mid x_1, \dots, x_{t-1}, c)

    Samples may be longer: with each token beyond T that does not fit, the window slides, as
    `sampling.TransformerSampler` says; it keeps T / 2 tokens.

    Arguments:
        config: hyperparameters.
        impl: of the sampler; the layers are torch's.
        device: of the parameters; default torch's.
        dtype: of the parameters; default torch's.

    Shapes:
        x (B, up to T), integers of any dtype; context (B,) int64 labels of a class-conditional
        model.

    Units:
        Log-likelihoods are of a whole sequence, in nats; by T they are nats a token.

    Precision:
        Likelihoods are at least float32, also under autocast.

    Gradients:
        Of `log_prob` and `loss` for every parameter, by torch's layers; second derivatives within
        `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)` alone, as the fused attention has none.
        None of `sample`.

    Raises:
        TypeError: context is not int64.
        ValueError: shapes do not fit; on the CPU also when a token or label is outside its range.

    References:
        Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.3.

    Example:
        >>> import torch
        >>> from dgm_fast.families import Transformer, TransformerConfig
        >>> model = Transformer(TransformerConfig(length=32, layers=2, width=32)).eval()
        >>> x = torch.tensor([list(b"to be, or not to be")])
        >>> model.log_prob(x).shape
        torch.Size([1])
        >>> model.sample(3, given=x[0], length=40, top_k=10).shape
        torch.Size([3, 40])
    """

    family: ClassVar[str] = "transformer"
    config_class: ClassVar[type] = TransformerConfig

    def _build(self, config: TransformerConfig) -> None:
        V, W = config.vocabulary, config.width
        self.embedding = nn.Embedding(V + max(1, config.classes), W)
        rotary = config.positions == "rotary"
        self.positions = None if rotary else nn.Embedding(config.length, W)
        self.stack = Stack(config.sizes, config.length, rotary=rotary)
        self.head = None if config.tied else nn.Linear(W, V, bias=False)
        begin_small(self)

    @property
    def _head_weight(self) -> Tensor:
        return self.embedding.weight[: self.vocabulary] if self.head is None else self.head.weight

    def _network(self, inputs: Tensor) -> Tensor:
        length = inputs.shape[1]
        if length > self.config.length:
            longest = self.config.length
            raise ValueError(f"x must have at most length = {longest} tokens; got {length}")
        x = self.embedding(inputs)
        if self.positions is not None:
            x = x + self.positions.weight[:length]
        return F.linear(self.stack(x), self._head_weight)

    def sampler(
        self,
        *,
        mode: Literal["auto", "eager", "compiled", "graph"] = "auto",
        impl: str | None = None,
    ) -> TransformerSampler:
        """Return a sampler of the weights as they are now, for sequences in pieces."""
        keep, impl = self.config.length // 2, impl or impl_of_model(self.impl)
        return TransformerSampler(self.described(), keep=keep, impl=impl, mode=mode)

    def described(self) -> TransformerNetwork:
        """Return the parameters as a sampler takes them."""
        return TransformerNetwork(
            self.embedding.weight,
            tuple(block.described() for block in self.stack.blocks),
            self.stack.norm.weight,
            self._head_weight,
            self.config.heads,
            self.config.length,
            None if self.positions is None else self.positions.weight,
            self.classes,
        )
