from pathlib import Path

from pantry.recipes import parse
from pantry.shopping import shopping_list

RECIPES = Path(__file__).parent.parent / "recipes"


def recipe(*lines):
    return parse("\n".join(["Something", "serves 2", *lines]))


def bought(*recipes):
    return {(item.name, item.unit): item.amount for item in shopping_list(recipes)}


def test_the_same_thing_is_bought_once():
    assert bought(recipe("2 eggs", "100 g flour"), recipe("3 eggs")) == {
        ("eggs", ""): 5,
        ("flour", "g"): 100,
    }


def test_grams_and_kilograms_add_up():
    assert bought(recipe("250 g flour"), recipe("0.5 kg flour")) == {("flour", "g"): 750}


def test_what_cannot_be_added_stays_apart():
    assert bought(recipe("1 pinch salt"), recipe("1 tsp salt")) == {
        ("salt", "pinch"): 1,
        ("salt", "tsp"): 1,
    }


def test_our_own_recipes_can_be_read():
    recipes = [parse(path.read_text(encoding="utf-8")) for path in sorted(RECIPES.glob("*.txt"))]
    assert [each.title for each in recipes] == ["Red lentil dal", "Pancakes", "Waffles"]
    assert "eggs" in [item.name for item in shopping_list(recipes)]
