"""What the PixelCNNs share: images drawn row by row, of layers described as steps of pixels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dgm_fast.families.autoregressive.pixel_model import PixelModel
from dgm_fast.layers import MaskedConv2d
from dgm_fast.sampling import PixelNetwork, PixelSampler
from dgm_fast.sampling.choice import impl_of_model
from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.noise import AnyNoise, noise_for

__all__ = ["ConvolutionalPixelModel", "pointwise"]

# Bytes of what the images that are drawn together keep of their rows.
_TOGETHER = 2**28


def pointwise(channels: int, width: int, channel_groups: int, impl: str) -> nn.Conv2d:
    """Make a convolution over single pixels; of one group of channels, it has nothing to mask."""
    if channel_groups == 1:
        return nn.Conv2d(channels, width, 1)
    return MaskedConv2d(channels, width, 1, "B", channel_groups, impl=impl)


class ConvolutionalPixelModel(PixelModel):
    """A density of images by convolutions, which a subclass describes in `_describe`."""

    @abstractmethod
    def _describe(self) -> PixelNetwork:
        """Return what `_network` does, outside of training, as steps of single pixels."""

    @torch.no_grad()
    def sampler(self, *, impl: str | None = None) -> PixelSampler:
        """Return a sampler of the weights as they are now.

        It draws images (B, C, H, W) in raster order: those of a model with `flip` upside down.

        Arguments:
            impl: of the sampler; default that of the model.
        """
        return PixelSampler(self._describe(), impl=impl or impl_of_model(self.impl))

    def _draw(
        self,
        images: Tensor,
        known: Tensor,
        label: Tensor | None,
        noise: AnyNoise,
        filters: Filters,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        sampler, n = self.sampler(), len(images)
        # Once, where all images that are drawn together would draw theirs.
        noise = noise_for(noise, sampler.impl, sampler.device)
        together = max(1, _TOGETHER // (4 * max(1, sampler.floats)))
        for first in range(0, n, together):
            some = slice(first, min(n, first + together))
            state = sampler.start(
                some.stop - first,
                None if label is None else label[some],
                images=images[some],
                given=known[some],
                noise=noise[some],
            )
            told = None if progress is None else partial(_tell, progress, first, state.batch, n)
            try:
                sampler.draw(state, **vars(filters), progress=told)
            finally:
                done = int(state.done)
                images[some, :, :done] = state.images[:, :, :done]


def _tell(
    progress: Callable[[int, int], object], before: int, batch: int, n: int, done: int, H: int
) -> None:
    """Tell the rows that are done of n images: all of those before a batch, and some of its."""
    progress(before * H + batch * done, n * H)
