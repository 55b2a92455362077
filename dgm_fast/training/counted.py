"""Fitting models that count: one pass over the training text, and a run's folder like any other."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from dgm_fast.families import Histogram, Markov
from dgm_fast.training.checkpoint import save_best
from dgm_fast.training.data import TextDataset
from dgm_fast.training.logs import RunLog
from dgm_fast.training.metrics import mean_nll_nats
from dgm_fast.training.text_baselines import count_text

__all__ = ["count"]


def count(model: Histogram | Markov, dataset: TextDataset, folder: Path) -> float:
    """Fit a model to the training text and save it in `folder`; return the seconds it took.

    The log has one row, of step 0: no step was taken, at no learning rate.

    Raises:
        ValueError: `folder` holds a run.
    """
    if (folder / "run.json").exists():
        raise ValueError(f"{folder} already holds a run: choose another folder")
    start, cpu_start = time.perf_counter(), time.process_time()
    count_text(model, dataset)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start

    folder.mkdir(parents=True, exist_ok=True)
    save_best(folder, model)
    row = dict.fromkeys(("epoch", "step", "learning_rate", "gradient_norm"), 0)
    row["train_nats"] = mean_nll_nats(model, dataset.train[:, : dataset.features])
    row["validation_nats"] = mean_nll_nats(model, *dataset.split("validation"))
    row |= {"cpu_seconds": round(cpu_seconds, 3), "seconds": round(seconds, 3)}
    log = RunLog(folder, 0, tensorboard=False, console=Console(quiet=True))
    log.write(row)
    log.close()
    return seconds
