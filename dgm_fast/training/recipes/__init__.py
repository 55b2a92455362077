"""Complete experiments, one readable file each: FAMILY_DATA.py has the one of a family on data."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from dgm_fast.training.data import EMBEDDED
from dgm_fast.training.recipes.recipe import Recipe, sized_for

__all__ = ["RECIPES", "Recipe", "embedded_data", "find_recipe", "sized_for"]

RECIPES: dict[tuple[str, ...], Callable[..., Recipe]] = {
    tuple(module.name.rsplit("_", 1)): importlib.import_module(f"{__name__}.{module.name}").recipe
    for module in pkgutil.iter_modules(__path__)
    if "_" in module.name
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


def embedded_data(family: str) -> str:
    """Return the data set that needs no files and that the family has a recipe for.

    Raises:
        ValueError: there is none.
    """
    known = [data for data in EMBEDDED if (family, data) in RECIPES]
    if not known:
        raise ValueError(f"there is no recipe for {family} on data that need no files")
    return known[0]
