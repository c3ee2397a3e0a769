"""Which process something belongs to, and whether it still runs: known by its number and its start."""

from __future__ import annotations

import functools
import os

import psutil


def this_process() -> tuple[int, float]:
    """The number and the start of the process that we are in."""
    pid = os.getpid()
    return pid, _own_start(pid)


def is_alive(pid: int, started: float) -> bool:
    """Whether the process that had this number, and began at this time, still runs."""
    if (pid, started) == this_process():
        return True  # the most frequent question, answered without a look at the system
    try:
        process = psutil.Process(pid)
        # Another start: the number went to another process.
        return abs(started - _start(process)) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True  # it exists, and only its owner may know more


@functools.cache
def _own_start(pid: int) -> float:  # by number, since a fork has another
    return _start(psutil.Process(pid))


def _start(process: psutil.Process) -> float:
    # Seconds since the boot: both halves move when the clock is set, their difference does not.
    return process.create_time() - psutil.boot_time()
