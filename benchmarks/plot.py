"""Draw how many times faster ours is than every other column: `python -m benchmarks.plot`.

Of samplers also how much each column draws in a second, over the size of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks import record
from benchmarks.columns import ANCHOR, OURS
from benchmarks.report import TITLES, ours_of
from benchmarks.sampling import words

MARKERS = "osD^vP*X<>"


@dataclass(frozen=True)
class Options:
    """Draw the speed-ups of the newest rows of every device.

    Attributes:
        results: the folder that holds a folder of CSV files for each device.
    """

    results: Path = record.RESULTS


Ratios = dict[str, float]


def speedups(folder: Path) -> dict[str, dict[str, Ratios]]:
    """Return, for each direction and "op case dtype", each column's time over ours."""
    found: dict[str, dict[str, Ratios]] = {direction: {} for direction in TITLES}

    for path in sorted(folder.glob("*.csv")):
        for (case, dtype, direction), rows in record.newest(record.read(path)).items():
            ratios = _ratios(rows)
            if ratios and "eager" in ratios:
                found[direction][f"{path.stem}  {case}  {dtype}"] = ratios

    return found


def _ratios(rows: Sequence[Mapping[str, Any]]) -> Ratios:
    medians_us = {row["column"]: row["median_us"] for row in rows}
    ours_us = ours_of(medians_us)
    if ours_us is None:
        return {}

    return {name: us / ours_us for name, us in medians_us.items() if not name.startswith(OURS)}


def draw(folder: Path) -> Path | None:
    """Write `speedup.png` into a device's folder; None when it holds nothing to compare."""
    found = {direction: cases for direction, cases in speedups(folder).items() if cases}
    if not found:
        return None

    columns = list(dict.fromkeys(c for cases in found.values() for r in cases.values() for c in r))
    heights = [len(cases) for cases in found.values()]

    figure = Figure(
        figsize=(10, 1.8 + 0.3 * sum(heights) + 0.5 * len(heights)), layout="constrained"
    )
    panels = figure.subplots(len(found), squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, (direction, cases) in zip(panels, found.items(), strict=True):
        _draw_panel(axes, direction, cases, columns)

    panels[-1].set_xlabel(
        "times as long as dgm_fast takes: right of 1 dgm_fast is faster; hollow: other work"
    )
    figure.suptitle(folder.name)
    figure.legend(handles=_legend(columns), loc="outside lower center", ncols=4, frameon=False)

    path = folder / "speedup.png"
    figure.savefig(path, dpi=150)
    return path


def _draw_panel(
    axes: Axes, direction: str, cases: Mapping[str, Ratios], columns: Sequence[str]
) -> None:
    for row, ratios in enumerate(cases.values()):
        for name, ratio in ratios.items():
            axes.plot(ratio, row, **_style(name, columns))

    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5), numticks=20))
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes.tick_params(labelbottom=True)
    axes.set_yticks(range(len(cases)), cases)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.set_title(TITLES[direction], loc="left", fontsize="medium")
    axes.grid(axis="x", alpha=0.3)
    axes.grid(axis="y", alpha=0.15)


def _style(name: str, columns: Sequence[str]) -> dict[str, Any]:
    place = columns.index(name)
    return {
        "marker": MARKERS[place % len(MARKERS)],
        "color": f"C{place % 10}",
        "linestyle": "none",
        # An anchor does other work, and is drawn hollow.
        "fillstyle": "none" if name.startswith(ANCHOR) else "full",
        "label": name,
    }


def _legend(columns: Sequence[str], titles: Mapping[str, str] | None = None) -> list[Line2D]:
    """Return a line of each column; `titles` are those that are called otherwise."""
    styles = (_style(name, columns) for name in columns)
    return [
        Line2D([], [], **(style | {"label": (titles or {}).get(style["label"], style["label"])}))
        for style in styles
    ]


Rates = dict[str, dict[int, float]]


def rates(folder: Path) -> dict[str, Rates]:
    """Return, for each model that is sampled, what each column draws a second at each batch."""
    path, found = folder / "sampling.csv", {}
    newest = record.newest(record.read(path)) if path.exists() else {}
    for (case, _, _), rows in newest.items():
        place = words.batch_of(case)
        if place is None:
            continue
        model, batch = place
        columns = found.setdefault(model, {})
        for row in rows:
            columns.setdefault(row["column"], {})[batch] = words.rate_of(case, row["median_us"])
    return found


def draw_rates(folder: Path) -> Path | None:
    """Write `sampling.png` into a device's folder; None when it has no samplers."""
    found = rates(folder)
    if not found:
        return None

    names = list(dict.fromkeys(name for columns in found.values() for name in columns))
    across = min(3, len(found))
    down = math.ceil(len(found) / across)
    figure = Figure(figsize=(4 * across, 1 + 3 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    for axes, (model, columns) in zip(panels, found.items(), strict=False):
        for name, by_batch in columns.items():
            batches = sorted(by_batch)
            style = _style(name, names) | {"linestyle": ":" if name.startswith(ANCHOR) else "-"}
            axes.plot(batches, [by_batch[batch] for batch in batches], **style)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(f"{model}: {words.step_of(model)[1]}", loc="left", fontsize="medium")
        axes.set_xlabel("batch")
        axes.grid(alpha=0.3)
    figure.supylabel("drawn a second")
    figure.suptitle(folder.name)
    handles = _legend(names, words.COLUMNS)
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)

    path = folder / "sampling.png"
    figure.savefig(path, dpi=150)
    return path


def main(options: Options) -> None:
    """Draw a plot of speed-ups a device, and one of samplers."""
    for folder in sorted(path for path in options.results.glob("*") if path.is_dir()):
        for path in (draw(folder), draw_rates(folder)):
            print(path or f"{folder}: nothing to draw")


if __name__ == "__main__":
    main(tyro.cli(Options))
