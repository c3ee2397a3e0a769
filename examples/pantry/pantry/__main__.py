"""python -m pantry RECIPE... [--servings N]"""

import argparse
from pathlib import Path

from pantry.quantities import format_amount
from pantry.recipes import parse
from pantry.shopping import shopping_list


def main() -> None:
    parser = argparse.ArgumentParser(prog="pantry", description=__doc__)
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--servings", type=int)
    options = parser.parse_args()

    # TODO: a recipe file with a mistake ends in a traceback; name the file and the line instead
    recipes = [parse(path.read_text(encoding="utf-8")) for path in options.recipes]
    if options.servings:
        recipes = [recipe.scaled(options.servings) for recipe in recipes]
    for item in shopping_list(recipes):
        print(f"{format_amount(item.amount)} {item.unit}".ljust(12), item.name)


if __name__ == "__main__":
    main()
