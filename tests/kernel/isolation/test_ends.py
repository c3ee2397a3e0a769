"""How kernels that are confined end, and all that belongs to them: by limits, and with whoever started them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

import psutil
import pytest

from rlm_nb.config import IsolationSettings
from rlm_nb.kernel.isolation.choice import Isolation
from rlm_nb.kernel.launch import FOUND, Launcher
from tests.kernel.conftest import Bench, text
from tests.kernel.isolation import people
from tests.kernel.isolation.levels import need
from tests.whole_runs.conftest import until

DAEMON = """
import subprocess, sys
inner = "import os, time; os.setsid(); os.fork() and os._exit(0); open('there', 'w').close(); time.sleep(300)"
subprocess.run([sys.executable, "-c", inner], env={}, check=True)
import os, time
while not os.path.exists("there"): time.sleep(0.01)
"""

CONTROLLER = """
import sys
from contextlib import ExitStack
from pathlib import Path
from rlm_nb.config import IsolationSettings
from rlm_nb.kernel.launch import FOUND, Launcher
from tests.kernel.conftest import Bench

with ExitStack() as stack:
    launcher = stack.enter_context(Launcher(isolation=IsolationSettings(level=sys.argv[3])))
    bench = Bench(stack, launcher, Path(sys.argv[1]))
    bench.run(sys.argv[2])
    print("running", flush=True)
    bench.run("while True: pass")
"""


@pytest.mark.parametrize("level", ["ns", "bwrap"])
def test_cells_can_be_interrupted_and_limits_hold(tmp_path: Path, level: Literal["ns", "bwrap"]) -> None:
    """A cell that runs too long or fills the disk is interrupted, one that takes too much memory told; all goes on."""
    need(level)
    with ExitStack() as stack:
        launcher = stack.enter_context(Launcher(isolation=IsolationSettings(level=level)))
        bench = Bench(
            stack,
            launcher,
            tmp_path,
            cell_timeout=1.5,
            memory_limit="512MiB",
            disk_limit="24MiB",
            file_size="48MiB",
            processes=20,
        )
        sizes = "import os\nprint(*(os.statvfs(p).f_blocks * os.statvfs(p).f_frsize for p in ('/tmp', '/dev/shm')))"
        assert text(bench.run(sizes).outputs) == f"{512 << 20} {512 << 20}\n"
        assert bench.run("x = 1\nwhile True: pass").error is not None
        assert (bench.run("b = bytes(1 << 30)").error or "").startswith("MemoryError")
        assert (bench.run("open('/tmp/large', 'wb').write(bytes(49 << 20))").error or "").startswith(
            "OSError: [Errno 27]"
        )
        assert text(bench.run("os.remove('/tmp/large')\nprint(x)").outputs) == "1\n"
        many = bench.run(
            "import subprocess, time\nl = [subprocess.Popen(['sleep', '9']) for _ in range(30)]\ntime.sleep(1)"
        )
        assert any("more than 20 processes" in event for event in many.events)
        assert "exit code 3" in (bench.run("import os; os._exit(3)").error or "")
        assert "signal SIGSEGV" in (bench.run("import ctypes; ctypes.string_at(0)").error or "")
        assert "signal SIGKILL" in (bench.run("import os; os.kill(os.getpid(), 9)").error or "")
        full = bench.run("import time\nopen('full', 'wb').write(bytes(32 << 20))\ntime.sleep(9)")
        assert any("held more than 24 MiB" in event for event in full.events)


@pytest.mark.parametrize("level", ["ns", "landlock", "bwrap"])
def test_nothing_survives_the_controllers_sigkill(tmp_path: Path, level: str) -> None:
    """SIGKILL of the controller in mid-cell: within a second all is gone, a daemon included that left its session."""
    need(level)
    command = [sys.executable, "-c", CONTROLLER, str(tmp_path), DAEMON, level]
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,  # what nobody can remove then, the next run does
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=people.ROOT, env=os.environ | {"TMPDIR": folder}
        ) as controller,
    ):
        assert controller.stdout is not None
        said = controller.stdout.readline()
        family = psutil.Process(controller.pid).children(recursive=True)
        controller.kill()
        killed = time.monotonic()
        until(lambda: not any(_lives(process) for process in family), 5)
        assert time.monotonic() - killed < 1
    assert said == "running\n"
    assert len(family) >= 4  # what starts kernels, a supervisor, a kernel, its daemon


@pytest.mark.parametrize("level", ["ns", "bwrap"])
def test_nothing_survives_its_supervisor(tmp_path: Path, level: Literal["ns", "bwrap"]) -> None:
    """Whoever kills the supervisor and the guard above it, at once, ends the kernel and its daemons with them."""
    need(level)
    with ExitStack() as stack:
        launcher = stack.enter_context(Launcher(isolation=IsolationSettings(level=level)))
        bench = Bench(stack, launcher, tmp_path)
        bench.run(DAEMON)
        kernel = psutil.Process(bench.client._session.process.pid)  # type: ignore[union-attr]
        above = kernel.parents()
        supervisor, guard = above[above.index(psutil.Process()) - 2 :][:2]
        family = guard.children(recursive=True)
        assert len(family) >= 4  # the supervisor, an init, the kernel, its daemon
        for process in (guard, supervisor):
            process.suspend()
        for process in (guard, supervisor):
            process.kill()
        until(lambda: not any(_lives(process) for process in family), 5)


def test_what_tries_isolation_leaves_nothing() -> None:
    """A run that ends before it is known what this machine can hold ends the attempts, at whatever step they are."""
    need("ns")

    def orphans() -> set[int]:
        names = {"rlm_nb.kernel.isolation.attempts", "rlm_nb.kernel.forkserver"}
        found = [one.info for one in psutil.process_iter(["pid", "ppid", "cmdline"])]
        return {one["pid"] for one in found if one["ppid"] == 1 and names & {*(one["cmdline"] or [])}}

    before, settings = orphans(), IsolationSettings(level="ns")
    for step in range(20):
        for host in (Isolation(settings), Launcher(isolation=settings)):
            FOUND.clear()  # else nothing is tried
            with host:
                time.sleep(0.02 + step / 100)
    until(lambda: orphans() <= before)


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
