"""Signals as data: WAV files, splits without overlap, synthesised vowels."""

from __future__ import annotations

import struct
import wave

import pytest
import torch

from dgm_fast.distributions import Quantizer
from dgm_fast.training.data import (
    VOWELS,
    DataConfig,
    load_dataset,
    load_speech,
    load_vowels,
    make_generator,
    make_signals,
    read_wav,
    synthesise_vowels,
    train_batches,
    write_wav,
)


def write_pcm(path, samples, channels=1, width=2, rate=8000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        form = {1: "B", 2: "h"}[width]
        file.writeframes(struct.pack(f"<{len(samples)}{form}", *samples))


def test_wav_files_lose_nothing(tmp_path):
    samples = [-32768, -32767, -1, 0, 1, 2, 32766, 32767]
    write_pcm(tmp_path / "a.wav", samples)

    x = read_wav(tmp_path / "a.wav", 8000)
    assert x.dtype is torch.float32
    assert x.tolist() == pytest.approx([(2 * s + 1) / 65535 for s in samples], rel=1e-6)
    assert torch.equal(Quantizer("linear", 65536).encode(x), torch.tensor(samples) + 32768)

    write_wav(tmp_path / "new" / "b.wav", x, 8000)
    assert (tmp_path / "new" / "b.wav").read_bytes() == (tmp_path / "a.wav").read_bytes()


def test_every_sample_of_16_bits_comes_back(tmp_path):
    write_pcm(tmp_path / "a.wav", range(-32768, 32768))
    write_wav(tmp_path / "b.wav", read_wav(tmp_path / "a.wav"), 8000)
    assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "a.wav").read_bytes()


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"rate": 16000}, "expected 8000 Hz, found 16000"),
        ({"channels": 2}, "expected one channel of 16 bits, found 2 of 16"),
        ({"width": 1}, "expected one channel of 16 bits, found 1 of 8"),
    ],
)
def test_other_forms_are_refused(tmp_path, form, message):
    path = tmp_path / "3_x_0.wav"
    write_pcm(path, [1, 2, 3, 4], **form)
    with pytest.raises(ValueError, match=rf"3_x_0\.wav: {message}"):
        read_wav(path, 8000)


@pytest.mark.parametrize("keep", [0, 3, 20, 46])
def test_damaged_files_are_named(tmp_path, keep):
    path = tmp_path / "3_x_0.wav"
    write_pcm(path, [1, 2, 3, 4])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"3_x_0\.wav: (not a whole WAV file|truncated)"):
        read_wav(path, 8000)


def test_only_signals_are_written(tmp_path):
    for wrong in (torch.zeros(0), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match=r"x must have shape \(T,\)"):
            write_wav(tmp_path / "a.wav", wrong, 8000)


@pytest.fixture
def recordings(tmp_path):
    """Two speakers; a sample says its digit, its speaker, its recording's index and its place."""
    for digit in range(10):
        for speaker in range(2):
            for index in range(12):
                start = (digit * 2 + speaker) * 1500 + index * 100 - 16000
                write_pcm(tmp_path / f"{digit}_s{speaker}_{index}.wav", range(start, start + 20))
    (tmp_path / "notes.txt").write_text("not a recording")
    return tmp_path


