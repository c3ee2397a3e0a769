"""A small process between the controller and one kernel, which lets nothing of that kernel outlive either of them.

It is the subreaper of all that the kernel starts: daemons that leave the kernel's session become its children. One
socket joins it to the controller: on it go the kernel's number and, in the end, how it ended; and when the controller
closes its end, or dies, everything is killed. Both kinds of start, warm and cold, run this same code.
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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

REPORT = struct.Struct("!ci")
"""A kind, `STARTED` with the kernel's process number or `ENDED` with its exit code, below 0 for a signal."""

STARTED, ENDED = b"s", b"e"

_PR_SET_CHILD_SUBREAPER = 36


def supervise(side: socket.socket, start: Callable[[], int]) -> NoReturn:
    """Start a kernel and stay until nothing of it is left; never returns.

    Args:
        side: The socket that joins this process to the controller.
        start: Starts the kernel as a child of this process, leader of a session of its own; returns its number.
    """
    _adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the controller decides when a kernel ends
    pid = start()
    code = None
    try:
        side.sendall(REPORT.pack(STARTED, pid))
        code = _until_it_ends(side, pid)
    finally:
        _end_everything(pid)
        with suppress(OSError):  # nobody may be left to tell
            side.sendall(REPORT.pack(ENDED, -signal.SIGKILL if code is None else code))
        os._exit(0)


def _until_it_ends(side: socket.socket, pid: int) -> int | None:
    """The kernel's exit code, or `None` when the controller let go first."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    while True:
        with suppress(ChildProcessError):
            # The kernel stays unreaped, so that its number is not reused while its group is still to be killed.
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        ready, _, _ = select.select([side.fileno(), woken], [], [])
        if side.fileno() in ready and not side.recv(64):
            return None
        if woken in ready:
            os.read(woken, 4096)
            _reap_orphans(pid)


def _reap_orphans(kernel: int) -> None:
    """Adopted processes that have ended are waited for, the kernel itself is not."""
    for pid in _children(os.getpid()):
        if pid != kernel:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _end_everything(kernel: int) -> None:
    """SIGKILL the kernel's group, and all who descend from this process, until there is nobody left."""
    with suppress(ProcessLookupError):
        os.killpg(kernel, signal.SIGKILL)
    while family := _descendants(os.getpid()):
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        select.select([], [], [], 0.001)


def _descendants(pid: int) -> list[int]:
    found = []
    for child in _children(pid):
        found += [child, *_descendants(child)]
    return found


def _children(pid: int) -> list[int]:
    """The children of a process, as the system has them at this moment."""
    found = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended meanwhile
            found += [int(number) for number in listing.read_text().split()]
    return found


def _adopt_orphans() -> None:
    # Where there is no such thing (macOS), the kernel's process group is all that can be ended for sure.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main() -> None:
    """The cold start: `python -I -m rlm_nb.kernel.supervisor SIDE_FD COMMAND…`, the other descriptors inherited."""
    side = socket.socket(fileno=int(sys.argv[1]))
    side.set_inheritable(False)
    command, keep = sys.argv[2:], [int(number) for number in os.environ.pop("RLM_KEEP_FDS", "").split()]

    def start() -> int:
        return subprocess.Popen(command, pass_fds=keep, start_new_session=True, stdin=subprocess.DEVNULL).pid

    supervise(side, start)


if __name__ == "__main__":
    main()
