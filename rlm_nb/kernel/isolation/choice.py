"""Which level kernels are confined at: what is wished for, what this machine can hold, and what that means in words."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from rlm_nb.config import IsolationSettings
from rlm_nb.errors import IsolationError
from rlm_nb.kernel.isolation import bubblewrap, canaries, landlock
from rlm_nb.kernel.isolation.detection import Detection, Host
from rlm_nb.kernel.isolation.policy import Canaries, Level, Network, Policy, readable, searched, without_repeats
from rlm_nb.kernel.isolation.report import Report
from rlm_nb.processes import mark

RANKS: Mapping[Level, int] = {"none": 0, "landlock": 1, "bwrap": 2, "ns": 2}

_MADE: Mapping[Level, tuple[str, ...]] = {"ns": ("namespaces",), "bwrap": ("namespaces by bubblewrap",), "landlock": ()}

_ROOM = 90
"""The longest path of a folder with sockets in it: those of a unix socket end at 107 bytes."""

WITHOUT = (
    "run rlm-nb in a container or a virtual machine with nothing of value in it, and ask for cells that run with your "
    "rights: isolation.level: none"
)


@dataclass(frozen=True)
class Choice:
    """What is in force for every kernel of a run.

    Args:
        level: By what means kernels are confined.
        network: What they may connect to.
        landlock: The version of Landlock; `None` for none.
        root: Whether they belong to root.
        set_user_id: Whether bubblewrap confines them with rights that we lack.
        read, write: What they may reach by the user's own wish.
    """

    level: Level
    network: Network = "none"
    landlock: int | None = None
    root: bool = False
    set_user_id: bool = False
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What is in force, in a few words."""
        if self.level == "none":
            return "none: cells run with the rights of the user who started the run"
        walls = [*_MADE[self.level], *(["Landlock"] if self.landlock else []), "seccomp"]
        reach = {"none": "no network", "loopback": "a network of their own", "host": "the network of this machine"}
        added = [
            f"{what} {', '.join(paths)}" for what, paths in (("reads", self.read), ("changes", self.write)) if paths
        ]
        return "; ".join([f"{self.level} ({', '.join(walls[:-1])} and {walls[-1]})", reach[self.network], *added])

    @property
    def notice(self) -> str:
        """What a person is told when a run begins."""
        if self.level == "none":
            return f"isolation is {self.sentence}"
        return "; ".join([f"isolation is {self.sentence}", *(f"but {gap}" for gap in self.gaps)])

    @property
    def gaps(self) -> tuple[str, ...]:
        """What does not hold, each in a sentence."""
        if self.level == "none":
            return ("nothing keeps a cell from your files, your processes or the network",)
        gaps = []
        if self.level == "landlock":
            gaps += [
                "names, sizes and times of your files can be seen, and their permissions and times be changed",
                "your processes can be seen, though not looked into",
                "/dev/shm and the shared memory of System V are those of all your programs",
                "nothing can be connected, and cells have no terminals: `multiprocessing.Manager` and pexpect fail",
                "what processes print that cells fork is lost",
                *(f"what there is in {folder} can be listed" for folder in searched()),
                *(f"this Landlock is old: {what}" for what in landlock.missing(self.landlock or 0)),
            ]
        elif not self.landlock:
            gaps.append("there is no Landlock behind the namespaces: a fault in those would be met by seccomp alone")
        if self.set_user_id:
            gaps += [
                "bubblewrap is set-user-id root: /tmp and /dev/shm hold as much as the system allows them, and the "
                "network, files and shared memory of a kernel are apart by its word, not by what we see"
            ]
        if self.network == "host":
            gaps.append(
                "cells can reach every server that you can, those of this machine included, and tell them things"
            )
        if self.root:
            gaps.append(
                "rlm-nb runs as root: what gets past the walls is root, and the system does not limit the processes of "
                "root; better run it as another user"
            )
        return tuple(gaps)


Found = dict[object, Mapping[Level, Report]]
"""Reports of earlier attempts in which the best level held, by what was asked."""

_SWITCHES = (
    "user/max_user_namespaces",
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
)
"""With these settings of the system, administrators allow and deny user namespaces while it runs."""


