"""Small linear, autoregressive and spline flows that tests share."""

from __future__ import annotations

import torch

from dgm_fast.families import (
    IAF,
    ICA,
    MAF,
    IAFConfig,
    ICAConfig,
    MAFConfig,
    NeuralSplineFlow,
    NeuralSplineFlowConfig,
)

CONFIGS = {
    "ica": ICAConfig(event_shape=(6,)),
    "ica-plu": ICAConfig(event_shape=(6,), plu=True),
    "maf": MAFConfig(event_shape=(6,), steps=3, hidden=(16, 16)),
    "maf-linear": MAFConfig(event_shape=(6,), steps=2, hidden=()),
    "iaf": IAFConfig(event_shape=(6,), steps=2, hidden=(16,)),
    "iaf-residual": IAFConfig(event_shape=(6,), steps=2, hidden=(9, 7, 9), residual=True),
    "nsf": NeuralSplineFlowConfig(event_shape=(6,), steps=2, hidden=(16,)),
    "nsf-odd": NeuralSplineFlowConfig(event_shape=(5,), steps=2, hidden=(16,), bins=3),
    "nsf-ar": NeuralSplineFlowConfig(
        event_shape=(6,), steps=2, hidden=(16,), conditioning="autoregressive"
    ),
    "nsf-ar-residual": NeuralSplineFlowConfig(
        event_shape=(6,), steps=2, hidden=(8,) * 3, residual=True, conditioning="autoregressive"
    ),
}
CLASSES = {ICAConfig: ICA, MAFConfig: MAF, IAFConfig: IAF, NeuralSplineFlowConfig: NeuralSplineFlow}


def make(config, rows=40):
    """Return a flow far from its initial identity, in float64, and data that it has seen."""
    torch.manual_seed(0)
    model = CLASSES[type(config)](config).double()
    x = torch.randn(rows, *config.event_shape, dtype=torch.float64)
    with torch.no_grad():
        model(x, torch.zeros(rows).long() if config.classes else None)
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model, x
