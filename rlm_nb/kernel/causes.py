"""What the model is told when a limit of the machine, or of its agent, has ended processes."""

from __future__ import annotations

import errno
import signal
from collections.abc import Sequence

from rlm_nb.kernel.limits import Limits
from rlm_nb.kernel.watch import DISK, MEMORY, PROCESSES

Passed = Sequence[tuple[bytes, int]]
"""Which limits were passed, each with 1 when what cells had started was killed for it, with 0 when the kernel was."""


def of_death(code: int, passed: Passed, limits: Limits, *, memory_ran_out: bool) -> str:
    """How a kernel ended: `exit code 3`, `signal SIGSEGV`, `signal SIGKILL, because …`.

    Args:
        code: Its exit code, below 0 for a signal.
        passed: The limits that its supervisor saw passed.
        limits: What they are.
        memory_ran_out: Whether the system has ended some process for want of memory, since the last cell began.
    """
    if code >= 0:
        return f"exit code {code}"
    try:
        name = f"signal {signal.Signals(-code).name}"
    except ValueError:
        name = f"signal {-code}"
    for limit, spared in passed:
        if not spared:
            return f"{name}, because {_what(limit, limits)}"
    if code != -signal.SIGKILL:
        return name
    if memory_ran_out:
        return f"{name}, because the machine's memory ran out"
    return f"{name}, perhaps because the machine's memory ran out"


def of_losses(passed: Passed, limits: Limits) -> list[str]:
    """What was killed without the kernel: a sentence for each limit."""
    return [
        f"{_LOSS[limit]}, because {_what(limit, limits)}. The kernel still has its variables."
        for limit in dict.fromkeys(limit for limit, spared in passed if spared)
    ]


def of_error(error: str | None, limits: Limits) -> list[str]:
    """What else there is to say to the exception that a cell raised, when it met a limit: which, and what to do."""
    kind, _, what = (error or "").partition(": ")
    if limits.memory is not None and kind.partition(":")[0].endswith("MemoryError"):
        limit = f"A process may take {size(limits.memory)} of memory (kernel.memory_limit)"
        advice = f"{_ADVICE[MEMORY]}, and `del` what you do not need"
        return [f"{limit}. The kernel goes on with all its variables: {advice}."]
    if limits.file_size is not None and what.startswith(f"[Errno {errno.EFBIG}]"):
        return [f"A file may have {size(limits.file_size)} (kernel.file_size): write several smaller ones."]
    return []


def size(count: int) -> str:
    """Bytes for people: `1.5 GiB`, `300 MiB`."""
    return f"{count / 2**30:.3g} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


_LOSS = {
    MEMORY: "What cells had started was killed",
    PROCESSES: "What cells had started was killed",
    DISK: "The cell was interrupted, and what cells had started was killed",
}

_ADVICE = {
    MEMORY: "work in smaller pieces, or with fewer processes",
    PROCESSES: "start fewer at the same time, and wait for those that you start",
    DISK: "delete what you do not need, in a cell that writes nothing",
}


def _what(limit: bytes, limits: Limits) -> str:
    if limit == MEMORY and limits.memory is not None:
        what = f"the kernel and what it started took more than {size(limits.memory)} of memory (kernel.memory_limit)"
    elif limit == DISK and limits.disk is not None:
        what = f"the worktree, HOME and TMPDIR held more than {size(limits.disk)} (kernel.disk_limit)"
    else:
        what = f"there were more than {limits.processes} processes at the same time (kernel.processes)"
    return f"{what}: {_ADVICE[limit]}"
