"""Units of mass and volume, and how to get from one to the other."""

from fractions import Fraction

MASS = {"mg": Fraction(1, 1000), "g": Fraction(1), "kg": Fraction(1000)}
# TODO: cups, they are 240 ml in most American books (250 ml in Australia!)
VOLUME = {"ml": Fraction(1), "tsp": Fraction(5), "tbsp": Fraction(15), "l": Fraction(1000)}
LOOSE = {"pinch", "clove", "bunch"}

KNOWN = MASS.keys() | VOLUME.keys() | LOOSE


def same_kind(one: str, other: str) -> bool:
    """Whether amounts in these units can be added."""
    return one == other or any(one in kind and other in kind for kind in (MASS, VOLUME))


def convert(amount: Fraction, source: str, target: str) -> Fraction:
    """`amount`, given in `source`, in `target`."""
    if source == target:
        return amount
    for kind in (MASS, VOLUME):
        if source in kind and target in kind:
            return amount * kind[source] / kind[target]
    raise ValueError(f"cannot turn {source or 'pieces'} into {target or 'pieces'}")
