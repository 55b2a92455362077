from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from dgm_fast import cli
from dgm_fast.families import FAMILIES, MADE
from dgm_fast.sampling.masked_mlp import sampler
from dgm_fast.training import DataConfig, TrainResult, load_dataset
from dgm_fast.training.data import read_wav
from dgm_fast.training.recipes import RECIPES, find_recipe

# The reference runs everywhere; which implementation is fastest is not what is tested here.
SMALL = [
    "--model.hidden", "16", "--epochs", "2", "--ema-decay", "0.5", "--device", "cpu",
    "--no-tensorboard", "--impl", "reference",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert cli.main(["train", "made", *SMALL, "--out", str(folder)]) == 0
    return folder


def test_train_writes_a_checkpoint_and_its_history(trained):
    model = MADE.from_pretrained(trained, impl="reference")
    assert model.config.hidden == (16,)
    assert model.config.output == "categorical"
    with (trained / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["25", "50"]
    run = json.loads((trained / "run.json").read_text())
    assert (run["family"], run["data"]["data"], run["levels"]) == ("made", "digits", 17)


def test_evaluate_prints_nats_and_bits_per_dim_beside_baselines(trained, capsys):
    assert cli.main(["evaluate", str(trained), "--impl", "reference"]) == 0
    out = capsys.readouterr().out
    model = MADE.from_pretrained(trained, impl="reference")
    test = load_dataset(DataConfig(binarization="none")).test
    with torch.no_grad():
        nats = -model.log_prob(test).mean().item()
    row = next(line for line in out.splitlines() if "made" in line)
    assert f"{nats:.2f}" in row
    assert f"{nats / 64 / 0.6931471805599453:.4f}" in row
    assert "independent pixels" in out
    assert "histogram per pixel" in out


def test_sample_writes_a_grid_that_follows_the_seed(trained, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

    def draw(name, seed):
        path = tmp_path / name
        options = ["--count", "9", "--seed", seed, "--impl", "reference", "--device", "cpu"]
        assert cli.main(["sample", str(trained), "--out", str(path), *options]) == 0
        return path.read_bytes()

    assert draw("a.png", "1") == draw("b.png", "1") != draw("c.png", "2")
    assert image.open(tmp_path / "a.png").size == (640 // 27 * 27, 640 // 27 * 27)
    assert "9 samples" in capsys.readouterr().out


def test_sampling_that_is_interrupted_writes_what_was_drawn(trained, tmp_path, capsys, monkeypatch):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    options = ["--count", "9", "--seed", "1", "--impl", "reference", "--device", "cpu"]
    told, path, whole = [], tmp_path / "some.png", tmp_path / "whole.png"
    update = cli.Progress.update

    def interrupt(self, task, **changes):
        update(self, task, **changes)
        told.append((changes["completed"], changes["total"]))
        if len(told) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sampler, "BLOCK", 16)
    assert cli.main(["sample", str(trained), "--out", str(whole), *options]) == 0
    monkeypatch.setattr(cli.Progress, "update", interrupt)
    assert cli.main(["sample", str(trained), "--out", str(path), *options]) == 130
    assert "9 samples, as far as they were drawn," in capsys.readouterr().out
    assert told[-1] == (32, 64)
    some, all_ = (np.array(image.open(each)) for each in (path, whole))
    # The first half of the first row of images, and not the second.
    assert np.array_equal(some[:90], all_[:90])
    assert not np.array_equal(some[120:200], all_[120:200])


def test_signals_are_trained_evaluated_and_drawn(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    run, path = str(tmp_path / "run"), tmp_path / "drawn" / "v.png"
    small = ["--model.layers", "2", "--model.channels", "4", "--model.gate-channels", "4"]
    small += ["--epochs", "1", "--batch-size", "50", "--device", "cpu", "--no-tensorboard"]
    assert cli.main(["train", "wavenet", *small, "--out", run]) == 0
    assert cli.main(["evaluate", run, "--rows", "20"]) == 0
    out = capsys.readouterr().out
    assert out.count("bits/sample") == 2
    assert out.count("linear prediction") == 2
    assert "wavenet, test, 20 rows" in out

    drawn = ["sample", run, "--out", str(path), "--length", "30", "--device", "cpu"]
    assert cli.main(drawn) == 0
    assert "5 samples" in capsys.readouterr().out
    assert image.open(path).height == 5 * (18 + 96 + 12)
    files = sorted(file.name for file in path.parent.glob("*.wav"))
    assert files == [f"v-{i}-class-{i}.wav" for i in range(5)]
    assert [len(read_wav(path.parent / name, 8000)) for name in files] == [30] * 5

    assert cli.main([*drawn, "--count", "2", "--label", "3", "--temperature", "0"]) == 0
    first, second = (path.with_name(f"v-{i}-class-3.wav").read_bytes() for i in range(2))
    assert first == second


def test_text_is_trained_evaluated_and_printed(tmp_path, capsys):
    run, path = str(tmp_path / "run"), tmp_path / "drawn" / "t.txt"
    small = ["--model.layers", "1", "--model.width", "16", "--epochs", "1", "--batch-size", "50"]
    small += ["--device", "cpu", "--no-tensorboard"]
    # By the recipe's own name.
    assert cli.main(["train", "transformer_text", *small, "--out", run]) == 0
    assert cli.main(["evaluate", run, "--rows", "20"]) == 0
    out = capsys.readouterr().out
    assert out.count("nats/char") == out.count("bits/char") == 2
    assert out.count("Markov of order") == 2
    assert "transformer, test, 20 rows" in out

    sample = ["sample", run, "--device", "cpu", "--prompt", "The fox", "--length", "40"]
    assert cli.main([*sample, "--out", str(path)]) == 0
    text = capsys.readouterr().out.removesuffix("\n")
    assert text.startswith("The fox")
    assert len(text) == 40
    assert path.read_text() == text
    cold = [*sample, "--top-k", "1", "--count", "2"]
    assert cli.main([*cold, "--seed", "1"]) == 0
    first, second = capsys.readouterr().out.removesuffix("\n").split("\n----\n")
    assert first == second
    assert cli.main([*sample, "--top-p", "1.5"]) == 2
    assert "top_p must be in (0, 1]; got 1.5" in capsys.readouterr().err
    assert cli.main(["sample", run, "--device", "cpu", "--prompt", "Zebra 7"]) == 2
    assert "got '7Z'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("family", "baseline", "options"),
    [
        ("histogram", "histogram of bytes", []),
        ("markov", "Markov of order 6", ["--length", "64"]),
    ],
)
def test_a_family_that_counts_is_fitted_evaluated_and_printed(
    family, baseline, options, tmp_path, capsys
):
    run = str(tmp_path / "run")
    # Sizes are those of the data.
    count = ["train", family, "--segment", "64", "--tokens", "bytes", "--out", run]
    assert cli.main(count) == 0
    assert cli.main(["evaluate", run, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert f"{family}, test, " in out
    assert "counted in" in out
    # It is the baseline itself, twice.
    rows = [line for line in out.splitlines() if "│" in line]
    figures = [line.split("│")[2:] for line in rows if family in line or baseline in line]
    assert len(figures) == 4
    assert figures == [figures[0]] * 4

    sample = ["sample", run, "--device", "cpu", "--temperature", "0", *options]
    assert cli.main(sample) == 0
    text = capsys.readouterr().out.removesuffix("\n")
    assert len(text) == 64
    assert (text == " " * 64) == (family == "histogram")
    told = cli.main([*sample, "--prompt", "The "])
    assert told == (2 if family == "histogram" else 0)
    assert ("histogram goes on from none" in capsys.readouterr().err) == (told == 2)
    assert cli.main(count) == 2
    assert "already holds a run: choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["transformer", "rnn", "markov_mlp"])
def test_a_vocabulary_is_that_of_the_data_where_none_is_given(
    family, tmp_path, monkeypatch, capsys
):
    def stop(model, dataset, config, folder, **options):
        assert model.vocabulary == dataset.levels == 256
        return TrainResult(folder, 0, 0.0, 0, interrupted=True, seconds=0.0)

    monkeypatch.setattr(cli, "train", stop)
    train = ["train", family, "--data=text", "--tokens", "bytes", "--out", str(tmp_path / "run")]
    assert cli.main([*train, "--device", "cpu"]) == 130
    assert cli.main([*train, "--model.vocabulary=29"]) == 2
    assert "the data, which are of 256 levels; got 29 levels" in capsys.readouterr().err


def test_a_prompt_is_of_text_alone(trained, capsys):
    assert cli.main(["sample", str(trained), "--device", "cpu", "--prompt", "The"]) == 2
    assert "prompt must not be given: made models no text" in capsys.readouterr().err


def test_interrupt_then_resume_through_the_command(tmp_path, monkeypatch, capsys):
    folder = str(tmp_path / "run")
    begin = MADE.training_step_begin
    with monkeypatch.context() as patch:
        patch.setattr(
            MADE,
            "training_step_begin",
            lambda model, step: (
                begin(model, step),
                step == 30 and os.kill(os.getpid(), signal.SIGINT),
            ),
        )
        assert cli.main(["train", "made", *SMALL, "--out", folder]) == 130
    assert "Stopped at step 31" in capsys.readouterr().out
    assert cli.main(["train", "made", *SMALL, "--out", folder, "--resume"]) == 0
    assert "best at step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "no command 'fly'; there are env, train"),
        (["train"], "train needs a family, one of made"),
        (["train", "alchemy"], "got 'alchemy'"),
        (["train", "made", "--data", "cifar"], "no recipe for made on cifar"),
        (["train", "made", "--data", "mnist"], "data_root"),
        (["train", "made", "--data=mnist", "--data-root", "/nowhere"], "/nowhere is not a folder"),
        (["train", "made", "--binarization", "otsu"], "otsu"),
        (["train", "made", "--data", "vowels"], "no recipe for made on vowels"),
        (["train", "wavenet", "--data", "speech"], "data_root"),
        (["train", "wavenet", "--data=speech", "--data-root", "/nowhere"], "/nowhere is not a"),
        (["train", "wavenet", "--binarization", "static"], "must be none for signals"),
        (["train", "wavenet", "--levels", "16"], "of 16 levels; got 256 levels"),
        (["train", "wavenet", "--scale", "linear"], "got signals on a mu_law scale"),
        (["train", "made", "--model.features", "63"], "events of 64 values, as the data have"),
        (["train", "made", "--model.output", "bernoulli"], "17 levels"),
        (["train", "made", "--model.output", "gaussian"], "got real values"),
        (["train", "made", "--epochs", "0"], "epochs must be positive"),
        (["train", "made", "--epochs", "many"], "many"),
        (["train", "made", "--warp-speed", "9"], "warp-speed"),
        (["train", "made", "--device", "abacus"], "abacus"),
        (["evaluate", "/nowhere"], "/nowhere/run.json is missing"),
        (["sample", "/nowhere", "--count", "0"], "count must be positive"),
        (
            ["train", "made", "--binarization=dequantized", "--model.output=categorical"],
            "dequantized to real values; got 256 levels",
        ),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(arguments, message, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    # tyro leaves through SystemExit, the rest returns the code.
    try:
        code = cli.main(arguments)
    except SystemExit as leaving:
        code = leaving.code
    err = capfd.readouterr().err
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_unavailable_implementation_says_why(trained, capsys):
    if torch.cuda.is_available():
        pytest.skip("every implementation may be available here")
    assert cli.main(["sample", str(trained), "--impl", "cuda", "--device", "cpu"]) == 2
    assert "impl='cuda'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_an_option_of_another_family_is_refused(trained, command, capsys):
    option = {"sample": "guidance", "evaluate": "samples"}[command]
    assert cli.main([command, str(trained), f"--{option}", "2", "--device", "cpu"]) == 2
    name = option.replace("-", "_")
    assert f"{name} must not be given: made" in capsys.readouterr().err


def test_sample_passes_a_temperature_on(trained, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    paths = [tmp_path / f"{seed}.png" for seed in (1, 2)]
    for seed, path in enumerate(paths, start=1):
        options = ["--temperature", "0", "--seed", str(seed), "--out", str(path)]
        assert cli.main(["sample", str(trained), *options, "--device", "cpu"]) == 0
    # Without chance seeds decide nothing.
    first, second = (image.open(path).tobytes() for path in paths)
    assert first == second


def test_evaluate_takes_the_first_rows_only_when_asked(trained, capsys):
    assert cli.main(["evaluate", str(trained), "--rows", "7", "--device", "cpu"]) == 0
    assert "test, 7 rows" in capsys.readouterr().out


def test_damaged_run_file_is_named(trained, tmp_path, capsys):
    (tmp_path / "run.json").write_text('{"data": 3')
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    assert "run.json is damaged" in capsys.readouterr().err


def test_bench_outside_the_source_explains_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench"]) == 2
    assert "root of dgm_fast's source" in capsys.readouterr().err


def test_usage_lists_every_command(capsys):
    assert cli.main(["--help"]) == 0
    usage = capsys.readouterr().out
    assert all(
        f"dgm-fast {name}" in usage for name in ("env", "train", "evaluate", "sample", "bench")
    )
    assert cli.main([]) == 2


def test_env_runs_as_a_process():
    command = [sys.executable, "-m", "dgm_fast.cli", "env", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "versions" in json.loads(done.stdout)


@pytest.mark.parametrize(("family", "data"), list(RECIPES))
def test_every_recipe_is_of_its_family_and_data(family, data):
    recipe = find_recipe(family, data)
    assert recipe.data.data == data
    assert type(recipe.model) is FAMILIES[family].config_class


@pytest.mark.parametrize("data", ["digits", "mnist"])
@pytest.mark.parametrize("binarization", ["static", "dynamic", "none", "dequantized"])
def test_every_recipe_of_made_has_an_output_for_every_view(data, binarization):
    recipe = find_recipe("made", data, binarization)
    assert recipe.data == DataConfig(data=data, binarization=binarization)
    levels = {"digits": 17, "mnist": 256}[data]
    expected = {"none": ("categorical", levels), "dequantized": ("gaussian_mixture", None)}
    output, categories = expected.get(binarization, ("bernoulli", None))
    assert recipe.model.output == output
    assert categories in (None, recipe.model.categories)


def test_a_model_of_256_grey_levels_is_no_wider_than_the_rest():
    models = [find_recipe("made", "mnist", view).model for view in ("static", "none")]
    binary, grey = (MADE(model, device="meta") for model in models)

    # The direct links of 784 x 256 logits alone would be 157 M.
    assert sum(p.numel() for p in grey.parameters()) < 60e6
    assert sum(p.numel() for p in binary.parameters()) < 60e6
