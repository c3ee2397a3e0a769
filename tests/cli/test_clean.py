"""What killed runs leave behind, and runs that nobody wants any more, go; nothing else does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock
import psutil
import pytest
from jupyter_core.paths import jupyter_data_dir

from rlm_nb.processes import this_process, world
from tests.cli.conftest import PATIENCE, Command, Terminal
from tests.whole_runs.conftest import Shell, cell, until


@pytest.fixture(autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One of these at a time: processes that a run has left belong to no folder, and whoever cleans kills them."""
    with filelock.FileLock(tmp_path_factory.getbasetemp().parent / "clean.lock"):
        yield


DAEMON = cell(
    "import subprocess",
    "subprocess.Popen(['setsid', 'sleep', '300'], stdin=-3, stdout=-3, stderr=-3)",
    "open('/dev/null')",
    "Path(os.environ['TMPDIR'], 'ready').touch()",
    "import time; time.sleep(300)",
)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "shell").mkdir()
    return Shell(tmp_path / "shell")


def test_what_a_killed_run_leaves(shell: Shell, rlm_nb: Command, repository: Path, clean_environment: Path) -> None:
    """With its supervisor killed as well, a daemon and a folder stay; they are named, then removed, and no others."""
    before = set(clean_environment.glob("rlm-*"))
    living = clean_environment / f"rlm-{os.getpid()}-{this_process()[1]:.0f}-{world()}-living"
    living.mkdir()
    with shell.start(repository, "--model", shell.script({"root": [DAEMON]})) as going:
        until(lambda: list(clean_environment.glob("rlm-*/tmp/ready")))
        run = psutil.Process(going.process.pid)
        until(lambda: "sleep" in [process.name() for process in run.children(recursive=True)])  # setsid has become it
        family = run.children(recursive=True)
        (daemon,) = (process for process in family if process.name() == "sleep")
        doomed = [psutil.Process(going.process.pid), *(process for process in family if process != daemon)]
        for process in doomed:
            process.suspend()  # a supervisor would end the daemon, too
        for process in doomed:
            process.kill()
        going.end()
    (folder,) = set(clean_environment.glob("rlm-*")) - before - {living}
    assert rlm_nb("clean", shell.here / "runs" / "last", "--dry-run").returncode == 1

    said = rlm_nb("clean", "--dry-run")
    assert said.returncode == 0
    assert f"would kill process {daemon.pid} (sleep)\nwould remove {folder}\n" in said.stdout
    (spec,) = Path(jupyter_data_dir(), "kernels").glob("rlm-live-*")
    assert f"would remove {spec}\n" in said.stdout
    assert daemon.is_running()
    assert folder.is_dir()

    done = rlm_nb("clean")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"killed process {daemon.pid} (sleep)\n" in done.stdout
    assert f"removed {folder}\n" in done.stdout
    until(lambda: not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE)
    assert not folder.exists()
    assert not spec.exists()
    assert living.is_dir()
    living.rmdir()
    assert (
        rlm_nb("clean", "last", "--yes", "--runs-dir", shell.here / "runs").returncode == 0
    )  # it only seemed to go on


def test_a_run_goes(shell: Shell, rlm_nb: Command, repository: Path) -> None:
    """Named by its id, with nobody to ask: only when told so."""
    run = shell.run(repository, "--model", shell.script({"root": [cell("FINAL(1)")]})).run
    runs = ["--runs-dir", run.parent]
    said = rlm_nb("clean", run.name, "--dry-run", *runs).stdout.splitlines()
    assert said == [f"would remove {path}" for path in (run, *sorted(run.iterdir()))]
    assert f"would remove {run}/ctl.git" in said
    refused = rlm_nb("clean", run.name, *runs)
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert run.is_dir()
    done = rlm_nb("clean", "last", "--yes", *runs)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"removed {run}\n", "")
    assert not run.exists()


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
def test_a_person_is_asked(shell: Shell, repository: Path, terminal: Terminal, answer: str, code: int) -> None:
    """On a terminal; what is not wanted is not done."""
    run = shell.run(repository, "--model", shell.script({"root": [cell("FINAL(1)")]})).run
    command = [sys.executable, "-m", "rlm_nb", "clean", str(run)]
    with subprocess.Popen(command, stdin=terminal.slave, stdout=subprocess.PIPE, stderr=terminal.slave) as process:
        terminal.read_until("commits? [y/N]")
        os.write(terminal.master, f"{answer}\n".encode())
        assert process.wait(PATIENCE) == code
    assert run.exists() == (answer == "n")


