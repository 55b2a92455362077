"""Whether an NVIDIA GPU may round float32 to TF32, by torch's own settings.

Dynamo cannot trace them: a graph reads each once, when it is compiled. That is what
`torch.compiler.assume_constant_result` sets, without the second that its import takes.
"""

from __future__ import annotations

import torch


def products_in_tf32() -> bool:
    """Whether matrix products may."""
    return torch.version.hip is None and torch.backends.cuda.matmul.fp32_precision == "tf32"


def convolutions_in_tf32() -> bool:
    """Whether convolutions may."""
    return torch.version.hip is None and torch.backends.cudnn.conv.fp32_precision == "tf32"


products_in_tf32._dynamo_marked_constant = True
convolutions_in_tf32._dynamo_marked_constant = True
