"""Every family has a recipe for both data sets, whose model fits them."""

from __future__ import annotations

import pytest
import torch

from dgm_fast.families import FAMILIES
from dgm_fast.training.data import load_digits
from dgm_fast.training.data.dataset import make_dataset
from dgm_fast.training.protocol import check_fit
from dgm_fast.training.recipes import RECIPES, find_recipe

every = pytest.mark.parametrize("family", FAMILIES)


def mnist_like(binarization):
    """Two images a split of MNIST's size, levels and classes."""
    images = torch.arange(2 * 28 * 28).remainder(256).to(torch.uint8).view(2, 28, 28)
    labels = torch.tensor([0, 9])
    return make_dataset("mnist", (images,) * 3, 256, binarization, (labels,) * 3, classes=10)


def test_there_is_one_for_every_family_and_data_set():
    assert set(RECIPES) == {(family, data) for family in FAMILIES for data in ("digits", "mnist")}


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
