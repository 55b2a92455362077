from __future__ import annotations

import csv
import itertools
import json
import math
import os
import signal
import sys
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from dgm_fast.families import MADE, MADEConfig
from dgm_fast.training import mean_nll_nats, train
from dgm_fast.training.config import TrainConfig, learning_rate_at
from dgm_fast.training.data import train_batches

QUIET = Console(quiet=True)


def stop_at(model, step, number=signal.SIGINT):
    """Sends this process a signal in the middle of training step `step`."""
    begin = type(model).training_step_begin

    def begin_and_stop(current):
        begin(model, current)
        if current == step:
            os.kill(os.getpid(), number)

    model.training_step_begin = begin_and_stop


def read_log(folder, *, without=("cpu_seconds", "seconds")):
    with (folder / "log.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in without} for row in csv.DictReader(file)]


def final_state(folder):
    """All bits that a run ends with, apart from wall-clock seconds."""
    from safetensors import safe_open

    path = folder / "training.safetensors"
    with safe_open(path, "pt") as file:
        document = json.loads(file.metadata()["state"])
    for name in ("cpu_seconds", "seconds"):
        document["progress"]["counters"].pop(name)
    return load_file(path), document


def assert_same_run(a, b):
    (tensors_a, document_a), (tensors_b, document_b) = final_state(a), final_state(b)
    assert document_a == document_b
    assert tensors_a.keys() == tensors_b.keys()
    for key, value in tensors_a.items():
        assert torch.equal(value, tensors_b[key]), key
    best_a, best_b = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert all(torch.equal(best_a[key], best_b[key]) for key in best_a)
    assert read_log(a) == read_log(b)


@pytest.mark.parametrize(
    "step", [1, 8, 11, 12], ids=["first epoch", "middle", "last of epoch", "next"]
)
def test_resumed_run_ends_with_the_same_bits(make_model, dataset, config, tmp_path, step):
    whole = train(make_model(), dataset, config, tmp_path / "whole", console=QUIET)
    assert not whole.interrupted
    assert whole.steps == 18

    model = make_model()
    stop_at(model, step)
    first = train(model, dataset, config, tmp_path / "parts", console=QUIET)
    assert first.interrupted
    assert first.steps == step + 1

    # Another initialization and random state: all of it must come from the checkpoint.
    torch.manual_seed(12345)
    other = type(model)()
    second = train(other, dataset, config, tmp_path / "parts", resume=True, console=QUIET)
    assert not second.interrupted
    assert other.steps_begun == list(range(step + 1, 18))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_sigterm_saves_too_and_handlers_return(make_model, dataset, config, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    model = make_model()
    stop_at(model, 3, signal.SIGTERM)
    assert train(model, dataset, config, tmp_path, console=QUIET).interrupted
    assert (tmp_path / "training.safetensors").is_file()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_resuming_a_finished_run_changes_nothing(make_model, dataset, config, tmp_path):
    train(make_model(), dataset, config, tmp_path, console=QUIET)
    before = final_state(tmp_path)
    model = make_model()
    train(model, dataset, config, tmp_path, resume=True, console=QUIET)
    assert model.steps_begun == []
    assert final_state(tmp_path)[1] == before[1]


def test_loss_falls_and_best_weights_are_saved(make_model, dataset, config, tmp_path):
    config = replace(config, epochs=12)
    result = train(make_model(0.0), dataset, config, tmp_path, console=QUIET)
    rows = read_log(tmp_path)
    validation = [float(row["validation_nats"]) for row in rows]
    assert len(rows) == 12
    assert float(rows[-1]["train_nats"]) < float(rows[0]["train_nats"]) - 0.2
    assert result.best_validation_nats == min(validation)

    best = make_model(0.0)
    best.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert mean_nll_nats(best, dataset.validation) == result.best_validation_nats


def test_early_stopping_stops_after_patience_stale_epochs(make_model, dataset, config, tmp_path):
    # An absurd learning rate overshoots at once: validation can only get worse after a while.
    config = replace(config, epochs=50, learning_rate=3.0, patience=2, ema_decay=0.0)
    result = train(make_model(), dataset, config, tmp_path, console=QUIET)
    validation = [float(row["validation_nats"]) for row in read_log(tmp_path)]
    best = validation.index(min(validation))
    assert len(validation) == best + 1 + 2 < 50
    assert result.best_step == (best + 1) * 6


def test_average_follows_its_recurrence(make_model, dataset, config, tmp_path):
    config = replace(config, epochs=1, ema_decay=0.6)
    model = make_model()
    weights = []
    begin = type(model).training_step_begin
    model.training_step_begin = lambda step: (
        begin(model, step),
        weights.append(model.inner.weight.detach().clone()),
    )
    train(model, dataset, config, tmp_path, console=QUIET)
    weights.append(model.inner.weight.detach().clone())

    average = weights[1]
    for weight in weights[2:]:
        average = 0.6 * average + 0.4 * weight
    saved = load_file(tmp_path / "training.safetensors")["average.module.inner.weight"]
    torch.testing.assert_close(saved, average)
    assert not torch.equal(saved, weights[-1])


def test_one_step_is_adamw_on_the_clipped_gradient(make_model, dataset, config, tmp_path):
    config = replace(config, epochs=1, batch_size=120, gradient_clip=0.01, warmup_steps=0)
    model = make_model(0.0)
    train(model, dataset, config, tmp_path, console=QUIET)

    expected = make_model(0.0)
    (batch,) = train_batches(dataset, 120, seed=0, epoch=0)
    expected.loss(batch.x).backward()
    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.02, weight_decay=0.01)
    torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.01)
    optimizer.step()
    for a, b in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert float(read_log(tmp_path)[0]["gradient_norm"]) == pytest.approx(0.01, rel=1e-4)


