"""One process of test_distributed.py, started by torchrun: trains the tiny model."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from dgm_fast.training import train
from dgm_fast.training.distributed import process_group


def main(folder: Path) -> None:
    # Found through PYTHONPATH, which only the processes of torchrun have.
    from conftest import TinyModel, tiny_config, tiny_dataset

    torch.set_num_threads(1)
    with process_group() as processes:
        # Processes begin apart: the first one's weights must reach the others.
        torch.manual_seed(7 + processes.rank)
        model = TinyModel(dropout=0.0)
        result = train(model, tiny_dataset(), replace(tiny_config(), epochs=2), folder)
        print(processes.rank, result.best_validation_nats, model.inner.weight.sum().item())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
