from fractions import Fraction

import pytest

from pantry.recipes import Ingredient, parse, parse_ingredient

PANCAKES = """\
Pancakes
serves 4

250 g flour
1/2 l milk
2 eggs
"""


def test_parse():
    recipe = parse(PANCAKES)
    assert (recipe.title, recipe.servings) == ("Pancakes", 4)
    assert recipe.ingredients[1] == Ingredient(Fraction(1, 2), "l", "milk")


@pytest.mark.parametrize(
    ("line", "unit", "name"),
    [
        ("1 1/2 tbsp butter", "tbsp", "butter"),
        ("2 eggs", "", "eggs"),
        ("2 large eggs", "", "large eggs"),
    ],
)
def test_units_and_names(line, unit, name):
    ingredient = parse_ingredient(line)
    assert (ingredient.unit, ingredient.name) == (unit, name)


def test_scaling():
    flour, milk, eggs = parse(PANCAKES).scaled(6).ingredients
    assert (flour.amount, milk.amount, eggs.amount) == (375, Fraction(3, 4), 3)


def test_a_line_without_an_amount_is_refused():
    with pytest.raises(ValueError, match="no amount in 'salt'"):
        parse(PANCAKES + "salt\n")
