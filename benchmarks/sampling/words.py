"""What tables and plots call the columns and the steps of samplers, and why cells are empty."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "COLUMNS",
    "batch_of",
    "empty_cells",
    "gpu_notes",
    "older_rows",
    "rate_of",
    "rate_text",
    "step_of",
]

COLUMNS = {
    "eager": "naive",
    "best_eager": "cached eager",
    "compile_default": "compiled cached eager",
    "compile_max_autotune": "the same, max-autotune",
    "ours:auto": "dgm_fast",
    "ours:cuda": "dgm_fast, its kernel",
    "ours:reference": "dgm_fast, a CUDA graph",
    "anchor:density": "one density evaluation",
    "anchor:last_output": "naive, the last output alone",
}
CASE = re.compile(r"(?P<model>.+)-batch(?P<batch>\d+)")
# What a step draws of each of a batch, by the beginning of the model's name. Of all others it is
# all there is.
STEPS = {
    ("wavenet",): ("a sample", "samples"),
    ("pixelcnn", "gated-pixelcnn", "image-transformer"): ("a pixel", "pixels"),
    ("transformer", "lstm", "gru", "markov"): ("a token", "tokens"),
}
AT_ONCE = "a whole batch", "samples"
# Whose compiled loops torch must tell apart.
SEVERAL_LOOPS = "pixelcnn", "gated-pixelcnn", "made", "maf"
WITHOUT_ISOLATION = 2, 11
# When the kernels on a GPU last became others.
KERNELS_SINCE = "2026-11-27T14:43"

Row = Mapping[str, Any]


def step_of(case: str) -> tuple[str, str]:
    """Return what a step of a case draws of each of the batch, and many of them."""
    found = (words for begins, words in STEPS.items() if case.startswith(begins))
    return next(found, AT_ONCE)


def batch_of(case: str) -> tuple[str, int] | None:
    """Return a case's model and batch; None of one that is named otherwise."""
    match = CASE.fullmatch(case)
    return None if match is None else (match["model"], int(match["batch"]))


def rate_of(case: str, us: float) -> float:
    """Return what is drawn a second where a step takes so long: samples, pixels or tokens."""
    found = batch_of(case)
    return 1e6 * (1 if found is None else found[1]) / us


def rate_text(case: str, us: float) -> str:
    """Return the same in three digits, and what it counts."""
    rate = float(f"{rate_of(case, us):.3g}")
    shown = f"{rate / 1e6:g} million" if rate >= 1e6 else f"{rate:,g}" if rate < 1e3 else ""
    return f"{shown or f'{rate:,.0f}'} {step_of(case)[1]}"


def empty_cells(newest: Iterable[Sequence[Row]]) -> str:
    """Return why cells of cases are empty, "" where none is.

    Arguments:
        newest: the rows of each case.
    """
    reasons: dict[str, None] = {}
    for rows in newest:
        names = {row["column"] for row in rows}
        if "eager" not in names:
            reasons[_no_naive(rows[0]["case"])] = None
        if not any(name.startswith("compile_") for name in names):
            reasons[_no_compiled(rows[0])] = None
    # What has no reason of its own comes last.
    told = sorted(reasons, key=lambda reason: reason.startswith("others"))
    return f"Empty: {'; '.join(told)}." if told else ""


def older_rows(newest: Iterable[Sequence[Row]]) -> str:
    """Return which cases were not timed on the last day that others were, "" where all were."""
    days = {rows[0]["case"]: rows[0]["timestamp"][:10] for rows in newest}
    older = [f"{case} ({day})" for case, day in days.items() if day < max(days.values())]
    return f"Timed before the others: {', '.join(older)}." if older else ""


def _no_naive(case: str) -> str:
    found = batch_of(case)
    if found is not None and found[1] > 16 and step_of(case) != AT_ONCE:
        return "naive beyond a batch of 16, where a step takes up to seconds"
    return "others have not been timed"


def _no_compiled(row: Row) -> str:
    if row["case"].startswith("pixelcnnpp"):
        return (
            "PixelCNN++ compiled, whose rows are of three kinds, of which one alone took 140 s to "
            "compile"
        )
    version = tuple(map(int, re.findall(r"\d+", row["torch"])[:2]))
    if row["case"].startswith(SEVERAL_LOOPS) and version <= WITHOUT_ISOLATION:
        return (
            f"MADE, MAF and PixelCNNs compiled, whose loops torch {version[0]}.{version[1]} cannot "
            "tell apart: it has no `torch.compile(isolate_recompiles=)`"
        )
    return "others have not been timed"


def gpu_notes(rows: Sequence[Row]) -> str:
    """Return what to know of rows that were timed on a GPU."""
    notes = (
        "A density is evaluated at all places at once, but a sampler's steps wait for one another: "
        "however little a step computes, on a GPU it takes as long as its chain of layers does, so "
        "one density evaluation, divided by its places, is no floor there that a sampler reaches."
    )
    if min(row["timestamp"] for row in rows) < KERNELS_SINCE:
        notes += (
            " Kernels were timed as they were at these commits: since then they draw the noise of "
            "a seed themselves and take shorter loops over parts of products, which has not been "
            "timed yet."
        )
    return notes
