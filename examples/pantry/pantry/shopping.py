"""What to buy: the ingredients of all recipes, added up."""

from collections.abc import Iterable
from dataclasses import replace

from pantry.recipes import Ingredient, Recipe
from pantry.units import convert, same_kind


def shopping_list(recipes: Iterable[Recipe]) -> list[Ingredient]:
    """One entry for each thing to buy, in the unit that was met first, by name.

    Amounts that cannot be added (2 tbsp and 1 pinch) stay apart.
    """
    items: list[Ingredient] = []
    for recipe in recipes:
        for ingredient in recipe.ingredients:
            _add(items, ingredient)
    # TODO: 1500 g should read 1 1/2 kg on the list
    return sorted(items, key=lambda item: item.name)


def _add(items: list[Ingredient], ingredient: Ingredient) -> None:
    # TODO: "egg" and "eggs" are two entries
    for index, item in enumerate(items):
        if item.name == ingredient.name and same_kind(item.unit, ingredient.unit):
            more = convert(ingredient.amount, item.unit, ingredient.unit)
            items[index] = replace(item, amount=item.amount + more)
            return
    items.append(ingredient)
