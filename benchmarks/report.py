"""Print measurements as a table, losses too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.columns import ANCHOR, OURS
from benchmarks.record import Measurement

TITLES = {
    "forward": "forward",
    "forward_backward": "forward + backward",
    "sample": "a step of a sampler",
}
COLUMNS = ("column", "median us", "20 % - 80 %", "x eager", "x ours", "% floor", "MiB", "compile s")


def print_table(console: Console, op: str, measurements: Sequence[Measurement]) -> None:
    """Print one block of rows for each (case, dtype, direction)."""
    table = Table(title=f"{op}: `x ours` is how many times longer than ours a column takes")
    for place, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=True)

    blocks: dict[tuple[str, str, str], list[Measurement]] = {}
    for each in measurements:
        blocks.setdefault((each.case, each.dtype, each.direction), []).append(each)

    for place, block in blocks.items():
        table.add_section()
        table.add_row(Text(" ".join(place), style="bold"))
        ours = ours_of({each.column: each.median_us for each in block})
        for each in block:
            table.add_row(*_cells(each, ours))

    console.print(table)


def ours_of(medians_us: Mapping[str, float]) -> float | None:
    """Return the median of what a user gets: `ours:auto`, else the first column of ours."""
    ours = [name for name in medians_us if name.startswith(OURS)]
    name = f"{OURS}auto" if f"{OURS}auto" in ours else next(iter(ours), None)
    return None if name is None else medians_us[name]


def _cells(each: Measurement, ours_us: float | None) -> list[Text]:
    is_ours = each.column.startswith(OURS)
    ratio = None if ours_us is None or is_ours else each.median_us / ours_us
    floor = None if each.floor_us is None else 100 * each.floor_us / each.median_us
    style = "cyan" if is_ours else "dim" if each.column.startswith(ANCHOR) else ""
    verdict = "" if ratio is None else "green" if ratio >= 1 else "bold red"

    return [
        Text("  " + each.column, style=style),
        Text(f"{each.median_us:,.1f}", style=style),
        Text(f"{each.p20_us:,.1f} - {each.p80_us:,.1f}", style="dim"),
        Text(_number(each.speedup_over_eager)),
        Text(_number(ratio), style=verdict),
        Text(_number(floor, 0)),
        Text(_number(each.peak_mib, 1)),
        Text(_number(each.compile_s, 1)),
    ]


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def print_skipped(console: Console, skipped: Mapping[str, str]) -> None:
    """Say which columns are missing, and why."""
    for name, reason in skipped.items():
        console.print(Text(f"skipped {name}: {reason}", style="yellow"))
