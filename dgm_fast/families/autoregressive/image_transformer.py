"""ImageTransformer: a transformer over pixels in raster order (Parmar, 2018; Chen, 2020).

A pixel is a token, its grey level; of images with channels each is a token, one after another. The
stack is that of `Transformer`. What stands before the first pixel is a token of its own, or the
image's label, so that a class-conditional model begins with the class. The input at each place is
embedded with the row and the column, and the channel, of the pixel that it is to predict; rows and
columns are learned apart, so that there are H + W of them and not H W.

Deviations from Chen et al.: rows and columns apart, where they learn a position for each pixel; no
clustering of colours; a smaller model. From Parmar et al.: attention to all pixels before.

References: Parmar, Vaswani, Uszkoreit, Kaiser, Shazeer, Ku, Tran, "Image Transformer", 2018; Chen,
Radford, Child, Wu, Jun, Luan, Sutskever, "Generative Pretraining from Pixels", 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dgm_fast.distributions import CategoricalPixels
from dgm_fast.families.autoregressive.pixel_model import PixelConfig, PixelModel
from dgm_fast.families.autoregressive.transformer_blocks import Stack, StackSizes, begin_small
from dgm_fast.sampling import TransformerNetwork, TransformerSampler
from dgm_fast.sampling.choice import impl_of_model
from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.noise import AnyNoise

__all__ = ["ImageTransformer", "ImageTransformerConfig"]


@dataclass(frozen=True)
class ImageTransformerConfig(PixelConfig):
    """Hyperparameters of `ImageTransformer`.

    Attributes:
        classes: of the labels that `context` holds, 0 for none.
        layers: number of blocks.
        heads: of the attention.
        width: W, of the residual stream.
    """

    classes: int = 0
    layers: int = 4
    heads: int = 4
    width: int = 128

    _lowest: ClassVar[dict[str, int]] = PixelConfig._lowest | StackSizes.lowest | {"classes": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output == "logistic_mixture":
            raise ValueError("output must be bernoulli or categorical, as pixels are tokens")
        _ = self.sizes

    @property
    def sizes(self) -> StackSizes:
        """Sizes of the stack."""
        return StackSizes(self.layers, self.heads, self.width, self.dropout)


class ImageTransformer(PixelModel):
    r"""A density of images, each pixel given all before it, and perhaps the image's label.

    .. math:: \log p(x \mid c) = \sum_{i=1}^{D} \log p(x_i \mid x_1, \dots, x_{i-1}, c)

    Arguments:
        config: hyperparameters.
        impl: of the sampler; the layers are torch's.
        device: of the parameters; default torch's.
        dtype: of the parameters; default torch's.

    Shapes:
        x (B, *event_shape), context (B,) int64 labels of a class-conditional model.

    Precision:
        Likelihoods are in nats and at least float32, also under autocast.

    Gradients:
        Of `log_prob` and `loss` for every parameter, by torch's layers; second derivatives as of
        `Transformer`. None of `sample`.

    Raises:
        ValueError: shapes do not fit; on the CPU also when a value or label is outside its range.

    References:
        Chen et al., "Generative Pretraining from Pixels", 2020, section 2.

    Example:
        >>> import torch
        >>> from dgm_fast.families import ImageTransformer, ImageTransformerConfig
        >>> config = ImageTransformerConfig((8, 8), layers=2, width=32, classes=10)
        >>> model, labels = ImageTransformer(config).eval(), torch.arange(4)
        >>> x = model.sample(4, labels)
        >>> x.shape, model.log_prob(x, labels).shape
        (torch.Size([4, 8, 8]), torch.Size([4]))
    """

    family: ClassVar[str] = "image_transformer"
    config_class: ClassVar[type] = ImageTransformerConfig

    def _build(self, config: ImageTransformerConfig, impl: str) -> None:
        (C, H, W), width = config.image_shape, config.width
        self.embedding = nn.Embedding(self.levels + max(1, config.classes), width)
        self.rows, self.columns = nn.Embedding(H, width), nn.Embedding(W, width)
        self.channels = nn.Embedding(C, width) if C > 1 else None
        self.stack = Stack(config.sizes, self._features)
        self.head = nn.Linear(width, self.output.parameters // C, bias=False)
        begin_small(self)

    @property
    def _positions(self) -> Tensor:
        """Return what is added to the input at each place, (D, W)."""
        place = self.rows.weight[:, None] + self.columns.weight
        if self.channels is not None:
            place = place[:, :, None] + self.channels.weight
        return place.flatten(0, -2)

    def _run(self, images: Tensor, label: Tensor | None) -> Tensor:
        """Return the parameters (B, P, H, W) from images (B, C, H, W) of levels."""
        flip = self.config.flip
        parameters = self._network(images.flip(-2) if flip else images, label)
        return parameters.flip(-2) if flip else parameters

    def _network(self, image: Tensor, label: Tensor | None) -> Tensor:
        (_, H, W), B = self.config.image_shape, len(image)
        tokens = self.output.to_features(image).view(B, self._features).long()
        inputs = torch.cat([self._first(label, tokens)[:, None], tokens[:, :-1]], dim=1)
        logits = self.head(self.stack(self.embedding(inputs) + self._positions))
        return logits.view(B, H, W, self.output.parameters).permute(0, 3, 1, 2)

    def _first(self, label: Tensor | None, like: Tensor) -> Tensor:
        first = like.new_full((len(like),), self.levels)
        return first if label is None else first + label

    def sampler(
        self,
        *,
        mode: Literal["auto", "eager", "compiled", "graph"] = "auto",
        temperature: float = 1.0,
        impl: str | None = None,
    ) -> TransformerSampler:
        """Return a sampler of the weights as they are now, in the order of the pixels.

        Arguments:
            mode: of the sampler.
            temperature: of binary pixels; of categorical ones, `draw` is told it.
            impl: of the sampler; default that of the model.
        """
        impl = impl or impl_of_model(self.impl)
        if isinstance(self.output, CategoricalPixels):
            if temperature != 1:
                raise ValueError(
                    f"temperature must be told to `draw` for categorical pixels; got {temperature}"
                )
            return TransformerSampler(self.described(), impl=impl, mode=mode)

        def pick(parameters: Tensor, noise: Tensor) -> Tensor:
            return self.output.pick(parameters, noise, temperature).squeeze(-1).long()

        return TransformerSampler(self.described(), impl=impl, mode=mode, pick=pick)

    def described(self) -> TransformerNetwork:
        """Return the parameters as a sampler takes them."""
        return TransformerNetwork(
            self.embedding.weight,
            tuple(block.described() for block in self.stack.blocks),
            self.stack.norm.weight,
            self.head.weight,
            self.config.heads,
            self._features,
            self._positions,
            self.classes,
        )

    def _draw(
        self,
        images: Tensor,
        known: Tensor,
        label: Tensor | None,
        noise: AnyNoise,
        filters: Filters,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        n, (C, H, W) = len(images), self.config.image_shape
        features = self.output.to_features(images).view(n, self._features).long()
        # All channels of a pixel are given, or none.
        given = known.flatten(1).repeat_interleave(C, dim=1)
        if isinstance(self.output, CategoricalPixels):
            sampler, options = self.sampler(), vars(filters)
        else:
            sampler, options = self.sampler(temperature=filters.temperature), {}
        state = sampler.start(n, label)
        kept = features.where(given, -1)
        try:
            sampler.draw(state, noise=noise, given=kept, progress=progress, **options)
        finally:
            # As many as there are when it ends early.
            features[:, : state.time] = state.tokens
            images.copy_(self.output.to_images(features[..., None], H, W))
