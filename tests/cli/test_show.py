"""`rlm-nb show`: from the run to one iteration, in words that command no terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_nb.notebook.recorder import Recorder
from rlm_nb.records import BridgeCall, CellResult, Iterated, Iteration, Replied, Reply, Task
from tests.cli.conftest import PATIENCE, Command, Terminal
from tests.notebook.scenes import Chance, stream

HOSTILE = "\x1b[2J\x1b]8;;http://x\x07\x9b\u202e"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose root asks a sub-agent and prints a lot, and then fails."""
    folder = tmp_path / "here" / "runs" / "20260101-120000-aaaa"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("rlm: {}\n")
    answer = [{"text": f"Four{HOSTILE}.\nOr five.", "agent": "root.1", "cost": 20_000, "status": "completed"}]
    call = BridgeCall("rlm_query", {"tasks": ["Count"]}, answer, None, "key", 1e9, 1e9 + 1)
    lines = stream("".join(f"line {number}{HOSTILE}\n" for number in range(100)))
    cells = (
        CellResult(f"ask()  # {HOSTILE}", "ok", (lines,), calls=(call,)),
        CellResult("1 / 0", "error", error="ZeroDivisionError: division by zero"),
    )
    reply = Reply(f"I **ask** {HOSTILE}[it](http://y).\n\n```python\n{cells[0].code}\n```", cost=10_000)
    for agent in ("root", "root.1"):
        path = folder / f"{agent}.ipynb"
        task = Task(f"Count{HOSTILE} it", agent, agent.count("."))
        with Recorder.open(path, task=task, system="", about={}, parent=None) as recorder:
            for number in (1, 2):
                iteration = Iteration(
                    agent, number, f"You were told{HOSTILE}", reply, cells, started=1e9, ended=1e9 + 4
                )
                code = tuple(cell.code for cell in cells)
                recorder.listen(Replied(agent, number, iteration.message, reply, code))
                recorder.listen(Iterated(agent, iteration))
            recorder.finish(replace(Chance(0).result(path, agent), started=1e9, ended=1e9 + 4))
    return folder


def test_from_the_run_to_one_iteration(rlm_nb: Command, run: Path) -> None:
    """The run: its tree. An agent: its iterations, long outputs cut. An iteration: all of it, and what was told."""
    done = rlm_nb("show")
    assert done.returncode == 0
    assert "└── root.1 · " in done.stdout
    assert "rlm-nb show 20260101-120000-aaaa:root.1" in done.stdout
    done = rlm_nb("show", "last:1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "## root.1, iteration 2\n\n$0.0100 · 4.0s" in done.stdout
    assert "I **ask** [it](http://y)." in done.stdout
    assert "┃ ask()  #" in done.stdout
    assert "line 19\n… 80 more lines\n\n→ root.1 · $0.0200 · Four. Or five.\n\n┃ 1 / 0" in done.stdout
    assert "ZeroDivisionError: division by zero" in done.stdout
    assert "You were told" not in done.stdout
    done = rlm_nb("show", f"{run}:root:1")
    assert "You were told\n" in done.stdout
    assert "line 99\n" in done.stdout
    assert "iteration 2" not in done.stdout
    assert rlm_nb("show", "last::1").stdout == done.stdout


def test_a_terminal_is_told_nothing_but_text(run: Path, terminal: Terminal) -> None:
    """Of what models and cells wrote, every escape sequence is gone, links included."""
    for what in ("last", "last:root", "last:root.1:1"):
        command = [sys.executable, "-m", "rlm_nb", "show", what, "--runs-dir", str(run.parent)]
        environment = os.environ | {"TERM": "xterm-256color"}
        assert subprocess.run(command, stdout=terminal.slave, env=environment, timeout=PATIENCE).returncode == 0
        terminal.read_to_end()
    for sequence in ("\x1b[2J", "\x1b]8", "\x9b", "\u202e"):
        assert sequence not in terminal.text
    assert "ask" in terminal.text


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("last:root.9", 1, "there is no such notebook"),
        ("last:root:9", 1, "there is no iteration 9; it has 2"),
        ("last:root:x", 2, "is not RUN:AGENT:ITERATION"),
        ("last:root/../../x", 1, "is no agent; they are called root, root.1"),
        ("nope:root", 1, "is called nope; the last one is"),
    ],
)
def test_what_is_not_there(what: str, code: int, said: str, rlm_nb: Command, run: Path) -> None:
    """A sentence that helps."""
    done = rlm_nb("show", what, COLUMNS="200")
    assert (done.returncode, done.stdout) == (code, "")
    assert said in " ".join(done.stderr.split())
