from __future__ import annotations

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from dgm_fast.training import checkpoint, train
from dgm_fast.training.checkpoint import load_training, save_training, write_atomically

QUIET = Console(quiet=True)


class CrashError(Exception):
    """Stands for a power cut: nothing after it runs in that process."""


def make_state(model, seed):
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(torch.randint(0, 2, (5, 6)).float()).backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("moment", ["while writing", "before the flush", "before the rename"])
def test_crash_while_saving_keeps_the_last_good_checkpoint(
    make_model, tmp_path, monkeypatch, moment
):
    model = make_model()
    optimizer = make_state(model, 1)
    save_training(tmp_path, {"model": model}, optimizer, {"step": 1}, {})
    good = (tmp_path / "training.safetensors").read_bytes()

    def crash(*args, **kwargs):
        raise CrashError

    def write_half(tensors, path, metadata):
        path.write_bytes(good[: len(good) // 2])
        crash()

    target = {
        "while writing": ("save_file", write_half),
        "before the flush": ("_flush", crash),
        "before the rename": ("Path.replace", crash),
    }[moment]
    optimizer = make_state(model, 2)
    with monkeypatch.context() as patch:
        patch.setattr(f"dgm_fast.training.checkpoint.{target[0]}", target[1])
        # A power cut runs no clean-up either.
        patch.setattr("dgm_fast.training.checkpoint.Path.unlink", lambda *a, **k: None)
        with pytest.raises(CrashError):
            save_training(tmp_path, {"model": model}, optimizer, {"step": 2}, {})
    assert len(list(tmp_path.iterdir())) == 2

    fresh = make_model()
    assert (tmp_path / "training.safetensors").read_bytes() == good
    progress, _ = load_training(tmp_path, {"model": fresh}, torch.optim.AdamW(fresh.parameters()))
    assert progress == {"step": 1}


def test_crash_between_best_weights_and_training_state_resumes_to_the_same_bits(
    make_model, dataset, config, tmp_path, monkeypatch
):
    train(make_model(), dataset, config, tmp_path / "whole", console=QUIET)

    saves = []

    def crash_at_second(*args):
        saves.append(args)
        if len(saves) == 2:
            raise CrashError
        return save_training(*args)

    with monkeypatch.context() as patch:
        patch.setattr("dgm_fast.training.loop.save_training", crash_at_second)
        with pytest.raises(CrashError):
            train(make_model(), dataset, config, tmp_path / "parts", console=QUIET)

    # The log has a row that the checkpoint does not know of: it must not appear twice.
    assert len((tmp_path / "parts/log.csv").read_text().splitlines()) == 3
    train(make_model(), dataset, config, tmp_path / "parts", resume=True, console=QUIET)
    for name in ("training.safetensors", "model.safetensors"):
        whole, parts = (load_file(tmp_path / run / name) for run in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole)
    logs = [(tmp_path / run / "log.csv").read_text().splitlines() for run in ("whole", "parts")]
    steps = [[line.split(",")[:4] for line in log] for log in logs]
    assert steps[0] == steps[1]


def test_optimizer_state_round_trips_bitwise(make_model, tmp_path):
    model = make_model()
    optimizer = make_state(model, 1)
    optimizer.param_groups[0]["lr"] = 0.1 + 0.2
    progress = {"best": 1 / 3, "nested": {"step": 3}, "infinite": float("inf")}
    state = torch.get_rng_state()
    save_training(tmp_path, {"model": model}, optimizer, progress, {"0.cpu": state})

    fresh = make_model()
    loaded = torch.optim.AdamW(fresh.parameters(), fused=True)
    found, rng = load_training(tmp_path, {"model": fresh}, loaded)
    assert found == progress
    assert torch.equal(rng["0.cpu"], state)
    assert loaded.param_groups[0]["lr"] == 0.1 + 0.2
    before, after = optimizer.state_dict()["state"], loaded.state_dict()["state"]
    assert before.keys() == after.keys()
    for index, entries in before.items():
        assert entries.keys() == after[index].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(entries[key], after[index][key]) for key in entries)


def test_momentum_of_other_optimizers_and_plain_numbers_survive(make_model, tmp_path):
    model = make_model()
    optimizer = torch.optim.NAdam(model.parameters())
    model.loss(torch.ones(4, 6)).backward()
    optimizer.step()
    optimizer.state[model.inner.bias]["count"] = 3
    save_training(tmp_path, {"model": model}, optimizer, {}, {})
    loaded = torch.optim.NAdam(make_model().parameters())
    load_training(tmp_path, {}, loaded)
    before, after = optimizer.state_dict()["state"], loaded.state_dict()["state"]
    for index, entries in before.items():
        assert entries.keys() == after[index].keys()
    assert after[1]["count"] == 3


def test_tied_weights_can_be_saved(make_model, tmp_path):
    model = make_model()
    model.outer.weight = model.inner.weight
    save_training(tmp_path, {"model": model}, make_state(model, 1), {}, {})
    tensors = load_file(tmp_path / "training.safetensors")
    assert torch.equal(tensors["model.inner.weight"], tensors["model.outer.weight"])


@pytest.mark.parametrize("damage", ["truncated", "noise", "without metadata"])
def test_damaged_checkpoint_is_named(make_model, tmp_path, damage):
    model = make_model()
    save_training(tmp_path, {"model": model}, make_state(model, 1), {}, {})
    path = tmp_path / "training.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "noise":
        path.write_bytes(b"\xff" * 500)
    else:
        checkpoint.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"training\.safetensors is damaged"):
        load_training(tmp_path, {"model": model}, torch.optim.AdamW(model.parameters()))


def test_checkpoint_of_another_model_is_refused(make_model, tmp_path):
    model = make_model()
    save_training(tmp_path, {"model": model}, make_state(model, 1), {}, {})
    other = type(model)(features=7)
    with pytest.raises(ValueError, match="belongs to another model"):
        load_training(tmp_path, {"model": other}, torch.optim.AdamW(other.parameters()))


def test_write_atomically_leaves_nothing_behind_after_an_error(tmp_path):
    def write(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "file", write)
    assert list(tmp_path.iterdir()) == []
