"""From the wish for a kernel to the reply to its first cell: forked from a warm process, beside a stock start."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from rlm_nb.bench.kernels import our_kernel, run_in_ours, run_in_stock, stock_kernel
from rlm_nb.bench.table import Expectation, Row, milliseconds
from rlm_nb.kernel.launch import Launcher
from rlm_nb.workspace.scratch import scratch

EXPECTED = Expectation(6, reach=12, least=True, note="faster")

CELL = "1 + 1"


def measure(quick: bool) -> Iterator[Row]:
    """The median of 20 starts, each followed by a stock one: what disturbs one disturbs both."""
    ours, stock = [], []
    with scratch() as folder, Launcher() as launcher:
        with our_kernel(launcher, folder / "first") as kernel:
            run_in_ours(kernel, CELL)  # by now the process that forks is warm, as it is for all agents but the root
        for number in range(2 if quick else 20):
            began = time.perf_counter()
            with our_kernel(launcher, folder / f"ours-{number}") as kernel:
                run_in_ours(kernel, CELL)
                ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            with stock_kernel(folder / f"stock-{number}") as (client, _):
                run_in_stock(client, CELL)
                stock.append(time.perf_counter() - began)
    yield Row.judged(
        EXPECTED,
        median(stock) / median(ours),
        "a kernel's start, to the reply to its first cell; beside it, a stock one",
        milliseconds(ours),
        milliseconds(stock),
    )
