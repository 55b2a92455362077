"""ICA: independent component analysis as a linear flow (Bell, Sejnowski, 1995; Cardoso, 1997).

The data are an invertible mixture x = A z + b of sources z that are independent and not Gaussian:
a Gaussian base would leave the rotation of A undetermined. By the change of variables

    log p(x) = sum_d log p(z_d) + log |det W|,    z = W (x - b),    W = A^-1,

and climbing it is the infomax algorithm; the rows of W become the filters that undo the mixing.

Deviations from the papers:
- Gradients are plain ones taken by the optimizer at hand, not natural gradients.
- W works on features standardized by the first batch, which is part of the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from dgm_fast.families.flows.chain import Chain
from dgm_fast.families.flows.flow import Flow, FlowConfig
from dgm_fast.families.flows.linear import LinearStep
from dgm_fast.families.flows.nice import Reshape

__all__ = ["ICA", "ICAConfig"]


@dataclass(frozen=True)
class ICAConfig(FlowConfig):
    """Hyperparameters of `ICA`, beside those of every flow.

    Attributes:
        base: density of a source, `logistic` as in infomax; with `normal` the model is a Gaussian.
        plu: hold W by its factors instead of in full.
    """

    base: Literal["normal", "logistic"] = "logistic"
    plu: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context_features:
            raise ValueError(
                f"context_features must be 0, one matrix serves all; got {self.context_features}"
            )


class ICA(Flow):
    r"""A linear flow onto independent sources.

    .. math:: z = W (s \odot x + b), \quad p(z) = \prod_d \mathrm{Logistic}(z_d)

    Arguments, shapes, precision and errors are those of `Flow`; images are taken as vectors.

    References:
        Bell, Sejnowski, "An information-maximization approach to blind separation and blind
        deconvolution", 1995.
        Cardoso, "Infomax and maximum likelihood for blind source separation", 1997.

    Example:
        >>> import torch
        >>> from dgm_fast.families import ICA, ICAConfig
        >>> model = ICA(ICAConfig(event_shape=(4,)))
        >>> sources, log_det = model(torch.randn(10, 4))
        >>> sources.shape
        torch.Size([10, 4])
    """

    family: ClassVar[str] = "ica"
    config_class: ClassVar[type] = ICAConfig

    def build_transform(self) -> nn.Module:
        """Return one linear step."""
        shape = self.config.event_shape
        flat = (math.prod(shape),)
        step = LinearStep(*flat, plu=self.config.plu, impl=self.impl)
        return Chain([Reshape(shape, flat), step, Reshape(flat, shape)])
