"""Processes that outlived the run that they belong to."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from rlm_nb.processes import is_abandoned


def strays() -> list[psutil.Process]:
    """Our user's processes that a cell has started, and whose run is gone.

    Known by what only an agent's kernel gives to those that it starts: a HOME and a TMPDIR side by side in a scratch
    folder, whose name says which process it belonged to. What has changed its environment since is not found.
    """
    found = []
    for process in psutil.process_iter():
        try:
            if process.uids().real == os.getuid() and _is_stray(process.environ()):
                found.append(process)
        except psutil.Error:  # it has ended, or may not be looked at
            continue
    return found


def _is_stray(environment: dict[str, str]) -> bool:
    home, temporary = Path(environment.get("HOME", "")), Path(environment.get("TMPDIR", ""))
    together = home.parent == temporary.parent and (home.name, temporary.name) == ("home", "tmp")
    return together and is_abandoned(home.parent.name)
