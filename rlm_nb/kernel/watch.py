"""Adds up what a kernel and all that descends from it take, for limits of the system hold for each process alone.

On the disk they take what stands in the agent's folder, whoever wrote it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterator
from contextlib import suppress

from rlm_nb.kernel import family
from rlm_nb.kernel.limits import Limits, free_space

MEMORY, PROCESSES, DISK = b"m", b"p", b"d"
"""Which limit was passed."""

LONGEST, SHORTEST = 0.25, 0.05
"""Seconds between two looks."""

GROWTH = 4e9
"""Bytes a second by which we expect a tree to grow at most."""

IDLENESS = 20
"""A look may take up to one part of so many of the time."""

TRIES = 3
"""How often the memory of a tree is added up in which processes end meanwhile."""

PIECE = 0.005
"""Seconds that a folder is measured without a break: whoever does it has others to answer."""

STEP = 16
"""A folder is measured again when one part of so many of what it may take could have been written since."""


class Watch:
    """Looks after the tree of one kernel, in its supervisor.

    Args:
        kernel: The process number of the kernel, a child of this process.
        limits: The limits of the tree.
        apart: Processes of ours in it, which do not count.
    """

    def __init__(self, kernel: int, limits: Limits, apart: Container[int] = ()) -> None:
        self._kernel, self._limits, self._apart = kernel, limits, apart
        self._next = 0.0
        self._disk = None if limits.disk is None else Disk(limits.folder, limits.disk)
        self._watches = any(limit is not None for limit in (limits.memory, limits.processes, limits.disk))

    def seconds(self) -> float | None:
        """How long until the next look is due; `None` when there is nothing to look for."""
        return max(0.0, self._next - time.monotonic()) if self._watches else None

    def look(self) -> tuple[bytes, bool] | None:
        """Which limit the tree has passed, if it has, and whether it would be in vain to spare the kernel."""
        if self.seconds() != 0:
            return None
        began = time.monotonic()
        passed, room = self._look()
        if passed is None and self._disk is not None:
            passed = self._disk.look()
        now = time.monotonic()
        hurry = self._disk is not None and self._disk.is_measuring
        pause = SHORTEST if hurry else LONGEST if room is None else min(LONGEST, max(SHORTEST, room / GROWTH))
        self._next = now + max(pause, IDLENESS * (now - began))
        return passed

    def _look(self) -> tuple[tuple[bytes, bool] | None, int | None]:
        limit = self._limits.memory
        tries = 0
        while True:
            tries += 1
            members = self._members()
            if members is None:
                return (PROCESSES, False), None  # at once: if they fork without end, each moment makes it worse
            if limit is None:
                return None, None
            room = limit - sum(members.values())
            if room >= 0:
                return None, room
            # Forked processes have most of their memory in common: only now is it worth while to find out how much.
            shares = {pid: family.share(pid) for pid in members}
            room = limit - sum(shares.values())
            if room >= 0:
                return None, room
            # What some of them have in common counts several times if they end one after the other meanwhile.
            if tries == TRIES or members.keys() <= {member.pid for member in family.living(os.getpid())}:
                return (MEMORY, shares.get(self._kernel, 0) > limit), room

    def _members(self) -> dict[int, int] | None:
        """Bytes of memory of each process in the tree, by its number; `None` when there are too many."""
        members: dict[int, int] = {}
        for member in family.living(os.getpid()):
            if member.pid not in self._apart:
                members[member.pid] = member.memory
                if self._limits.processes is not None and len(members) > self._limits.processes:
                    return None
        return members


class Disk:
    """Measures a folder when there is reason to, which is that less is free on its disk; in small pieces.

    Files that were deleted while a process has them open are not found, nor are those of paths that are too long.

    Args:
        folder: The folder.
        limit: Bytes that it may take.
    """

    def __init__(self, folder: str, limit: int) -> None:
        self._folder, self._limit, self._step = folder, limit, limit // STEP
        self._told: int | None = None
        self._free = free_space(folder)
        self._measuring: Iterator[int | None] | None = None

    @property
    def is_measuring(self) -> bool:
        """Whether it has begun, and not come to an end."""
        return self._measuring is not None

    def look(self) -> tuple[bytes, bool] | None:
        """Go on with a measurement, or begin one if it is time. What was passed, and whether that goes on and on.

        Who passes the limit is told so, and can delete things; each further step is too much.
        """
        if self._measuring is None:
            free = free_space(self._folder)
            if free + self._step <= self._free:
                self._measuring = _sizes(self._folder)
            self._free = free if self._measuring else max(free, self._free)
            return None
        taken = next(self._measuring)
        if taken is None:
            return None
        self._measuring = None
        if taken <= self._limit:
            self._told = None
        elif self._told is None or taken >= self._told + self._step:
            hopeless, self._told = self._told is not None, taken
            return DISK, hopeless
        return None


def _sizes(folder: str) -> Iterator[int | None]:
    """The bytes that all below a folder take; `None` before that, each time that it has taken a while."""
    taken, waiting, links = 0, [folder], set[tuple[int, int]]()
    pause = time.monotonic() + PIECE
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):  # gone meanwhile
                    found = entry.stat(follow_symlinks=False)
                    if found.st_nlink == 1 or entry.is_dir(follow_symlinks=False):
                        taken += 512 * found.st_blocks
                    elif (found.st_dev, found.st_ino) not in links:
                        links.add((found.st_dev, found.st_ino))
                        taken += 512 * found.st_blocks
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                if time.monotonic() > pause:
                    yield None
                    pause = time.monotonic() + PIECE
    yield taken
