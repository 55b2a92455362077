"""Write the tables of the pages from the recorded rows: `python -m benchmarks.readme [--check]`.

A table stands between `<!-- benchmark:NAME begin -->` and `<!-- benchmark:NAME end -->`, where NAME
is the op, and the file, of the rows, or one of a few that pick rows: `headline`,
`headline_sampling`, `recipes`, and `sampling_<sampler>` of the pages beside the samplers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks import recipes, record
from benchmarks.columns import ANCHOR, OURS
from benchmarks.report import TITLES, ours_of
from benchmarks.sampling import words

MARKED = re.compile(
    r"(?P<begin><!-- benchmark:(?P<name>\w+) begin -->\n).*?"
    r"(?P<end><!-- benchmark:(?P=name) end -->)",
    re.DOTALL,
)


def _both(title: str, op: str, case: str) -> tuple[tuple[str, str, str, str], ...]:
    again = "the same, forward and backward"
    return (title, op, case, "forward"), (again, op, case, "forward_backward")


# The rows of the table called `headline`: what it says of each, and where the row lies.
HEADLINE_CPU = (
    *_both("masked linear 4096 -> 4096, batch 128", "masked_linear", "128x4096x4096"),
    ("masked linear 784 -> 2048, batch 256", "masked_linear", "256x784x2048", "forward"),
    ("training step of MADE 784-2048-2048-784", "made_training_step", None, "forward_backward"),
    ("4 million normals", "philox", "4M-normals", "forward"),
    *_both("Gaussian draw and KL, 8192 x 512", "gaussian_rsample_kl", "8192x512"),
    *_both("diffusion noising, 256 x 3 x 64 x 64", "diffusion_noise", "256x3x64x64"),
    *_both("affine coupling, 256 x 12 x 32 x 32", "affine_coupling", "256x12x32x32"),
    *_both("spline of 8 bins, 4096 x 32", "rational_quadratic_spline", "4096x32"),
    *_both("mixture of 500 Gaussians, 512 x 64", "gaussian_mixture_log_prob", "512x64-of-500"),
    *_both("mixture of logistics, 32 x 3 x 32 x 32", "logistic_mixture_nll", "32x3x32x32-of-10"),
    *_both("masked convolution 5 x 5, 32 x 64 x 28 x 28", "masked_conv2d", "32x64x28x28-k5"),
    *_both("WaveNet layer, 4 x 64 x 16000", "wavenet_layer", "4x64x16000-d512"),
)
HEADLINE_GPU = (
    *_both("masked linear 4096 -> 4096, batch 8192", "masked_linear", "8192x4096x4096"),
    *_both("Gaussian draw and KL, 65536 x 512", "gaussian_rsample_kl", "65536x512"),
    *_both("diffusion noising, 64 x 3 x 256 x 256", "diffusion_noise", "64x3x256x256"),
    *_both("diffusion loss, 64 x 3 x 256 x 256", "diffusion_loss", "64x3x256x256"),
    *_both("coupling of half of 256 x 48 x 64 x 64", "affine_coupling", "256x48x64x64-channels"),
    *_both("actnorm, 256 x 48 x 64 x 64", "actnorm", "256x48x64x64"),
    *_both("spline of 8 bins, 65536 x 32", "rational_quadratic_spline", "65536x32"),
    *_both("mixture of 500 Gaussians, 12800 x 40", "gaussian_mixture_log_prob", "12800x40-of-500"),
)
# Its columns: the best of those of a row that are named. What is plain PyTorch for random numbers
# is torch.randn: its generator, not ours written in PyTorch.
HEADLINE_RIVALS = {
    "plain PyTorch": ("eager", "best_eager"),
    "torch.compile": ("compile_default", "compile_max_autotune"),
    "without the mask": ("anchor:unmasked",),
}
HEADLINE_RIVALS_OF = {
    "philox": {"plain PyTorch": ("anchor:torch", "anchor:torch_in_place")},
}


def _sampled(title: str, model: str, *batches: int) -> tuple[tuple[str, str, str, str], ...]:
    titles = (title, *(f"the same, batch {batch}" for batch in batches[1:]))
    cases = (f"{model}-batch{batch}" for batch in batches)
    return tuple(
        (title, "sampling", case, "sample") for title, case in zip(titles, cases, strict=True)
    )


# The rows of the table called `headline_sampling`, and its columns.
SAMPLING = (
    *_sampled("MADE, 784 features, 2 x 1024: 100 samples", "made-784x1024x1024", 100),
    *_sampled("MAF's step, the same: 100 inverses", "maf-784x1024x1024", 100),
    *_sampled("MADE, 64 features, 2 x 512: 100 samples", "made-64x512x512", 100),
    *_sampled("PixelCNN 28 x 28, 7 blocks of 64: a pixel of an image", "pixelcnn-28x28", 1, 16),
    *_sampled("Gated PixelCNN 28 x 28: a pixel", "gated-pixelcnn-28x28", 1, 16),
    *_sampled("PixelCNN++ 3 x 32 x 32: a pixel", "pixelcnnpp-3x32x32", 1, 16),
    *_sampled("WaveNet, 20 layers of 64: a sample", "wavenet-20x64-skip256", 1, 16),
    *_sampled("transformer, 4 layers of 128: a token", "transformer-4x128", 1, 16),
    *_sampled("LSTM of 384: a token", "lstm-1x384", 1, 16),
    *_sampled("GRU of 384: a token", "gru-1x384", 1),
    *_sampled("perceptron over 8 tokens: a token", "markov-mlp-8x256", 1),
    *_sampled("counts over 3 tokens: a token", "markov-order3", 1),
    *_sampled("image transformer 28 x 28: a pixel", "image-transformer-28x28", 1),
    *_sampled("histograms of 784 values: 16 samples", "histogram-28x28x256", 16),
)
SAMPLING_RIVALS = {
    "naive": ("eager",),
    "cached eager": ("best_eager",),
    "compiled cached eager": ("compile_default", "compile_max_autotune"),
    "*one density evaluation*": ("anchor:density",),
}
SAMPLING_RIVALS_GPU = {
    "naive": ("eager",),
    "cached eager": ("best_eager",),
    "compiled cached eager": ("compile_default", "compile_max_autotune"),
    "its step as a CUDA graph": ("ours:reference",),
    "*one density evaluation*": ("anchor:density",),
}
# The models of the pages beside the samplers, by the beginnings of their names.
SAMPLERS = {
    "sampling_masked_mlp": ("made", "residual-made", "maf", "iaf", "spline-step"),
    "sampling_pixelcnn": ("pixelcnn", "gated-pixelcnn"),
    "sampling_recurrent": ("lstm", "gru"),
    "sampling_transformer": ("transformer", "image-transformer"),
    "sampling_wavenet": ("wavenet",),
}
# What a signal of 8 kHz leaves a sample.
REAL_TIME_US = 125
LEADING = ("eager", "best_eager", "compile_default", "compile_max_autotune")
Row = Mapping[str, Any]
# A row's case, dtype and direction.
Place = tuple[str, str, str]


@dataclass(frozen=True)
class Options:
    """Rewrite the tables between the markers of the pages from the recorded rows.

    Attributes:
        pages: the files that hold markers.
        results: the folder that holds a folder of CSV files for each device.
        check: change nothing, and fail when a table is not what the rows say.
    """

    pages: tuple[Path, ...] = (
        record.ROOT / "README.md",
        record.ROOT / "benchmarks" / "RESULTS.md",
        *(
            record.ROOT / "dgm_fast" / "sampling" / name.removeprefix("sampling_") / "README.md"
            for name in SAMPLERS
        ),
    )
    results: Path = record.RESULTS
    check: bool = False


def rewritten(text: str, results: Path) -> str:
    """Return a page's text with every marked table made anew."""
    return MARKED.sub(lambda m: f"{m['begin']}{tables(results, m['name'])}{m['end']}", text)


