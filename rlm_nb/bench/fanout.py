"""Agents that ask for many sub-agents at once: real kernels, real worktrees; only the model is scripted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from math import log
from pathlib import Path
from statistics import linear_regression, median

from rlm_nb.bench import source
from rlm_nb.bench.table import Expectation, Row
from rlm_nb.config import Config, RLMSettings, RunsSettings
from rlm_nb.controller import run
from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.workspace.scratch import scratch

CRITICAL = Expectation(1.6, reach=1.2)
WALL = Expectation(2.5, reach=1.5, unit=" s")
GROWTH = Expectation(1, unit="", note="(1 is linear)")

SIZES = (4, 8, 16, 32, 50)
LATENCY = 0.1
"""Seconds that each of the models takes in the growing fan-outs, and in the one of 40."""

PICTURE = Path("build/bench/fanout.png")


def measure(quick: bool) -> Iterator[Row]:
    """The median of three runs of each kind, from the source to the answer: everything that a run does is in it."""
    repeats, most = (1, 3) if quick else (3, 50)
    with scratch() as folder:
        bench = _Bench(folder)
        bench.seconds(1, turns=1, latency=0)  # fills caches
        agents, turns, latency = min(16, most), 3, 0.2
        walls = [bench.seconds(agents, turns, latency) for _ in range(repeats)]
        path = (1 + turns) * latency  # the root's call, then those of the sub-agents, side by side
        yield Row.judged(
            CRITICAL,
            median(walls) / path,
            f"{agents} sub-agents, {turns} calls each at {latency:g} s, over the critical path",
            _seconds(walls),
            f"{path:.2f} s",
        )
        agents = min(40, most)
        walls = [bench.seconds(agents, 1, LATENCY) for _ in range(repeats)]
        yield Row.judged(WALL, median(walls), f"{agents} sub-agents, one call each at {LATENCY:g} s", _seconds(walls))
        sizes = [size for size in SIZES if size <= most] or [1, 2, most]
        yield _growth(bench, sizes, repeats, draw=not quick)


class _Bench:
    """Runs of fan-outs on one small repository."""

    def __init__(self, folder: Path) -> None:
        self._source = source.make(folder / "source")
        self._runs = folder / "runs"

    def seconds(self, agents: int, turns: int, latency: float) -> float:
        """The wall time of a run whose root asks for so many sub-agents in its first turn, and then answers."""
        fan_out = f"results = rlm_query_batched(['Add one'] * {agents})\nFINAL(sum(r.answer for r in results))"
        child = ["x = 1"] * (turns - 1) + ["FINAL(1)"]
        replies = {"root": [_fenced(fan_out)], "root.*": [_fenced(cell) for cell in child]}
        limits = RLMSettings(max_parallel=agents, max_sandboxes=agents + 1)
        config = Config(rlm=limits, runs=RunsSettings(dir=self._runs))
        began = time.perf_counter()
        result = run("Measure", self._source, config, model=ScriptedModel.of(replies, latency=latency))
        ended = time.perf_counter()
        assert result.root.answer.value == agents, result.root.outcome
        return ended - began


def _growth(bench: _Bench, sizes: Sequence[int], repeats: int, *, draw: bool) -> Row:
    """How the wall time grows with the sub-agents: the slope of its logarithm, 1 for linear."""
    walls: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(repeats):
        for size in sizes:  # in turn, so that what disturbs one size for a while disturbs all
            walls[size].append(bench.seconds(size, 1, LATENCY))
    medians = {size: median(took) for size, took in walls.items()}
    exponent = linear_regression([log(size) for size in sizes], [log(medians[size]) for size in sizes]).slope
    drawn = f"; {_drawn(walls)}" if draw else ""
    what = f"{', '.join(map(str, sizes))} sub-agents, one call each at {LATENCY:g} s: the exponent of growth{drawn}"
    return Row.judged(GROWTH, exponent, what, "\n".join(f"{size}: {wall:.2f} s" for size, wall in medians.items()))


def _drawn(walls: dict[int, list[float]]) -> str:
    """Draw the growth; says where, or why not."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no picture without matplotlib, which the extra `bench` brings"
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    sizes, medians = list(walls), [median(took) for took in walls.values()]
    axes.plot(sizes, medians, marker="o", label="median")
    for size, took in walls.items():
        axes.scatter([size] * len(took), took, color="tab:blue", alpha=0.3, s=12)
    linear = [medians[0] * size / sizes[0] for size in sizes]
    axes.plot(sizes, linear, linestyle="--", color="grey", label=f"linear from {sizes[0]}")
    axes.set(xlabel="sub-agents at once", ylabel="seconds from start to answer", ylim=(0, 1.5 * max(medians)))
    axes.set_title("A run whose root asks for many sub-agents")
    axes.set_xticks(sizes)
    axes.legend()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=120)
    return f"drawn in {PICTURE}"


def _fenced(cell: str) -> str:
    return f"```python\n{cell}\n```\n"


def _seconds(walls: Sequence[float]) -> str:
    return f"{median(walls):.2f} s\n{min(walls):.2f}–{max(walls):.2f}"
