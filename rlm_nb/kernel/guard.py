"""The net below the supervisors: a cell that kills its own gains nothing by it.

Whoever starts supervisors is a subreaper, too: what one of them leaves behind when it is killed becomes a child of this
process. All children that it has not started itself are such orphans, and end at once.
"""

from __future__ import annotations

import os
import signal
import sys

from rlm_nb.kernel import family, supervisor


class Guard:
    """Makes this process, which has one thread, a guard; it has to `look` whenever `woken` is readable."""

    # Not the controller itself: it may be a part of somebody else's program, whose orphans are not ours to kill. And no
    # mark to search /proc for: a daemon sheds its variables, its session and its folder.

    def __init__(self) -> None:
        self.started: set[int] = set()
        supervisor.adopt_orphans()
        self.woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def look(self) -> bool:
        """Wait until a child has ended, and end the orphans; returns whether there are any children left.

        Who is orphaned by that wakes us again.
        """
        os.read(self.woken, 4096)
        while True:
            # Where the system does not tell (macOS), nobody is adopted either.
            children = family.children(os.getpid()) or list(self.started)
            if not any(self._has_ended(pid) for pid in children):
                return bool(children)

    def leave(self) -> None:
        """In a forked process: be no guard."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self.woken)
        os.close(self._wake)

    def _has_ended(self, child: int) -> bool:
        if os.waitpid(child, os.WNOHANG)[0]:
            self.started.discard(child)
            return True
        if child not in self.started:
            os.kill(child, signal.SIGKILL)
        return False


def main() -> None:
    """The cold start: `python -I -m rlm_nb.kernel.guard SIDE_FD COMMAND…`, the other descriptors inherited."""
    guard = Guard()
    pid = os.fork()
    if pid == 0:
        guard.leave()
        supervisor.main()
    guard.started.add(pid)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # The controller and the kernel must see each other's ends of these.
    for descriptor in (sys.argv[1], *os.environ.pop("RLM_KEEP_FDS", "").split()):
        os.close(int(descriptor))
    while guard.look():
        pass


if __name__ == "__main__":
    main()
