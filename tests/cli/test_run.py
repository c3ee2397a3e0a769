from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import PATIENCE, Command, Terminal, without_privileges

STAGED_RUN = Path(__file__).parent / "staged_run.py"
KEY = "sk-ant-planted-0123456789"


def staged(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A staged run from beginning to end, with pipes for all its streams."""
    command = [sys.executable, str(STAGED_RUN), *map(str, arguments)]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=PATIENCE)


@contextmanager
def going_on(mode: str, answer: str = "so far", **streams: int) -> Iterator[subprocess.Popen[str]]:
    """A staged run that is under way, its standard error read up to there (unless that is a terminal)."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    environment = os.environ | {"TERM": "xterm-256color"}
    with subprocess.Popen([sys.executable, STAGED_RUN, mode, answer], env=environment, text=True, **pipes) as process:
        try:
            if process.stderr is not None:
                _read_until(process, "staged.")
            yield process
            process.communicate(timeout=PATIENCE)
        finally:
            process.kill()


def _read_until(process: subprocess.Popen[str], marker: str) -> str:
    assert process.stderr is not None
    text = ""
    while marker not in text:
        line = process.stderr.readline()
        assert line, text
        text += line
    return text


# How a run ends.


def test_the_answer_is_all_there_is_on_stdout() -> None:
    """Exactly as it is, ended by a newline; everything about it is on stderr."""
    done = staged("answer", "42 \x1b[1mbold\x1b[0m")
    assert (done.returncode, done.stdout) == (0, "42 \x1b[1mbold\x1b[0m\n")
    lines = [re.sub(r"^\[.*?\] ", "", line) for line in done.stderr.splitlines()]
    assert lines == [
        "root: started: Say hello.",
        "root: staged.",
        "root: completed after 0 iterations, 0.0s, $0.0200: 42 bold",
        "completed: FINAL was called",
        "notebook: runs/x/root.ipynb",
        f"patch:    runs/x/changes.patch (2 files); to have it in a clone: git apply {Path.cwd()}/runs/x/changes.patch",
        "took:     $0.0200, 1.1k tokens, 1 agent, 0.0s",
    ]


def test_with_output_the_answer_goes_to_the_file(tmp_path: Path) -> None:
    """And not to stdout; text that is no valid Unicode is not lost."""
    done = staged("answer", "caf\u00e9\n", tmp_path / "answer.txt")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "answer.txt").read_text("utf-8") == "caf\u00e9\n"


@pytest.mark.parametrize(("mode", "code", "stdout"), [("partial", 3, "half\n"), ("error", 1, "")])
def test_exit_codes_tell_how_it_ended(mode: str, code: int, stdout: str) -> None:
    """A partial answer is an answer; an error poses as none."""
    done = staged(mode, "half")
    assert (done.returncode, done.stdout) == (code, stdout)
    assert done.stderr.lower().count("there is no answer") == (mode == "error")
    assert re.search(r"^(partial: the money is spent|error: the service refused the key)$", done.stderr, re.MULTILINE)


