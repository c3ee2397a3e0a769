"""Whole runs as a user starts them: the command in a process of its own, and what it leaves on disk."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from rlm_nb.config import IsolationSettings
from rlm_nb.errors import IsolationError
from rlm_nb.kernel.isolation.choice import Isolation
from rlm_nb.notebook.reader import read
from rlm_nb.notebook.tree import Node, tree
from rlm_nb.records import AgentResult
from tests.servers.messages import Answer, Fails, MessagesServer, Received

PATIENCE = 60.0
"""Seconds after which a process that does not do what a test waits for is given up."""

KEY = "sk-ant-planted-0123456789abcdef"
"""A key that must be found nowhere."""

HELLO = {"root": ["```python\nFINAL('hello')\n```"]}
"""The shortest script."""


def cell(*lines: str) -> str:
    """A reply with one cell."""
    return "\n".join(["```python", *lines, "```"])


@pytest.fixture
def confined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs confine their cells as users get it, where the machine can hold that."""
    with Isolation(IsolationSettings()) as isolation, suppress(IsolationError):
        isolation.choice()
        monkeypatch.setenv("RLM_ISOLATION_LEVEL", "auto")


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Return once `condition` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not so within {seconds} s"
        time.sleep(0.01)


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str
    here: Path

    @property
    def last_line(self) -> str:
        """What a person reads last."""
        return self.err.splitlines()[-1]

    @property
    def left(self) -> list[str]:
        """What is in the folder that it was started in."""
        return sorted(path.name for path in self.here.iterdir())

    @property
    def run(self) -> Path:
        """The folder of its only run."""
        (run,) = (path for path in (self.here / "runs").iterdir() if path.is_dir())
        return run

    @property
    def state(self) -> dict[str, Any]:
        """What its `run.json` says."""
        return state_of(self.run)


class Going:
    """A command that goes on; its streams go to files, so that nobody has to read them."""

    def __init__(self, process: subprocess.Popen[bytes], here: Path, streams: Path) -> None:
        self.process, self._here, self._streams = process, here, streams

    @property
    def err(self) -> str:
        """What it has said so far."""
        return (self._streams / "err").read_text("utf-8")

    def press(self, number: signal.Signals = signal.SIGINT) -> None:
        """Send a signal as a terminal does: to the process and to everything in its group."""
        os.killpg(self.process.pid, number)

    def end(self) -> Ended:
        """Wait for the end."""
        code = self.process.wait(PATIENCE)
        return Ended(code, (self._streams / "out").read_text("utf-8"), self.err, self._here)


class Shell:
    """A user's shell in an empty folder.

    Args:
        folder: Where that folder and what belongs to it are made.
    """

    def __init__(self, folder: Path) -> None:
        self.here, self._beside = folder / "here", folder / "beside"
        self.here.mkdir()
        self._beside.mkdir()

    def script(self, agents: Mapping[str, Any], **more: Any) -> str:
        """The name of a model that says what these agents say."""
        path = self._beside / "script.yaml"
        path.write_text(yaml.safe_dump({"agents": dict(agents), **more}), "utf-8")
        return f"scripted:{path}"

    def settings(self, text: str = "", /, **sections: Mapping[str, Any]) -> Path:
        """A file of settings, given as its text or as sections."""
        path = self._beside / "settings.yaml"
        path.write_text(text or yaml.safe_dump(sections), "utf-8")
        return path

    def served_by(self, server: MessagesServer, retries: int = 4, failures: int = 2) -> Path:
        """A file of settings that reaches the model behind `server`."""
        return self.settings(model={"base_url": server.url, "retries": retries}, rlm={"max_failures": failures})

    def run(self, source: str | Path, *arguments: str | Path, prompt: str = "Say hello.", **variables: str) -> Ended:
        """`rlm-nb run SOURCE -p PROMPT …`, to its end."""
        with self.start(source, *arguments, prompt=prompt, **variables) as going:
            return going.end()

    @contextmanager
    def start(
        self, source: str | Path, *arguments: str | Path, prompt: str = "Say hello.", **variables: str
    ) -> Iterator[Going]:
        """The same, going on; what is still there at the end of the block is killed."""
        command = [sys.executable, "-m", "rlm_nb", "run", source, "-p", prompt, *arguments]
        with (self._beside / "out").open("wb") as out, (self._beside / "err").open("wb") as err:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.here,
                env=os.environ | variables,
                process_group=0,
            )
        with process:
            try:
                yield Going(process, self.here, self._beside)
            finally:
                process.kill()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """See `Shell`."""
    return Shell(tmp_path)


def conversations(replies: Mapping[str, list[Answer]]) -> Callable[[Received], Answer]:
    """What a server answers, by a word of the agent's task and the number of its turn.

    A turn is counted by what was answered before; an answer that fails is given once, and the next one then.
    """
    waiting = {task: list(answers) for task, answers in replies.items()}

    def respond(request: Received) -> Answer:
        opening = request.json["messages"][0]["content"]
        task = next(task for task in waiting if re.search(rf"^# Task\s+{task}", opening))
        return waiting[task].pop(0) if waiting[task] else Fails(400, f"nothing is left to say for {task}")

    return respond


def state_of(run: Path) -> dict[str, Any]:
    """What the run's `run.json` says."""
    state = json.loads((run / "run.json").read_text("utf-8"))
    assert isinstance(state, dict)
    return state


def agents_of(result: AgentResult) -> list[AgentResult]:
    """The agent and everything below it."""
    return [result, *(agent for child in result.children for agent in agents_of(child))]


def check_record(run: Path) -> None:
    """What holds for every run that began: its files are whole, and agree with each other."""
    nodes = list(_nodes(tree(run)))
    for node in nodes:
        assert node.fault is None
        notebook = nbformat.read(node.notebook, as_version=nbformat.NO_CONVERT)
        nbformat.validate(notebook)  # pytest makes its warnings errors
        _check_links(node.notebook, notebook)
        assert not notebook.metadata.get("signature")
    ledger = json.loads((run / "budget.json").read_text("utf-8"))
    state = state_of(run)
    assert {node.agent for node in nodes} == {path.stem for path in run.glob("*.ipynb")}
    assert state["status"] == nodes[0].status
    recorded = [read(node.notebook) for node in nodes]
    assert sum(agent.cost for agent in recorded) == round(state["total_cost"] * 1e6) == spent(ledger)


def spent(ledger: Mapping[str, Any]) -> int:
    """Micro-dollars that a `budget.json` says were spent."""
    cost = ledger["spent"]["cost"]
    assert isinstance(cost, int)
    return cost


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _nodes(child)


def _check_links(path: Path, notebook: nbformat.NotebookNode) -> None:
    """Each link of a Markdown cell leads to a file that is there, and to a cell that is in it."""
    for one in notebook.cells:
        if one.cell_type != "markdown":
            continue
        for target in re.findall(r"\]\(([^)\s]+\.ipynb[^)\s]*)\)", one.source):
            name, _, place = target.partition("#cell-id=")
            other = nbformat.read(path.parent / name, as_version=nbformat.NO_CONVERT)
            assert not place or place in {cell.id for cell in other.cells}, f"{path.name}: {target}"