def tables(results: Path, name: str) -> str:
    """Return one table for each device that has rows of that name."""
    if name in ("headline", "headline_sampling"):
        return headline(results, sampling=name == "headline_sampling")
    if name == "recipes":
        return recipes.table(results)
    if name in SAMPLERS:
        return sampler_table(results, name)

    newest = (record.newest(record.read(path)) for path in sorted(results.glob(f"*/{name}.csv")))
    parts = [_table(_by_model(each) if name == "sampling" else each) for each in newest]
    return "\n".join(parts) or "No rows are recorded yet: `make bench` records some.\n"


def headline(results: Path, *, sampling: bool = False) -> str:
    """Return the few rows that the README opens with.

    Of ops, those of each device; of samplers, those of one CPU and one GPU.
    """
    parts = []
    if sampling:
        chosen = sampled_folders(results)
        parts += [
            _headline_of(chosen[on_cpu], SAMPLING, "float32", rivals, {})
            for on_cpu, rivals in ((True, SAMPLING_RIVALS), (False, SAMPLING_RIVALS_GPU))
            if on_cpu in chosen
        ]
    else:
        for folder in sorted(path for path in results.glob("*") if path.is_dir()):
            on_cpu = _on_cpu(folder)
            dtype, rows = ("float32", HEADLINE_CPU) if on_cpu else ("bfloat16", HEADLINE_GPU)
            parts.append(_headline_of(folder, rows, dtype, HEADLINE_RIVALS, HEADLINE_RIVALS_OF))
    return "\n".join(filter(None, parts)) or "No rows are recorded yet.\n"


