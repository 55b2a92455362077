"""What tables and plots call the columns and the steps of samplers, and why cells are empty."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.sampling.case import MOST_IN_WINDOWS

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
    "ours:jacobi": "dgm_fast, iterating the network",
    "anchor:density": "one density evaluation",
    "anchor:sample": "as many samples",
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
SEVERAL_LOOPS = (
    "pixelcnn", "gated-pixelcnn", "made", "residual-made", "maf", "iaf", "spline-step",
)  # fmt: skip
WITHOUT_ISOLATION = 2, 11
NO_NAIVE = f"naive beyond a batch of {MOST_IN_WINDOWS}, where a step takes up to seconds"
NO_LOOP = "a cached loop of histograms, whose values do not depend on each other"
NO_PIXELCNNPP = (
    "PixelCNN++ compiled, whose rows are of three kinds, of which one alone took 140 s to compile"
)
# Columns that some models alone have, by the beginning of their names.
ONLY_OF = {
    "anchor:last_output": "wavenet",
    "anchor:sample": "iaf",
    "ours:jacobi": ("maf-", "spline-step"),
}
OTHERS = "others have not been timed"
# Made of the steps that are compiled in cases of their own.
MADE_OF_STEPS = re.compile(r"maf5-|iaf5-|.*-gradient-")
# When the kernels on a GPU last became others: to be set anew with each change to what they take.
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


def empty_cells(newest: Iterable[Sequence[Row]], columns: Iterable[Sequence[str]]) -> str:
    """Return why cells of a table are empty, "" where none is.

    Arguments:
        newest: the rows of each case.
        columns: of the table; each shows the best of some of the rows' columns.
    """
    columns, reasons = list(columns), set()
    for rows in newest:
        names = {row["column"] for row in rows}
        reasons |= {_why(rows[0], each[0]) for each in columns if not names & set(each)}
    # What has no reason of its own comes last.
    told = sorted(reasons - {""}, key=lambda reason: (reason == OTHERS, reason))
    return f"Empty: {'; '.join(told)}." if told else ""


def _why(row: Row, column: str) -> str:
    """Return why a case has no row of a column, "" where it could not have one."""
    case = row["case"]
    if not case.startswith(ONLY_OF.get(column, "")):
        return ""
    if column == "anchor:density" and case.startswith("iaf"):
        return ""
    if column in ("eager", "anchor:last_output"):
        is_large = (batch_of(case) or (case, 1))[1] > MOST_IN_WINDOWS
        # A whole batch takes long, too, but is one step.
        return NO_NAIVE if is_large and step_of(case) != AT_ONCE else OTHERS
    if column == "best_eager" and case.startswith("histogram"):
        return NO_LOOP
    return _no_compiled(row) if column.startswith("compile_") else OTHERS


def _no_compiled(row: Row) -> str:
    if row["case"].startswith("pixelcnnpp"):
        return NO_PIXELCNNPP
    if MADE_OF_STEPS.match(row["case"]):
        return "whole flows and gradients compiled, of whose step there is a case"
    version = tuple(map(int, re.findall(r"\d+", row["torch"])[:2]))
    if row["case"].startswith(SEVERAL_LOOPS) and version <= WITHOUT_ISOLATION:
        return (
            f"compiled loops of MADE, MAF and PixelCNNs, which torch {version[0]}.{version[1]} "
            "cannot tell apart: it has no `torch.compile(isolate_recompiles=)`"
        )
    return OTHERS


def older_rows(newest: Iterable[Sequence[Row]]) -> str:
    """Return which cases were not timed on the last day that others were, "" where all were."""
    days = {rows[0]["case"]: rows[0]["timestamp"][:10] for rows in newest}
    older = [f"{case} ({day})" for case, day in days.items() if day < max(days.values())]
    return f"Timed before the others: {', '.join(older)}." if older else ""


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
