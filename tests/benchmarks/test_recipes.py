"""A finished run becomes a row, a curve and a line of a table."""

from __future__ import annotations

import csv
import math

import pytest
import torch
from rich.console import Console

from benchmarks import readme, recipes, record
from dgm_fast.cli import main as dgm_fast
from dgm_fast.families import MADE
from dgm_fast.training import DataConfig, load_dataset
from dgm_fast.training.data import load_digits, load_vowels


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run of one epoch on digits, and the folder where it is recorded."""
    run, out = (tmp_path_factory.mktemp(name) for name in ("run", "results"))
    options = ["--data", "digits", "--epochs", "2", "--model.hidden", "8", "--no-tensorboard"]
    assert dgm_fast(["train", "made", *options, "--out", str(run)]) == 0
    assert recipes.main(recipes.Options((run,), out=out), Console(quiet=True)) == 0
    return run, out


def test_the_row_holds_the_likelihood_of_the_best_weights_and_what_they_cost(recorded):
    run, out = recorded
    folder = record.results_folder(out, torch.device("cpu")) / recipes.FOLDER
    row = recipes.read_summary(folder / recipes.SUMMARY)["made-digits"]

    model = MADE.from_pretrained(run)
    x = load_dataset(DataConfig(binarization="none")).test
    expected = -model.log_prob(x).mean().item()
    assert float(row["test_nats"]) == pytest.approx(expected, abs=1e-3)
    assert float(row["test_bpd"]) == pytest.approx(expected / (64 * math.log(2)), abs=1e-4)
    assert int(row["test_rows"]) == len(x)
    assert float(row["cpu_seconds"]) > 0

    with (folder / "made-digits.csv").open(newline="") as file:
        curve = list(csv.DictReader(file))
    assert [each["epoch"] for each in curve] == ["1", "2"]
    assert int(row["steps"]) == int(curve[-1]["step"])
    assert float(row["validation_nats"]) == pytest.approx(
        min(float(each["validation_nats"]) for each in curve), abs=1e-4
    )
    assert (folder / "curves.png").stat().st_size > 0


def test_the_newest_row_of_a_recipe_stands_in_the_table(recorded):
    run, out = recorded
    assert recipes.main(recipes.Options((run,), rows=10, out=out), Console(quiet=True)) == 0
    table = readme.tables(out, "recipes")

    assert table.count("| made-digits |") == 1
    folder = record.results_folder(out, torch.device("cpu")) / recipes.FOLDER
    row = recipes.read_summary(folder / recipes.SUMMARY)["made-digits"]
    assert row["test_rows"] == "10"
    assert f"| {float(row['test_nats']):.2f} |" in table


def test_of_text_the_table_has_figures_of_a_character_beside_counts(recorded, tmp_path):
    text, run, (made, _) = tmp_path / "mine.txt", tmp_path / "run", recorded
    text.write_text("to be, or not to be: that is the question\n" * 100)
    options = ["--data", "shakespeare", "--data-root", str(text), "--out", str(run)]
    assert dgm_fast(["train", "markov", *options]) == 0
    assert recipes.main(recipes.Options((run,), out=tmp_path), Console(quiet=True)) == 0
    assert recipes.main(recipes.Options((made,), rows=5, out=tmp_path), Console(quiet=True)) == 0

    folder = record.results_folder(tmp_path, torch.device("cpu")) / recipes.FOLDER
    row = recipes.read_summary(folder / recipes.SUMMARY)["markov-shakespeare"]
    assert row["estimate"] == "log-likelihood"
    assert float(row["test_nats"]) == pytest.approx(float(row["validation_nats"]), abs=1e-4)
    bits = float(row["test_bpd"])
    _, of_text, of_images = readme.tables(tmp_path, "recipes").split("\n\n")
    assert "| validation, nats/char | bits/char |" in of_text
    expected = f"| {bits * math.log(2):.3f} | {bits:.3f} | log-likelihood | 0 | 0 |"
    assert of_text.splitlines()[2].endswith(expected)
    assert "| test, nats | bits/dim |" in of_images
    assert "made-digits" in of_images


def test_the_view_of_signals_is_their_levels():
    assert recipes._view(load_digits("none")) == "grey levels"
    assert recipes._view(load_digits("static")) == "static"
    assert recipes._view(load_vowels()) == "256 mu-law levels"