def _on_cpu(folder: Path) -> bool:
    return folder.name.startswith("cpu-")


def sampled_folders(results: Path) -> dict[bool, Path]:
    """Return the CPU and the GPU with most of the rows of samplers' headline, timed last."""
    wanted = {case for _, _, case, _ in SAMPLING}

    def rank(path: Path) -> tuple[int, str]:
        rows = record.read(path)
        return len(wanted & {row["case"] for row in rows}), max(row["timestamp"] for row in rows)

    paths = sorted(results.glob("*/sampling.csv"), key=rank)
    return {_on_cpu(path.parent): path.parent for path in paths}


def sampler_table(results: Path, name: str) -> str:
    """Return the rows of a sampler's models on the CPU of the headline."""
    folder = sampled_folders(results).get(True)
    newest = {} if folder is None else record.newest(record.read(folder / "sampling.csv"))
    newest = {place: rows for place, rows in newest.items() if place[0].startswith(SAMPLERS[name])}
    if not newest:
        return "No rows are recorded yet.\n"
    return _table(_by_model(newest)) + (_real_time(newest) if name == "sampling_wavenet" else "")


def _by_model(newest: Mapping[Place, list[Row]]) -> dict[Place, list[Row]]:
    """Return the rows of each model together, by batch."""
    models = list(dict.fromkeys(_model_and_batch(case)[0] for case, _, _ in newest))

    def order(place: Place) -> tuple[int, int]:
        model, batch = _model_and_batch(place[0])
        return models.index(model), batch

    return {place: newest[place] for place in sorted(newest, key=order)}


def _model_and_batch(case: str) -> tuple[str, int]:
    return words.batch_of(case) or (case, 0)


def _real_time(newest: Mapping[Place, Sequence[Row]]) -> str:
    lines = []
    for (case, _, _), rows in newest.items():
        us = ours_of({row["column"]: row["median_us"] for row in rows})
        if us is not None and _model_and_batch(case)[1] == 1:
            lines.append(
                f"{case}: {words.rate_text(case, us)} a second; a signal of 8 kHz leaves "
                f"{REAL_TIME_US} µs a sample, which is {REAL_TIME_US / us:.1f} times as long.\n"
            )
    return "\n" + "".join(lines) if lines else ""


def _headline_of(
    folder: Path,
    headlines: Sequence[tuple[str, str, str | None, str]],
    dtype: str,
    usual_rivals: Mapping[str, Sequence[str]],
    rivals_of: Mapping[str, Mapping[str, Sequence[str]]],
) -> str:
    found = []
    for title, name, case, direction in headlines:
        path = folder / f"{name}.csv"
        newest = record.newest(record.read(path)) if path.exists() else {}
        for place, rows in newest.items():
            if place[0] == (case or place[0]) and place[1:] == (dtype, direction):
                found.append((title, rows, rivals_of.get(name, usual_rivals)))
    if not found:
        return ""

    sampling = found[0][1][0]["op"] == "sampling"
    head = [dtype, *_ours_head(sampling), *usual_rivals]
    firsts = [rows[0] for _, rows, _ in found]
    lines = [_origin(firsts, sampling), "", _line(head)]
    lines.append("|---" + "|---:" * (len(head) - 1) + "|")
    for title, rows, rivals in found:
        medians = {row["column"]: row["median_us"] for row in rows}
        ours_us = ours_of(medians)
        best = (
            min((medians[name] for name in rivals.get(rival, ()) if name in medians), default=None)
            for rival in usual_rivals
        )
        cells = ["" if us is None else _against(us, ours_us) for us in best]
        lines.append(_line([title, *_ours_cells(rows[0], ours_us, sampling), *cells]))
    if sampling:
        newest = [rows for _, rows, _ in found]
        lines += _notes(newest, usual_rivals.values(), [] if _on_cpu(folder) else firsts)
    return "\n".join(lines) + "\n"


def _ours_head(sampling: bool) -> list[str]:
    return ["dgm_fast", "drawn a second"] if sampling else ["ours"]


def _ours_cells(row: Row, ours_us: float | None, sampling: bool) -> list[str]:
    if ours_us is None:
        return [""] * len(_ours_head(sampling))
    rate = [words.rate_text(row["case"], ours_us)] if sampling else []
    return [time_text(ours_us), *rate]


