"""The processes below another: who they are, how much memory they take, and how they are ended."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Collection, Container, Iterator
from contextlib import suppress
from dataclasses import dataclass

_STATUS = re.compile(rb"^(State|RssAnon|RssShmem|VmSwap):\s+(\w+)", re.MULTILINE)
_SHARES = re.compile(rb"^(Pss_Anon|Pss_Shmem|SwapPss):\s+(\d+)", re.MULTILINE)

_PAGE = 1 << 12

PAUSE = 0.001
"""Seconds between two rounds of killing."""


@dataclass(frozen=True)
class Member:
    """A process and its memory in bytes, all that it shares with others included; files that it maps do not count."""

    pid: int
    memory: int


def living(ancestor: int) -> Iterator[Member]:
    """All descendants of a process that have not ended, as the system has them at this moment."""
    for pid in descendants(ancestor):
        if (memory := _memory(pid)) is not None:
            yield Member(pid, memory)


def share(pid: int) -> int:
    """Bytes that a process takes, what it shares with others divided among them: dearer to find out than the rest.

    One that has gone takes none; of one that belongs to somebody else (`sudo`) all counts.
    """
    try:
        shares = _SHARES.findall(_read(f"/proc/{pid}/smaps_rollup"))
    except OSError:
        shares = []
    return 1024 * sum(int(number) for _, number in shares) if shares else _memory(pid) or 0


def _memory(pid: int) -> int | None:
    """What `Member.memory` is; `None` once it has ended."""
    try:
        facts = dict(_STATUS.findall(_read(f"/proc/{pid}/status")))
    except OSError:
        return None
    return None if facts.pop(b"State", b"X") in (b"Z", b"X") else 1024 * sum(map(int, facts.values()))


def descendants(ancestor: int) -> Iterator[int]:
    """The numbers of all processes below another, those that have ended and were not waited for included."""
    # Not recursive: cells may make chains of processes that are longer than Python's stack.
    waiting = [ancestor]
    while waiting:
        below = children(waiting.pop())
        yield from below
        waiting += below


def children(pid: int) -> list[int]:
    """The numbers of a process's children."""
    found: list[int] = []
    with suppress(OSError):  # it has gone meanwhile, or one of its threads has
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - a walk each quarter of a second should cost little
            with suppress(OSError):
                found += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
    return found


def end(ancestor: int, spare: int | None = None, apart: Collection[int] = ()) -> None:
    """SIGKILL all descendants of a process, until there is nobody left.

    Args:
        ancestor: The process, which must be this one, or its children would stay as zombies.
        spare: A child that is left alive, leader of its process group; it stands still meanwhile.
        apart: Others that are left alone.
    """
    # A signal to a group is the one thing that is faster than processes that do nothing but fork: it reaches all of
    # them at once, and no fork falls in between.
    if spare is not None:
        _signal_group(spare, signal.SIGSTOP)
    groups_apart = {os.getpgrp(), spare}
    found = True
    while found:
        found = False
        for member in living(ancestor):
            if member.pid != spare and member.pid not in apart:
                found = True
                with suppress(ProcessLookupError):
                    if (group := os.getpgid(member.pid)) not in groups_apart:
                        _signal_group(group, signal.SIGKILL)
                    os.kill(member.pid, signal.SIGKILL)
        reap({spare, *apart})
        if found:
            time.sleep(PAUSE)
    if spare is not None:
        with suppress(ProcessLookupError):
            os.kill(spare, signal.SIGCONT)


def reap(spare: Container[int | None] = ()) -> None:
    """Wait for this process's children that have ended, but for those that are spared."""
    for pid in children(os.getpid()):
        if pid not in spare:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _read(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(file, _PAGE)]
        while parts[-1]:  # one that is shorter than a page may still not be all
            parts.append(os.read(file, _PAGE))
        return b"".join(parts)
    finally:
        os.close(file)
