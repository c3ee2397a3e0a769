"""What of the controller's environment a kernel may see: a few harmless variables, and never a key."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

HARMLESS = ("PATH", "LANG", "LANGUAGE", "TZ")
PR_SET_DUMPABLE = 4


def allowed(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environ` that a kernel gets: search path, language, time zone, and a plain terminal.

    An allow-list, since nobody can name every variable that holds a secret.
    """
    names = [name for name in environ if name in HARMLESS or name.startswith("LC_")]
    return {**{name: environ[name] for name in names}, "TERM": "dumb"}


def hide(names: Iterable[str]) -> None:
    """Take the variables away from this process, and its memory out of the reach of others of the same user.

    A process that is handed no key can still look for one in `/proc/<pid>/environ` of the process that started it: that
    file shows the block that the kernel of the operating system filled at the start, which `unsetenv` does not touch.
    Elsewhere than on Linux only `os.environ` is changed.

    Call it before anything is started; copies that were made of the values stay where they are.
    """
    gone = tuple(names)
    for name in gone:
        os.environ.pop(name, None)
    if sys.platform == "linux":
        _overwrite(gone)
        _deny_attaching()


def _overwrite(names: tuple[str, ...]) -> None:
    """Put asterisks over the values in the block of variables that this process was started with."""
    start, end = _initial_block()
    block = ctypes.string_at(start, end - start)
    position = 0
    for entry in block.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals and os.fsdecode(name) in names:
            # No zeros: many readers of this block stop at the first empty entry, and would miss what follows.
            ctypes.memset(start + position + len(name) + 1, ord("*"), len(value))
        position += len(entry) + 1


def _initial_block() -> tuple[int, int]:
    """The first address of the block, and the one after its last (fields 50 and 51 of proc_pid_stat(5))."""
    # The second field is the program's name in parentheses, which may hold spaces and parentheses: count from its end.
    fields = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()
    return int(fields[50 - 3]), int(fields[51 - 3])


def _deny_attaching() -> None:
    """Close `/proc/<pid>/mem`, `environ` and ptrace to processes of the same user, and write no core file.

    The keys live on in this process's memory, where the kernels' user is ours. The price is that a debugger needs root
    (CAP_SYS_PTRACE) to attach. A program started from here has the default again, since `execve` restores it.
    """
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
