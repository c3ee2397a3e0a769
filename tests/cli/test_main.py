from __future__ import annotations

import array
import fcntl
import signal
import subprocess
import sys
import termios
import time
from importlib.metadata import version
from pathlib import Path

import pytest

import rlm_nb
from tests.cli.conftest import PATIENCE, Command

HEAVY = ("anthropic", "IPython", "zmq", "genai_prices", "pydantic_settings", "psutil")


@pytest.mark.parametrize("verb", [[], ["run"], ["tree"], ["clean"]])
def test_help_is_there_at_once(verb: list[str]) -> None:
    """It imports nothing that only a run needs."""
    code = (
        "import sys\n"
        "from rlm_nb.cli.main import main\n"
        "try:\n    main()\n"
        f"finally:\n    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *verb, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert done.stderr == "[]\n"


def test_next_to_nothing_is_imported_before_ctrl_c_is_met() -> None:
    """What Python imports before `main` can catch anything ends in a traceback when Ctrl-C falls into it."""
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(rlm_nb.__file__).parent.parent)!r})\n"
        "before = set(sys.modules)\n"
        "import rlm_nb.cli.main\n"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.stdout == "['__future__', 'rlm_nb', 'rlm_nb.cli', 'rlm_nb.cli.main']\n"


def test_help_explains_the_exit_codes(rlm_nb: Command) -> None:
    """At its end, where people look for them."""
    assert "130 after Ctrl-C" in " ".join(rlm_nb("run", "--help").stdout.split())


def test_version(rlm_nb: Command) -> None:
    """On stdout, by itself."""
    assert rlm_nb("--version").stdout == f"rlm-nb {version('rlm-nb')}\n"


def test_an_unknown_verb(rlm_nb: Command) -> None:
    """Wrong usage, with what was meant."""
    done = rlm_nb("tre")
    assert done.returncode == 2
    assert "Did you mean 'tree'" in done.stderr


def test_help_for_a_reader_who_has_gone() -> None:
    """`rlm-nb --help | true` says nothing about pipes."""
    line = f"{sys.executable} -m rlm_nb --help | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stderr == ""


def test_ctrl_c_before_anything_has_begun() -> None:
    """While it still waits for the task on stdin: exit code 130 without a traceback."""
    command = [sys.executable, "-m", "rlm_nb", "run", ".", "-p", "-"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdin is not None
        process.stdin.write("a task that goes")
        process.stdin.flush()
        _wait_until_read(process.stdin.fileno())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (130, "", "")


def _wait_until_read(pipe: int) -> None:
    """Wait until the other end of the pipe has taken everything that was written into it."""
    deadline = time.monotonic() + PATIENCE
    unread = array.array("i", [1])
    while unread[0]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        fcntl.ioctl(pipe, termios.FIONREAD, unread)