def _notes(
    newest: Sequence[Sequence[Row]],
    columns: Iterable[Sequence[str]],
    on_gpu: Sequence[Row] = (),
) -> list[str]:
    notes = [words.empty_cells(newest, columns), words.older_rows(newest)]
    notes += [words.gpu_notes(on_gpu)] if on_gpu else []
    return [line for note in notes if note for line in ("", note)]


def _table(newest: Mapping[Place, Sequence[Row]]) -> str:
    blocks = {place: {row["column"]: row for row in rows} for place, rows in newest.items()}
    rivals = _in_order({name for block in blocks.values() for name in block})
    has_floor = any(row["floor_us"] is not None for rows in newest.values() for row in rows)

    firsts = [rows[0] for rows in newest.values()]
    sampling = firsts[0]["op"] == "sampling"
    title = _sampler_title if sampling else _title
    floor = ["floor"] if has_floor else []
    head = ["case", *_ours_head(sampling), *map(title, rivals), *floor]
    lines = [_origin(firsts, sampling), "", _line(head)]
    lines.append("|---" + "|---:" * (len(head) - 1) + "|")

    for place, block in blocks.items():
        lines.append(_line(_cells(place, block, rivals, has_floor)))
    if sampling:
        lines += _notes(list(newest.values()), [(name,) for name in rivals])

    return "\n".join(lines) + "\n"


def _cells(
    place: tuple[str, str, str], block: Mapping[str, Row], rivals: Sequence[str], has_floor: bool
) -> list[str]:
    case, dtype, direction = place
    ours_us = ours_of({name: row["median_us"] for name, row in block.items()})
    first = next(iter(block.values()))
    sampling = first["op"] == "sampling"
    work = TITLES.get(direction, direction.replace("_", " "))
    cells = [f"{case}, {dtype}, {words.step_of(case)[0] if sampling else work}"]
    cells += _ours_cells(first, ours_us, sampling)

    cells += [
        _against(block[name]["median_us"], ours_us) if name in block else "" for name in rivals
    ]

    if has_floor:
        floor_us = first["floor_us"]
        cells.append("" if floor_us is None else time_text(floor_us))
    return cells


def _against(rival_us: float, ours_us: float | None) -> str:
    if ours_us is None:
        return time_text(rival_us)

    ratio = rival_us / ours_us
    shown = f"{ratio:.2g}x" if ratio < 0.1 else f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"
    # A loss is printed like a gain, and louder.
    return f"{time_text(rival_us)} ({f'**{shown}**' if ratio < 1 else shown})"


def time_text(us: float) -> str:
    """Return a time in three digits and the unit that suits it."""
    if us < 1000:
        return f"{us:.3g} µs"

    return f"{us / 1000:.3g} ms" if us < 1e6 else f"{us / 1e6:.3g} s"


def _in_order(names: set[str]) -> list[str]:
    others = sorted(name for name in names if name not in LEADING and not name.startswith(OURS))
    anchors = [name for name in others if name.startswith(ANCHOR)]
    return [
        *(name for name in LEADING if name in names),
        *(name for name in others if name not in anchors),
        *anchors,
    ]


def _title(column: str) -> str:
    plain = column.removeprefix("outside:").removeprefix(ANCHOR).replace("_", " ")
    return f"*{plain}*" if column.startswith(ANCHOR) else plain


def _sampler_title(column: str) -> str:
    title = words.COLUMNS.get(column)
    if title is None:
        return _title(column)
    return f"*{title}*" if column.startswith(ANCHOR) else title


def _origin(rows: Sequence[Row], sampling: bool = False) -> str:
    first = rows[0]
    commits = dict.fromkeys(
        f"{row['commit']}{' with local changes' if row['dirty'] == 'True' else ''}" for row in rows
    )
    days = sorted({row["timestamp"][:10] for row in rows})
    return (
        f"{' and '.join(dict.fromkeys(row['device'] for row in rows))}, "
        f"{first['threads']} threads, torch {first['torch']}, "
        f"commit {', '.join(commits)}, {' to '.join(dict.fromkeys((days[0], days[-1])))}; in "
        f"brackets, how many times longer than {_ours_head(sampling)[0]}; columns in italics do "
        f"other work"
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(options: Options) -> int:
    """Write, or check, the tables; return the exit status."""
    return max(_page(page, options) for page in options.pages)


def _page(page: Path, options: Options) -> int:
    if not page.exists():
        print(f"{page} is not there", file=sys.stderr)
        return 1

    text = page.read_text(encoding="utf-8")
    wanted = rewritten(text, options.results)

    if options.check and text != wanted:
        print(f"{page} is out of date: run `python -m benchmarks.readme`", file=sys.stderr)
        return 1

    if text != wanted:
        page.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
