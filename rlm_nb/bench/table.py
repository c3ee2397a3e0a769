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
    def at_most(cls, limit: float, ratio: float, what: str, ours: str, beside: str, note: str = "") -> Row:
        """A ratio that should not pass a limit; `note` says more about the expectation."""
        expected = f"≤ {limit:g}×{note and f' {note}'}"
        return cls(what, ours, beside, f"{ratio:.2f}×", expected, met=ratio <= limit)


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
    table.add_column("", no_wrap=True)
    for row in rows:
        verdict = {True: "[green]met[/]", False: "[red]not met[/]", None: ""}[row.met]
        table.add_row(row.what, row.ours, row.beside, row.measured, row.expected, verdict)
    console.print(table)


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {cores} cores."
