"""How a confined process comes into the world, as a child of the one that is to look after it.

At level `ns` that one makes the namespaces: it goes into all but those of processes and of mounts, and starts an init
and the process in the former. So it stays among the processes outside: it has both as children like any other, sees how
they end, and can end them.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from rlm_nb.kernel.isolation import namespaces
from rlm_nb.kernel.isolation.confining import confine
from rlm_nb.kernel.isolation.policy import Policy
from rlm_nb.kernel.isolation.report import Report

PATIENCE = 20.0
"""Seconds that a process may take to be confined. It takes hundredths of one, unless a file system does not answer."""

REFUSED = 78
"""The exit code of a process that could not be confined (EX_CONFIG of sysexits.h)."""


@dataclass(frozen=True)
class Born:
    """A process, and how far it was confined before it began with what it is for.

    Args:
        kernel: Its number; 0 when there is none.
        init: The number of the init of its namespaces, with whose end everything in them ends; `None` without.
        report: What it says of itself.
    """

    kernel: int
    init: int | None
    report: Report


def bear(policy: Policy, prepare: Callable[[], None], live: Callable[[], NoReturn]) -> Born:
    """Start a process that is confined before it lives; returns once it is, or has failed to be.

    The caller has one thread. At level `ns` it can start no other process afterwards, once this one's init has ended.

    Args:
        policy: What it may reach.
        prepare: What it does before that.
        live: What it does after that.
    """
    init = None
    try:
        if policy.level == "ns":
            init = _make_namespaces(policy)
        reading, writing = os.pipe()
        kernel = os.fork()
    except OSError as error:
        return Born(0, init, Report(policy.level, error=str(error)))
    if kernel == 0:
        try:
            os.close(reading)
            _begin(policy, prepare, live, writing)
        finally:
            os._exit(REFUSED)
    os.close(writing)
    try:
        return Born(kernel, init, _read(policy, reading))
    finally:
        os.close(reading)


def _make_namespaces(policy: Policy) -> int:
    """Go into them, and start their init; returns its number."""
    namespaces.leave(policy)
    lifeline, held = os.pipe()
    init = os.fork()
    if init == 0:
        try:
            os.close(held)
            namespaces.be_init(lifeline)
        finally:
            os._exit(REFUSED)
    os.close(lifeline)  # its other end stays open for as long as this process lives
    return init


def _begin(policy: Policy, prepare: Callable[[], None], live: Callable[[], NoReturn], writing: int) -> NoReturn:
    """As the process itself."""
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


def _read(policy: Policy, reading: int) -> Report:
    """What the process says, once it has closed its end."""
    data, end = b"", time.monotonic() + PATIENCE
    while select.select([reading], [], [], max(0.0, end - time.monotonic()))[0]:
        more = os.read(reading, 1 << 16)
        if not more:
            break
        data += more
    if not data:
        return Report(policy.level, error="the process ended, or was silent, before it was confined")
    return Report.from_text(data.decode("utf-8", "replace"))
