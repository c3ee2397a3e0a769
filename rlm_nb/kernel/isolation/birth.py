"""How a confined process comes into the world, as a child of the one that is to look after it.

At level `ns` that one makes the namespaces: it goes into all but those of processes and of mounts, and starts an init
and the process in the former. So it stays among the processes outside: it has both as children like any other, sees how
they end, and can end them.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from rlm_nb.kernel.isolation import namespaces, system
from rlm_nb.kernel.isolation.confining import confine
from rlm_nb.kernel.isolation.policy import Policy
from rlm_nb.kernel.isolation.report import Report

PATIENCE = 20.0
"""Seconds that a process may take to be confined. It takes hundredths of one, unless a file system does not answer."""

SILENT = "the process ended, or was silent, before it was confined"

REFUSED = 78
"""The exit code of a process that could not be confined (EX_CONFIG of sysexits.h)."""


@dataclass(frozen=True)
class Born:
    """A process, and how far it was confined before it began with what it is for.

    Args:
        kernel: Its number; 0 when there is none.
        init: The child of this process that is the init of its namespaces, with whose end everything in them ends;
            `None` without.
        report: What it says of itself.
        monitor: The child of this process that ends with the kernel, when that is no child itself; 128 and the number
            of a signal is its exit code for a kernel that was ended by one.
        apart: Processes of ours below this one.
    """

    kernel: int
    init: int | None
    report: Report
    monitor: int | None = None
    apart: frozenset[int] = frozenset()

    @property
    def child(self) -> int:
        """Who ends when the kernel does; 0 when there is neither."""
        return self.monitor or self.kernel


def bear(policy: Policy, prepare: Callable[[], None], live: Callable[[], NoReturn]) -> Born:
    """Start a process that is confined before it lives; returns once it is, or has failed to be.

    The caller has one thread. At level `ns` it can start no other process afterwards, once this one's init has ended.

    Args:
        policy: What it may reach.
        prepare: What it does before that.
        live: What it does after that.
    """
    init = held = None
    if policy.level == "bwrap":
        return Born(0, None, Report(policy.level, error="bubblewrap can only be run: see `bubblewrap.bear`"))
    try:
        if policy.level == "ns":
            init, held = _make_namespaces(policy)
        reading, writing = os.pipe()
        kernel = os.fork()
    except OSError as error:
        return Born(0, init, Report(policy.level, error=str(error)))
    if kernel == 0:
        try:
            os.close(reading)
            if held is not None:
                os.close(held)  # else it would keep its own init alive
            begin(policy, prepare, live, writing)
        finally:
            os._exit(REFUSED)
    os.close(writing)
    try:
        report = read(reading) or Report(policy.level, error=SILENT)
        return Born(kernel, init, report, apart=frozenset() if init is None else frozenset({init}))
    finally:
        os.close(reading)


def _make_namespaces(policy: Policy) -> tuple[int, int]:
    """Go into them, and start their init; returns its number, and a descriptor: with who has it open, the init ends."""
    namespaces.leave(policy)
    lifeline, held = os.pipe()
    init = system.fork()
    if init == 0:
        try:
            os.close(held)
            namespaces.be_init(lifeline)
        finally:
            os._exit(REFUSED)
    os.close(lifeline)
    return init, held


def begin(policy: Policy, prepare: Callable[[], None], live: Callable[[], NoReturn], writing: int) -> NoReturn:
    """As the process itself: be confined, say so on a descriptor, close that, and live; or end."""
    try:
        prepare()
        report = confine(policy)
    except BaseException as error:  # noqa: BLE001 - whatever it is, nothing may run after it
        report = Report(policy.level, error=f"{type(error).__name__}: {error}")
    _tell(writing, report)
    if report.fault is not None:
        os._exit(REFUSED)
    live()


def _tell(writing: int, report: Report) -> None:
    with suppress(OSError):
        os.write(writing, f"{report.as_text()}\n".encode())
    os.close(writing)


def read(reading: int) -> Report | None:
    """What the process says, once it has closed its end; `None` for nothing."""
    data, end = b"", time.monotonic() + PATIENCE
    while select.select([reading], [], [], max(0.0, end - time.monotonic()))[0]:
        more = os.read(reading, 1 << 16)
        if not more:
            break
        data += more
    return Report.from_text(data.decode("utf-8", "replace")) if data else None


def become(command: list[str], cwd: str, keep: Iterable[int], env: Mapping[str, str]) -> NoReturn:
    """Run a program in this process's place, with the signals of a new one and these descriptors."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for descriptor in keep:
            os.set_inheritable(descriptor, True)
        os.chdir(cwd)
        os.execve(command[0], command, env)
    except OSError as error:
        os.write(2, f"{command[0]} cannot be started: {error}\n".encode(errors="replace"))  # the log
    finally:
        os._exit(127)
