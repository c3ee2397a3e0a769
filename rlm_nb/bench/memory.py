"""What kernels take of the machine's memory: one that idles beside a stock one, and fifty at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import psutil

from rlm_nb.bench.kernels import our_kernel, run_in_ours, run_in_stock, started_by, stock_kernel
from rlm_nb.bench.table import Expectation, Row
from rlm_nb.kernel.launch import Launcher
from rlm_nb.workspace.scratch import scratch

PRIVATE = Expectation(40, reach=30, unit="%", note="of stock")
TOGETHER = Expectation(1.3, reach=1.0, unit=" GB")

CELL = "1 + 1"
"""Each kernel has run it before it is looked at: an agent's kernel that idles has run cells."""


def measure(quick: bool) -> Iterator[Row]:
    """First a few kernels of each kind, then many of ours."""
    with scratch() as folder:
        yield _private(folder, few=2 if quick else 5)
        yield _together(folder, many=3 if quick else 50)


def _private(folder: Path, few: int) -> Row:
    """USS: what would come back to the machine if the process ended. The median of a few of each kind."""
    ours: list[int] = []
    supervisors: list[int] = []
    stock: list[int] = []
    with ExitStack() as stack:
        launcher = stack.enter_context(Launcher())
        for number in range(few):
            kernel = stack.enter_context(our_kernel(launcher, folder / f"ours-{number}"))
            run_in_ours(kernel, CELL)
            client, pid = stack.enter_context(stock_kernel(folder / f"stock-{number}"))
            run_in_stock(client, CELL)
            stock.append(psutil.Process(pid).memory_full_info().uss)
        warm, *rest = started_by(launcher)
        for process in rest:
            # Beside each kernel there is, at level ns, the init of its namespaces, which has one thread.
            if process.ppid() == warm.pid or process.num_threads() > 1:
                (supervisors if process.ppid() == warm.pid else ours).append(process.memory_full_info().uss)
    return Row.judged(
        PRIVATE,
        100 * median(ours) / median(stock),
        f"private memory of an idle kernel; its supervisor has {_megabytes(median(supervisors))} more",
        _megabytes(median(ours)),
        _megabytes(median(stock)),
    )


def _together(folder: Path, many: int) -> Row:
    """PSS: each process's own memory, and its share of what it has in common with others."""
    with ExitStack() as stack:
        launcher = stack.enter_context(Launcher())
        for number in range(many):
            run_in_ours(stack.enter_context(our_kernel(launcher, folder / f"many-{number}")), CELL)
        processes = started_by(launcher)
        total = sum(process.memory_full_info().pss for process in processes)
    what = f"{many} kernels alive: all memory of the {len(processes)} processes, supervisors and forkserver included"
    return Row.judged(TOGETHER, total / 1e9, what, _megabytes(total))


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"
