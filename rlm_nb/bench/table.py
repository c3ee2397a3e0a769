"""What was measured beside what was expected, as a table."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Expectation:
    """A bound that a figure should keep, and a better one that it should come near.

    Args:
        limit: The bound.
        reach: The better one; `None` where the bound is all that is wanted.
        unit: Stands behind each figure: `×`, ` s`.
        least: Whether the figure should be at least the bound, rather than at most.
        note: More about the expectation.
    """

    limit: float
    reach: float | None = None
    unit: str = "×"
    least: bool = False
    note: str = ""

    def __str__(self) -> str:
        words = [f"{'≥' if self.least else '≤'} {self.limit:g}{self.unit}", self.note]
        reach = "" if self.reach is None else f"\nreach for {self.reach:g}{self.unit}"
        return " ".join(filter(None, words)) + reach

    def holds(self, figure: float) -> bool:
        """Whether the bound is kept. How near the figure comes to the better one is for people to judge."""
        return figure >= self.limit if self.least else figure <= self.limit


@dataclass(frozen=True)
class Row:
    """One measurement, in words and figures as they are shown.

    Args:
        what: What was measured.
        ours: What it took here.
        beside: What the thing took that it is compared with, in the same run; empty without one.
        measured: The figure that the expectation is about.
        expected: The expectation; empty when the row is for information only.
        met: Whether it holds; `None` without an expectation.
    """

    what: str
    ours: str
    beside: str = ""
    measured: str = ""
    expected: str = ""
    met: bool | None = None

    @classmethod
    def judged(cls, expectation: Expectation, figure: float, what: str, ours: str, beside: str = "") -> Row:
        """A row whose figure is held against an expectation."""
        measured = f"{figure:.2f}{expectation.unit}"
        return cls(what, ours, beside, measured, str(expectation), met=expectation.holds(figure))


def milliseconds(seconds: Sequence[float]) -> str:
    """The median, and on a second line the 10th and the 90th percentile."""
    tenths = quantiles(seconds, n=10, method="inclusive")
    return f"{1000 * median(seconds):.2f} ms\n{1000 * tenths[0]:.2f}–{1000 * tenths[-1]:.2f}"


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the table, with the machine that the figures belong to."""
    caption = f"Times are medians, with the 10th to the 90th percentile below. {_machine()}"
    table = Table(caption=caption, caption_justify="left", show_lines=True)
    table.add_column("what")
    table.add_column("here", justify="right", no_wrap=True)
    table.add_column("beside it", justify="right", no_wrap=True)
    table.add_column("measured", justify="right")
    table.add_column("expected")
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        verdict = {True: "[green]met[/]", False: "[red]not met[/]", None: ""}[row.met]
        table.add_row(row.what, row.ours, row.beside, row.measured, row.expected, verdict)
    console.print(table)


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {cores} cores."
