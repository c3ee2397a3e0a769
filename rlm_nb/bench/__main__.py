"""`python -m rlm_nb.bench`: measures, and prints what was expected beside what was measured."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console

from rlm_nb.bench import (
    context,
    fanout,
    flatness,
    isolation,
    iteration,
    ledger,
    memory,
    purse,
    resume,
    save,
    sdk,
    start,
    worktrees,
)
from rlm_nb.bench.table import Row, show

BENCHES: Mapping[str, Callable[[bool], Iterator[Row]]] = {
    "start": start.measure,
    "memory": memory.measure,
    "iteration": iteration.measure,
    "fanout": fanout.measure,
    "sdk": sdk.measure,
    "save": save.measure,
    "ledger": ledger.measure,
    "flatness": flatness.measure,
    "purse": purse.measure,
    "context": context.measure,
    "worktrees": worktrees.measure,
    "isolation": isolation.measure,
    "resume": resume.measure,
}
"""Every bench: told whether to be quick, it yields its rows."""

WIDTH = 110
"""Columns of the table where there is no terminal to say."""


def main() -> None:
    """Run the benches that are named, or all of them, one after the other: side by side they would disturb each other.

    The exit code says nothing of whether expectations are met: on a busy machine they may not be.
    """
    parser = argparse.ArgumentParser(prog="python -m rlm_nb.bench", description=__doc__.partition(": ")[2])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHES)}; without any, all")
    parser.add_argument("--quick", action="store_true", help="see that it works: too few repeats to judge by")
    wanted = parser.parse_args()
    for name in wanted.names:
        if name not in BENCHES:
            parser.error(f"there is no bench {name!r}; there are {', '.join(BENCHES)}")
    rows: list[Row] = []
    for name in wanted.names or BENCHES:
        print(f"measuring: {name}", file=sys.stderr, flush=True)  # noqa: T201
        rows += BENCHES[name](wanted.quick)
    show(rows, Console(width=None if sys.stdout.isatty() else WIDTH))


if __name__ == "__main__":
    main()
