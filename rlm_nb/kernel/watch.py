"""Adds up what a kernel and all that descends from it take, for limits of the system hold for each process alone."""

from __future__ import annotations

import os
import time
from collections.abc import Container

from rlm_nb.kernel import family
from rlm_nb.kernel.limits import Limits

MEMORY, PROCESSES = b"m", b"p"
"""Which limit was passed."""

LONGEST, SHORTEST = 0.25, 0.05
"""Seconds between two looks."""

GROWTH = 4e9
"""Bytes a second by which we expect a tree to grow at most."""

IDLENESS = 20
"""A look may take up to one part of so many of the time."""


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
        self._watches = limits.memory is not None or limits.processes is not None

    def seconds(self) -> float | None:
        """How long until the next look is due; `None` when there is nothing to look for."""
        return max(0.0, self._next - time.monotonic()) if self._watches else None

    def look(self) -> tuple[bytes, bool] | None:
        """Which limit the tree has passed, if it has, and whether the kernel alone is enough for that."""
        if self.seconds() != 0:
            return None
        began = time.monotonic()
        passed, room = self._look()
        now = time.monotonic()
        pause = LONGEST if room is None else min(LONGEST, max(SHORTEST, room / GROWTH))
        self._next = now + max(pause, IDLENESS * (now - began))
        return passed

    def _look(self) -> tuple[tuple[bytes, bool] | None, int | None]:
        members = []
        for member in family.living(os.getpid()):
            if member.pid in self._apart:
                continue
            members.append(member)
            if self._limits.processes is not None and len(members) > self._limits.processes:
                return (PROCESSES, False), None  # at once: if they fork without end, each moment makes it worse
        if self._limits.memory is None:
            return None, None
        room = self._limits.memory - sum(member.memory for member in members)
        if room >= 0:
            return None, room
        # Forked processes have most of their memory in common: only now is it worth while to find out how much.
        shares = {member.pid: family.share(member) for member in members}
        room = self._limits.memory - sum(shares.values())
        if room >= 0:
            return None, room
        return (MEMORY, shares.get(self._kernel, 0) > self._limits.memory), room
