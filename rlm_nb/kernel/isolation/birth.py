"""How a confined process comes into the world, as a child of the one that is to look after it.

At level `ns` it takes a maker: a process that leaves the namespaces, starts an init and the kernel in new ones, and
ends. Both are orphans then, and fall to the next subreaper above, which is our caller. So the caller stays outside, and
has the kernel as a child like any other: it sees how that ends, and can end it.
"""

from __future__ import annotations

import json
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

    The caller has one thread, and is a subreaper at level `ns`.

    Args:
        policy: What it may reach.
        prepare: What it does before that.
        live: What it does after that.
    """
    reading, writing = os.pipe()
    lifeline, held = os.pipe() if policy.level == "ns" else (None, None)
    child = os.fork()
    if child == 0:
        os.close(reading)
        if lifeline is not None and held is not None:
            os.close(held)
            _make(policy, prepare, live, writing, lifeline)
        _begin(policy, prepare, live, writing)
    os.close(writing)
    if lifeline is not None:
        os.close(lifeline)  # its other end stays open for as long as this process lives
    try:
        said = _read(reading)
    finally:
        os.close(reading)
    if policy.level != "ns":
        return Born(child, None, _report(policy, said[-1:]))
    os.waitpid(child, 0)  # from here on, those that it has started are ours
    report = _report(policy, [line for line in said if line.startswith("{")])
    for line in said:
        if line.startswith("["):
            init, kernel = json.loads(line)
            return Born(kernel, init, report)
    return Born(0, None, report)


def _make(
    policy: Policy, prepare: Callable[[], None], live: Callable[[], NoReturn], writing: int, lifeline: int
) -> NoReturn:
    """As the maker: leave, start the two, and tell their numbers as they are outside."""
    try:
        namespaces.leave(policy)
        init = os.fork()
        if init == 0:
            namespaces.be_init(lifeline)
        os.close(lifeline)
        held, release = os.pipe()
        kernel = os.fork()
        if kernel == 0:
            os.close(release)
            os.read(held, 1)  # the numbers are told first
            os.close(held)
            _begin(policy, prepare, live, writing)
        os.write(writing, f"{json.dumps([init, kernel])}\n".encode())
    except OSError as error:
        _tell(writing, Report(policy.level, error=str(error)))
    finally:
        os._exit(0)


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


def _read(reading: int) -> list[str]:
    """The lines that come until all who could write have closed their ends."""
    data, end = b"", time.monotonic() + PATIENCE
    while select.select([reading], [], [], max(0.0, end - time.monotonic()))[0]:
        more = os.read(reading, 1 << 16)
        if not more:
            break
        data += more
    return data.decode("utf-8", "replace").splitlines()


def _report(policy: Policy, lines: list[str]) -> Report:
    if not lines:
        return Report(policy.level, error="the process ended, or was silent, before it was confined")
    return Report.from_text(lines[-1])
