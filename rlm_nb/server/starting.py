"""Starts runs for the panel; each is a process of its own, which ends with the server."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rlm_nb.errors import RunFolderError

PATIENCE = 60.0
"""Seconds until a run must have begun."""

POLL = 0.1


@dataclass(frozen=True)
class Wanted:
    """A run that somebody wants.

    Args:
        folder: What it works on; settings and `.env` are read from there, too.
        runs: Where it is recorded.
        task: What is to be done.
        model: The model, or `""` for the one of the settings.
        max_cost: US dollars, or `None` for the limit of the settings.
        approve: Whether the panel is asked about each reply's cells.
    """

    folder: Path
    runs: Path
    task: str
    model: str = ""
    max_cost: float | None = None
    approve: bool = False


class Starter:
    """Keeps a pipe to each run open, which ends when that is closed: with this process, however it ends."""

    def start(self, wanted: Wanted) -> Path:
        """Start it, and wait until it has begun; returns its folder.

        Raises:
            RunFolderError: It did not begin; the message is what it said.
        """
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                _command(wanted),
                cwd=wanted.folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )
            threading.Thread(target=self._wait_for, args=[process], name="rlm-run", daemon=True).start()
            end, since = time.monotonic() + PATIENCE, time.time() - 1
            while time.monotonic() < end:
                code = process.poll()
                if (run := _begun(wanted.runs, process.pid, since)) is not None:
                    return run
                if code is not None:
                    raise RunFolderError(_last(said))
                time.sleep(POLL)
            process.kill()
            process.wait()
            raise RunFolderError(f"the run did not begin within {PATIENCE:g} s: {_last(said)}")

    def _wait_for(self, process: subprocess.Popen[bytes]) -> None:
        """Hold the pipe, and leave no process that has ended behind."""
        with process.stdin or nullcontext():
            process.wait()


def _command(wanted: Wanted) -> list[str]:
    command = [sys.executable, "-m", "rlm_nb", "run", ".", f"--prompt={wanted.task}", f"--runs-dir={wanted.runs}"]
    command += [f"--model={wanted.model}"] if wanted.model else []
    command += [] if wanted.max_cost is None else [f"--max-cost={wanted.max_cost}"]
    command += ["--approve-in-lab"] if wanted.approve else []
    return [*command, "--while-stdin-is-open"]


def _begun(runs: Path, pid: int, since: float) -> Path | None:
    """The folder of the run that is this process, and no earlier one of the same number."""
    with suppress(OSError):
        for state in sorted(runs.glob("*/run.json"), reverse=True)[:5]:
            with suppress(OSError, ValueError):
                whose = json.loads(state.read_text("utf-8", "surrogateescape")).get("pid")
                if whose == pid and state.stat().st_mtime >= since:
                    return state.parent
    return None


def _last(said: IO[bytes]) -> str:
    """The last line that says what is wrong."""
    said.seek(0)
    lines = [line for line in said.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "it said nothing")
