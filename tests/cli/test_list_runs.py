"""`rlm-nb runs`: a list that nothing in the folder can spoil."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlm_nb.processes import this_process, world
from tests.cli.conftest import PATIENCE, Command, Terminal, without_privileges

STATE = {"version": 1, "task": "Count \x1b[2Jthe\nlines", "status": "completed", "started": 1e9, "ended": 1e9 + 75}
OWNER = {"pid": 1, "pid_started": 1.0, "pid_world": "another"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Runs in every state, some of which no program of ours has left."""
    runs = tmp_path / "runs"
    pid, started = this_process()
    mine = {"pid": pid, "pid_started": started, "pid_world": world()}
    begun = {"version": 1, "task": "Go on", "status": "running", "started": 1e9 + 300}
    states = {
        "done": {**STATE, **OWNER, "total_cost": 0.25, "children": [{"children": [{"children": []}]}], "answer": "x"},
        "task": {**STATE, **OWNER, "kind": "task", "task": "count", "started": 1e9 - 1},
        "going": {**begun, **mine},
        "killed": {**begun, **mine, "pid_started": started - 5},
        "odd": {"task": "?"},
        "huge": {**STATE, **OWNER, "started": 1e300},
        "nan": {**STATE, **OWNER, "total_cost": float("nan")},
    }
    for name, state in states.items():
        (runs / name).mkdir(parents=True)
        (runs / name / "run.json").write_text(json.dumps(state))
    (runs / "task" / "result.json").write_text('{"budget_summary": {"total_cost_usd": 0.0123}}')
    (runs / "pipe").mkdir()
    os.mkfifo(runs / "pipe" / "run.json")
    (runs / "loop").mkdir()
    (runs / "loop" / "run.json").symlink_to("run.json")
    (runs / "shut\x1b[2J").mkdir(mode=0)
    (runs / "notes").mkdir()
    (runs / "file").write_text("x")
    return runs


def test_runs_are_listed_the_latest_first(rlm_nb: Command, folder: Path) -> None:
    """What is damaged is named with the reason; what is no run is not there; a terminal is told nothing but text."""
    done = rlm_nb("runs", "--runs-dir", folder, before=without_privileges)
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split(" · ")[0]: line for line in done.stdout.splitlines()}
    assert set(lines) == {"done", "task", "going", "killed", "odd", "huge", "nan", "pipe", "loop", "shut"}
    order = [name for name in lines if name in ("done", "task", "going")]
    assert order == ["going", "done", "task"]
    assert lines["done"].endswith(" · 1m15s · $0.25 · 3 agents · Count the")
    assert lines["task"].endswith(" · 1m16s · $0.0123 · task · count")
    assert " · running · " in lines["going"]
    assert " · killed · " in lines["killed"]
    for name in ("odd", "huge", "nan", "pipe", "loop", "shut"):
        assert " · damaged · " in lines[name], name
    assert "\x1b" not in done.stdout


def test_runs_for_programs(rlm_nb: Command, folder: Path) -> None:
    """JSON, with the numbers as they are, and without the answers, which may be long."""
    done = rlm_nb("runs", "--json", "--runs-dir", folder, before=without_privileges)
    found = {run["id"]: run for run in json.loads(done.stdout)}
    assert found["done"]["cost"] == 0.25
    assert found["done"]["agents"] == 3
    assert found["done"]["folder"] == str(folder / "done")
    assert "answer" not in found["done"]
    assert found["odd"]["status"] == "damaged"


def test_no_runs(rlm_nb: Command, tmp_path: Path) -> None:
    """None yet is no error; a folder that is not there is."""
    done = rlm_nb("runs", "--runs-dir", tmp_path / "here")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"No runs are recorded in {tmp_path / 'here'}.\n")
    done = rlm_nb("runs", "--runs-dir", tmp_path / "missing")
    assert (done.returncode, done.stdout) == (1, "")


def test_runs_on_a_terminal(folder: Path, terminal: Terminal) -> None:
    """A table; the escape sequences in it are its own."""
    command = [sys.executable, "-m", "rlm_nb", "runs", "--runs-dir", str(folder)]
    environment = os.environ | {"TERM": "xterm-256color"}
    assert subprocess.run(command, stdout=terminal.slave, env=environment, timeout=PATIENCE).returncode == 0
    printed = terminal.read_to_end()
    assert "Count the" in printed
    assert "\x1b[2J" not in printed
