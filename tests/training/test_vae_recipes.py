from __future__ import annotations

import pytest

from dgm_fast.families import VAE
from dgm_fast.training.data import BINARIZATIONS, load_dataset
from dgm_fast.training.protocol import check_fit
from dgm_fast.training.recipes import find_recipe


@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_the_digits_recipe_fits_every_view(binarization):
    recipe = find_recipe("vae", "digits", binarization)
    dataset = load_dataset(recipe.data)

    assert dataset.binarization == binarization
    check_fit(VAE(recipe.model), dataset)


@pytest.mark.parametrize(
    ("binarization", "levels"),
    [("static", 2), ("dynamic", 2), ("none", 256), ("dequantized", None)],
)
def test_the_mnist_recipe_fits_every_view(binarization, levels):
    recipe = find_recipe("vae", "mnist", binarization)

    assert recipe.data.binarization == binarization
    model = VAE(recipe.model, device="meta")
    assert model.levels == levels
    assert model.event_shape == (28, 28)


def test_mnist_is_binarized_afresh_by_default():
    assert find_recipe("vae", "mnist").data.binarization == "dynamic"
