"""Landlock: which files a process may open, and that it signals, traces and connects to nobody outside.

See landlock(7). The rules hold for this process and all that it starts, and can only be made stricter. What this system
does not know yet is not asked of it; `missing` says what that is, in words.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rlm_nb.kernel.isolation import system

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in range(13, 16))

FILES = ((1, (1 << 13) - 1), (2, REFER), (3, TRUNCATE), (5, IOCTL_DEV))
"""Since which version what can be denied of files."""

TCP = ((4, 0b11),)
SCOPES = ((6, 0b11),)
"""Abstract unix sockets, and signals."""

READING = EXECUTE | READ_FILE | READ_DIR
CHANGING = sum(bits for _, bits in FILES) & ~(MAKE_CHAR | MAKE_BLOCK | IOCTL_DEV)
USING = READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV
_OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

MISSING = (
    (3, "files outside can be cut to nothing"),
    (4, "TCP is denied by seccomp alone"),
    (6, "processes of the same user can be sent signals"),
)
"""What an older version cannot deny."""


def version() -> int:
    """What this system's Landlock can do. Raises `OSError` where it has none, or has it switched off."""
    return system.call("Landlock", _CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))


def exists() -> bool:
    """Whether this system has Landlock, switched on."""
    try:
        return version() > 0
    except OSError:
        return False


def restrict(
    read: Iterable[str],
    write: Iterable[str],
    devices: Iterable[str],
    listed: Iterable[str],
    *,
    tcp: bool,
    abstract: bool,
) -> int:
    """Let this process, and what it starts, open nothing else; returns the version that was in force.

    Args:
        read: Files and folders that it may read and execute. What is not there is left out.
        write: Folders that it may change, too.
        devices: Devices, and folders of them, that it may use.
        listed: Folders of which it may read the names, and those below.
        tcp: Whether TCP stays as it is, or is denied.
        abstract: Whether abstract unix sockets of others stay as they are. Signals to others never do.
    """
    abi = version()
    files, ports = _known(FILES, abi), 0 if tcp else _known(TCP, abi)
    scopes = _known(SCOPES, abi) & (0b10 if abstract else 0b11)
    attributes = struct.pack("QQQ", files, ports, scopes)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    rules = system.call("Landlock", _CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        for paths, rights in (
            (read, READING),
            (write, CHANGING),
            (devices, USING | READ_DIR),
            (listed, READ_DIR),
        ):
            for path in paths:
                _allow(rules, path, rights & files)
        system.call("Landlock", _RESTRICT, ctypes.c_int(rules), ctypes.c_uint32(0))
    finally:
        os.close(rules)
    return abi


def missing(abi: int) -> list[str]:
    """What of Landlock this version lacks: sentences."""
    return [what for since, what in MISSING if abi < since]


def _allow(rules: int, path: str, rights: int) -> None:
    with _located(path) as (place, is_folder):
        if place is not None:
            rule = struct.pack("=Qi", rights if is_folder else rights & _OF_A_FILE, place)
            number, kind = ctypes.c_int(rules), ctypes.c_int(_PATH_BENEATH)
            system.call(f"Landlock: {path}", _ADD, number, kind, rule, ctypes.c_uint32(0))


@contextmanager
def _located(path: str) -> Iterator[tuple[int | None, bool]]:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # what cannot be found cannot be read either
        yield None, False
        return
    try:
        yield place, stat.S_ISDIR(os.fstat(place).st_mode)
    finally:
        os.close(place)


def _known(table: Iterable[tuple[int, int]], abi: int) -> int:
    return sum(bits for since, bits in table if abi >= since)
