from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlm_nb.cli.runs import find_run
from rlm_nb.errors import RunFolderError
from rlm_nb.notebook.recorder import Recorder
from rlm_nb.processes import this_process, world
from rlm_nb.records import Task
from tests.cli.conftest import PATIENCE, Command, Terminal, without_privileges


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs, each of which began a minute after the one before, and a folder that is none."""
    folder = tmp_path / "runs"
    for minute, name in enumerate(["20260101-120000-aaaa", "20260101-120100-bbbb", "20251231-235959-cccc"]):
        run = folder / name
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("rlm: {}\n")
        os.utime(run / "config.yaml", (minute * 60, minute * 60))
        with Recorder.open(run / "root.ipynb", task=Task(f"Task {name}"), system="", about={}, parent=None):
            pass
    (folder / "notes").mkdir()
    return folder


def test_which_run_is_meant(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its id, the beginning of it, its folder, or as the last that began."""
    assert find_run("20260101-120000-aaaa", runs).name.endswith("aaaa")
    assert find_run("2025", runs).name.endswith("cccc")
    assert find_run(str(runs / "20260101-120100-bbbb"), Path("elsewhere")).name.endswith("bbbb")
    assert find_run("last", runs).name.endswith("cccc")
    monkeypatch.chdir(runs / "20260101-120100-bbbb")
    assert find_run(".", runs) == Path()


def test_which_run_is_not_clear(runs: Path) -> None:
    """A sentence that helps to find the right one."""
    with pytest.raises(RunFolderError, match=r": 20260101-120100-bbbb, 20260101-120000-aaaa$"):
        find_run("2026", runs)
    with pytest.raises(RunFolderError, match="is called nope; the last one is 20251231-235959-cccc"):
        find_run("nope", runs)
    with pytest.raises(RunFolderError, match=r"no runs are recorded in .*notes$"):
        find_run("last", runs / "notes")
    with pytest.raises(RunFolderError, match="No such file or directory"):
        find_run("last", runs / "missing")


def test_many_runs_are_not_all_named(runs: Path) -> None:
    """The latest few, and how many there are besides."""
    for number in range(30):
        (runs / f"2027-{number:02}").mkdir()
        (runs / f"2027-{number:02}" / "run.json").touch()
        os.utime(runs / f"2027-{number:02}", (1e6 + number, 1e6 + number))
    with pytest.raises(RunFolderError, match=r": 2027-29, 2027-28, 2027-27, 2027-26, 2027-25 and 25 more$"):
        find_run("2027", runs)


def test_runs_that_cannot_be_looked_at(rlm_nb: Command, runs: Path, tmp_path: Path) -> None:
    """A folder of somebody else's is passed over, and named when it is the one that is meant."""
    (runs / "20260101-120000-aaaa").chmod(0)
    done = rlm_nb("tree", "last", "--runs-dir", runs, before=without_privileges)
    assert done.returncode == 0
    for name in (runs / "20260101-120000-aaaa", runs / "20260101-120000-aaaa" / "below", "x" * 300):
        done = rlm_nb("tree", name, before=without_privileges)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"Error: {name} cannot be read: ")


def test_the_tree_in_a_pipe(rlm_nb: Command, runs: Path) -> None:
    """Plain lines, each with the path of its notebook."""
    done = rlm_nb("tree", "2025", "--runs-dir", runs)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("root · ")
    assert "Task 20251231-235959-cccc" in done.stdout
    assert done.stdout.endswith("root.ipynb\n")
    assert "\x1b" not in done.stdout


def test_the_tree_on_a_terminal_has_links(runs: Path, terminal: Terminal) -> None:
    """A click on an agent opens its notebook."""
    command = [sys.executable, "-m", "rlm_nb", "tree", "last", "--runs-dir", str(runs)]
    environment = os.environ | {"TERM": "xterm-256color"}
    assert subprocess.run(command, stdout=terminal.slave, env=environment, timeout=PATIENCE).returncode == 0
    assert (runs / "20251231-235959-cccc" / "root.ipynb").as_uri() in terminal.read_to_end()


def test_the_tree_on_a_terminal_without_utf_8(runs: Path, terminal: Terminal) -> None:
    """What the terminal has no characters for is spelt out."""
    command = [sys.executable, "-m", "rlm_nb", "tree", "last", "--runs-dir", str(runs)]
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "TERM": "xterm-256color"}
    done = subprocess.run(command, stdout=terminal.slave, stderr=-1, text=True, env=environment, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "unfinished" in terminal.read_to_end()


def test_no_such_run(rlm_nb: Command, runs: Path) -> None:
    """One sentence, exit code 1."""
    done = rlm_nb("tree", "nope", "--runs-dir", runs)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: no run in ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("since", "status"), [(0, "running"), (5, "unfinished")], ids=["alive", "killed"])
def test_who_is_at_work(rlm_nb: Command, runs: Path, since: float, status: str) -> None:
    """Of an agent without a result, its notebook cannot tell whether it goes on; the run can, and both verbs say so."""
    run = runs / "20260101-120100-bbbb"
    pid, started = this_process()
    owner = {"pid": pid, "pid_started": started - since, "pid_world": world()}
    state = {"version": 1, "task": "Go on", "status": "running", "started": time.time()}
    (run / "run.json").write_text(json.dumps(state | owner))
    for verb in ("tree", "show"):
        done = rlm_nb(verb, run)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"root · {status} · " in done.stdout, verb
