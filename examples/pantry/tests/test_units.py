from fractions import Fraction

import pytest

from pantry.units import convert, same_kind


def test_mass_and_volume():
    assert convert(Fraction(3, 2), "kg", "g") == 1500
    assert convert(Fraction(30), "ml", "tbsp") == 2


def test_kinds_do_not_mix():
    assert not same_kind("g", "ml")
    with pytest.raises(ValueError, match="cannot turn pinch into g"):
        convert(Fraction(1), "pinch", "g")