def recordings_in(rows):
    """The recordings that samples are of: their digit, speaker and index."""
    samples = ((rows.double() * 65535 - 1) / 2).round().long().flatten() + 16000
    return {(s // 1500 // 2, s // 1500 % 2, s % 1500 // 100) for s in samples.tolist()}


def test_recordings_are_split_by_their_index(recordings):
    speech = load_speech(recordings, segment=20)
    found = {name: recordings_in(speech.split(name)[0]) for name in ("train", "validation", "test")}
    expected = {"train": (10, 11), "validation": range(5, 10), "test": range(5)}
    for name, indices in expected.items():
        assert found[name] == {(d, s, i) for d in range(10) for s in range(2) for i in indices}
    for rows, labels in (speech.split(name) for name in expected):
        for row, label in zip(rows, labels, strict=True):
            assert {digit for digit, _, _ in recordings_in(row)} == {int(label)}
    # Each sample of the evaluated ones is there once.
    assert len(speech.test.unique()) == speech.test.numel() == 10 * 2 * 5 * 20
    assert (speech.classes, speech.event_shape, speech.unit) == (10, (20,), "sample")


def test_missing_recordings_are_named(recordings, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder; expected one that holds"):
        load_speech(tmp_path / "nowhere")
    for path in recordings.glob("7_*_[5-9].wav"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"7_\*_5\.wav is missing; .* of 5 to 9"):
        load_speech(recordings)
    with pytest.raises(ValueError, match="data 'speech' needs data_root"):
        load_dataset(DataConfig(data="speech", binarization="none"))


def test_training_crops_begin_anywhere():
    signal = torch.arange(64) / 64
    data = make_signals("ramp", ({0: signal}, {0: signal}, {0: signal}), 8, Quantizer())
    assert data.train.shape == (7, 16)
    starts = set()
    for epoch in range(60):
        for x, labels in train_batches(data, 7, seed=0, epoch=epoch):
            assert x.shape == (7, 8)
            assert torch.equal(x - x[:, :1], (signal[:8]).expand(7, -1))
            assert labels.tolist() == [0] * 7
            starts |= set((x[:, 0] * 64).int().tolist())
    assert starts == set(range(57))

    first, again, other = (next(iter(train_batches(data, 7, seed=s, epoch=0))) for s in (1, 1, 2))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)


def test_evaluated_segments_follow_one_another():
    signals = ({1: torch.zeros(20)}, {1: torch.zeros(10)}, {0: torch.rand(26), 1: torch.rand(31)})
    data = make_signals("random", signals, 10, Quantizer())
    assert torch.equal(data.test[:2].flatten(), signals[2][0][:20])
    assert torch.equal(data.test[2:].flatten(), signals[2][1][:30])
    assert data.labels["test"].tolist() == [0, 0, 1, 1, 1]


def test_signals_too_short_for_a_segment_are_named():
    long, short = torch.zeros(100), torch.zeros(19)
    with pytest.raises(ValueError, match="20 samples in the train signal of label 3, which has 19"):
        make_signals("x", ({0: long, 3: short}, {0: long}, {0: long}), 10, Quantizer())
    with pytest.raises(ValueError, match="50 samples in the test signal of label 0, which has 19"):
        make_signals("x", ({0: long}, {0: long}, {0: short}), 50, Quantizer())


def test_vowels_are_the_same_for_all_and_their_splits_differ():
    vowels, again = load_vowels(500), load_dataset(DataConfig("vowels", None, "none", segment=500))
    assert torch.equal(vowels.train, again.train)
    assert [len(vowels.split(name)[0]) for name in ("train", "validation", "test")] == [
        795,
        160,
        160,
    ]
    assert torch.equal(vowels.labels["test"].bincount(), torch.full((5,), 32))
    rows = [
        set(map(tuple, x[:, :500].tolist())) for x in (vowels.train, vowels.validation, vowels.test)
    ]
    assert len(rows[0] | rows[1] | rows[2]) == sum(map(len, rows))
    assert float(vowels.train.abs().max()) < 1


@pytest.mark.parametrize("name", VOWELS)
def test_vowels_have_their_formants_and_pitches(name):
    formants = VOWELS[name]
    x = synthesise_vowels(torch.tensor([formants] * 60), 4000, make_generator(1)).double()
    power = torch.fft.rfft(x * torch.hann_window(4000), dim=1).abs().square()
    # Of all voices together, over a harmonic or two; one of 2,000 bins is 2 Hz.
    power = (power / power.sum(1, keepdim=True)).mean(0)
    smooth = torch.nn.functional.avg_pool1d(power[None], 61, 1, 30)[0]

    def peak_hz(low, high):
        return 2 * (smooth[int(low / 2) : int(high / 2)].argmax().item() + int(low / 2))

    assert peak_hz(150, 4000) == pytest.approx(formants[0], rel=0.25)
    # Where the second stands apart from the others.
    if name in ("i", "ae"):
        assert peak_hz(0.75 * formants[1], 1.25 * formants[1]) == pytest.approx(
            formants[1], rel=0.1
        )
    peaks = x.abs().amax(1)
    assert 0.08 < peaks.min().item() < 0.2 < 0.6 < peaks.max().item() < 0.82

    correlation = torch.fft.irfft(torch.fft.rfft(x, 8192, dim=1).abs().square(), dim=1)
    shortest, longest = 8000 // 300, 8000 // 60
    period = correlation[:, shortest:longest].argmax(1) + shortest
    assert 8000 / 220 < period.double().median().item() < 8000 / 90


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"data": "birds"}, "data must be one of digits, mnist, vowels, speech, text, shakespeare"),
        ({"segment": 0}, "segment must be positive"),
        ({"scale": "log"}, "scale must be one of"),
        ({"data": "mnist", "levels": 16}, "levels must not be given for images; got 16"),
        ({"levels": 1}, "levels must be at least 2"),
    ],
)
def test_config_errors(options, match):
    with pytest.raises(ValueError, match=match):
        DataConfig(**options)


def test_signals_have_no_binarization():
    with pytest.raises(ValueError, match="binarization must be none for signals; got 'static'"):
        load_dataset(DataConfig(data="vowels", binarization="static"))
