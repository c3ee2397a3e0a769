"""What the processes of one agent may take of the machine.

`Limits.apply` sets those that the system itself holds, each for one process; `kernel/watch.py` adds up the whole tree.

The limit of memory is RLIMIT_DATA, which counts what a process can write to and has to itself. RLIMIT_AS counts what is
only reserved, too: under one of 2 GiB no Java program starts.
"""

from __future__ import annotations

import json
import os
import re
import resource
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rlm_nb.config import KernelSettings

VARIABLE = "RLM_LIMITS"
"""The environment variable in which a supervisor that is started cold finds them."""

FIRST_TO_GO = 500
"""How much the system's out-of-memory killer prefers kernels, of 1000: before the controller, and what people run."""

_OOM_KILL = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Limits:
    """The limits of one agent; `None` for no limit.

    Args:
        memory: Bytes: of each process, and of the kernel and all that descends from it together.
        open_files: File descriptors of each process.
        processes: Processes alive at the same time, the kernel included.
        file_size: Bytes of each file that a process writes.
        disk: Bytes of all that is in `folder`.
        folder: The agent's own.
    """

    memory: int | None = None
    open_files: int | None = None
    processes: int | None = None
    file_size: int | None = None
    disk: int | None = None
    folder: str = ""

    @classmethod
    def of(cls, settings: KernelSettings, folder: Path) -> Self:
        """The limits that the settings mean on this machine, for an agent with this folder."""
        return cls(
            memory=settings.memory_bytes(machine_memory()),
            open_files=settings.open_files,
            processes=settings.processes,
            file_size=settings.file_bytes(),
            disk=settings.disk_bytes(free_space(str(folder))),
            folder=str(folder),
        )

    @classmethod
    def from_text(cls, text: str) -> Self:
        """What `as_text` has written."""
        return cls(*json.loads(text))

    def as_text(self) -> str:
        """For another process."""
        return json.dumps(list(vars(self).values()))

    def apply(self) -> None:
        """Limit this process and what it will start; called in the new process, before it has run anything."""
        if self.memory is not None:
            _lower(resource.RLIMIT_DATA, self.memory)
        if self.open_files is not None:
            _lower(resource.RLIMIT_NOFILE, self.open_files)
        if self.file_size is not None:
            _lower(resource.RLIMIT_FSIZE, self.file_size)
        _lower(resource.RLIMIT_CORE, 0)  # what crashes would leave its memory in the worktree, and so in the patch
        with suppress(OSError):  # not Linux; or more is asked for already, and less may not be
            file = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(file, str(FIRST_TO_GO).encode())
            finally:
                os.close(file)


def _lower(limit: int, value: int) -> None:
    """Set both the limit in force and the highest that a process may choose; never above what there was."""
    highest = resource.getrlimit(limit)[1]
    if highest != resource.RLIM_INFINITY:
        value = min(value, highest)
    resource.setrlimit(limit, (value, value))


@cache
def machine_memory() -> int:
    """Bytes of memory that this machine has, or less where the container that we are in may not have them all."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder in _cgroups():
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # "max"
                memory = min(memory, int((folder / name).read_text()))
    return memory


def free_space(folder: str) -> int:
    """Bytes that are free where a folder is, for its owner; 0 where it is not, which cells can bring about."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def memory_kills() -> int:
    """How often the system has ended a process for want of memory: in our container, or else on the whole machine."""
    for file in (*(f"{folder}/memory.events" for folder in _cgroups()[:1]), "/proc/vmstat"):
        with suppress(OSError), open(file, "rb") as counts:  # noqa: PTH123 - each cell is asked about
            if found := _OOM_KILL.search(counts.read()):
                return int(found[1])
    return 0


@cache
def _cgroups() -> tuple[Path, ...]:
    """The folders of the control groups that this process's memory counts in, the innermost first."""
    found: list[Path] = []
    groups = Path("/proc/self/cgroup")
    for line in reversed(groups.read_text().splitlines() if groups.exists() else []):  # version 2 stands last
        number, controllers, path = line.split(":", 2)
        if number == "0" or controllers == "memory":
            top = Path("/sys/fs/cgroup", controllers)
            group = Path(f"{top}{path}")
            found += [group, *(parent for parent in group.parents if parent.is_relative_to(top))]
    return tuple(found)
