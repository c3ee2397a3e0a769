"""Ctrl-C and its kin at every stage of a run: what there is by then is kept, and nothing goes on."""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from rlm_nb.notebook.reader import read
from tests.conftest import Git
from tests.servers.messages import MessagesServer, Says
from tests.whole_runs.conftest import HELLO, KEY, Ended, Shell, cell, check_record, until

FOREVER = "import time; time.sleep(600)"
DEAF = "while True:\n    try: time.sleep(600)\n    except BaseException: pass"


@contextmanager
def silent_server() -> Iterator[socket.socket]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def assert_partial(ended: Ended, code: int = 130, why: str = "interrupted by the user") -> None:
    """What there was is kept and says how it ended."""
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert ended.state["status"] == "partial"
    assert why in ended.state["stop_reason"]
    check_record(ended.run)


def test_while_the_repository_is_fetched(shell: Shell) -> None:
    """No agent has begun: a sentence, and nothing is left."""
    with silent_server() as server:
        url = f"git://127.0.0.1:{server.getsockname()[1]}/project"
        with shell.start(url, "--model", shell.script(HELLO)) as going, server.accept()[0]:
            going.press()
            ended = going.end()
    assert (ended.code, ended.out, ended.left) == (130, "", [])
    assert "Ended before the first agent began" in ended.last_line


def test_while_a_large_file_is_read(shell: Shell, repository: Path) -> None:
    """Ctrl-C and the time limit end it alike, long before 64 GB are read."""
    with (repository / "large").open("wb") as file:
        file.truncate(64 << 30)
    settings = shell.settings(workspace={"max_file_size": 1 << 40})
    arguments = ("--model", shell.script(HELLO), "-c", settings)
    with shell.start(repository, *arguments) as going:
        until(lambda: list(shell.here.glob("runs/*/ctl.git/HEAD")))
        going.press()
        ended = going.end()
    assert (ended.code, ended.out, ended.left) == (130, "", [])
    ended = shell.run(repository, *arguments, "--timeout", "2")
    assert (ended.code, ended.out, ended.left) == (1, "", [])
    assert "the time limit of the run was reached" in ended.last_line


def test_while_the_last_edits_are_read(shell: Shell, repository: Path, git: Git) -> None:
    """Ctrl-C leaves them the time that they need; a second one does not, but what was small is kept by then."""
    large = "with open('large', 'wb') as file: file.truncate(64 << 30)"
    script = shell.script({"root": [cell("Path('README.md').write_text('edited')", large, "FINAL('done')")]})
    settings = shell.settings(workspace={"max_file_size": 1 << 40}, kernel={"file_size": None})
    with shell.start(repository, "--model", script, "-c", settings) as going:
        until(lambda: list(shell.here.glob("runs/*/ctl.git/refs/rlm/root")) or going.process.poll() is not None)
        assert going.process.poll() is None, going.err
        going.press()
        until(lambda: "Ending the run" in going.err)
        time.sleep(1)
        assert going.process.poll() is None, going.err
        going.press()
        ended = going.end()
    assert ended.code == 130
    assert git(ended.run / "ctl.git", "show", "refs/rlm/root:README.md") == "edited"


@pytest.mark.parametrize("stall", [0, 4], ids=["before the reply", "in the middle of it"])
def test_while_the_model_is_waited_for(shell: Shell, repository: Path, stall: int) -> None:
    """The connection is closed, so that the service stops writing; the notebook says that there was no turn."""
    with MessagesServer(Says(cell("FINAL('too late')"), stall=stall)) as server:
        with shell.start(repository, "-c", shell.served_by(server), ANTHROPIC_API_KEY=KEY) as going:
            assert server.stalled.wait(60)
            going.press()
            ended = going.end()
        assert server.hung_up.wait(10)
    assert ended.out == ""
    assert_partial(ended)


@pytest.mark.parametrize(
    ("number", "code", "why"),
    [(signal.SIGINT, 130, "interrupted by the user"), (signal.SIGTERM, 143, "stopped by SIGTERM")],
)
def test_while_a_cell_runs(
    shell: Shell, repository: Path, tmp_path: Path, number: signal.Signals, code: int, why: str
) -> None:
    """The cell is interrupted, its output and the stored answer are kept, its edits come back."""
    script = shell.script(
        {
            "root": [
                cell("answer = 'so far'", "Path('README.md').write_text('edited')"),
                cell("print('begun')", f"Path({str(tmp_path)!r}, 'begun').touch()", FOREVER),
            ]
        }
    )
    with shell.start(repository, "--model", script) as going:
        until((tmp_path / "begun").exists)
        going.press(number)
        ended = going.end()
    assert ended.out == "so far\n"
    assert_partial(ended, code, why)
    last = read(ended.run / "root.ipynb").iterations[-1].cells[-1]
    assert last.status == "interrupted"
    assert last.outputs[0]["text"] == "begun\n"
    assert "+edited" in (ended.run / "changes.patch").read_text()


