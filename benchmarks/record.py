"""Rows of results: appended to `results/<device>/<op>.csv`, never overwritten."""

from __future__ import annotations

import csv
import functools
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Spread
from dgm_fast import env

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


class SchemaDrift(ValueError):
    """Raised when a file's columns are not those that would be appended to it."""


@dataclass(frozen=True)
class Run:
    """What every row of one run shares."""

    timestamp: str
    commit: str
    dirty: bool
    dgm_fast: str
    python: str
    torch: str
    triton: str
    compiler: str
    device: str
    threads: int
    float32_precision: str


@dataclass(frozen=True)
class Measurement:
    """What was measured of one column of one case."""

    op: str
    case: str
    dtype: str
    direction: str
    column: str
    median_us: float
    p20_us: float
    p80_us: float
    repeats: int
    floor_us: float | None = None
    peak_mib: float | None = None
    compile_s: float | None = None
    speedup_over_eager: float | None = None


FIELDS = tuple(field.name for part in (Run, Measurement) for field in fields(part))


def start_run(device: torch.device) -> Run:
    """Describe this machine, this code and this moment."""
    versions = _machine()["versions"]
    commit, dirty = _commit()

    return Run(
        timestamp=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        commit=commit,
        dirty=dirty,
        **{name: versions[name] or "" for name in ("dgm_fast", "python", "torch")},
        triton=versions["triton"] or "",
        compiler=versions["compiler"] or "",
        device=device_name(device),
        threads=torch.get_num_threads(),
        float32_precision=torch.get_float32_matmul_precision(),
    )


def measurement(
    place: tuple[str, str, str, str],
    column: str,
    spread: Spread,
    eager: Spread | None = None,
    **more: float | None,
) -> Measurement:
    """Make the row of a column; `place` is its op, case, dtype and direction."""
    speedup = None if eager is None else round(eager.median_us / spread.median_us, 4)
    times = (round(each, 3) for each in (spread.median_us, spread.p20_us, spread.p80_us))
    rounded = {name: None if value is None else round(value, 3) for name, value in more.items()}
    return Measurement(
        *place, column, *times, spread.repeats, speedup_over_eager=speedup, **rounded
    )


def append(path: Path, run: Run, measurements: Iterable[Measurement]) -> None:
    """Append rows to a CSV file, which is made with its header when it is not there.

    Raises:
        SchemaDrift: the file has other columns.
    """
    measurements = list(measurements)
    if not measurements:
        return

    new = not path.exists() or path.stat().st_size == 0
    if not new:
        _check_header(path)

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(asdict(run) | asdict(each) for each in measurements)


def _check_header(path: Path) -> None:
    with path.open(newline="") as file:
        header = tuple(next(csv.reader(file)))

    if header != FIELDS:
        odd = sorted(set(header) ^ set(FIELDS)) or "their order"
        raise SchemaDrift(f"{path} has other columns than this run writes: {odd} differs")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, numbers as numbers.

    Raises:
        SchemaDrift: the file has other columns.
    """
    _check_header(path)
    with path.open(newline="") as file:
        return [
            {name: _number(name, text) for name, text in row.items()}
            for row in csv.DictReader(file)
        ]


def _number(name: str, text: str) -> Any:
    if name.endswith(("_us", "_mib", "_s", "_eager")):
        return float(text) if text else None

    return int(text) if name in ("repeats", "threads") else text


def newest(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Return, for each (case, dtype, direction), the rows of its newest run.

    Columns of different runs are never put side by side: the machine was another one then.
    """
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}

    for row in rows:
        key = row["case"], row["dtype"], row["direction"]
        kept = found.get(key)
        if kept is None or row["timestamp"] > kept[0]["timestamp"]:
            found[key] = [row]
        elif row["timestamp"] == kept[0]["timestamp"]:
            kept.append(row)

    return found


def device_name(device: torch.device) -> str:
    """Return the processor's own name, and of a CPU its vectors: machines of one name differ."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)

    cpu = _machine()["cpu"]
    return f"{cpu['name']}, {cpu['torch_capability']}"


def results_folder(out: Path, device: torch.device) -> Path:
    """Return `out/<device>`, such as `nvidia-h200`, or of a CPU `cpu-amd-epyc-avx2-2-threads`.

    With AVX-512 the name is without the vectors: `cpu-amd-epyc-2-threads`.
    """
    if device.type == "cuda":
        return out / slug(device_name(device))

    cpu = _machine()["cpu"]
    vectors = cpu["torch_capability"]
    name = slug(cpu["name"]) + ("" if vectors == "AVX512" else f"-{slug(vectors)}")
    return out / f"cpu-{name}-{torch.get_num_threads()}-threads"


def slug(name: str) -> str:
    """Return a processor's name as a folder's: no trade marks, no clock, no filling words."""
    plain = re.sub(r"\((r|tm)\)|\bcpu\b|\bprocessor\b|@.*", " ", name.lower())
    return "-".join(re.findall(r"[a-z0-9]+", plain))


@functools.cache
def _machine() -> dict[str, Any]:
    return env.collect()


@functools.cache
def _commit() -> tuple[str, bool]:
    commit = _git("rev-parse", "--short=10", "HEAD")
    changes = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return commit or "unknown", bool(changes)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
