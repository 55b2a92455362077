from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from dgm_fast import use_impl
from dgm_fast.demo import __main__ as demo
from dgm_fast.demo import speed
from dgm_fast.families import MADE, MADEConfig
from dgm_fast.training.recipes import find_recipe


def test_demo_trains_and_draws(tmp_path, capsys, monkeypatch):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    recipe = find_recipe("made", "digits")
    small = replace(recipe, model=replace(recipe.model, hidden=(16,)))
    monkeypatch.setattr(demo, "find_recipe", lambda family, data: small)
    with use_impl("reference"):
        demo.train_digits(demo.Demo(out=tmp_path, epochs=1), Console(width=120))
    out = capsys.readouterr().out
    assert all(word in out for word in ("MADE", "independent pixels", "histogram per pixel"))
    assert image.open(tmp_path / "samples.png").size == (630, 630)
    assert MADE.from_pretrained(tmp_path / "made_digits").config.features == 64


def test_medians_are_taken_after_the_warm_up_and_tell_fast_from_slow():
    calls = []

    def first_calls_compile():
        calls.append(None)
        time.sleep(0.2 if len(calls) <= 2 else 0.001)

    medians = speed.interleaved_medians_ms(
        {"quick": first_calls_compile, "slow": lambda: time.sleep(0.02)}, seconds=0.0
    )
    assert len(calls) == 7
    assert 1 <= medians["quick"] < 20 <= medians["slow"] < 200


def test_the_plain_rival_trains_to_the_same_weights():
    torch.manual_seed(0)
    model = MADE(MADEConfig(features=6, hidden=(16, 16)), impl="reference")
    premasked = speed.PremaskedMADE(model)
    x = torch.randint(0, 2, (32, 6)).float()
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.01) for m in (model, premasked)]
    for _ in range(5):
        loss = premasked.loss(x)
        torch.testing.assert_close(loss, model.loss(x))
        for optimizer, value in zip(optimizers, (model.loss(x), loss), strict=True):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        premasked.mask_weights()


def test_speed_table_has_every_column_and_says_why_one_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(speed, "SIZES", ((4, 16, 32),))
    monkeypatch.setattr(speed, "HIDDEN", (8,))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with use_impl("reference"):
        speed.print_speed(Console(width=120), seconds=0.0)
    out = capsys.readouterr().out
    assert "4 x 16 -> 32" in out
    assert "MADE, hidden 8" in out
    assert "torch.compile was left out: no C++ compiler (no-such-compiler)" in out
