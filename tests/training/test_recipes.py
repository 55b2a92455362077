"""Every family has a recipe for both data sets of its kind, whose model fits them."""

from __future__ import annotations

import pytest
import torch

from dgm_fast.distributions import Quantizer
from dgm_fast.families import FAMILIES
from dgm_fast.training.data import load_dataset, load_digits, make_signals, make_text
from dgm_fast.training.data.dataset import make_dataset
from dgm_fast.training.protocol import check_fit
from dgm_fast.training.recipes import RECIPES, embedded_data, find_recipe

SIGNALS = ("wavenet",)
# These are fitted in closed form.
COUNTED = ("histogram", "markov")
TEXTS = ("markov_mlp", "rnn", "transformer", *COUNTED)
IMAGES = [family for family in FAMILIES if family not in SIGNALS + TEXTS]
every = pytest.mark.parametrize("family", IMAGES)
every_of_text = pytest.mark.parametrize("family", TEXTS)
every_of_signals = pytest.mark.parametrize("family", SIGNALS)


def mnist_like(binarization):
    """Two images a split of MNIST's size, levels and classes."""
    images = torch.arange(2 * 28 * 28).remainder(256).to(torch.uint8).view(2, 28, 28)
    labels = torch.tensor([0, 9])
    return make_dataset("mnist", (images,) * 3, 256, binarization, (labels,) * 3, classes=10)


def test_there_is_one_for_every_family_and_data_set():
    expected = {(family, data) for family in IMAGES for data in ("digits", "mnist")}
    expected |= {(family, data) for family in SIGNALS for data in ("vowels", "speech")}
    expected |= {(family, data) for family in TEXTS for data in ("text", "shakespeare")}
    assert set(RECIPES) == expected
    assert all(embedded_data(family) == "digits" for family in IMAGES)
    assert all(embedded_data(family) == "vowels" for family in SIGNALS)
    assert all(embedded_data(family) == "text" for family in TEXTS)
    assert [family for family, _ in RECIPES if find_recipe(family, _).train is None] == [
        family for family in COUNTED for _ in range(2)
    ]
    with pytest.raises(ValueError, match="no recipe for alchemy on data that need no files"):
        embedded_data("alchemy")


@every
def test_the_digits_recipe_fits_its_data(family):
    recipe = find_recipe(family, "digits")
    assert recipe.data.data == "digits"
    check_fit(FAMILIES[family](recipe.model), load_digits(recipe.data.binarization))


@every
def test_the_mnist_recipe_fits_its_data(family):
    recipe = find_recipe(family, "mnist")
    assert recipe.data.data == "mnist"
    assert recipe.data.data_root is None
    # On the meta device, because a few of them take seconds to initialise.
    model = FAMILIES[family](recipe.model, device="meta")
    check_fit(model, mnist_like(recipe.data.binarization))
    assert recipe.train.epochs > 1


@every_of_signals
def test_the_vowels_recipe_fits_its_data(family):
    recipe = find_recipe(family, "vowels")
    assert recipe.data.data == "vowels"
    check_fit(FAMILIES[family](recipe.model), load_dataset(recipe.data))


@every_of_signals
def test_the_speech_recipe_fits_its_data(family):
    recipe = find_recipe(family, "speech")
    assert recipe.data.data == "speech"
    assert recipe.data.data_root is None
    signals = {digit: torch.zeros(2 * recipe.data.segment) for digit in range(10)}
    quantizer = Quantizer(recipe.data.scale, recipe.data.levels)
    model = FAMILIES[family](recipe.model, device="meta")
    check_fit(model, make_signals("speech", (signals,) * 3, recipe.data.segment, quantizer))
    # Segments are longer than what a sample depends on.
    assert model.receptive_field < recipe.data.segment


@every_of_signals
@pytest.mark.parametrize("data", ["vowels", "speech"])
def test_signals_have_one_view(family, data):
    for view in ("static", "dynamic", "dequantized"):
        with pytest.raises(ValueError, match="binarization must be none for signals"):
            find_recipe(family, data, view)


@every_of_text
def test_the_text_recipe_fits_its_data(family):
    recipe = find_recipe(family, "text")
    data = load_dataset(recipe.data)
    model = FAMILIES[family](recipe.model)
    check_fit(model, data)
    assert model.log_prob(data.test[:2]).shape == (2,)


@every_of_text
def test_the_shakespeare_recipe_fits_its_data(family):
    recipe = find_recipe(family, "shakespeare")
    assert recipe.data.data_root is None
    # It has 65 characters.
    text = "".join(chr(48 + i) for i in range(65)) * 4
    data = make_text("shakespeare", (text,) * 3, recipe.data.segment)
    model = FAMILIES[family](recipe.model, device="meta")
    check_fit(model, data)
    assert recipe.data.segment <= getattr(recipe.model, "length", recipe.data.segment)


@every_of_text
@pytest.mark.parametrize("data", ["text", "shakespeare"])
def test_text_has_one_view(family, data):
    with pytest.raises(ValueError, match="binarization must be none for text"):
        find_recipe(family, data, "static")
