from fractions import Fraction

import pytest

from pantry.quantities import format_amount, parse_amount


@pytest.mark.parametrize(
    ("text", "amount"),
    [("2", 2), ("0.5", Fraction(1, 2)), ("3/4", Fraction(3, 4)), ("1 1/2", Fraction(3, 2))],
)
def test_parse(text, amount):
    assert parse_amount(text) == amount


@pytest.mark.parametrize("text", ["", "some", "1/0", "1 2 3"])
def test_nonsense_is_refused(text):
    with pytest.raises(ValueError, match="not an amount"):
        parse_amount(text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (Fraction(2), "2"),
        (Fraction(3, 2), "1 1/2"),
        (Fraction(1, 3), "1/3"),
        (Fraction(501, 1000), "1/2"),
    ],
)
def test_format(amount, text):
    assert format_amount(amount) == text
