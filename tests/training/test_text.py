"""Text as data: tokens, splits, windows; sentences of a grammar; what counts alone reach."""

from __future__ import annotations

import math

import pytest
import torch
from rich.console import Console

from dgm_fast.families import Markov, MarkovConfig
from dgm_fast.training import DataConfig, load_dataset
from dgm_fast.training.data import (
    Alphabet,
    compose_sentences,
    load_sentences,
    load_shakespeare,
    make_generator,
    make_text,
    train_batches,
)
from dgm_fast.training.metrics import baselines_nats, bits_per_dim, likelihood_table
from dgm_fast.training.text_baselines import markov_nats

TEXT = "Grüße an die Welt!\n" * 30


@pytest.mark.parametrize("alphabet", [Alphabet.of(TEXT), Alphabet()], ids=["characters", "bytes"])
def test_tokens_lose_nothing(alphabet):
    tokens = alphabet.encode(TEXT)
    assert tokens.dtype is torch.int64
    assert alphabet.decode(tokens) == TEXT
    assert int(tokens.max()) < alphabet.size
    assert alphabet.encode("").shape == (0,)


def test_bytes_are_those_of_utf_8_and_half_a_character_is_marked():
    assert Alphabet().encode("ü").tolist() == list("ü".encode())
    assert Alphabet().decode(torch.tensor([0xC3, 65])) == "\ufffdA"
    assert Alphabet().size == 256
    assert Alphabet.of(TEXT).characters == "".join(sorted(set(TEXT)))


def test_a_character_that_is_not_of_the_alphabet_is_named():
    with pytest.raises(ValueError, match="text must be of the characters 'abc'; got 'dx'"):
        Alphabet("abc").encode("axbd")


def test_shakespeare_is_split_nine_to_one(tmp_path):
    (tmp_path / "tinyshakespeare.txt").write_text(TEXT, encoding="utf-8")
    data = load_shakespeare(tmp_path, segment=5)
    middle = int(0.9 * len(TEXT))
    assert (
        data.alphabet.decode(data.validation.flatten()) == TEXT[middle:][: data.validation.numel()]
    )
    assert data.validation.numel() > len(TEXT) - middle - 5
    assert torch.equal(data.test, data.validation)
    assert data.tests_on_validation > load_sentences().tests_on_validation
    # Of what does not fill a window, less than a segment is lost.
    trained = data.alphabet.decode(data.training_text())
    assert TEXT[:middle].startswith(trained)
    assert len(trained) > middle - 5
    assert (data.unit, data.levels, data.event_shape) == ("char", len(set(TEXT)), (5,))

    # Any text, by its own path, and as bytes.
    (tmp_path / "mine.txt").write_text("abc" * 100)
    config = DataConfig("shakespeare", tmp_path / "mine.txt", "none", segment=5, tokens="bytes")
    mine = load_dataset(config)
    assert (mine.levels, mine.unit, mine.view) == (256, "byte", "256 bytes, segments of 5")
    assert mine.test[0].tolist() == list(b"abcab")


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/tinyshakespeare.txt is missing"):
        load_shakespeare(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"mine.txt is missing"):
        load_shakespeare(tmp_path / "mine.txt")
    (tmp_path / "mine.txt").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(ValueError, match=r"mine.txt is no text in UTF-8"):
        load_shakespeare(tmp_path / "mine.txt")
    with pytest.raises(ValueError, match="data 'shakespeare' needs data_root"):
        load_dataset(DataConfig("shakespeare", binarization="none"))
    for segment, split in ((7, "train text, which has 12"), (6, "validation text, which has 5")):
        with pytest.raises(ValueError, match=f"in the {split}; got {segment}"):
            make_text("x", ("a" * 12, "a" * 5, "a" * 9), segment)


def test_training_windows_begin_anywhere_and_follow_from_the_seed():
    text = "".join(chr(48 + i) for i in range(64))
    data = make_text("ramp", (text, text, text), 8)
    assert data.train.shape == (7, 16)
    starts = set()
    for epoch in range(60):
        for x, labels in train_batches(data, 7, seed=0, epoch=epoch):
            assert labels is None
            assert x.dtype is torch.int64
            assert torch.equal(x - x[:, :1], torch.arange(8).expand(7, -1))
            starts |= set(x[:, 0].tolist())
    assert starts == set(range(57))
    first, again, other = (next(iter(train_batches(data, 7, seed=s, epoch=0))).x for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_sentences_are_the_same_for_all_and_their_splits_differ():
    data, again = load_sentences(), load_dataset(DataConfig("text", None, "none", segment=128))
    assert torch.equal(data.train, again.train)
    lines = [
        set(data.alphabet.decode(rows.flatten()).splitlines())
        for rows in (data.validation, data.test)
    ]
    # Few sentences are short enough to come twice.
    assert len(lines[0] & lines[1]) < 0.1 * len(lines[0])


def test_the_second_half_of_a_sentence_follows_from_its_first():
    for line in compose_sentences(300, make_generator(5)).splitlines():
        first, second = line[:-1].lower().split(", and ")
        thing, verb, subject = second.split()[1], second.split()[2], second.split()[-1]
        words = first.split()
        assert words[-1] == thing
        assert subject in words[1:3]
        assert verb.rstrip("s") in first
        # Of a thing that is one, the verb has an s, and of several none.
        assert verb.endswith("s") != thing.endswith(("s", "children", "mice"))


def test_the_baselines_are_what_counts_reach():
    data = load_sentences()
    found = baselines_nats(data)
    order, nats = markov_nats(data)
    assert list(found) == ["histogram of chars", f"Markov of order {order}"]
    assert found[f"Markov of order {order}"] == nats
    # Each order by itself, on the rows that are validated.
    text = data.training_text()
    losses = {
        k: Markov(MarkovConfig(data.levels, k)).fit(text).loss(data.validation).item()
        for k in range(1, 7)
    }
    assert min(losses, key=losses.get) == order > 1
    assert nats == Markov(MarkovConfig(data.levels, order)).fit(text).loss(data.test).item()
    counts = torch.bincount(text[: len(text) // 128 * 128], minlength=data.levels).double() + 1
    expected = -(counts / counts.sum()).log()[data.test].sum(1).mean().item()
    assert found["histogram of chars"] == pytest.approx(expected)
    assert nats < 0.2 * expected < 0.2 * 128 * math.log(data.levels)


def test_the_table_has_nats_and_bits_a_character(capsys):
    data = load_sentences()
    Console(width=120).print(likelihood_table({"mine": 128 * 0.5}, data))
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if "mine" in line)
    assert "64.00" in row
    assert "0.5000" in row
    assert f"{0.5 / math.log(2):.4f}" in row
    assert bits_per_dim(64.0, data) == pytest.approx(0.5 / math.log(2))
    assert "nats/char" in out
    assert "bits/char" in out
    assert "Markov of order" in out


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"data": "text", "levels": 16}, "levels must not be given for text; got 16"),
        ({"data": "vowels", "tokens": "bytes"}, "tokens must not be given for signals; got bytes"),
        ({"data": "digits", "tokens": "bytes"}, "tokens must not be given for images; got bytes"),
        ({"data": "text", "tokens": "words"}, "tokens must be characters or bytes; got 'words'"),
    ],
)
def test_config_errors(options, match):
    with pytest.raises(ValueError, match=match):
        DataConfig(**options)
    with pytest.raises(ValueError, match="binarization must be none for text; got 'static'"):
        load_dataset(DataConfig(data="text"))
