"""The time of a notebook save, which must not grow with the notebook by more than the writing of its bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rlm_nb.bench.table import Expectation, Row, milliseconds
from rlm_nb.notebook.recorder import Recorder
from rlm_nb.records import Asked, CellResult, Iterated, Iteration, Replied, Reply, Task, Usage
from rlm_nb.workspace.scratch import scratch

EXPECTED = Expectation(3, note="without the writing of its bytes")
REPEATS = 20

AGENT = "root"
PROSE = "I read the module first, then the tests that go with it, and note what each of them expects.\n" * 5
CODE = "for path in sorted(WORKDIR.rglob('*.py')):\n    print(path, len(path.read_text().splitlines()))\n" * 3
OUTPUT = "".join(f"package/module_{number}.py {number * 37}\n" for number in range(80))


def measure(quick: bool) -> Iterator[Row]:
    """The median of 20 saves of a short and of a long notebook, each followed by a plain write of as many bytes."""
    few, many = (2, 20) if quick else (10, 500)
    with scratch() as folder:
        short, long = _saves(folder / "short", few), _saves(folder / "long", many)
    yield Row(
        f"a save at {few} iterations ({short.size}); beside it, the bytes written and put in place",
        milliseconds(short.saves),
        milliseconds(short.writes),
    )
    yield Row.judged(
        EXPECTED,
        (median(long.saves) - median(long.writes)) / median(short.saves),
        f"a save at {many} iterations ({long.size}), over the one at {few}",
        milliseconds(long.saves),
        milliseconds(long.writes),
    )


@dataclass(frozen=True)
class _Saves:
    """Seconds that the saves of a notebook took, and the writing of as many bytes."""

    bytes: int
    saves: list[float]
    writes: list[float]

    @property
    def size(self) -> str:
        return f"{self.bytes / 1000:,.0f} kB"


def _saves(folder: Path, iterations: int) -> _Saves:
    folder.mkdir()
    path, plain = folder / f"{AGENT}.ipynb", folder / "plain"
    saves, writes = [], []
    with Recorder.open(path, task=Task("Measure", AGENT), system="", about={}, parent=None) as recorder:
        for number in range(1, iterations + 1):
            done = _iteration(number)
            recorder.listen(Asked(AGENT, number))
            recorder.listen(Replied(AGENT, number, done.message, done.reply, (CODE,)))
            recorder.listen(Iterated(AGENT, done))
        content = path.read_bytes()
        for _ in range(REPEATS):
            # The last one again: its cells are replaced, and the notebook grows no longer.
            began = time.perf_counter()
            recorder.listen(Iterated(AGENT, _iteration(iterations)))
            between = time.perf_counter()
            _write(plain, content)
            ended = time.perf_counter()
            saves.append(between - began)
            writes.append(ended - between)
    return _Saves(len(content), saves, writes)


def _write(path: Path, content: bytes) -> None:
    beside = path.with_suffix(".part")
    beside.write_bytes(content)
    beside.replace(path)


def _iteration(number: int) -> Iteration:
    now = time.time()
    outputs = ({"output_type": "stream", "name": "stdout", "text": OUTPUT},)
    cell = CellResult(CODE, "ok", outputs, number, now, now)
    reply = Reply(f"{PROSE}\n```python\n{CODE}```\n", Usage(9000, 300))
    return Iteration(AGENT, number, OUTPUT, reply, (cell,), None, now, now)
