from __future__ import annotations

import math

import pytest
import torch

from dgm_fast.training.data import load_digits, make_dataset
from dgm_fast.training.images import save_image_grid
from dgm_fast.training.metrics import (
    baselines_nats,
    bits_per_dim,
    histogram_per_pixel_nats,
    independent_pixels_nats,
    mean_nll_nats,
)
from dgm_fast.training.protocol import check_fit


def rows(*values):
    return torch.tensor(values, dtype=torch.uint8).reshape(-1, 1, 2)


def test_baselines_of_binary_data_match_a_hand_computation():
    train, test = rows([1, 0], [1, 1], [0, 0]), rows([1, 0], [0, 1])
    data = make_dataset("hand", (train, train, test), 2)
    # Laplace: p(x_0 = 1) = (2 + 1) / (3 + 2), p(x_1 = 1) = (1 + 1) / (3 + 2).
    expected = -(math.log(3 / 5 * 3 / 5) + math.log(2 / 5 * 2 / 5)) / 2
    assert independent_pixels_nats(data) == pytest.approx(expected, rel=1e-12)
    assert histogram_per_pixel_nats(data) == pytest.approx(expected, rel=1e-12)


def test_baselines_of_grey_levels_match_a_hand_computation():
    train, test = rows([2, 0], [2, 1], [0, 0]), rows([1, 2])
    data = make_dataset("hand", (train, train, test), 3)
    # Binomial(2, p): p_0 = (4 + 1) / (6 + 2), p_1 = (1 + 1) / (6 + 2).
    p0, p1 = 5 / 8, 2 / 8
    expected = -(math.log(2 * p0 * (1 - p0)) + math.log(p1**2))
    assert independent_pixels_nats(data) == pytest.approx(expected, rel=1e-12)
    # Histograms: level 1 of pixel 0 was never seen, level 2 of pixel 1 neither.
    assert histogram_per_pixel_nats(data) == pytest.approx(-2 * math.log(1 / 6), rel=1e-12)


def test_baselines_run_on_every_view_and_bits_per_dim_are_comparable():
    names = {"independent pixels", "histogram per pixel"}
    views = {view: load_digits(view) for view in ("none", "static", "dynamic", "dequantized")}
    nats = {view: baselines_nats(data) for view, data in views.items()}
    for figures in nats.values():
        assert figures.keys() == names
        assert all(math.isfinite(value) for value in figures.values())
    # A histogram is piecewise constant: dequantization costs it nothing in bits/dim.
    grey, dequantized = (
        bits_per_dim(nats[view]["histogram per pixel"], views[view])
        for view in ("none", "dequantized")
    )
    assert dequantized == pytest.approx(grey, rel=1e-6)
    assert nats["static"]["histogram per pixel"] < 64 * math.log(2)


def test_bits_per_dim_of_uniform_noise_is_the_entropy_of_the_levels():
    grey = make_dataset("grey", (rows([3, 4]),) * 3, 256)
    assert bits_per_dim(2 * math.log(256), grey) == pytest.approx(8.0)
    dequantized = make_dataset("grey", (rows([3, 4]),) * 3, 256, "dequantized")
    assert bits_per_dim(0.0, dequantized) == pytest.approx(8.0)


def test_mean_nll_is_the_mean_over_rows_in_evaluation_mode(make_model, dataset):
    model = make_model(0.9)
    model.train()
    nll = mean_nll_nats(model, dataset.test, batch_size=7)
    assert model.training
    with torch.no_grad():
        expected = -model.eval().log_prob(dataset.test).double().mean().item()
    assert nll == pytest.approx(expected, rel=1e-6)


def test_rows_take_the_event_shape_of_the_model(make_model, dataset):
    model = make_model()
    seen = []

    def log_prob(x, context=None):
        seen.append(tuple(x.shape))
        return x.flatten(1).sum(1)

    model.log_prob = log_prob
    model.event_shape = (1, 2, 3)
    mean_nll_nats(model, dataset.test, batch_size=40)
    assert seen == [(40, 1, 2, 3)]


def test_quick_asks_for_the_stand_in_and_noise_is_the_same_at_every_call(make_model, dataset):
    model = make_model()
    model.validation_nats = lambda x, context: torch.rand(len(x))
    torch.manual_seed(5)
    before = torch.get_rng_state()

    quick = [mean_nll_nats(model, dataset.test, quick=True, seed=seed) for seed in (3, 3, 4)]
    assert quick[0] == quick[1] != quick[2]
    assert 0 < quick[0] < 1 < mean_nll_nats(model, dataset.test)
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_reach_a_class_conditional_model_alone(make_model, dataset):
    labels, seen = torch.arange(len(dataset.test)) % 3, []
    model = make_model()

    def log_prob(x, context=None):
        seen.append(context)
        return x.sum(1)

    model.log_prob = log_prob
    mean_nll_nats(model, dataset.test, labels, batch_size=30)
    model.classes = 3
    mean_nll_nats(model, dataset.test, labels, batch_size=30)
    assert seen[:2] == [None, None]
    assert torch.equal(torch.cat(seen[2:]), labels)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"event_shape": (7,)}, r"events of 6 values.*\(7,\)"),
        ({"levels": 256}, "of 2 levels; got 256 levels"),
        ({"levels": None}, "of 2 levels; got real values"),
        ({"classes": 3}, "labels for a model of 3 classes; got none"),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_refused(make_model, dataset, attributes, message):
    model = make_model()
    check_fit(model, dataset)
    for name, value in attributes.items():
        setattr(model, name, value)
    with pytest.raises(ValueError, match=message):
        check_fit(model, dataset)


def test_image_grid_holds_the_images(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    images = torch.tensor([[[0, 4], [2, 0]], [[4, 4], [4, 4]], [[0, 0], [0, 0]]])
    save_image_grid(images, tmp_path / "new" / "grid.png", levels=5, columns=2)
    picture = image.open(tmp_path / "new" / "grid.png")
    scale = 640 // 6
    assert picture.size == (6 * scale, 6 * scale)

    def pixel(row, column):
        return picture.getpixel((column * scale, row * scale))

    assert [pixel(0, 0), pixel(0, 1), pixel(1, 0), pixel(1, 1)] == [255, 0, 127, 255]
    assert [pixel(0, 3), pixel(3, 0)] == [0, 255]


def test_image_grid_refuses_what_is_no_image(tmp_path):
    with pytest.raises(ValueError, match=r"\(N, H, W\).*\(4, 9\)"):
        save_image_grid(torch.zeros(4, 9), tmp_path / "x.png", levels=2)
