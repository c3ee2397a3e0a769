"""Which process something belongs to, and whether it still runs: known by its number and its start."""

from __future__ import annotations

import functools
import os
import re
import select
import threading

import psutil

_MARK = re.compile(r"rlm-(?P<pid>\d{1,9})-(?P<started>\d{1,12})-(?P<world>[0-9a-f]+)-")


def this_process() -> tuple[int, float]:
    """The number and the start of the process that we are in."""
    pid = os.getpid()
    return pid, _own_start(pid)


def is_alive(pid: int, started: float) -> bool:
    """Whether the process that had this number, and began at this time, still runs."""
    if (pid, started) == this_process():
        return True  # the most frequent question, answered without a look at the system
    with _lock:
        handle = _handles.get((pid, started))
        if handle is not None and not (ended := _has_ended(handle)):
            return True
        if handle is not None and ended:
            os.close(_handles.pop((pid, started)))
            return False
        alive = _is_alive(pid, started)
        if alive and (handle := _open(pid)) is not None:
            # Looked at again: the number may have gone to another process in between.
            if alive := _is_alive(pid, started):
                _handles[pid, started] = handle
            else:
                os.close(handle)
        return alive


_lock = threading.Lock()
_handles: dict[tuple[int, float], int] = {}
"""The system's handle on each process that was asked about and lives: asking it is fast, looking at /proc is not."""


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not on this system, or not for us
        return None


def _has_ended(handle: int) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(0))


def _is_alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        # Another start: the number went to another process.
        return abs(started - _start(process)) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True  # it exists, and only its owner may know more


def mark() -> str:
    """How the names of temporary things begin that belong to this process, so that they can be told from others'."""
    pid, started = this_process()
    return f"rlm-{pid}-{started:.0f}-{world()}-"


def is_abandoned(name: str) -> bool:
    """Whether a name begins with the mark of a process that has ended, and that we would know if it had not."""
    owner = _MARK.match(name)
    if owner is None or owner["world"] != world():
        return False
    return not is_alive(int(owner["pid"]), float(owner["started"]))


def world() -> str:
    """Which process numbers ours stands among: containers may share a temporary folder, but not their numbers."""
    try:
        return f"{os.stat('/proc/self/ns/pid').st_ino & 0xFFFFF:x}"  # noqa: PTH116
    except OSError:
        return "0"


@functools.cache
def _own_start(pid: int) -> float:  # by number, since a fork has another
    return _start(psutil.Process(pid))


def _start(process: psutil.Process) -> float:
    # Seconds since the boot: both halves move when the clock is set, their difference does not.
    return process.create_time() - psutil.boot_time()
