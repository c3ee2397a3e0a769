"""Which levels this machine can hold, found out by confining a process that does nothing else.

`python -I -m rlm_nb.kernel.isolation.detection` reads policies, one a line, and writes a report for each. Versions and
settings of the system say little: user namespaces may be there and be denied to some, Landlock may be built in and
switched off, a container may have either and yet no /proc that may be mounted.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import NoReturn

from rlm_nb.errors import IsolationError
from rlm_nb.kernel.isolation.birth import bear
from rlm_nb.kernel.isolation.policy import Level, Policy
from rlm_nb.kernel.isolation.report import Report

SECONDS = 30.0
"""What all attempts together may take."""


class Detection:
    """The attempts, which go on in the background until somebody wants to know.

    Args:
        policies: One for each level that is of interest.
    """

    def __init__(self, *policies: Policy) -> None:
        self._policies = policies
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            text=True,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then it has nothing to say either
            self._process.stdin.write("".join(f"{policy.as_text()}\n" for policy in policies))
            self._process.stdin.flush()

    def reports(self) -> Mapping[Level, Report]:
        """What came of each. Raises `IsolationError` when nothing did."""
        try:
            said, _ = self._process.communicate(timeout=SECONDS)
            reports = [Report.from_text(line) for line in said.splitlines()]
        except (subprocess.TimeoutExpired, ValueError, OSError) as error:
            self.close()
            raise IsolationError(f"which isolation there is here could not be found out: {error}") from error
        if len(reports) != len(self._policies):
            raise IsolationError(f"what tries isolation ended with exit code {self._process.returncode}")
        return {policy.level: report for policy, report in zip(self._policies, reports, strict=True)}

    def close(self) -> None:
        """End what still goes on."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # an attempt that goes on with it
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        self._process.wait()


def main() -> None:
    """Try, and tell."""
    for line in sys.stdin:
        if os.fork() == 0:  # one process for each, since it goes into the namespaces that it makes
            try:
                sys.stdout.write(f"{bear(Policy.from_text(line), _nothing, _end).report.as_text()}\n")
                sys.stdout.flush()
            finally:
                os._exit(0)
        os.wait()


def _nothing() -> None:
    pass


def _end() -> NoReturn:
    os._exit(0)


if __name__ == "__main__":
    main()
