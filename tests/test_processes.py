"""Whether a process still runs: known by its number and its start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from rlm_nb.processes import is_alive, this_process


def test_this_one_and_its_end() -> None:
    """A process is alive until it is killed, also while nobody has reaped it, and however often it is asked about."""
    code = "from rlm_nb.processes import this_process; print(*this_process(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid, started = process.stdout.readline().split()
        who = int(pid), float(started)
        assert is_alive(*this_process())
        for _ in range(3):
            assert is_alive(*who)
            assert not is_alive(who[0], who[1] - 3600)  # somebody else had the number before
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and still a zombie
        for _ in range(3):
            assert not is_alive(*who)
    assert not is_alive(*who)
