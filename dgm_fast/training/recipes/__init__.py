"""Complete experiments, one readable file each, found by family and data."""

from __future__ import annotations

from collections.abc import Callable

from dgm_fast.training.recipes import made_digits, made_mnist, vae_digits, vae_mnist
from dgm_fast.training.recipes.recipe import Recipe

__all__ = ["RECIPES", "Recipe", "find_recipe"]

RECIPES: dict[tuple[str, str], Callable[..., Recipe]] = {
    ("made", "digits"): made_digits.recipe,
    ("made", "mnist"): made_mnist.recipe,
    ("vae", "digits"): vae_digits.recipe,
    ("vae", "mnist"): vae_mnist.recipe,
}


def find_recipe(family: str, data: str, binarization: str | None = None) -> Recipe:
    """Find the recipe of a family on a data set; `binarization` None takes the recipe's own view.

    Raises:
        ValueError: there is no such recipe; the message lists those there are.
    """
    if (family, data) not in RECIPES:
        known = ", ".join(f"{f} on {d}" for f, d in RECIPES)
        raise ValueError(f"there is no recipe for {family} on {data}; there are {known}")

    recipe = RECIPES[family, data]
    return recipe() if binarization is None else recipe(binarization)
