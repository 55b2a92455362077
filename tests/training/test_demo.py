from __future__ import annotations

import time
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch
from rich.console import Console

from dgm_fast import use_impl
from dgm_fast.demo import __main__ as demo
from dgm_fast.demo import speed, text, trained, vowels
from dgm_fast.families import FAMILIES, MADE, Transformer, WaveNet
from dgm_fast.training.data import VOWELS, read_wav
from dgm_fast.training.images import save_image_grids
from dgm_fast.training.recipes import find_recipe


def test_demo_trains_and_draws(tmp_path, capsys, monkeypatch):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    recipe = find_recipe("made", "digits")
    small = replace(recipe, model=replace(recipe.model, hidden=(16,)))
    monkeypatch.setattr(trained, "find_recipe", lambda *names: small)
    with use_impl("reference"):
        options = demo.Demo(out=tmp_path, families=("made",), epochs=1)
        demo.train_digits(options, Console(width=120))
    out = capsys.readouterr().out
    assert all(word in out for word in ("MADE", "independent pixels", "histogram per pixel"))
    # The digits themselves, and the samples.
    assert image.open(tmp_path / "samples.png").size == (16 * 3 + 2 * 72 * 5, 28 + 72 * 5 + 16)
    assert MADE.from_pretrained(tmp_path / "made_digits").config.features == 64


def test_demo_completes_digits(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    recipe = find_recipe("pixelcnn", "digits")
    small = replace(recipe, model=replace(recipe.model, channels=4, blocks=0))
    monkeypatch.setattr(trained, "find_recipe", lambda *names: small)
    kept = {}
    monkeypatch.setattr(
        demo,
        "save_image_grids",
        lambda grids, *rest: (kept.update(grids), save_image_grids(grids, *rest)),
    )

    options = demo.Demo(out=tmp_path, families=("pixelcnn",), epochs=1)
    demo.train_digits(options, Console(quiet=True))

    digits, _, shown = kept.values()
    shown = shown.view(8, 8, 8, 8)
    assert torch.equal(shown[:, 0], digits[:8])
    # All of a row have the digit's upper half, and the lower ones differ.
    assert torch.equal(shown[:, :, :4], digits[:8, None, :4].expand(8, 8, 4, 8))
    assert bool((shown[:, 2:, 4:] != shown[:, :1, 4:]).flatten(2).any(2).all())
    assert image.open(tmp_path / "samples.png").width == 16 * 4 + 3 * 72 * 5


def test_demo_shows_a_model_of_every_kind_that_has_a_recipe():
    assert set(demo.SHOWN) <= set(FAMILIES)
    assert all(find_recipe(family, "digits", "none") for family in demo.SHOWN)
    offered = get_args(get_args(get_type_hints(demo.Demo)["families"])[0])
    assert set(offered) == set(demo.SHOWN)


def test_demo_speaks_vowels(tmp_path, capsys, monkeypatch):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    recipe = find_recipe("wavenet", "vowels")
    small = replace(recipe, model=replace(recipe.model, layers=2, channels=4, gate_channels=4))
    monkeypatch.setattr(trained, "find_recipe", lambda *names: small)
    monkeypatch.setattr(vowels, "LENGTH", 40)

    vowels.train_vowels(tmp_path, Console(width=120), epochs=1)

    out = capsys.readouterr().out
    assert all(word in out for word in ("WaveNet", "histogram of samples", "linear prediction"))
    assert image.open(tmp_path / "vowels.png").height == 10 * (18 + 96 + 12)
    drawn = [read_wav(tmp_path / f"vowels-{vowel}-drawn.wav", 8000) for vowel in VOWELS]
    assert [len(signal) for signal in drawn] == [40] * 5
    assert not torch.equal(drawn[0], drawn[1])
    assert WaveNet.from_pretrained(tmp_path / "wavenet_vowels").classes == 5


def test_demo_writes_text(tmp_path, capsys, monkeypatch):
    recipe = find_recipe("transformer", "text")
    small = replace(recipe, model=replace(recipe.model, layers=1, width=8, heads=1))
    small = replace(small, train=replace(small.train, batch_size=100))
    monkeypatch.setattr(trained, "find_recipe", lambda *names: small)
    monkeypatch.setattr(text, "LENGTH", 150)

    text.train_text(tmp_path, Console(width=200), epochs=1)

    out, written = capsys.readouterr().out, (tmp_path / "text.txt").read_text()
    assert all(word in out for word in ("Transformer", "histogram of chars", "Markov of order"))
    assert written.startswith(text.PROMPT)
    assert len(written) == 150
    assert Transformer.from_pretrained(tmp_path / "transformer_text").config.width == 8


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


def test_speed_table_has_every_op_and_column(monkeypatch, capsys):
    cases = speed.op_cases()
    assert {"masked_linear", "philox"} <= set(cases)
    small = {
        name: replace(each, workloads=each.cases[:1], rivals={}) for name, each in cases.items()
    }
    monkeypatch.setattr(speed, "op_cases", lambda: small)
    monkeypatch.setattr(speed, "PLAIN", {})
    monkeypatch.setenv("CXX", "no-such-compiler")
    with use_impl("reference"):
        speed.print_speed(Console(width=160), seconds=0.0, compiled=True)
    out = capsys.readouterr().out
    assert all(name in out for name in cases)
    assert "fwd+bwd" in out
    assert "torch.compile was left out: no C++ compiler (no-such-compiler)" in out