class Isolation:
    """What confines the kernels of one controller; the canaries that prove it are planted while it is open.

    Args:
        settings: What the user wishes for.
        host: Starts the process that finds out what this machine can hold; without one, it is one of its own.
        found: What need not be found out again, and what takes note of it. It is no more than a forecast: each kernel
            is confined anew, tries the canaries and is looked at, before it runs anything.
    """

    def __init__(self, settings: IsolationSettings, host: Host | None = None, found: Found | None = None) -> None:
        self._settings, self._host, self._found = settings, host, {} if found is None else found
        self._asked: object = None
        self._reports: Mapping[Level, Report] | None = None
        self._read = without_repeats(path.expanduser() for path in settings.read)
        self._readable = without_repeats((*readable(settings.network), *self._read))
        self._write = without_repeats(path.expanduser() for path in settings.write)
        self._lock = threading.Lock()
        self._choice: Choice | None = None
        self._canaries: Canaries | None = None
        self._detection: Detection | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._settings.level == "none" or sys.platform != "linux":
            return self
        with ExitStack() as stack:
            here = len(os.fsencode(tempfile.gettempdir())) < _ROOM - len(mark())
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=mark(), dir=None if here else "/tmp", ignore_cleanup_errors=True)
            )
            self._canaries = stack.enter_context(canaries.planted(Path(folder), self._settings.network))
            policies = [self._policy(level, (), (), None) for level in self._candidates()]
            asked = (replace(policy, canaries=None) for policy in policies)
            # What is asked for, by whom, where the canaries stand, and what the system says that it allows.
            self._asked = os.geteuid(), str(Path(folder).parent), _switches(), *asked
            self._reports = self._found.get(self._asked)
            if self._reports is None:
                self._detection = Detection(policies, self._host)
                stack.callback(self._detection.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def choice(self) -> Choice:
        """What is in force. The first call waits until it is known what this machine can hold.

        Raises:
            IsolationError: Less than is wished for; the message says why, and what can be done.
        """
        with self._lock:
            if self._choice is None:
                self._choice = self._choose()
            return self._choice

    def forget(self) -> None:
        """Find out anew next time: a kernel could not be confined, so that this machine is not what it was."""
        self._found.pop(self._asked, None)

    def policy(self, read: Iterable[str | Path], write: Iterable[str | Path], memory: int | None) -> Policy:
        """What one kernel may reach.

        Args:
            read: What it may read, beside what every kernel may.
            write: What it may change.
            memory: Bytes that its files in memory may take.

        Raises:
            IsolationError: See `choice`; or a path of the settings is not there.
        """
        level = self.choice().level
        if level == "none":
            return Policy()
        for name, paths in (("read", self._read), ("write", self._write)):
            for path in paths:
                if not os.path.lexists(path):
                    raise IsolationError(f"isolation.{name}: {path} is not there")
        return self._policy(level, without_repeats(read), without_repeats(write), memory)

    def _policy(self, level: Level, read: tuple[str, ...], write: tuple[str, ...], memory: int | None) -> Policy:
        return Policy(
            level=level,
            network=self._settings.network,
            read=tuple(dict.fromkeys((*self._readable, *read))),
            write=tuple(dict.fromkeys((*self._write, *write))),
            listed=searched(),
            bubblewrap=bubblewrap.find() if level == "bwrap" else "",
            memory=memory,
            canaries=self._canaries,
        )

    def _candidates(self) -> list[Level]:
        """What is tried, the best first."""
        wished = self._settings.level
        if wished != "auto":
            return [wished]
        # Without namespaces nothing keeps a root from changing whose its files are, and whom they are open to; and one
        # connection cannot be told from another.
        alone = os.geteuid() != 0 and self._settings.network == "none" and RANKS[self._settings.min_level] < RANKS["ns"]
        return ["ns", *(["landlock"] if alone else [])]  # type: ignore[list-item]

    def _choose(self) -> Choice:
        settings, root = self._settings, os.geteuid() == 0
        asked = Choice("none", settings.network, None, root, read=self._read, write=self._write)
        if settings.level != "auto" and RANKS[settings.level] < RANKS[settings.min_level]:
            raise IsolationError(
                f"isolation.level is {settings.level}: isolation.min_level allows no less than {settings.min_level}"
            )
        if settings.level == "none":
            return asked
        if sys.platform != "linux":
            raise IsolationError(f"cells cannot be isolated on this system, only on Linux: {WITHOUT}")
        if settings.level == "landlock" and settings.network != "none":
            raise IsolationError(
                f"isolation.network: {settings.network} needs namespaces (isolation.level: ns or bwrap): without them, "
                "one connection cannot be told from another"
            )
        if (reports := self._reports) is None:
            assert self._detection is not None
            reports = self._detection.reports()
        for level, report in reports.items():
            if report.fault is None:
                # Only what was tried just now: another run may have had reason to forget what was remembered. And only
                # the best: where less than that held, more may have become possible.
                if self._reports is None and level == self._candidates()[0]:
                    self._found[self._asked] = reports
                set_user_id = level == "bwrap" and bubblewrap.is_set_user_id(bubblewrap.find())
                return replace(asked, level=level, landlock=report.landlock, set_user_id=set_user_id)
        raise IsolationError(self._refusal(reports))

    def _refusal(self, reports: Mapping[Level, Report]) -> str:
        why = "; ".join(f"{level}: {report.fault}" for level, report in reports.items())
        if any(report.reached for report in reports.values()):
            what = "what is reached stands in the temporary folder: take that out of isolation.read and isolation.write"
            return f"cells cannot be isolated as you wish ({why}): {what}"
        if "bwrap" not in reports:
            hints = [
                "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
                "kernel.apparmor_restrict_unprivileged_userns; in a container, a /proc without masked parts)",
                "ask for bubblewrap, where it may make them (isolation.level: bwrap)",
            ]
        elif reports["bwrap"].fault == bubblewrap.MISSING:
            hints = ["install the package `bubblewrap`", "ask for isolation.level: auto, if plain namespaces will do"]
        else:
            hints = [
                "let bubblewrap, of version 0.8, make user namespaces (a profile of AppArmor for it, or set-user-id "
                "root; in a container, a /proc without masked parts)"
            ]
        if os.geteuid() == 0 and self._settings.level == "auto":
            hints.append("run rlm-nb as a user other than root, for whom Landlock and seccomp may be enough")
        return f"cells cannot be isolated on this machine ({why}): {'; or '.join([*hints, WITHOUT])}"


def _switches() -> tuple[bytes, ...]:
    """What stands in these settings; nothing for those that this system has not got."""
    values = []
    for name in _SWITCHES:
        try:
            with open(f"/proc/sys/{name}", "rb", buffering=0) as file:  # noqa: PTH123 - each run waits for it
                values.append(file.read(64))
        except OSError:
            values.append(b"")
    return tuple(values)