def test_while_a_cell_runs_that_does_not_hear(shell: Shell, repository: Path, tmp_path: Path) -> None:
    """Its kernel is killed after the grace, with what the cell had started."""
    script = shell.script(
        {
            "root": [
                cell(
                    "subprocess.Popen(['sleep', '600'], start_new_session=True)",
                    f"import time; Path({str(tmp_path)!r}, 'begun').touch()",
                    DEAF,
                )
            ]
        }
    )
    settings = shell.settings(kernel={"interrupt_grace": 0.3})
    with shell.start(repository, "--model", script, "-c", settings) as going:
        until((tmp_path / "begun").exists)
        going.press()
        assert_partial(going.end())


def sub_agents(tmp_path: Path) -> dict[str, list[str]]:
    """Two sub-agents, of which the first has one of its own; no cell ends, and two have started a daemon each."""
    daemon = "subprocess.Popen(['sleep', '600'], start_new_session=True)"
    begun = f"{daemon}; Path({str(tmp_path)!r}, TASK).touch(); {FOREVER}"
    return {
        "root": [cell("rlm_query_batched(['first', 'second'])")],
        "root.1": [cell("rlm_query('third')")],
        "root.2": [cell(begun)],
        "root.1.1": [cell(begun)],
    }


def test_while_sub_agents_run(shell: Shell, repository: Path, tmp_path: Path) -> None:
    """The whole tree ends, and each of its notebooks says why."""
    with shell.start(repository, "--model", shell.script(sub_agents(tmp_path))) as going:
        until(lambda: (tmp_path / "second").exists() and (tmp_path / "third").exists())
        going.press()
        ended = going.end()
    assert_partial(ended)
    notebooks = sorted(path.stem for path in ended.run.glob("*.ipynb"))
    assert notebooks == ["root", "root.1", "root.1.1", "root.2"]
    for name in notebooks:
        outcome = read(ended.run / f"{name}.ipynb").outcome
        assert outcome is not None
        assert outcome.status == "partial"


def test_a_second_ctrl_c_does_not_wait(shell: Shell, repository: Path, tmp_path: Path) -> None:
    """Every process and folder is gone at once, the notebook on disk is whole, and `run.json` says how it ended."""
    code = cell(f"import time; Path({str(tmp_path)!r}, 'begun').touch()", DEAF)
    settings = shell.settings(kernel={"interrupt_grace": 600})
    with shell.start(repository, "--model", shell.script({"root": [code]}), "-c", settings) as going:
        until((tmp_path / "begun").exists)
        going.press()
        until(lambda: "Ending the run" in going.err)
        time.sleep(0.4)  # two that come at once are taken for one
        going.press()
        ended = going.end()
    assert ended.code == 130
    assert ended.state["status"] == "partial"
    assert "interrupted by the user" in ended.state["stop_reason"]  # in more words, where the agent came to its end
    outcome = read(ended.run / "root.ipynb").outcome
    assert outcome is None or outcome.status == "partial"  # the agent may have seen its kernel end


def is_alive(process: psutil.Process) -> bool:
    """Not so for one that only waits to be reaped, which is up to the system."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def own_tmpdir(clean_environment: Path) -> Iterator[Path]:
    """A TMPDIR for a command that is killed, and cannot clean up."""
    folder = Path(tempfile.mkdtemp(prefix="k-", dir=clean_environment))
    yield folder
    shutil.rmtree(folder)


def test_the_controller_is_killed(shell: Shell, repository: Path, tmp_path: Path, own_tmpdir: Path) -> None:
    """No kernel, nor what its cells started, outlives it by more than two seconds; every notebook is whole."""
    script = shell.script(sub_agents(tmp_path))
    with shell.start(repository, "--model", script, TMPDIR=str(own_tmpdir)) as going:
        until(lambda: (tmp_path / "second").exists() and (tmp_path / "third").exists())
        below = psutil.Process(going.process.pid).children(recursive=True)
        going.press(signal.SIGKILL)
        ended = going.end()
        assert len(below) >= 4 + 2
        until(lambda: not any(map(is_alive, below)), seconds=2)
    assert ended.state["status"] == "running"  # nobody was left to say anything else
    for notebook in ended.run.glob("*.ipynb"):
        assert read(notebook).state == "running"