def test_what_was_expected_is_one_sentence() -> None:
    """No traceback, exit code 1."""
    done = staged("refuse", "/nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "Error: no such folder: /nowhere"
    assert "Traceback" not in done.stderr


def test_verbose_shows_more_and_no_key() -> None:
    """Code, our own log and the traceback of an error; never a key, nor what other libraries log."""
    done = staged("-v", "refuse", f"use {KEY}", ANTHROPIC_API_KEY=KEY)
    assert done.returncode == 1
    assert "root:   >>> wait_for_it()" in done.stderr
    assert "rlm_nb.staged: about to use [ANTHROPIC_API_KEY]" in done.stderr
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "Error: no such folder: use [ANTHROPIC_API_KEY]"
    assert KEY not in done.stderr
    assert "sent" not in done.stderr


def test_a_surprise_is_reported_without_the_key() -> None:
    """Traceback and exit code 70, even for an error that looks like a closed pipe."""
    done = staged("break", f"the key {KEY}", ANTHROPIC_API_KEY=KEY)
    assert (done.returncode, done.stdout) == (70, "")
    assert "BrokenPipeError: nobody expected the key [ANTHROPIC_API_KEY]" in done.stderr
    assert re.fullmatch(r"rlm-nb \S+, Python 3\.\d+\.\d+\S*, \S+", done.stderr.splitlines()[-2])
    assert done.stderr.splitlines()[-1].endswith("Please report it, with the lines above.")
    assert KEY not in done.stderr


def test_a_full_disk_is_said() -> None:
    """The answer was not handed over, so the run did not go well."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, STAGED_RUN, "answer", "42"], stdout=full, stderr=-1, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "Error: the answer could not be written to stdout: No space left on device"


def test_closed_streams_are_no_reason_to_fail() -> None:
    """`| head`, `2>&-` and `>&-`: no traceback, and the exit code of the run."""
    program = f"{sys.executable} {STAGED_RUN} answer 42"
    for line in (f"{program} | true", f"{program} 2>&-", f"{program} >&-", f"{program} 2>&1 >/dev/null | true"):
        done = subprocess.run(["bash", "-c", f"{line}; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "0", line
        assert "Traceback" not in done.stderr


# Signals.


@pytest.mark.parametrize(
    ("number", "code", "why"),
    [
        (signal.SIGINT, 130, "interrupted by the user"),
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
        (signal.SIGHUP, 129, "stopped by SIGHUP"),
    ],
)
def test_a_signal_ends_the_run_with_what_there_is(number: signal.Signals, code: int, why: str) -> None:
    """The partial answer is handed over as usual."""
    with going_on("wait") as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (code, "so far\n")
    assert "Ending the run" in err
    assert f"partial: {why}" in err


def test_a_signal_that_comes_twice_at_once_is_one() -> None:
    """`timeout -s INT` and some wrappers send it to the process and to its group."""
    with going_on("wait") as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE)
    assert out == "so far\n"


def test_ctrl_c_before_the_first_agent() -> None:
    """Nothing to hand over: a sentence, and the same exit code."""
    with going_on("late") as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "Ended before the first agent began: interrupted by the user"


def test_a_second_ctrl_c_ends_everything_at_once() -> None:
    """A run that does not hear is killed, with the processes that it started."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, STAGED_RUN, "stubborn", "x"], text=True, **pipes) as process:
        started = re.search(r"started (\d+)\.", _read_until(process, "staged."))
        assert started is not None
        child = psutil.Process(int(started[1]))
        process.send_signal(signal.SIGINT)
        assert "Ending the run" in _read_until(process, "Ending the run")
        while process.poll() is None:  # it takes two within a moment for one
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        assert process.returncode == 130
        assert psutil.wait_procs([child], timeout=PATIENCE)[0] == [child]


# On a terminal.


def test_on_a_terminal_the_answer_commands_nothing(terminal: Terminal) -> None:
    """Escape sequences of the answer do not reach it."""
    command = [sys.executable, STAGED_RUN, "answer", "\x1b]0;mine\x07free \x1b[5mtext\nsecond"]
    done = subprocess.run(command, stdout=terminal.slave, stderr=subprocess.PIPE, timeout=PATIENCE)
    assert done.returncode == 0
    assert terminal.read_to_end() == "free text\r\nsecond\r\n"


def test_ctrl_c_on_a_terminal_gives_it_back(terminal: Terminal) -> None:
    """The tree is drawn while it runs; afterwards the cursor is there, and stdout holds the answer alone."""
    with going_on("wait", stderr=terminal.slave) as process:
        shown = terminal.read_until("wait_for_it()")
        assert "● root" in re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (130, "so far\n")
    text = terminal.read_to_end()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "partial: interrupted by the user" in text


def test_a_terminal_that_is_closed_under_a_run(terminal: Terminal) -> None:
    """It hangs up with SIGHUP or without; the run ends all the same."""
    with going_on("wait", stderr=terminal.slave) as process:
        terminal.read_until("wait_for_it()")
        terminal.close()
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (129, "so far\n")


# The command line.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Missing argument"),
        (["."], "Missing option"),
        ([".", "-p", "  "], "the task is empty"),
        ([".", "-p", "x", "--max-depth", "deep"], "valid integer"),
        ([".", "-p", "x", "--no-such-flag"], "No such option"),
        ([".", "-p", "x", "-o", "missing/answer.txt"], "there is no folder missing"),
        ([".", "-p", "x", "-o", "."], "is a folder"),
        ([".", "-p", "x", "--context", "missing.txt"], "missing.txt"),
        ([".", "-p", "x", "--max-cost", "0"], "be greater than 0, found 0.0"),
        ([".", "-p", "x", "--timeout", "-1"], "be greater than 0, found -1.0"),
        ([".", "-p", "x", "--max-sandboxes", "0"], "--max-sandboxes: must be greater than 0, found 0"),
        ([".", "-p", "x", "-c", "missing.yaml"], "missing.yaml: cannot be read: No such file"),
    ],
)
def test_wrong_usage(rlm_nb: Command, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    """A sentence, exit code 2, and nothing is left in the folder."""
    done = rlm_nb("run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in re.sub(r"[│╭╮╰╯─\s]+", " ", done.stderr)
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--runs-dir", "{closed}/runs"], 1, "{closed}/runs: runs cannot be recorded here: Permission denied"),
        (["-o", "{closed}/answer"], 2, "{closed}/answer: Permission denied"),
        (["-c", "{closed}/config.yaml"], 2, "{closed}/config.yaml: cannot be read: Permission denied"),
        (["--runs-dir", "{long}"], 1, "{long}: runs cannot be recorded here: File name too long"),
        (["-o", "{long}"], 2, "{long}: File name too long"),
        (["-o", "{long}/answer"], 2, "{long}/answer: File name too long"),
        (["-c", "{pipe}"], 2, "{pipe}: is no file"),
        (["--context", "{pipe}"], 1, "{pipe}: the context is no file"),
    ],
)
def test_places_that_cannot_be_used(
    rlm_nb: Command, tmp_path: Path, arguments: list[str], code: int, sentence: str
) -> None:
    """Closed folders, names that are too long, a pipe that nobody writes into: said at once, and nothing is left."""
    places = {"closed": tmp_path / "closed", "long": "x" * 300, "pipe": tmp_path / "pipe"}
    (tmp_path / "closed").mkdir(mode=0)
    os.mkfifo(tmp_path / "pipe")
    given = [part.format(**places) for part in arguments]
    done = rlm_nb("run", ".", "-p", "x", "--model", "human", *given, before=without_privileges)
    shown = re.sub(r"[│╭╮╰╯─\s]+", "", done.stderr)
    assert (done.returncode, done.stdout) == (code, "")
    assert re.sub(r"\s", "", sentence.format(**places)) in shown
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("arguments", [["-o", "answer"], ["--context", "text"], ["--runs-dir", "runs"], ["-c", "file"]])
def test_a_current_folder_that_was_deleted(
    rlm_nb: Command, repository: Path, tmp_path: Path, arguments: list[str]
) -> None:
    """What is relative to it cannot be had, which is one sentence."""
    done = rlm_nb("run", repository, "-p", "x", "--model", "human", *arguments, before=(tmp_path / "here").rmdir)
    assert done.returncode in (1, 2)
    assert re.search(r"No such file or directory|does not exist", done.stderr)
    assert "Traceback" not in done.stderr


def test_the_task_from_stdin(rlm_nb: Command) -> None:
    """`-p -` reads it; what cannot be a task is refused before anything begins."""
    assert "the task is empty" in rlm_nb("run", ".", "-p", "-", stdin="\n").stderr
    assert "the task is not UTF-8" in rlm_nb("run", ".", "-p", "-", stdin=b"\xff").stderr


def test_the_task_where_the_locale_has_no_utf_8(rlm_nb: Command) -> None:
    """Its bytes are what counts."""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0"}
    assert "nobody is known" in rlm_nb("run", ".", "-p", "für alle", "--model", "x", **plain).stderr
    assert "the task is not UTF-8" in rlm_nb("run", ".", "-p", "-", stdin=b"\xff", **plain).stderr
