"""Iterations whose model is reached through the real Anthropic SDK, with the tests' server at the other end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import SecretStr

from rlm_nb.bench.iteration import CELLS
from rlm_nb.bench.source import make
from rlm_nb.bench.table import Expectation, Row, milliseconds
from rlm_nb.config import Config, ModelSettings, RLMSettings, RunsSettings
from rlm_nb.controller import open_run
from rlm_nb.workspace.scratch import scratch

EXPECTED = Expectation(20, reach=12, unit=" ms")

WARM_UP = 1
"""Iterations that are not counted: the first waits for the kernel."""

CHECKOUT = Path(__file__).parents[2]


def measure(quick: bool) -> Iterator[Row]:
    """The mean of 100 iterations of one conversation, streamed; it grows, and the server reads all of it each time."""
    what = "an iteration through the real SDK, streamed from a local Messages server; mean of all"
    if (server := _server()) is None:
        yield Row(what, "not measured", measured="needs a checkout: the server is part of the tests")
        return
    cells = list(islice(cycle(CELLS), WARM_UP + (10 if quick else 100)))
    with scratch() as folder:
        took = _iterations(folder, cells, server)[WARM_UP:]
    yield Row.judged(EXPECTED, 1000 * fmean(took), what, milliseconds(took))


def _iterations(folder: Path, cells: Sequence[str], server: Any) -> list[float]:
    """Seconds that each iteration took."""
    replies = [*(f"I look at it.\n\n```python\n{cell}\n```\n" for cell in cells), "```python\nFINAL('done')\n```"]
    took = []
    with server(*replies) as messages:
        config = Config(
            model=ModelSettings(base_url=messages.url),
            rlm=RLMSettings(max_iterations=len(replies)),
            runs=RunsSettings(dir=folder / "runs"),
        )
        secrets = {"ANTHROPIC_API_KEY": SecretStr("for-the-bench")}
        with open_run("Measure", make(folder / "source"), config, secrets=secrets) as opened:
            began = time.perf_counter()
            for iteration in opened.iterations():
                ended = time.perf_counter()
                assert [ran.status for ran in iteration.cells] == ["ok"], iteration
                took.append(ended - began)
                began = ended
    return took[: len(cells)]


def _server() -> Any:
    """The class of the tests' server; `None` where there are no tests, as in an installed wheel."""
    if not (CHECKOUT / "tests/servers/messages.py").is_file():
        return None
    if str(CHECKOUT) not in sys.path:
        sys.path.append(str(CHECKOUT))
    return import_module("tests.servers.messages").MessagesServer
