"""Whether an NVIDIA GPU may round float32 to TF32, by torch's own settings.

Dynamo cannot trace them: a graph reads each once, when it is compiled. That is what
`torch.compiler.assume_constant_result` sets, without the second that its import takes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def products_in_tf32() -> bool:
    """Whether matrix products may."""
    return torch.version.hip is None and torch.backends.cuda.matmul.fp32_precision == "tf32"


def convolutions_in_tf32() -> bool:
    """Whether convolutions may."""
    return torch.version.hip is None and torch.backends.cudnn.conv.fp32_precision == "tf32"


def convolved_without_tensor_cores(x: Tensor) -> bool:
    """Whether it is on a GPU and its convolutions are exact float32.

    A vendor's library ran such products of `masked_linear` twice as fast as our tiles, which is
    more than live taps save.
    """
    return x.is_cuda and x.dtype is torch.float32 and not convolutions_in_tf32()


products_in_tf32._dynamo_marked_constant = True
convolutions_in_tf32._dynamo_marked_constant = True
