"""What it costs to confine a kernel by namespaces, Landlock and seccomp: in time, in memory, and for each cell."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from rlm_nb.bench.kernels import our_kernel, run_in_ours, started_by
from rlm_nb.bench.table import Expectation, Row, milliseconds
from rlm_nb.config import IsolationSettings
from rlm_nb.errors import IsolationError
from rlm_nb.kernel.launch import Launcher
from rlm_nb.workspace.scratch import scratch

START = Expectation(15, unit=" ms", note="more")
MEMORY = Expectation(10, unit=" MB", note="more")
ROUND_TRIP = Expectation(1.05, note="(1 is nothing; the rest is noise)")

CELL = "1 + 1"


def measure(quick: bool) -> Iterator[Row]:
    """Kernels at level `ns` in turn with some at level `none`: what disturbs one disturbs both."""
    starts, cells, few = (2, 5, 1) if quick else (20, 200, 5)
    with scratch() as folder, ExitStack() as stack:
        free = stack.enter_context(Launcher(isolation=IsolationSettings(level="none")))
        confined = stack.enter_context(Launcher(isolation=IsolationSettings(level="ns")))
        try:
            confined.confinement()
        except IsolationError as error:
            yield Row(f"isolation at level ns cannot be measured here: {error}", "")
            return
        yield _starts(folder, confined, free, starts)
        yield _memory(folder, confined, free, few)
        yield _round_trips(folder, confined, free, cells)


def _starts(folder: Path, confined: Launcher, free: Launcher, count: int) -> Row:
    took: dict[Launcher, list[float]] = {confined: [], free: []}
    for number in range(count + 1):
        for name, launcher in (("ns", confined), ("none", free)):
            began = time.perf_counter()
            with our_kernel(launcher, folder / f"start-{name}-{number}") as kernel:
                run_in_ours(kernel, CELL)
                if number:  # before the first, what is forked from had to get warm
                    took[launcher].append(time.perf_counter() - began)
    more = 1000 * (median(took[confined]) - median(took[free]))
    what = "a kernel's start at level ns, to the reply to its first cell; beside it, at level none"
    return Row.judged(START, more, what, milliseconds(took[confined]), milliseconds(took[free]))


def _memory(folder: Path, confined: Launcher, free: Launcher, count: int) -> Row:
    """All private memory of the processes of a kernel: its own, its supervisor's, and that of what makes its world."""
    taken = {}
    for name, launcher in (("ns", confined), ("none", free)):
        with ExitStack() as stack:
            before = _private(launcher)
            for number in range(count):
                run_in_ours(stack.enter_context(our_kernel(launcher, folder / f"memory-{name}-{number}")), CELL)
            taken[name] = (_private(launcher) - before) / count / 1e6
    what = "private memory of a kernel at level ns, its supervisor and its init included; beside it, at level none"
    return Row.judged(MEMORY, taken["ns"] - taken["none"], what, f"{taken['ns']:.1f} MB", f"{taken['none']:.1f} MB")


def _private(launcher: Launcher) -> int:
    _, *kernels = started_by(launcher)
    return sum(process.memory_full_info().uss for process in kernels)


def _round_trips(folder: Path, confined: Launcher, free: Launcher, count: int) -> Row:
    took: dict[Launcher, list[float]] = {confined: [], free: []}
    with our_kernel(confined, folder / "cells-ns") as one, our_kernel(free, folder / "cells-none") as other:
        for number in range(count + 3):
            for launcher, kernel in ((confined, one), (free, other)):
                began = time.perf_counter()
                run_in_ours(kernel, CELL)
                if number >= 3:
                    took[launcher].append(time.perf_counter() - began)
    ratio = median(took[confined]) / median(took[free])
    what = "a cell at level ns, from its code to its result; beside it, at level none"
    return Row.judged(ROUND_TRIP, ratio, what, milliseconds(took[confined]), milliseconds(took[free]))
