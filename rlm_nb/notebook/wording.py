"""How values are told to a person, on a page and on a terminal: text that commands neither, money, time, counts."""

from __future__ import annotations

import re

ESCAPES = (
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]?"
)
"""Whole escape sequences (CSI, OSC and its kin, anything else after ESC), so that none leaves its tail behind."""

# Then every control character but tab and newline; then what reorders text so that it reads as something else.
_UNPRINTABLE = re.compile(rf"{ESCAPES}|[\x00-\x08\x0b-\x1f\x7f-\x9f]|[\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with plain line ends, without escape sequences and control characters; tabs and newlines stay."""
    return _UNPRINTABLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def headline(text: str) -> str:
    """The first line that says anything, on one line and harmless to a terminal."""
    lines = (" ".join(line.split()) for line in printable(text).splitlines())
    return next((line for line in lines if line), "")


def first_line(text: str, most: int = 100) -> str:
    """The first line that says anything, cut to a width that fits beside other things."""
    return cut(headline(text), most)


def cut(line: str, most: int) -> str:
    """The line, or as much of it as makes `most` characters with an ellipsis behind it."""
    return line if len(line) <= most else line[: most - 1] + "…"


def money(micro_dollars: int) -> str:
    """US dollars: cents, and small sums to a hundredth of a cent."""
    dollars = micro_dollars / 1_000_000
    return f"${dollars:.4f}" if 0 < dollars < 0.1 else f"${dollars:,.2f}"


def duration(seconds: float) -> str:
    """`4.2s`, `12s`, `3m05s`, `1h02m`, `400d`; beyond a thousand years, that it is that."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 100 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    days = whole // 86400
    return f"{days:,}d" if days < 365_000 else "more than 1,000 years"


def plural(count: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
