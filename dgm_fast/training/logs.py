"""Logs of a run: a CSV file always, TensorBoard where it is installed."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

from rich.console import Console

from dgm_fast.training.checkpoint import write_atomically

__all__ = ["COLUMNS", "RunLog"]

COLUMNS = (
    "epoch", "step", "train_nats", "validation_nats", "learning_rate", "gradient_norm",
    "cpu_seconds", "seconds",
)  # fmt: skip


class RunLog:
    """Write one row an epoch to `folder`/log.csv and, with `tensorboard`, to `folder`/tensorboard.

    A resumed run passes its `step`: rows that a crash left beyond it are dropped, then written
    again. `gradient_norm` is that of the epoch's last step, as the optimizer saw it. `seconds` are
    those of training so far, validation left out; `cpu_seconds` sum over this process's threads.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool, console: Console) -> None:
        self._path = folder / "log.csv"
        write_atomically(self._path, partial(_write_rows, rows=self._rows_until(step)))
        self._board = None
        if tensorboard:
            self._board = _summary_writer(folder / "tensorboard", step, console)

    def write(self, row: dict[str, float]) -> None:
        """Append one row; its keys are `COLUMNS`."""
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow(row)
        if self._board is not None:
            for name in COLUMNS[2:]:
                self._board.add_scalar(name, row[name], int(row["step"]))
            self._board.flush()

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._board is not None:
            self._board.close()

    def _rows_until(self, step: int) -> list[dict[str, str]]:
        if step == 0 or not self._path.is_file():
            return []
        with self._path.open(newline="") as file:
            # A row that a crash cut short lacks its last column, and is newer than `step` anyway.
            return [r for r in csv.DictReader(file) if r["seconds"] and int(r["step"]) <= step]


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _summary_writer(folder: Path, step: int, console: Console):  # noqa: ANN202
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        console.print("TensorBoard is not installed (pip install tensorboard): logging CSV only.")
        return None
    # Events of a crashed run beyond the resumed step would show as a second curve.
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
