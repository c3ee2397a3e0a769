"""What an agent might do, drawn at random but the same each time, and how a notebook on disk is judged."""

from __future__ import annotations

import random
import re
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import nbformat

from rlm_nb.notebook.recorder import Recorder
from rlm_nb.records import (
    AgentResult,
    Answer,
    Asked,
    BridgeCall,
    CellOutput,
    CellResult,
    CellStarted,
    Event,
    Iterated,
    Iteration,
    Outcome,
    Output,
    Patch,
    Replied,
    Reply,
    Task,
    Usage,
)

WORDS = [
    "x = 1\n", "print('ä')", "", "\n", " ", "```", "~~~~\n", "```python\n", "## Iteration 9\n", "<!--", "$$", "|",
    "\\",     "\r\n", "\r",
    "\x00", "\x0b", "\x0c", "\x1b[31mred\x1b[0m", "\u2028", "\u2029", "\x85", "🦊", "\ufeff", "'", '"', "{}",
]  # fmt: skip
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Chance(random.Random):
    """Draws the things that a run is made of."""

    def text(self) -> str:
        return "".join(self.choices(WORDS, k=self.randrange(8)))

    def json(self) -> Any:
        return self.choice([None, 0, 1.5, "", self.text(), [self.text(), {}], {"z": self.text(), "a": [1], "m": None}])

    def maybe(self, value: Any) -> Any:
        return self.choice([value, None])

    def output(self) -> Output:
        metadata = self.choice([{}, {"isolated": True}])
        data = {
            "text/plain": self.text(),
            "text/html": f"<b>{self.text()}</b>",
            "application/json": {"b": 1, "a": [2.5]},
        }
        return self.choice(
            [
                {"output_type": "stream", "name": self.choice(["stdout", "stderr"]), "text": self.text()},
                {"output_type": "display_data", "data": {"image/png": PNG}, "metadata": metadata},
                {"output_type": "execute_result", "data": data, "metadata": metadata, "execution_count": 3},
                {
                    "output_type": "error",
                    "ename": "E",
                    "evalue": self.text(),
                    "traceback": [self.text(), "\x1b[0;31mE"],
                },
            ]
        )

    def outputs(self) -> tuple[Output, ...]:
        return tuple(self.output() for _ in range(self.randrange(4)))

    def call(self) -> BridgeCall:
        arguments = {"task": self.text(), "again": self.json()}
        error = self.maybe({"type": "SubAgentError", "message": self.text()})
        return BridgeCall("rlm_query", arguments, self.json(), error, str(self.random()), self.random(), self.random())

    def answer(self) -> Answer:
        return self.choice([Answer.of(self.json()), Answer("repr", self.text(), "DataFrame")])

    def cell(self, code: str, folder: Path) -> CellResult:
        return CellResult(
            code,
            self.choice(["ok", "error", "interrupted", "timeout", "died"]),
            self.outputs(),
            self.choice([None, 7]),
            started=1e9 + self.random(),
            ended=1e9 + 1 + self.random(),
            waited=self.random(),
            number=7,
            error=self.maybe(self.text()),
            events=tuple(self.text() for _ in range(self.randrange(3))),
            calls=tuple(self.call() for _ in range(self.randrange(3))),
            overflow=self.maybe(folder / "outputs" / "root-1-1.txt"),
            final=self.maybe(self.answer()),
        )

    def iteration(self, number: int, folder: Path, agent: str = "root") -> list[Event]:
        """Everything that is heard of one iteration; the last event says what counts."""
        code = tuple(self.text() for _ in range(self.randrange(4)))
        text = self.text() + "".join(f"\n```python\n{cell}\n```\n{self.text()}" for cell in code)
        usage = Usage(*(self.randrange(9999) for _ in range(4)))
        reply = Reply(text, usage, self.choice(["end", "max_tokens", "refusal"]), "claude-x", self.randrange(99999))
        message = self.text()
        events: list[Event] = [Asked(agent, number), Replied(agent, number, message, reply, code)]
        cells = []
        for index, source in enumerate(code[: self.randint(0, len(code))], 1):
            events.append(CellStarted(agent, number, index, source))
            events += [CellOutput(agent, number, index, self.outputs()) for _ in range(self.randrange(3))]
            cells.append(self.cell(source, folder))
        times = 1e9 + self.random(), 1e9 + 3 + self.random()
        iteration = Iteration(agent, number, message, reply, tuple(cells), self.maybe(self.text()), *times)
        return [*events, Iterated(agent, iteration)]

    def result(self, path: Path, agent: str = "root") -> AgentResult:
        status = self.choice(["completed", "partial", "error"])
        outcome = Outcome(status, self.answer(), "final", self.text())
        patch = Patch("", ("a.py", "b c.py"), "0" * 40, "1" * 40, (self.text(),))
        return AgentResult(agent, outcome, patch, path, 5, 7, Usage(1, 2, 3, 4), 2, (), 1e9, 1e9 + 9)


def check(path: Path) -> nbformat.NotebookNode:
    """Fail unless the file is a valid notebook, without a warning, in exactly the form that nbformat writes."""
    text = path.read_bytes().decode()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notebook = nbformat.reads(text, as_version=4)
        nbformat.validate(notebook)
        assert nbformat.writes(notebook) + "\n" == text
    assert "NaN" not in re.sub(r'"(\\.|[^"\\])*"', "", text)
    return notebook


def opened(path: Path, task: Task | None = None, parent: str | None = None) -> AbstractContextManager[Recorder]:
    """A recorder for the agent that the path is named after."""
    task = task or Task("Count the lines", path.stem, path.stem.count("."))
    return Recorder.open(path, task=task, system="Be brief.", about={"model": "m"}, parent=parent)


def stream(text: str) -> Output:
    return {"output_type": "stream", "name": "stdout", "text": text}


def iteration(number: int, *cells: CellResult, agent: str = "root") -> Iteration:
    return Iteration(agent, number, "Go on.", Reply("Look."), cells)
