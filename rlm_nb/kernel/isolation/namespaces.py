"""Namespaces: a world of its own, in which there is nothing but what the policy names.

A process that leaves its own makes them, and starts two in them: the first is their init, with whose end all others
end; the second builds the world and lives in it. See namespaces(7), pivot_root(2), mount_setattr(2).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import NoReturn

from rlm_nb.kernel.isolation import system
from rlm_nb.kernel.isolation.plan import PRIVATE, Bind, plan
from rlm_nb.kernel.isolation.policy import Policy

KINDS = ("user", "mnt", "pid", "net", "ipc", "uts")

_UNSHARE, _PIVOT_ROOT, _OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = (272, 97), (155, 41), 428, 429, 442
_NEW = {
    "user": 0x10000000,
    "mnt": 0x20000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "ipc": 0x8000000,
    "uts": 0x4000000,
}
_NO_SUID, _NO_DEVICES, _NO_EXECUTION, _RECURSIVE, _PRIVATE = 2, 4, 8, 1 << 14, 1 << 18
_ATTRIBUTE_READ_ONLY, _ATTRIBUTE_NO_SUID, _ATTRIBUTE_NO_DEVICES = 1, 2, 4
_ATTRIBUTES = {
    "read": _ATTRIBUTE_READ_ONLY | _ATTRIBUTE_NO_SUID | _ATTRIBUTE_NO_DEVICES,
    "write": _ATTRIBUTE_NO_SUID | _ATTRIBUTE_NO_DEVICES,
    "device": _ATTRIBUTE_NO_SUID,
}
_HERE, _AT_RECURSIVE, _CLONE, _CLOSE_ON_EXEC, _EMPTY_PATH, _DETACH = -100, 0x8000, 1, os.O_CLOEXEC, 4, 2
_SIOCSIFFLAGS, _UP, _RUNNING = 0x8914, 0x1, 0x40

ROOT = "/tmp"
"""Where the new world is built: any folder will do, for only the builder sees what is mounted on it."""


def kinds(policy: Policy) -> tuple[str, ...]:
    """Which namespaces are new under a policy."""
    return tuple(kind for kind in KINDS if kind != "net" or policy.network != "host")


def leave(policy: Policy) -> None:
    """Go into new namespaces, with this process's own user in them as the only one.

    The number of this process stays what it is, and so do the files that it sees; the numbers of the processes that it
    starts from now on begin at 1, and `build` gives them files of their own.
    """
    user, group = os.geteuid(), os.getegid()
    _unshare(kind for kind in kinds(policy) if kind != "mnt")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")


def _unshare(kinds: Iterable[str]) -> None:
    flags = sum(_NEW[kind] for kind in kinds)
    system.call("namespaces", _UNSHARE[system.column()], ctypes.c_ulong(flags))


def be_init(lifeline: int) -> NoReturn:
    """As the first process: let the system bury orphans, and wait for the end. Never returns.

    Args:
        lifeline: A descriptor to read from; when whoever holds its other end is gone, this process ends, and with it
            all others in the namespaces.
    """
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)  # SIGCHLD included: who is orphaned and ends is no zombie then
    for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with suppress(OSError):  # the one that the list was read from
            if int(descriptor) != lifeline:
                os.close(int(descriptor))
    os.chroot("/proc/self/fdinfo")  # in which there will be nothing: it needs no files
    os.chdir("/")
    system.prctl("PR_SET_DUMPABLE", system.PR_SET_DUMPABLE, 0)  # nobody inside looks into it, or writes there
    system.give_up_capabilities()
    system.gain_nothing()
    while os.read(lifeline, 1):
        pass
    os._exit(0)


def build(policy: Policy) -> None:
    """Make a root that holds what the policy names and nothing else, and live in it."""
    _unshare(["mnt"])
    system.mount(None, "/", None, _RECURSIVE | _PRIVATE)
    binds, links = plan(policy)
    trees = []
    for bind in binds:
        with suppress(FileNotFoundError):  # gone since
            trees.append((bind, _clone(bind.path)))
    system.mount("tmpfs", ROOT, "tmpfs", _NO_SUID | _NO_DEVICES, "mode=0755,size=4m")
    os.chdir(ROOT)
    size = "" if policy.memory is None else f",size={policy.memory}"
    for place in PRIVATE:
        os.makedirs(f"{ROOT}{place}")  # noqa: PTH103 - here and below, texts: a start should cost little
        system.mount("tmpfs", f"{ROOT}{place}", "tmpfs", _NO_SUID | _NO_DEVICES, f"mode=1777{size}")
    for bind, tree in trees:
        _attach(bind, tree)
    for place, target in links.items():
        if not os.path.lexists(f"{ROOT}{place}"):
            os.makedirs(os.path.dirname(f"{ROOT}{place}"), exist_ok=True)  # noqa: PTH103, PTH120
            os.symlink(target, f"{ROOT}{place}")  # noqa: PTH211
    _furnish()
    system.call("pivot_root", _PIVOT_ROOT[system.column()], b".", b".")
    system.unmount(".", _DETACH)  # the world that we come from, which now lies on top of ours
    os.chdir("/")
    _set("/", _ATTRIBUTE_READ_ONLY, recursive=False)
    if policy.network == "loopback":
        _switch_loopback_on()


def _clone(path: str) -> int:
    """A copy of what is mounted there, with all below it, that is nowhere yet."""
    flags = ctypes.c_uint(_CLONE | _CLOSE_ON_EXEC | _AT_RECURSIVE)
    return system.call(f"open_tree {path}", _OPEN_TREE, ctypes.c_int(_HERE), os.fsencode(path), flags)


def _attach(bind: Bind, tree: int) -> None:
    place = f"{ROOT}{bind.path}"
    if not os.path.lexists(place):
        os.makedirs(place if bind.is_folder else os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120
        if not bind.is_folder:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
    to = (ctypes.c_int(_HERE), os.fsencode(place), ctypes.c_uint(_EMPTY_PATH))
    system.call(f"move_mount {bind.path}", _MOVE_MOUNT, ctypes.c_int(tree), b"", *to)
    os.close(tree)
    _set(place, _ATTRIBUTES[bind.kind])


def _furnish() -> None:
    """/proc of these processes alone, which nobody writes to, and a /dev with terminals that are nobody else's."""
    os.makedirs(f"{ROOT}/proc", exist_ok=True)  # noqa: PTH103
    system.mount("proc", f"{ROOT}/proc", "proc", _NO_SUID | _NO_DEVICES | _NO_EXECUTION)
    _set(f"{ROOT}/proc", _ATTRIBUTE_READ_ONLY)  # for root, who owns its settings, more than a precaution
    os.makedirs(f"{ROOT}/dev/pts")  # noqa: PTH103
    system.mount("devpts", f"{ROOT}/dev/pts", "devpts", _NO_SUID | _NO_EXECUTION, "newinstance,ptmxmode=0666,mode=620")
    for name, target in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        os.symlink(target, f"{ROOT}/dev/{name}")  # noqa: PTH211


def _set(path: str, attributes: int, *, recursive: bool = True) -> None:
    """Give a mount, and those below it, these attributes."""
    wanted = struct.pack("QQQQ", attributes, 0, 0, 0)
    flags = ctypes.c_uint(_AT_RECURSIVE if recursive else 0)
    where = (ctypes.c_int(_HERE), os.fsencode(path), flags)
    system.call(f"mount_setattr {path}", _MOUNT_SETATTR, *where, wanted, ctypes.c_size_t(len(wanted)))


def _switch_loopback_on() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as some:
        fcntl.ioctl(some, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _UP | _RUNNING))


def _write(path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
