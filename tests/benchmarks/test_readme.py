from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks import plot, readme, record
from benchmarks.timing import Spread

BEGIN, END = "<!-- benchmark:scale begin -->\n", "<!-- benchmark:scale end -->"


@pytest.fixture(scope="module")
def run():
    return record.start_run(torch.device("cpu"))


@pytest.fixture
def results(tmp_path, run):
    append(tmp_path, run, {"eager": 100.0, "anchor:copy": 20.0, "ours:auto": 40.0})
    return tmp_path


def append(results, run, medians_us, direction="forward"):
    rows = [
        record.measurement(
            ("scale", "small", "float32", direction),
            column,
            Spread(us, us, us, 30),
            Spread(medians_us["eager"], 0, 0, 30),
            floor_us=10.0,
        )
        for column, us in medians_us.items()
    ]
    record.append(results / "some-device" / "scale.csv", run, rows)


def write(path, body=""):
    path.write_text(f"# Title\n\n{BEGIN}{body}{END}\n\nThe end.\n")
    return path


def test_table_holds_ours_every_rival_and_the_floor(results):
    head, _, cells = readme.tables(results, "scale").splitlines()[-3:]

    assert [each.strip() for each in head.split("|")[1:-1]] == [
        "case", "ours", "eager", "*copy*", "floor",
    ]  # fmt: skip
    assert [each.strip() for each in cells.split("|")[1:-1]] == [
        "small, float32, forward", "40 µs", "100 µs (2.50x)", "20 µs (**0.50x**)", "10 µs",
    ]  # fmt: skip


def test_samplers_are_those_of_the_device_timed_last(tmp_path, run):
    later = dataclasses.replace(run, timestamp="2999-01-01T00:00:00+00:00")
    for device, when, us in (("cpu-b", run, 30.0), ("cpu-a", later, 50.0), ("cpu-c", run, 40.0)):
        place = "sampling", "lstm-1x384-batch1", "float32", "sample"
        spread = Spread(us, us, us, 30)
        rows = [record.measurement(place, name, spread, spread) for name in ("eager", "ours:auto")]
        record.append(tmp_path / device / "sampling.csv", when, rows)
    table = readme.headline(tmp_path, sampling=True)
    assert "50 µs" in table
    assert "30 µs" not in table
    assert "40 µs" not in table


def sampled(tmp_path, device, run, *cases, us=30.0):
    for case in cases:
        place = "sampling", case, "float32", "sample"
        spread = Spread(us, us, us, 30)
        rows = [record.measurement(place, name, spread, spread) for name in ("eager", "ours:auto")]
        record.append(tmp_path / device / "sampling.csv", run, rows)


def test_samplers_are_those_of_the_device_with_most_rows(tmp_path, run):
    later = dataclasses.replace(run, timestamp="2999-01-01T00:00:00+00:00")
    sampled(tmp_path, "cpu-a", run, "lstm-1x384-batch1", "lstm-1x384-batch16")
    sampled(tmp_path, "cpu-b", later, "lstm-1x384-batch1", "lstm-1x384-batch4", us=50.0)
    assert readme.sampled_folders(tmp_path) == {True: tmp_path / "cpu-a"}
    assert "50 µs" not in readme.headline(tmp_path, sampling=True)


def test_a_sampler_has_a_table_of_its_models_by_batch(tmp_path, run):
    cases = [f"wavenet-20x64-skip256-batch{batch}" for batch in (16, 1)]
    sampled(tmp_path, "cpu-a", run, *cases, "lstm-1x384-batch1", us=25.0)
    table = readme.tables(tmp_path, "sampling_wavenet")
    rows = [line for line in table.splitlines() if line.startswith("| wavenet")]
    assert [row.split(",")[0] for row in rows] == [f"| {case}" for case in reversed(cases)]
    assert rows[0].endswith("a sample | 25 µs | 40,000 samples | 25 µs (1.00x) |")
    assert "| case | dgm_fast | drawn a second | naive |" in table
    assert "125 µs a sample, which is 5.0 times as long" in table
    assert "lstm" not in table


def test_rows_of_a_gpu_say_when_its_kernels_were_others(tmp_path, run):
    for timestamp, is_said in (("2026-11-27T08:00", True), ("2999-01-01T00:00", False)):
        timed = dataclasses.replace(run, timestamp=timestamp)
        sampled(tmp_path, "nvidia-h200", timed, "lstm-1x384-batch1")
        table = readme.headline(tmp_path, sampling=True)
        assert "steps wait for one another" in table
        assert ("Kernels were timed as they were" in table) == is_said


def test_only_the_newest_run_is_shown(results, run):
    later = dataclasses.replace(run, timestamp="2999-01-01T00:00:00+00:00")
    append(results, later, {"eager": 90.0, "ours:auto": 30.0})

    table = readme.tables(results, "scale")
    assert "90 µs (3.00x)" in table
    assert "100 µs" not in table


def test_check_fails_until_the_tables_are_written(results, tmp_path):
    path = write(tmp_path / "README.md", "an old table\n")
    options = readme.Options(pages=(path,), results=results)
    check = dataclasses.replace(options, check=True)
    before = path.read_text()

    assert readme.main(check) == 1
    assert path.read_text() == before

    assert readme.main(options) == 0
    assert readme.main(check) == 0
    assert path.read_text().startswith("# Title\n\n" + BEGIN)
    assert path.read_text().endswith(END + "\n\nThe end.\n")
    assert "an old table" not in path.read_text()


def test_new_rows_put_the_readme_out_of_date(results, run, tmp_path):
    path = write(tmp_path / "README.md")
    options = readme.Options(pages=(path,), results=results)
    readme.main(options)

    append(results, run, {"eager": 50.0, "ours:auto": 40.0}, direction="forward_backward")
    assert readme.main(dataclasses.replace(options, check=True)) == 1


def test_a_missing_readme_is_named(tmp_path, capsys):
    assert readme.main(readme.Options(pages=(tmp_path / "NONE.md",))) == 1
    assert "NONE.md" in capsys.readouterr().err


def test_a_marker_without_rows_says_so(tmp_path):
    assert "No rows" in readme.tables(tmp_path, "scale")


@pytest.mark.parametrize(
    ("us", "expected"), [(0.5, "0.5 µs"), (999.4, "999 µs"), (12_345, "12.3 ms"), (2.5e6, "2.5 s")]
)
def test_time_text(us, expected):
    assert readme.time_text(us) == expected


def test_the_pages_show_what_the_rows_say():
    for page in readme.Options().pages:
        if not page.exists():
            pytest.skip(f"this copy of the source has no {page.name}")

    assert readme.main(readme.Options(check=True)) == 0


def test_plot_compares_every_rival_with_ours(results):
    found = plot.speedups(results / "some-device")
    assert found["forward"] == {"scale  small  float32": {"eager": 2.5, "anchor:copy": 0.5}}

    path = plot.draw(results / "some-device")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_plot_has_a_panel_for_every_direction(results, run):
    for direction in ("forward_backward", "sample"):
        append(results, run, {"eager": 90.0, "ours:auto": 30.0}, direction)

    found = plot.speedups(results / "some-device")
    assert found["sample"] == found["forward_backward"] == {"scale  small  float32": {"eager": 3.0}}
    assert plot.draw(results / "some-device").exists()


def test_nothing_is_drawn_of_nothing(tmp_path):
    assert plot.draw(tmp_path) is None
