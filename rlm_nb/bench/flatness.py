"""Whether a controller that lives long stays as it was: two hundred kernels one after the other, as many iterations."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import psutil

from rlm_nb.bench import source
from rlm_nb.bench.kernels import our_kernel, run_in_ours
from rlm_nb.bench.table import Expectation, Row
from rlm_nb.config import Config, RLMSettings, RunsSettings
from rlm_nb.controller import open_run
from rlm_nb.kernel.launch import Launcher
from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.workspace.scratch import scratch

EXPECTED = Expectation(5, reach=1, unit=" MB", note="more memory, nothing else more")

MANY = 200

WARM_UP = 20
"""Kernels, or iterations, after which all that is kept for good is there."""

CELL = "print('x' * 1000)"


@dataclass(frozen=True)
class Census:
    """What this process has: open descriptors, threads and descendants, and its memory in bytes."""

    descriptors: int
    threads: int
    processes: int
    memory: int

    @classmethod
    def now(cls) -> Census:
        """As it is at this moment, without garbage."""
        gc.collect()
        process = psutil.Process()
        children = process.children(recursive=True)
        return cls(process.num_fds(), process.num_threads(), len(children), process.memory_info().rss)

    def __sub__(self, other: Census) -> Census:
        return Census(*(mine - theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


def measure(quick: bool) -> Iterator[Row]:
    """What was added between the end of the warm-up and the last one."""
    many = 4 if quick else MANY
    with scratch() as folder:
        yield _row(kernels(folder, many), f"{many} kernels")
        yield _row(iterations(folder, many), f"{many} iterations of one agent")


def kernels(folder: Path, many: int, warm_up: int = WARM_UP) -> Census:
    """Start kernels one after the other, a cell each; returns what the process has more than after the warm-up."""
    with Launcher() as launcher:
        for number in range(warm_up + many):
            if number == warm_up:
                before = Census.now()
            with our_kernel(launcher, folder / f"kernel-{number}") as kernel:
                run_in_ours(kernel, CELL)
        return Census.now() - before


def iterations(folder: Path, many: int, warm_up: int = WARM_UP) -> Census:
    """Run one agent for many iterations; returns what the process has more than after the warm-up.

    The conversation grows, of course, and the notebook; everything else should not.
    """
    model = ScriptedModel.of({"root": [f"Go on.\n\n```python\n{CELL}\n```"]}, repeat=True)
    config = Config(rlm=RLMSettings(max_iterations=warm_up + many), runs=RunsSettings(dir=folder / "runs"))
    with ExitStack() as stack:
        run = stack.enter_context(open_run("Go on.", source.make(folder / "source"), config, model=model))
        for iteration in run.iterations():
            if iteration.number == warm_up:
                before = Census.now()
            if iteration.number == warm_up + many:
                return Census.now() - before
    raise AssertionError("the agent ended before its last iteration")


def _row(more: Census, what: str) -> Row:
    here = f"{more.descriptors:+} descriptors\n{more.threads:+} threads\n{more.processes:+} processes"
    row = Row.judged(EXPECTED, more.memory / 1e6, f"{what}: what the controller has more than before them", here)
    return replace(row, met=row.met and not any((more.descriptors, more.threads, more.processes)))
