"""Overhead per iteration: the whole system beside a bare `jupyter_client` loop that executes the same cells."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from rlm_nb.bench.kernels import stock_kernel
from rlm_nb.bench.table import Expectation, Row, milliseconds
from rlm_nb.config import Config, RLMSettings, RunsSettings
from rlm_nb.controller import open_run
from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.records import Iteration
from rlm_nb.workspace.scratch import scratch

EXPECTED = Expectation(1.5, reach=1.2)

WARM_UP = 5
"""Iterations that are not counted: the first of them waits for the kernel, and all fill caches."""

CELLS = (
    "total = sum(range(1000))\nprint(total)",
    "words = ['ab', 'cd', 'ef'] * 5\nwords",
    "import json\nprint(json.dumps({'total': total, 'words': words}))",
    "for number in range(10):\n    print(number, number**2)",
    "longest = max(words, key=len)",
)
"""What agents do all day, and nothing that takes time by itself."""


def measure(quick: bool) -> Iterator[Row]:
    """The median of 100 iterations, each followed by its cell in the bare loop: what disturbs one disturbs both."""
    cells = list(islice(cycle(CELLS), WARM_UP + (10 if quick else 100)))
    ours, bare = [], []
    with scratch() as folder, stock_kernel(folder / "stock") as (client, _), _run(folder, cells) as iterations:
        for cell in cells:
            outputs: list[dict[str, Any]] = []
            began = time.perf_counter()
            iteration = next(iterations)
            between = time.perf_counter()
            reply = client.execute_interactive(cell, allow_stdin=False, output_hook=outputs.append)
            ended = time.perf_counter()
            assert [(ran.code, ran.status) for ran in iteration.cells] == [(cell, "ok")], iteration
            assert reply["content"]["status"] == "ok", reply
            ours.append(between - began)
            bare.append(ended - between)
    ours, bare = ours[WARM_UP:], bare[WARM_UP:]
    yield Row.judged(
        EXPECTED,
        median(ours) / median(bare),
        "an iteration, over its cell in a bare loop",
        milliseconds(ours),
        milliseconds(bare),
    )


@contextmanager
def _run(folder: Path, cells: Sequence[str]) -> Iterator[Iterator[Iteration]]:
    """The iterations of an agent in a worktree, recorded and budgeted; only its model needs no time to think."""
    source = folder / "source"
    source.mkdir()
    (source / "README.md").write_text("# A project\n", encoding="utf-8")
    replies = [*(f"I look at it.\n\n```python\n{cell}\n```\n" for cell in cells), "```python\nFINAL('done')\n```"]
    usage = {"input_tokens": 2000, "output_tokens": 50}
    model = ScriptedModel.of({"root": [{"text": reply, "usage": usage} for reply in replies]})
    config = Config(rlm=RLMSettings(max_iterations=len(replies)), runs=RunsSettings(dir=folder / "runs"))
    with open_run("Measure", source, config, model=model) as opened:
        iterations = opened.iterations()
        yield iterations
        for _ in iterations:
            pass
