"""Recipes: read from text, scaled to the number of people."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from pantry.quantities import parse_amount
from pantry.units import KNOWN


@dataclass(frozen=True)
class Ingredient:
    amount: Fraction
    unit: str  # "" for things that are counted
    name: str


@dataclass(frozen=True)
class Recipe:
    title: str
    servings: int
    ingredients: tuple[Ingredient, ...]

    def scaled(self, servings: int) -> Recipe:
        """The same recipe for another number of people."""
        # TODO: refuse 0 and negative numbers of servings
        factor = Fraction(servings, self.servings)
        scaled = tuple(replace(each, amount=each.amount * factor) for each in self.ingredients)
        return replace(self, servings=servings, ingredients=scaled)


def parse(text: str) -> Recipe:
    """Read a recipe: its title, `serves N`, one ingredient a line."""
    title, serves, *lines = [line.strip() for line in text.splitlines() if line.strip()]
    servings = re.fullmatch(r"serves (\d+)", serves)
    if not servings:
        raise ValueError(f"expected 'serves N', found {serves!r}")
    return Recipe(title, int(servings[1]), tuple(parse_ingredient(line) for line in lines))


def parse_ingredient(line: str) -> Ingredient:
    """Read one line, such as `1 1/2 tbsp butter` or `2 eggs`."""
    # TODO: notes after a comma ("2 onions, finely chopped") end up in the name and on the shopping list
    found = re.match(r"([\d./]+(?: \d+/\d+)?) +(.+)", line)
    if not found:
        raise ValueError(f"no amount in {line!r}")
    unit, _, name = found[2].partition(" ")
    if unit not in KNOWN or not name:
        unit, name = "", found[2]
    return Ingredient(parse_amount(found[1]), unit, name.strip())
