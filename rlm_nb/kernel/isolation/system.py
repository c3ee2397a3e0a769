"""Calls of Linux that Python does not have, by their numbers; each raises `OSError` with what was tried."""

from __future__ import annotations

import ctypes
import errno
import functools
import itertools
import os
import platform
import sys
from typing import Any

COLUMNS = {"x86_64": 0, "aarch64": 1}
"""The machines whose numbers we know; the columns of tables of system calls."""

PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 24, 22, 38, 47
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPSET = (126, 91)
_CAPABILITY_VERSION_3 = 0x20080522


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library


@functools.cache
def _held() -> ctypes.PyDLL:
    """The same, called without letting go of Python's lock."""
    return ctypes.PyDLL(None, use_errno=True)


@functools.cache
def column() -> int:
    """Where this machine's numbers stand. Raises `OSError` where they are not known."""
    try:
        return COLUMNS[platform.machine()]
    except KeyError:
        raise OSError(f"the system calls of {platform.machine()} machines are not known here") from None


def call(what: str, number: int, *arguments: Any) -> int:
    """One system call; `what` names it in errors."""
    result: int = _library().syscall(ctypes.c_long(number), *arguments)
    return _checked(what, result)


def prctl(what: str, option: int, first: int = 0, second: int = 0, third: int = 0) -> int:
    """Change something about this process."""
    result: int = _library().prctl(option, *map(ctypes.c_ulong, (first, second, third, 0)))
    return _checked(what, result)


def fork() -> int:
    """fork(2) for a process of one thread whose child stays small: one that only looks after others.

    What Python's own does in each child first, such as seeding `random` anew and taking stock of threads, writes to two
    hundred pages, each of which is copied for that. A child of this one that is to run what others have written has to
    come by `os.fork`. Signals that have come to this process, and wait for Python's handlers, are the child's as well.
    """
    if sys.platform != "linux":
        return os.fork()
    return _checked("fork", _held().fork())


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2)."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    result = _library().mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3])
    _checked(f"mount {source or kind} on {target}", result)


def unmount(target: str, flags: int) -> None:
    """umount2(2)."""
    _checked(f"umount {target}", _library().umount2(os.fsencode(target), flags))


def give_up_capabilities() -> None:
    """All of them, for good: this process and what it starts never have any right that others of its user lack."""
    prctl("PR_CAP_AMBIENT", PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    try:
        for capability in itertools.count():
            prctl("PR_CAPBSET_DROP", PR_CAPBSET_DROP, capability)
    except PermissionError:
        pass  # without CAP_SETPCAP there is none to give up; what `no_new_privs` keeps others from bringing back
    except OSError as error:
        if error.errno != errno.EINVAL:  # there are no more
            raise
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    call("capset", _CAPSET[column()], ctypes.byref(header), ctypes.byref(nothing))


def gain_nothing() -> None:
    """From here on, no program that this process starts has more rights than it: set-user-id bits are for nothing."""
    prctl("PR_SET_NO_NEW_PRIVS", PR_SET_NO_NEW_PRIVS, 1)


def _checked(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
