"""A small process between the controller and one kernel, which lets nothing of that kernel outlive either of them.

It is the subreaper of all that the kernel starts: daemons that leave the kernel's session become its children. One
socket joins it to the controller: on it go how far the kernel is confined, its number and, in the end, how it ended;
and when the controller closes its end, or dies, everything is killed. In between it watches over what they all take
together. Both kinds of start, warm and cold, run this same code.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

from rlm_nb.kernel import family
from rlm_nb.kernel.isolation import system
from rlm_nb.kernel.isolation.birth import Born, bear, become
from rlm_nb.kernel.isolation.policy import VARIABLE as POLICY_VARIABLE
from rlm_nb.kernel.isolation.policy import Policy
from rlm_nb.kernel.limits import VARIABLE, Limits
from rlm_nb.kernel.watch import DISK, Watch

REPORT = struct.Struct("!ci")
"""A kind and a number, as below."""

BEGUN, CONFINED, STARTED, ENDED = b"b", b"c", b"s", b"e"
"""With the supervisor's own process number; with the length of the report that follows; with the kernel's process
number; with its exit code, below 0 for a signal. Nothing comes after `ENDED`, and without a kernel that is what comes
after `CONFINED`."""

# Between them: `MEMORY`, `PROCESSES` or `DISK`, when that limit was passed: with 1 when what the kernel had started was
# killed for it, with 0 when the kernel goes, too.

MOMENT, PAUSE = 0.05, 0.0005
"""Seconds that killed processes are waited for before others are looked for, and between two looks at them."""

REPRIEVE = 1.0
"""Seconds in which a kernel that was spared must not pass a limit again."""


def supervise(side: socket.socket, start: Callable[[], Born], limits: Limits) -> NoReturn:
    """Start a kernel and stay until nothing of it is left; never returns.

    Args:
        side: The socket that joins this process to the controller.
        start: Starts the kernel as a child of this process, leader of a session of its own.
        limits: What the kernel and all below it may take together.
    """
    adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the controller decides when a kernel ends
    born = start()
    code = None
    try:
        report = born.report.as_text().encode()
        side.sendall(REPORT.pack(BEGUN, os.getpid()) + REPORT.pack(CONFINED, len(report)) + report)
        if born.kernel:
            side.sendall(REPORT.pack(STARTED, born.kernel))
            code = _until_it_ends(side, born, limits)
    finally:
        # First the kernel's group, which on macOS is all that can be ended for sure; and the init, with which at once
        # everything ends that is in its namespaces.
        with suppress(ProcessLookupError):
            if born.child:
                os.killpg(born.child, signal.SIGKILL)
        with suppress(ProcessLookupError):
            if born.init is not None:
                os.kill(born.init, signal.SIGKILL)
        _await_end(born.child, born.init)
        family.end(os.getpid())
        with suppress(OSError):  # nobody may be left to tell
            side.sendall(REPORT.pack(ENDED, -signal.SIGKILL if code is None else code))
        os._exit(0)


def _until_it_ends(side: socket.socket, born: Born, limits: Limits) -> int | None:
    """The kernel's exit code, or `None` when the controller let go first, or the kernel is to be killed."""
    pid = born.kernel
    watch = Watch(pid, limits, born.apart)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    reprieved = -REPRIEVE
    while True:
        with suppress(ChildProcessError):
            # The child stays unreaped, so that its number is not reused while its group is still to be killed.
            ended = os.waitid(os.P_PID, born.child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                return 128 - code if born.monitor is not None and code > 128 else code
        ready, _, _ = select.select([side.fileno(), woken], [], [], watch.seconds())
        if side.fileno() in ready and not side.recv(64):
            return None
        if woken in ready:
            os.read(woken, 4096)
            family.reap({born.child})
        if (passed := watch.look()) is not None:
            limit, hopeless = passed
            spare = not hopeless and time.monotonic() > reprieved + REPRIEVE
            with suppress(BlockingIOError):  # nobody has listened for long, and there is no room for more of the same
                side.send(REPORT.pack(limit, spare), socket.MSG_DONTWAIT)
            if not spare:
                return None
            family.end(os.getpid(), spare=pid, apart=born.apart)
            if limit == DISK:
                os.kill(pid, signal.SIGINT)  # it may be the one that writes, and its cell can delete nothing meanwhile
            reprieved = time.monotonic()


def _await_end(*children: int | None) -> None:
    """Bury those that were killed, and wait a moment for it: to look for others takes longer than that.

    An init ends once all in its namespaces are buried.
    """
    end = time.monotonic() + MOMENT
    left = [child for child in children if child]
    while left and time.monotonic() < end:
        left = [child for child in left if not _buried(child)]
        if left:
            time.sleep(PAUSE)


def _buried(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:
        return True


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends.

    Where there is no such thing (macOS), the kernel's process group is all that can be ended for sure.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # denied by what confines us ourselves
            system.prctl("PR_SET_CHILD_SUBREAPER", system.PR_SET_CHILD_SUBREAPER, 1)


def main() -> None:
    """The cold start, below its guard: the arguments are SIDE_FD COMMAND…, the other descriptors are inherited."""
    side = socket.socket(fileno=int(sys.argv[1]))
    side.set_inheritable(False)
    command, keep = sys.argv[2:], [int(number) for number in os.environ.pop("RLM_KEEP_FDS", "").split()]
    limits = Limits.from_text(os.environ.pop(VARIABLE))
    policy = Policy.from_text(os.environ.pop(POLICY_VARIABLE))
    cwd = str(Path.cwd())

    def prepare() -> None:
        os.setsid()
        limits.apply()

    def start() -> Born:
        if policy.level == "bwrap":
            from rlm_nb.kernel.isolation import bubblewrap  # for those who ask for it

            born = bubblewrap.bear(policy, prepare, command, keep, cwd)
        else:
            born = bear(policy, prepare, partial(become, command, cwd, keep, os.environ))
        for descriptor in keep:
            os.close(descriptor)
        return born

    supervise(side, start, limits)
