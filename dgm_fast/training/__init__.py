"""Training: data, one loop, checkpoints, likelihoods, recipes."""

from __future__ import annotations

from dgm_fast.training.config import TrainConfig
from dgm_fast.training.data import DataConfig, Dataset, load_dataset
from dgm_fast.training.loop import TrainResult, train
from dgm_fast.training.metrics import baselines_nats, bits_per_dim, mean_nll_nats
from dgm_fast.training.protocol import DensityModel

__all__ = [
    "DataConfig",
    "Dataset",
    "DensityModel",
    "TrainConfig",
    "TrainResult",
    "baselines_nats",
    "bits_per_dim",
    "load_dataset",
    "mean_nll_nats",
    "train",
]
