"""Which levels this machine can hold, found out by confining processes that do nothing else.

They are forked from the process that kernels are forked from, before it has imported much; where there is none, from
`python -I -m rlm_nb.kernel.isolation.attempts FD`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from rlm_nb.kernel.isolation import system
from rlm_nb.kernel.isolation.birth import Born, bear
from rlm_nb.kernel.isolation.policy import Policy


def attempt(asked: socket.socket) -> None:
    """Read policies, one a line, and write a report for each. The caller has one thread."""
    with asked.makefile("rw", encoding="utf-8") as both:
        for line in both:
            parent = os.getpid()
            child = os.fork()  # one for each, since it goes into the namespaces that it makes
            if child == 0:
                try:
                    end_with(parent)
                    report = _bear(Policy.from_text(line), partial(end_with, os.getpid())).report
                    both.write(f"{report.as_text()}\n")
                    both.flush()
                finally:
                    os._exit(0)
            os.waitpid(child, 0)


def _bear(policy: Policy, prepare: Callable[[], None]) -> Born:
    if policy.level != "bwrap":
        return bear(policy, prepare, _end)
    from rlm_nb.kernel.isolation import bubblewrap  # with what it needs; a run waits for these attempts

    return bubblewrap.bear(policy, prepare)


def end_with(parent: int) -> None:
    """Let this process, just forked, end when its parent does."""
    system.prctl("PR_SET_PDEATHSIG", system.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() not in (parent, 0):  # 0 is one outside of this process's namespace, with whose end that ends
        os._exit(0)


def main() -> None:
    """Try, and tell."""
    attempt(socket.socket(fileno=int(sys.argv[1])))


def _end() -> NoReturn:
    os._exit(0)


if __name__ == "__main__":
    main()
