"""A small process between the controller and one kernel, which lets nothing of that kernel outlive either of them.

It is the subreaper of all that the kernel starts: daemons that leave the kernel's session become its children. One
socket joins it to the controller: on it go the kernel's number and, in the end, how it ended; and when the controller
closes its end, or dies, everything is killed. In between it watches over what they all take together. Both kinds of
start, warm and cold, run this same code.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from rlm_nb.kernel import family
from rlm_nb.kernel.limits import VARIABLE, Limits
from rlm_nb.kernel.watch import Watch

REPORT = struct.Struct("!ci")
"""A kind and a number, as below."""

STARTED, ENDED = b"s", b"e"
"""With the kernel's process number; with its exit code, below 0 for a signal. Nothing comes after `ENDED`."""

# Between them: `MEMORY` or `PROCESSES`, when that limit was passed: with 1 when what the kernel had started was killed
# for it, with 0 when the kernel goes, too.

REPRIEVE = 1.0
"""Seconds in which a kernel that was spared must not pass a limit again."""

_PR_SET_CHILD_SUBREAPER = 36


def supervise(side: socket.socket, start: Callable[[], int], limits: Limits) -> NoReturn:
    """Start a kernel and stay until nothing of it is left; never returns.

    Args:
        side: The socket that joins this process to the controller.
        start: Starts the kernel as a child of this process, leader of a session of its own; returns its number.
        limits: What the kernel and all below it may take together.
    """
    adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the controller decides when a kernel ends
    pid = start()
    code = None
    try:
        side.sendall(REPORT.pack(STARTED, pid))
        code = _until_it_ends(side, pid, Watch(pid, limits))
    finally:
        # First the kernel's group, which on macOS is all that can be ended for sure.
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        family.end(os.getpid())
        with suppress(OSError):  # nobody may be left to tell
            side.sendall(REPORT.pack(ENDED, -signal.SIGKILL if code is None else code))
        os._exit(0)


def _until_it_ends(side: socket.socket, pid: int, watch: Watch) -> int | None:
    """The kernel's exit code, or `None` when the controller let go first, or the kernel is to be killed."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    reprieved = -REPRIEVE
    while True:
        with suppress(ChildProcessError):
            # The kernel stays unreaped, so that its number is not reused while its group is still to be killed.
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        ready, _, _ = select.select([side.fileno(), woken], [], [], watch.seconds())
        if side.fileno() in ready and not side.recv(64):
            return None
        if woken in ready:
            os.read(woken, 4096)
            family.reap(pid)
        if (passed := watch.look()) is not None:
            limit, hopeless = passed
            spare = not hopeless and time.monotonic() > reprieved + REPRIEVE
            with suppress(BlockingIOError):  # nobody has listened for long, and there is no room for more of the same
                side.send(REPORT.pack(limit, spare), socket.MSG_DONTWAIT)
            if not spare:
                return None
            family.end(os.getpid(), spare=pid)
            reprieved = time.monotonic()


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends.

    Where there is no such thing (macOS), the kernel's process group is all that can be ended for sure.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main() -> None:
    """The cold start, below its guard: the arguments are SIDE_FD COMMAND…, the other descriptors are inherited."""
    side = socket.socket(fileno=int(sys.argv[1]))
    side.set_inheritable(False)
    command, keep = sys.argv[2:], [int(number) for number in os.environ.pop("RLM_KEEP_FDS", "").split()]
    limits = Limits.from_text(os.environ.pop(VARIABLE))

    def start() -> int:
        return subprocess.Popen(
            command,
            pass_fds=keep,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            preexec_fn=limits.apply,  # there is no other thread here
        ).pid

    supervise(side, start, limits)
