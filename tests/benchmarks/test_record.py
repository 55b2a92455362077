from __future__ import annotations

import pytest
import torch

from benchmarks import record
from benchmarks.timing import Spread

CPU = torch.device("cpu")
PLACE = ("scale", "small", "float32", "forward")


@pytest.fixture(scope="module")
def run():
    return record.start_run(CPU)


def row(column="eager", median_us=10.0, **more):
    return record.measurement(PLACE, column, Spread(median_us, 9.0, 12.0, 30), **more)


def test_rows_carry_versions_commit_and_device(tmp_path, run):
    path = tmp_path / "device" / "scale.csv"
    record.append(path, run, [row(floor_us=4.0, peak_mib=1.5)])

    (found,) = record.read(path)
    assert tuple(found) == record.FIELDS
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert all(found[name] for name in ("timestamp", "commit", "dirty", "dgm_fast", "device"))
    assert (found["median_us"], found["floor_us"], found["compile_s"]) == (10.0, 4.0, None)


def test_rows_are_appended_and_never_rewritten(tmp_path, run):
    path = tmp_path / "scale.csv"
    record.append(path, run, [row()])
    before = path.read_bytes()
    record.append(path, run, [row("ours:auto", 5.0)])

    assert path.read_bytes().startswith(before)
    assert [each["column"] for each in record.read(path)] == ["eager", "ours:auto"]
    assert path.read_text().count("timestamp") == 1


@pytest.mark.parametrize("reading", [False, True])
def test_a_file_with_other_columns_is_refused_and_left_as_it_is(tmp_path, run, reading):
    path = tmp_path / "scale.csv"
    path.write_text(",".join([*record.FIELDS[:-1], "colour"]) + "\n")
    before = path.read_bytes()

    with pytest.raises(record.SchemaDrift, match="colour"):
        record.read(path) if reading else record.append(path, run, [row()])
    assert path.read_bytes() == before


def test_speedup_is_the_eager_median_over_the_columns():
    eager = Spread(30.0, 29.0, 31.0, 30)
    assert row(median_us=10.0, eager=eager).speedup_over_eager == 3


def test_newest_keeps_whole_runs_apart():
    def made(timestamp, column, case="small"):
        rest = {"case": case, "dtype": "float32", "direction": "forward"}
        return {"timestamp": timestamp, "column": column, **rest}

    old = [made("2026-01-01", "eager"), made("2026-01-01", "outside:zuko")]
    other = made("2026-01-01", "eager", case="large")
    new = [made("2026-02-01", "eager"), made("2026-02-01", "ours:auto")]

    found = record.newest([*new, *old, other])
    assert found["small", "float32", "forward"] == new
    assert found["large", "float32", "forward"] == [other]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Intel(R) Xeon(R) Processor", "intel-xeon"),
        ("Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz", "intel-xeon-gold-6230"),
        ("AMD EPYC 9654 96-Core Processor", "amd-epyc-9654-96-core"),
        ("NVIDIA H200", "nvidia-h200"),
    ],
)
def test_slug(name, expected):
    assert record.slug(name) == expected


@pytest.mark.parametrize(
    ("vectors", "expected"), [("AVX512", "cpu-amd-epyc-"), ("AVX2", "cpu-amd-epyc-avx2-")]
)
def test_machines_with_other_vectors_have_other_folders(monkeypatch, tmp_path, vectors, expected):
    cpu = {"name": "AMD EPYC Processor", "torch_capability": vectors}
    monkeypatch.setattr(record, "_machine", lambda: {"cpu": cpu})
    folder = record.results_folder(tmp_path, CPU)
    assert folder.name == f"{expected}{torch.get_num_threads()}-threads"
    assert record.device_name(CPU) == f"AMD EPYC Processor, {vectors}"


def test_a_cpu_folder_names_its_threads(tmp_path):
    name = record.results_folder(tmp_path, CPU).name
    assert name.startswith("cpu-")
    assert name.endswith(f"-{torch.get_num_threads()}-threads")
