"""Baselines of signals are codes, and are what a computation sample by sample finds."""

from __future__ import annotations

import math

import pytest
import torch

from dgm_fast.distributions import Quantizer
from dgm_fast.training import signal_baselines
from dgm_fast.training.data import load_digits, load_vowels, make_signals
from dgm_fast.training.metrics import baselines_nats, bits_per_dim, likelihood_table
from dgm_fast.training.protocol import check_fit
from dgm_fast.training.signal_baselines import (
    histogram_of_samples_nats,
    linear_prediction_nats,
    log_cells,
)


def noise_of(count, seed, coefficient=0.0, size=0.3):
    """Noise, or what a recursion of first order makes of it."""
    generator = torch.Generator().manual_seed(seed)
    x, signal = 0.0, []
    for e in ((torch.rand(count, generator=generator) - 0.5) * size).tolist():
        x = coefficient * x + e
        signal.append(x)
    return torch.tensor(signal)


def dataset_of(quantizer, coefficient=0.0, segment=50):
    splits = ({0: noise_of(4000, 0, coefficient)}, *[{0: noise_of(500, 1, coefficient)}] * 2)
    return make_signals("noise", splits, segment, quantizer)


def test_the_histogram_matches_a_hand_computation():
    levels = Quantizer("linear", 3)
    train, test = torch.tensor([-1.0, -1, 0, 0]), torch.tensor([0.0, 1.0])
    data = make_signals("hand", ({0: train}, {0: test}, {0: test}), 2, levels)
    counts = data.quantizer.encode(data.fixed_train()).flatten().bincount(minlength=3)
    # Whatever crop is drawn, it is two of the four; level 2 was never seen.
    expected = -math.log((counts[1].item() + 1) / 5) - math.log(1 / 5)
    assert counts.tolist() in ([2, 0, 0], [1, 1, 0], [0, 2, 0])
    assert histogram_of_samples_nats(data) == pytest.approx(expected, rel=1e-12)


def test_cells_are_differences_of_sigmoids_and_stay_finite():
    low = torch.tensor([-1e6, -2.0, -0.1, 0.3, 2.0], dtype=torch.float64)
    high = torch.tensor([-1.5, -1.0, 0.2, 1e6, 1e6], dtype=torch.float64)
    for scale in (0.1, 1.0, 3.0):
        expected = torch.sigmoid(high / scale) - torch.sigmoid(low / scale)
        actual = log_cells(low, high, torch.tensor(scale, dtype=torch.float64)).exp()
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-12)
    far = log_cells(low + 900, low + 900.1, torch.tensor(1e-3, dtype=torch.float64))
    assert bool(far.isfinite().all())


def brute_force(dataset, order, decay, gamma, epsilon):
    """The code length of the test segments, sample by sample, with loops and plain sigmoids."""
    quantizer = dataset.quantizer
    borders = [-math.inf, *quantizer.borders().tolist(), math.inf]

    def decoded(rows):
        return [quantizer.decode(quantizer.encode(row), torch.float64).tolist() for row in rows]

    past, now = [], []
    for row in decoded(dataset.fixed_train()):
        row = [0.0] * order + row
        for t in range(order, len(row)):
            past.append(row[t - order : t])
            now.append(row[t])
    past, now = (torch.tensor(each, dtype=torch.float64) for each in (past, now))
    a = torch.linalg.lstsq(past, now[:, None]).solution[:, 0].tolist()

    total = 0.0
    for row, levels in zip(decoded(dataset.test), quantizer.encode(dataset.test), strict=True):
        padded, mean = [0.0] * order + row, 0.0
        for t, level in enumerate(levels.tolist()):
            prediction = sum(w * x for w, x in zip(a, padded[t : t + order], strict=True))
            scale = gamma * mean + epsilon
            below, above = (
                0.5 + 0.5 * math.tanh(0.5 * (border - prediction) / scale)
                for border in borders[level : level + 2]
            )
            total -= math.log(above - below)
            mean = decay * mean + (1 - decay) * abs(row[t] - prediction)
    return total / len(dataset.test)


@pytest.mark.parametrize("scale", ["mu_law", "linear"])
def test_linear_prediction_is_what_loops_find(scale, monkeypatch):
    dataset = dataset_of(Quantizer(scale, 32), coefficient=0.9)
    monkeypatch.setattr(signal_baselines, "_DECAYS", (0.8,))
    monkeypatch.setattr(signal_baselines, "_fit_scale", lambda *cells: (0.6, 0.02, 0.0))
    expected = brute_force(dataset, 3, 0.8, 0.6, 0.02)
    # The ridge that keeps silent signals apart from the loops' least squares.
    assert linear_prediction_nats(dataset, order=3) == pytest.approx(expected, rel=1e-6)


def test_the_scale_is_fitted_to_the_training_data():
    dataset = dataset_of(Quantizer("linear", 256), coefficient=0.9)
    nats = {
        (decay, gamma, epsilon): brute_force(dataset, 2, decay, gamma, epsilon)
        for decay in (0.7, 0.95)
        for gamma in (0.05, 0.3, 0.6, 1.0)
        for epsilon in (0.01, 0.03, 0.06)
    }
    # No other test data, in segments of 50, are coded better by a hundredth of a nat a sample.
    assert linear_prediction_nats(dataset, order=2) < min(nats.values()) + 0.5
    assert max(nats.values()) > min(nats.values()) + 10


def test_prediction_finds_what_a_histogram_cannot():
    white, coloured = (dataset_of(Quantizer("linear", 256), c) for c in (0.0, 0.95))
    gains = [
        bits_per_dim(histogram_of_samples_nats(x) - linear_prediction_nats(x), x)
        for x in (white, coloured)
    ]
    # A process of first order has log2 (1 / sqrt(1 - 0.95^2)) = 1.68 bits in its past.
    assert abs(gains[0]) < 0.25
    assert 1.2 < gains[1] < 1.9


def test_silence_costs_next_to_nothing():
    silence = {0: torch.zeros(400)}
    dataset = make_signals("silence", (silence,) * 3, 50, Quantizer())
    assert 0 <= bits_per_dim(linear_prediction_nats(dataset), dataset) < 0.2
    assert 0 <= bits_per_dim(histogram_of_samples_nats(dataset), dataset) < 2


def test_tables_of_signals_speak_of_samples():
    dataset = dataset_of(Quantizer())
    table = likelihood_table({"model": 1.0}, dataset)
    assert [column.header for column in table.columns] == [
        "noise, 256 mu-law levels, segments of 50 samples",
        "NLL, nats",
        "bits/sample",
    ]
    assert list(baselines_nats(dataset)) == ["histogram of samples", "linear prediction"]
    assert bits_per_dim(50 * math.log(2), dataset) == pytest.approx(1)


def test_models_must_fit_the_scale_and_levels(make_model):
    model, vowels = make_model(), load_vowels()
    model.levels, model.scale = 256, "linear"
    with pytest.raises(ValueError, match="are signals on a mu_law scale; got signals on a linear"):
        check_fit(model, vowels)
    model.scale, model.levels = "mu_law", 65536
    with pytest.raises(ValueError, match="of 256 levels; got 65536 levels"):
        check_fit(model, vowels)
    model.levels = 17
    with pytest.raises(ValueError, match="are no signals; got signals on a mu_law scale"):
        check_fit(model, load_digits("none"))
    model.levels = 256
    check_fit(model, vowels)
