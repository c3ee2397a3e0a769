"""Which levels this machine can hold: the controller's half, which asks; `attempts.py` tries.

Versions and settings of the system say little: user namespaces may be there and be denied to some, Landlock may be
built in and switched off, a container may have either and yet no /proc that may be mounted.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Mapping

from rlm_nb.errors import IsolationError
from rlm_nb.kernel.isolation.policy import Level, Policy
from rlm_nb.kernel.isolation.report import Report

SECONDS = 30.0
"""What all attempts together may take."""

Host = Callable[[socket.socket], None]
"""Starts a process that calls `attempts.attempt` with this socket."""


class Detection:
    """The attempts, which go on in the background until somebody wants to know.

    Args:
        policies: One for each level that is of interest.
        host: Who makes them; without one, a process for that alone.
    """

    def __init__(self, policies: list[Policy], host: Host | None = None) -> None:
        self._policies = policies
        self._process: subprocess.Popen[bytes] | None = None
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(SECONDS)
        with theirs:
            self._socket.sendall("".join(f"{policy.as_text()}\n" for policy in policies).encode())
            self._socket.shutdown(socket.SHUT_WR)
            (host or self._begin)(theirs)

    def reports(self) -> Mapping[Level, Report]:
        """What came of each. Raises `IsolationError` when nothing did."""
        try:
            with self._socket.makefile(encoding="utf-8") as said:
                reports = [Report.from_text(line) for line in said]
        except (ValueError, OSError) as error:
            raise IsolationError(f"which isolation there is here could not be found out: {error}") from error
        if len(reports) != len(self._policies):
            raise IsolationError("which isolation there is here could not be found out: what tries it was ended")
        return {policy.level: report for policy, report in zip(self._policies, reports, strict=True)}

    def close(self) -> None:
        """End what still goes on; what a host does ends with the host."""
        self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _begin(self, theirs: socket.socket) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-m", "rlm_nb.kernel.isolation.attempts", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
        )