def test_a_person_who_leaves(shell: Shell, repository: Path, terminal: Terminal) -> None:
    """Ctrl-C at the question is Ctrl-C, and the run stays."""
    run = shell.run(repository, "--model", shell.script({"root": [cell("FINAL(1)")]})).run
    command = [sys.executable, "-m", "rlm_nb", "clean", str(run)]
    with subprocess.Popen(command, stdin=terminal.slave, stdout=subprocess.PIPE, stderr=terminal.slave) as process:
        terminal.read_until("commits? [y/N]")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    assert run.is_dir()


def test_a_run_that_goes_on_stays(shell: Shell, rlm_nb: Command, repository: Path) -> None:
    """Also with --yes; once it was killed, it may go, though its run.json says that it runs."""
    with shell.start(repository, "--model", shell.script({"root": [cell("import time; time.sleep(300)")]})) as going:
        until(lambda: list((shell.here / "runs").glob("*/run.json")))
        (path,) = (shell.here / "runs").glob("*/run.json")
        refused = rlm_nb("clean", path.parent, "--yes")
        assert (refused.returncode, refused.stderr) == (1, f"Error: {path.parent} goes on; stop it first\n")
        going.process.send_signal(signal.SIGKILL)
        going.end()
    assert json.loads(path.read_text())["status"] == "running"
    assert rlm_nb("clean", path.parent, "--yes").returncode == 0
    assert not path.parent.exists()
    assert rlm_nb("clean").returncode == 0  # its folders


OURS = {"version": 1, "id": "some", "status": "running", "pid": os.getpid(), "pid_started": 1.0, "pid_world": world()}


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (OURS, 0),
        ({**OURS, "pid_world": "elsewhere"}, 1),
        ({**OURS, "pid_world": "elsewhere", "ended": 1.0}, 0),
        ({**OURS, "pid_world": "elsewhere", "status": "partial"}, 1),
        ({**OURS, "id": "another"}, 1),
        ({"status": "completed", "metrics": {}}, 1),
        ({"name": "somebody's notebook"}, 1),
        (["no record"], 1),
        (None, 1),
    ],
    ids=[
        "number used again",
        "another container",
        "ended",
        "stopped",
        "renamed",
        "another program's",
        "something else",
        "a list",
        "no file",
    ],
)
def test_when_a_folder_may_go(rlm_nb: Command, tmp_path: Path, state: object, code: int) -> None:
    """In doubt it stays; a folder that has a notebook called root but is no run is never touched."""
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "root.ipynb").write_text("{}")
    (folder / "config.yaml").touch()
    if state is not None:
        (folder / "run.json").write_text(json.dumps(state))
    assert rlm_nb("clean", folder, "--yes").returncode == code
    assert folder.exists() == (code == 1)


def test_what_is_no_name_of_a_run(rlm_nb: Command, tmp_path: Path) -> None:
    """An empty name, as an unset variable gives it, and a link are refused; what the link leads to stays."""
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "config.yaml").touch()
    (folder / "run.json").write_text(json.dumps({**OURS, "ended": 1.0}))
    (tmp_path / "link").symlink_to(folder)
    assert "the name of a run is empty" in rlm_nb("clean", "", "--yes").stderr
    refused = rlm_nb("clean", tmp_path / "link", "--yes")
    assert (refused.returncode, "is a link" in refused.stderr) == (1, True)
    assert folder.exists()


def test_a_record_that_cannot_be_looked_at(rlm_nb: Command, tmp_path: Path) -> None:
    """A pipe in its place holds nobody up, and lists within lists are no fault of ours."""
    for name in ("pipe", "deep"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "root.ipynb").write_text("{}")
        (folder / "config.yaml").touch()
    os.mkfifo(tmp_path / "pipe/run.json")
    (tmp_path / "deep/run.json").write_text("[" * 100_000)
    assert "is no file" in rlm_nb("clean", tmp_path / "pipe", "--yes").stderr
    assert "not the record of a run" in rlm_nb("clean", tmp_path / "deep", "--yes").stderr
