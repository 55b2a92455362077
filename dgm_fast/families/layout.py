"""The layout in memory of convolutional networks."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["keep_channels_last"]


def keep_channels_last(net: nn.Module) -> None:
    """Lay out the weights for convolutions with the channels last, also after loading others.

    oneDNN and cuDNN convolve so, up to three times as fast on a CPU.
    """
    _lay_out(net)
    net.register_load_state_dict_post_hook(_lay_out)


def _lay_out(net: nn.Module, _: object = None) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
