"""What every test stands on: a clean environment, a small real repository, and proof that nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

GRACE = 2.0
"""Seconds that what a test started may take to be gone after it."""

FOREIGN = (
    "ANTHROPIC_",
    "OPENAI_",
    "RLM_",
    "GIT_",
    "JUPYTER_",
    "IPYTHON",
    "PYTHON",
    "XDG_",
    "FORCE_COLOR",
    "NO_COLOR",
    "COLUMNS",
)
"""How the variables begin that would change what we test."""

Git = Callable[..., str]
"""`git(folder, *arguments)`: runs git as an author whose commits are the same every time; returns what it printed."""


@pytest.fixture(scope="session", autouse=True)
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No keys, settings, proxies or git configuration of whoever runs the tests; a HOME and a TMPDIR of our own.

    Returns TMPDIR. Its path is short, because kernels put unix sockets below it, and those end at 108 bytes.
    """
    tmp_path_factory.getbasetemp()  # stays where pytest puts it, and can be looked at after a failure
    folder = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp")).resolve()
    home = folder / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(FOREIGN) or name.lower().endswith("_proxy"):
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        # For commands, and only to be quick: isolation has tests of its own, and most that run agents in this process
        # keep what users get by default.
        patch.setenv("RLM_ISOLATION_LEVEL", "none")
        patch.setattr(tempfile, "tempdir", None)  # read TMPDIR again
        yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def leaves_nothing_behind(clean_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the test that leaves a process, a thread or a temporary folder of ours behind, and name it.

    Fixtures of a wider scope are set up before this one, so what they start belongs to nobody.
    """
    marks = str(clean_environment), f"{tmp_path_factory.getbasetemp()}{os.sep}"
    processes, threads, folders = set(psutil.pids()), set(threading.enumerate()), _folders(clean_environment)
    yield
    left = []
    for process in _alive_after(processes, marks):
        left.append(f"process {process.pid}: {_describe(process)}")
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()  # the next test is not to blame
    for thread in set(threading.enumerate()) - threads:
        if not thread.daemon:
            thread.join(GRACE)
            if thread.is_alive():
                left.append(f"thread {thread.name}")
    for folder in _folders(clean_environment) - folders:
        left.append(f"folder {folder}")
        shutil.rmtree(folder, ignore_errors=True)
    if left:
        pytest.fail("left behind by this test:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture
def git() -> Git:
    """See `Git`."""
    return _git


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small git repository with one commit on `main`, the same commit in every test."""
    folder = tmp_path / "repository"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    _git(folder, "init", "--initial-branch=main")
    _git(folder, "add", "--all")
    _git(folder, "commit", "--message=Greet")
    return folder


FILES = {
    ".gitignore": "__pycache__/\n*.log\n",
    "README.md": "# greeting\n\nSays hello.\n",
    "greeting/__init__.py": "",
    "greeting/hello.py": 'def hello(name):\n    # TODO: greet several people\n    return f"Hello, {name}!"\n',
    "tests/test_hello.py": (
        "from greeting.hello import hello\n\n\ndef test_hello():\n    assert hello('Ada') == 'Hello, Ada!'\n"
    ),
}


def _git(folder: Path, *arguments: str | Path) -> str:
    author = {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in [("NAME", "Ada"), ("EMAIL", "ada@example.org"), ("DATE", "2026-01-01T12:00:00+00:00")]
    }
    command = ["git", "-C", str(folder), *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | author, capture_output=True, text=True, errors="surrogateescape")
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def _folders(tmpdir: Path) -> set[Path]:
    return set(tmpdir.glob("rlm-*"))


def _alive_after(before: set[int], marks: tuple[str, ...]) -> list[psutil.Process]:
    """The processes of this test that are still alive after the grace, orphans that left the family included."""
    family = {child.pid for child in psutil.Process().children(recursive=True)}  # a zombie counts as gone
    new = []
    for pid in set(psutil.pids()) - before:
        try:
            process = psutil.Process(pid)
            if (pid in family or _mentions(process, marks)) and not _is_somebody_elses(process):
                new.append(process)
        except psutil.NoSuchProcess:
            continue
    return psutil.wait_procs(new, timeout=GRACE)[1]


def _mentions(process: psutil.Process, marks: tuple[str, ...]) -> bool:
    """Whether it works in a folder of this test session, or was started with one in its environment or arguments."""
    try:
        known = [process.cwd(), *process.cmdline(), *process.environ().values()]
    except psutil.AccessDenied:
        return False  # somebody else's
    return any(mark in text for mark in marks for text in known)


def _is_somebody_elses(process: psutil.Process) -> bool:
    """multiprocessing starts one tracker for the whole life of the test process; a browser that several tests use
    starts and ends its renderers as it likes, and they end with it."""
    command = process.cmdline() or [""]
    tracks = any("multiprocessing.resource_tracker" in part for part in command)
    return tracks or ("chrom" in command[0] and any(part.startswith("--type=") for part in command[1:]))


def _describe(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.NoSuchProcess:
        return "(gone meanwhile)"
