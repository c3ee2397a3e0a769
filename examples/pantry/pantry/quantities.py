"""Amounts as cooks write them: 2, 0.5, 1/2, 1 1/2."""

from fractions import Fraction


def parse_amount(text: str) -> Fraction:
    """The amount that `text` stands for.

    >>> parse_amount("1 1/2")
    Fraction(3, 2)
    """
    # TODO: accept the single characters for fractions too (½, ¼, ¾), many recipes on the web use them
    parts = text.split()
    if not 1 <= len(parts) <= 2:
        raise ValueError(f"not an amount: {text!r}")
    try:
        return sum((Fraction(part) for part in parts), Fraction(0))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"not an amount: {text!r}") from None


def format_amount(amount: Fraction) -> str:
    """The way back; what no cook could measure is rounded to eighths."""
    if amount.denominator > 8:
        amount = Fraction(round(amount * 8), 8)
    whole, rest = divmod(amount, 1)
    if not rest:
        return str(whole)
    return f"{whole} {rest}" if whole else str(rest)
