"""The benches run, and their table says what it should; how fast anything was is not a test's business."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from rlm_nb.bench.table import Row, milliseconds, show


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlm_nb.bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=100)


def cells(table: str) -> list[list[str]]:
    """The rows of a printed table: their cells, each with its lines joined."""
    rows: list[list[str]] = [[]]
    for line in table.splitlines():
        if line.startswith("│"):
            parts = [part.strip() for part in line.strip("│").split("│")]
            rows[-1] = [" ".join(filter(None, both)) for both in zip(rows[-1] or [""] * len(parts), parts, strict=True)]
        elif rows[-1]:
            rows.append([])
    return [row for row in rows if row]


def test_every_bench_gives_its_rows(clean_environment: Path) -> None:
    """One run measures all, prints a row for each figure beside its expectation, and leaves no file behind."""
    before = set(clean_environment.iterdir())
    done = bench("--quick")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["measuring: iteration", "measuring: save", "measuring: ledger"]
    iteration, short, long, ledger = cells(done.stdout)
    assert iteration[0] == "an iteration, over its cell in a bare loop"
    assert iteration[4:] in (["≤ 2×", "met"], ["≤ 2×", "not met"])
    assert " ms " in iteration[1]
    assert " ms " in iteration[2]
    assert short[0].startswith("a save at 2 iterations (")
    assert short[3:] == ["", "", ""]
    assert long[0].startswith("a save at 20 iterations (")
    assert long[4] == "≤ 3× without the writing of its bytes"
    assert long[5] in ("met", "not met")
    assert ledger[3].endswith("operations/s")
    assert set(clean_environment.iterdir()) == before


def test_only_what_is_named() -> None:
    """A name chooses its bench; one that nobody knows is refused, with those that there are."""
    done = bench("ledger", "--quick")
    assert [row[0] for row in cells(done.stdout)] == ["a call reserved and settled"]
    refused = bench("leger")
    assert refused.returncode == 2
    assert "there is no bench 'leger'; there are iteration, save, ledger" in refused.stderr
    assert not refused.stdout


@pytest.mark.parametrize(("ratio", "verdict"), [(1.99, "met"), (2.0, "met"), (2.01, "not met")])
def test_a_limit_is_met_up_to_itself(ratio: float, verdict: str) -> None:
    """The verdict beside a figure follows from the figure."""
    file = io.StringIO()
    show([Row.at_most(2, ratio, "a thing", "2 ms", "1 ms")], Console(file=file, width=110))
    assert cells(file.getvalue()) == [["a thing", "2 ms", "1 ms", f"{ratio:.2f}×", "≤ 2×", verdict]]


def test_a_time_has_its_spread() -> None:
    """The median comes first, the 10th and the 90th percentile below it."""
    assert milliseconds([number / 1000 for number in range(101)]) == "50.00 ms\n10.00–90.00"
