"""Commands as a user's shell starts them: in a process of their own, with or without a terminal."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PATIENCE = 30.0
"""Seconds after which a process that does not do what a test waits for is given up."""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def rlm_nb(tmp_path: Path) -> Command:
    """`rlm_nb(*arguments, **variables)`: runs the command in an empty folder; returns what it printed.

    `before` is called in the new process before it becomes the command.
    """
    folder = tmp_path / "here"
    folder.mkdir()

    def command(
        *arguments: str | Path,
        stdin: str | bytes = "",
        before: Callable[[], object] | None = None,
        **variables: str,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "rlm_nb", *map(str, arguments)],
            preexec_fn=before,
            input=stdin if isinstance(stdin, bytes) else stdin.encode(),
            capture_output=True,
            cwd=folder,
            env=os.environ | variables,
            timeout=PATIENCE,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return command


def without_privileges() -> None:
    """Let permissions count for root as they do for everybody else; in a process that is about to start a program."""
    if os.getuid() == 0 and sys.platform == "linux":
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


class Terminal:
    """A real pseudo-terminal, and what was written on it so far."""

    def __init__(self, rows: int = 24, columns: int = 100) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.text = ""

    def read_until(self, marker: str) -> str:
        """Read on until `marker` was written; returns everything so far."""
        deadline = time.monotonic() + PATIENCE
        while marker not in self.text:
            assert self._read(deadline - time.monotonic()), f"no {marker!r} on the terminal, only {self.text!r}"
        return self.text

    def read_to_end(self) -> str:
        """Read what is there, when nobody writes any more."""
        while self._read(0.0):
            pass
        return self.text

    def close(self) -> None:
        """Close both ends, if they are not closed yet."""
        for end in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(end)

    def _read(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], max(0.0, seconds))[0]:
            return False
        self.text += os.read(self.master, 65536).decode(errors="replace")
        return True


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A terminal of 24 rows and 100 columns."""
    opened = Terminal()
    yield opened
    opened.close()