def test_bf16_autocast_changes_the_loss_but_not_the_parameters_dtype(
    make_model, dataset, config, tmp_path
):
    for name, bf16 in (("full", False), ("bf16", True)):
        model = make_model(0.0)
        train(model, dataset, replace(config, bf16=bf16), tmp_path / name, console=QUIET)
        assert model.inner.weight.dtype == torch.float32
    full, bf16 = (float(read_log(tmp_path / n)[0]["train_nats"]) for n in ("full", "bf16"))
    assert full != bf16
    assert bf16 == pytest.approx(full, rel=0.02)


def test_a_run_is_not_overwritten(make_model, dataset, config, tmp_path):
    train(make_model(), dataset, config, tmp_path, console=QUIET)
    with pytest.raises(ValueError, match="already holds a run"):
        train(make_model(), dataset, config, tmp_path, console=QUIET)


def test_resume_refuses_other_settings_and_an_empty_folder(make_model, dataset, config, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        train(make_model(), dataset, config, tmp_path, resume=True, console=QUIET)
    train(make_model(), dataset, config, tmp_path, console=QUIET)
    other = replace(config, learning_rate=0.03, patience=5)
    with pytest.raises(ValueError, match=r"learning_rate.*0\.02 -> 0\.03"):
        train(make_model(), dataset, other, tmp_path, resume=True, console=QUIET)


def test_resume_refuses_another_model(dataset, config, tmp_path):
    # Dropout changes no weight, so that the weights alone would load.
    made = MADEConfig(features=6, hidden=(8, 8), dropout=0.2)
    train(MADE(made, impl="reference"), dataset, config, tmp_path, console=QUIET)

    other = MADE(replace(made, dropout=0.3), impl="reference")
    with pytest.raises(ValueError, match=r"model\.dropout.*0\.2 -> 0\.3"):
        train(other, dataset, config, tmp_path, resume=True, console=QUIET)

    same = MADE(made, impl="reference")
    assert train(same, dataset, config, tmp_path, resume=True, console=QUIET).steps == 18


def test_a_loss_that_is_not_finite_stops_the_run(make_model, dataset, config, tmp_path):
    model = make_model()
    with torch.no_grad():
        model.outer.bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="learning_rate"):
        train(model, dataset, config, tmp_path, console=QUIET)
    assert not (tmp_path / "training.safetensors").exists()


def test_missing_tensorboard_is_said(make_model, dataset, config, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    console = Console(width=200)
    train(make_model(), dataset, replace(config, tensorboard=True), tmp_path, console=console)
    assert "TensorBoard is not installed" in capsys.readouterr().out
    assert len(read_log(tmp_path)) == 3


def test_learning_rate_warms_up_then_falls_to_zero():
    config = TrainConfig(learning_rate=2.0, warmup_steps=10)
    rates = [learning_rate_at(step, 110, config) for step in range(111)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert rates[110] == pytest.approx(0.0, abs=1e-12)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    constant = replace(config, schedule="constant")
    assert learning_rate_at(109, 110, constant) == 2.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("learning_rate", -1.0),
        ("ema_decay", 1.0),
        ("schedule", "step"),
        ("seed", -1),
    ],
)
def test_config_names_the_field_it_refuses(field, value):
    with pytest.raises(ValueError, match=rf"{field} .*{value}"):
        TrainConfig(**{field: value})


@pytest.mark.parametrize("name", ["cuda", "cuda:3"])
def test_a_gpu_that_is_not_there_is_named(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=f"device .*'{name}', torch sees 0 GPUs"):
        TrainConfig(device=name).resolve_device()


def test_a_gpu_that_is_there_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert TrainConfig(device="cuda:1").resolve_device() == torch.device("cuda:1")
