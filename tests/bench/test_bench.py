"""The benches run, and their table says what it should; how fast anything was is not a test's business."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from rlm_nb.bench.table import Expectation, Row, milliseconds, show


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


NAMES = "start, memory, iteration, fanout, sdk, save, ledger, flatness, purse, context, worktrees, isolation, resume"
VERDICTS = ("met", "not met")


def test_every_bench_gives_its_rows(clean_environment: Path) -> None:
    """One run measures all, prints a row for each figure beside its expectation, and leaves no file behind."""
    before = set(clean_environment.iterdir())
    done = bench("--quick")
    assert done.returncode == 0, done.stderr
    named = [f"measuring: {name}" for name in NAMES.split(", ")]
    assert done.stderr.splitlines() == named
    (
        start,
        private,
        together,
        iteration,
        path,
        wall,
        growth,
        sdk,
        short,
        long,
        ledger,
        kernels,
        iterations,
        within,
        speed,
        *contexts,
        whole,
        child,
        together_at_once,
        confined,
        larger,
        cell,
        resumed,
    ) = cells(done.stdout)
    assert start[4] == "≥ 6× faster reach for 12×"
    assert private[0].startswith("private memory of an idle kernel; its supervisor has ")
    assert private[4] == "≤ 40% of stock reach for 30%"
    # A forkserver, and for each kernel its supervisor and, where it has namespaces of its own, their init.
    assert re.match("3 kernels alive: all memory of the (7|10) processes", together[0])
    assert together[4] == "≤ 1.3 GB reach for 1 GB"
    assert iteration[0] == "an iteration, over its cell in a bare loop"
    assert iteration[4] == "≤ 1.5× reach for 1.2×"
    assert path[0] == "3 sub-agents, 3 calls each at 0.2 s, over the critical path"
    assert path[2] == "0.80 s"
    assert path[4] == "≤ 1.6× reach for 1.2×"
    assert wall[4] == "≤ 2.5 s reach for 1.5 s"
    assert growth[0].startswith("1, 2, 3 sub-agents")
    assert sdk[4] == "≤ 20 ms reach for 12 ms"
    assert short[0].startswith("a save at 2 iterations (")
    assert short[3:] == ["", "", ""]
    assert long[0].startswith("a save at 20 iterations (")
    assert long[4] == "≤ 3× without the writing of its bytes"
    assert kernels[0].startswith("4 kernels: ")
    assert iterations[0].startswith("4 iterations of one agent: ")
    assert kernels[4] == iterations[4] == "≤ 5 MB more memory, nothing else more reach for 1 MB"
    for row in (start, private, together, iteration, path, wall, growth, sdk, long, kernels, iterations, speed):
        assert row[5] in VERDICTS
    assert ledger[3].endswith("operations/s")
    assert within[0].startswith("8 processes × 10 calls of random cost, 3 killed in mid-call")
    assert within[5] == "met"  # on every machine: this one is no matter of speed
    assert speed[4] == "≥ 500 operations/s"
    goals = ["", "≤ 2× mmap.find", "≤ 1.5× the same engine over bytes in memory", "≤ 1 ms at any offset, once indexed"]
    assert [row[4] for row in contexts] == [*goals, "≤ 200 MB"] * 2
    assert contexts[0][0].startswith("24 MiB of ASCII: the index of")
    assert contexts[5][0].startswith("24 MiB of mixed UTF-8: the index of")
    assert whole[0].startswith("20 files: a run's start, with the snapshot of the checkout and a worktree")
    assert child[0].startswith("20 files: a sub-agent's start, with the snapshot of its parent and a worktree")
    assert whole[4] == child[4] == "≤ 1.5×"
    assert together_at_once[0].startswith(
        "4 agents' worktrees of 20 files opened and kept at once; disk used by each: "
    )
    assert together_at_once[3] == "0 failed"
    assert [row[4] for row in (confined, larger)] == ["≤ 15 ms more", "≤ 10 MB more"]
    assert cell[0] == "a cell at level ns, from its code to its result; beside it, at level none"
    assert resumed[1] == resumed[4] == "1 of 1"
    assert resumed[5] == "met"  # on every machine, too
    assert set(clean_environment.iterdir()) == before


def test_only_what_is_named() -> None:
    """A name chooses its bench; one that nobody knows is refused, with those that there are."""
    done = bench("ledger", "--quick")
    assert [row[0] for row in cells(done.stdout)] == ["a call reserved and settled"]
    refused = bench("leger")
    assert refused.returncode == 2
    assert f"there is no bench 'leger'; there are {NAMES}" in refused.stderr
    assert not refused.stdout


@pytest.mark.parametrize(
    ("least", "figure", "verdict"),
    [(False, 1.99, "met"), (False, 2.0, "met"), (False, 2.01, "not met"), (True, 2.0, "met"), (True, 1.99, "not met")],
)
def test_a_limit_is_met_up_to_itself(least: bool, figure: float, verdict: str) -> None:
    """The verdict beside a figure follows from the limit alone; what to reach for is only shown."""
    file = io.StringIO()
    expectation = Expectation(2, reach=5 if least else 1, least=least)
    show([Row.judged(expectation, figure, "a thing", "2 ms", "1 ms")], Console(file=file, width=110))
    expected = "≥ 2× reach for 5×" if least else "≤ 2× reach for 1×"
    assert cells(file.getvalue()) == [["a thing", "2 ms", "1 ms", f"{figure:.2f}×", expected, verdict]]


def test_a_time_has_its_spread() -> None:
    """The median comes first, the 10th and the 90th percentile below it."""
    assert milliseconds([number / 1000 for number in range(101)]) == "50.00 ms\n10.00–90.00"
