"""Kernels start warm or cold, and nothing of them outlives whoever started them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from jupyter_client.manager import KernelManager

from rlm_nb.kernel.launch import Launcher, kernel_spec
from tests.kernel.conftest import FREE, Bench, Start, text

DAEMON = """
import os, subprocess, sys, time
script = '''
import os, sys, time
if os.fork(): sys.exit()
os.setsid()
if os.fork(): sys.exit()
open("daemon.new", "w").write(str(os.getpid()))
os.rename("daemon.new", "daemon.pid")
time.sleep(300)
'''
subprocess.run([sys.executable, "-c", script], env={}, check=True)
while not os.path.exists("daemon.pid"): time.sleep(0.01)
"""
"""A daemon that has left the kernel's session, family and environment, as a real one does."""

CONTROLLER = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from rlm_nb.kernel.launch import Launcher
from tests.kernel.conftest import FREE, Bench

with ExitStack() as stack:
    launcher = stack.enter_context(Launcher(isolation=FREE))
    bench = Bench(stack, launcher, Path(sys.argv[1]))
    bench.run(sys.argv[2])
    print("running", flush=True)
    bench.run("while True: pass")
"""


def test_a_daemon_ends_with_its_kernel(start: Start) -> None:
    """Who double-forks out of the kernel's session is ended with it all the same."""
    own = start()
    assert own.run(DAEMON).status == "ok"
    daemon = _daemon(own.workdir)
    own.client.__exit__(None, None, None)
    assert not psutil.pid_exists(daemon)


def test_a_daemon_ends_when_the_kernel_dies(start: Start) -> None:
    """A kernel that crashes takes its daemons along."""
    own = start()
    own.run(DAEMON)
    daemon = _daemon(own.workdir)
    assert own.run("import os; os._exit(1)").status == "died"
    _gone([daemon])


def test_nothing_survives_the_controllers_sigkill(tmp_path: Path) -> None:
    """SIGKILL of the controller in mid-cell: kernel, forkserver and the cell's daemon are gone within 2 seconds."""
    controller = subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, str(tmp_path), DAEMON],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert controller.stdout is not None
    with controller.stdout:
        assert controller.stdout.readline() == "running\n"
    family = [child.pid for child in psutil.Process(controller.pid).children(recursive=True)]
    family += [process.pid for process in psutil.process_iter() if _works_in(process, tmp_path)]
    daemon = _daemon(tmp_path / "work")
    assert len({*family, daemon}) >= 4  # forkserver, supervisor, kernel, daemon
    controller.kill()
    controller.wait()
    _gone([*family, daemon], seconds=2)


def test_sixteen_at_once(launcher: Launcher, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Kernels that are started at the same time are all forked, and none gets what belongs to another."""

    def answer(number: int) -> str:
        folder = tmp_path / str(number)
        folder.mkdir()
        with ExitStack() as stack:
            return text(Bench(stack, launcher, folder).run("print(WORKDIR.parent.name)").outputs)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(answer, range(16))) == [f"{number}\n" for number in range(16)]
    assert "started cold" not in caplog.text


def test_the_forkserver_is_killed(launcher: Launcher, tmp_path: Path) -> None:
    """Kernels that it has forked live on, and the next one is started all the same."""
    with ExitStack() as stack:
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        own = stack.enter_context(Launcher(isolation=FREE))
        one = Bench(stack, own, tmp_path / "one")
        one.run("x = 1")
        assert own.forkserver is not None
        assert own.forkserver.pid is not None
        os.kill(own.forkserver.pid, signal.SIGKILL)
        assert one.run("x").outputs[0]["data"]["text/plain"] == "1"
        two = Bench(stack, own, tmp_path / "two")
        assert two.run("1 + 1").status == "ok"
        assert one.run("x").status == "ok"


def test_the_forkserver_is_stopped(tmp_path: Path, clean_environment: Path) -> None:
    """Kernels that are started after that start all the same, soon, several at once; those that were live on."""
    with ExitStack() as stack:
        launcher = stack.enter_context(Launcher(isolation=FREE))
        assert launcher.forkserver is not None
        for name in ("before", "0", "1", "2"):
            (tmp_path / name).mkdir()
        before = Bench(stack, launcher, tmp_path / "before")
        assert launcher.forkserver.pid is not None
        os.kill(launcher.forkserver.pid, signal.SIGSTOP)
        began = time.monotonic()
        with ThreadPoolExecutor(3) as pool:
            own = list(pool.map(lambda name: Bench(stack, launcher, tmp_path / name), "012"))
        assert time.monotonic() - began < 20
        assert [bench.run("1").status for bench in (before, *own)] == ["ok"] * 4


def test_the_forkserver_is_stopped_while_a_kernel_waits_for_it(tmp_path: Path, clean_environment: Path) -> None:
    """The kernel is started cold, and the next one by another forkserver."""
    with ExitStack() as stack:
        launcher = stack.enter_context(Launcher(isolation=FREE))
        assert launcher.forkserver is not None
        stopped = launcher.forkserver.pid
        assert stopped is not None
        (tmp_path / "1").mkdir()
        (tmp_path / "2").mkdir()
        with ThreadPoolExecutor(1) as pool:
            began = time.monotonic()
            starting = pool.submit(Bench, stack, launcher, tmp_path / "1")
            time.sleep(0.05)  # it has asked, and what is to be forked from is still at its imports
            os.kill(stopped, signal.SIGSTOP)
            assert starting.result().run("1").status == "ok"
        assert time.monotonic() - began < 20
        assert Bench(stack, launcher, tmp_path / "2").run("1").status == "ok"
        assert launcher.forkserver.pid not in (stopped, None)


def test_cold_start(tmp_path: Path, clean_environment: Path) -> None:
    """`kernel.start: cold` needs no forkserver, and gives the same kernel."""
    with ExitStack() as stack:
        launcher = stack.enter_context(Launcher(warm=False, isolation=FREE))
        assert launcher.forkserver is None
        own = Bench(stack, launcher, tmp_path)
        assert text(own.run("print(budget()['left_usd'])").outputs) == "1.5\n"
        own.run(DAEMON)
        daemon = _daemon(own.workdir)
    assert not psutil.pid_exists(daemon)


LOOK = """
import logging, os
shell = get_ipython()
looked = {
    "kernel": shell.parent is shell.kernel is shell.kernel.parent.kernel,
    "folders": [shell.home_dir, shell.ipython_dir, shell.profile_dir.location, shell.starting_dir, *map(str, _dh)],
    "environment": {name: os.environ.get(name) for name in ("PAGER", "TERM", "FORCE_COLOR", "HOME", "TMPDIR")},
    "names": sorted(name for name in globals() if not name.startswith("_i")),
    "history": [len(In), len(Out), shell.history_manager.enabled],
    "settings": [shell.colors, shell.InteractiveTB.mode, type(shell.compile).__name__, shell.kernel._execute_sleep],
    "log": logging.getLogger("RLMKernelApp").level,
}
"""
"""What a shell that was made before the fork might have kept of where it was made."""


def test_a_forked_kernel_is_the_same(launcher: Launcher, tmp_path: Path) -> None:
    """What was there before the fork knows the kernel's own folders, and nothing of the process that it was made in."""
    looks = {}
    with ExitStack() as stack:
        for name, own in (("warm", launcher), ("cold", stack.enter_context(Launcher(warm=False, isolation=FREE)))):
            (tmp_path / name).mkdir()
            bench = Bench(stack, own, tmp_path / name)
            bench.run(LOOK)
            looks[name] = text(bench.run("print(looked)").outputs).replace(str(tmp_path / name), "HERE")
    assert "'kernel': True" in looks["warm"]
    assert "HERE/home" in looks["warm"]
    assert looks["warm"] == looks["cold"]


def test_any_jupyter_program_can_start_it(tmp_path: Path) -> None:
    """A stock KernelManager starts the kernelspec: a REPL in which the bridge's functions say that nobody answers."""
    manager = KernelManager(transport="ipc", connection_file=str(tmp_path / "connection.json"), ip=str(tmp_path / "k"))
    manager._kernel_spec = kernel_spec()
    manager.start_kernel(cwd=str(tmp_path))
    try:
        client = manager.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        replies: list[str] = []
        reply = client.execute_interactive(
            "WORKDIR.name", timeout=30, output_hook=lambda m: replies.append(str(m["content"].get("data")))
        )
        assert reply["content"]["status"] == "ok"
        assert tmp_path.name in "".join(replies)
        reply = client.execute_interactive("FINAL(1)", timeout=30, output_hook=lambda m: None)
        assert "not started by rlm-nb" in reply["content"]["evalue"]
        client.stop_channels()
    finally:
        manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.parametrize("warm", [True, False])
def test_a_cell_attacks_its_supervisor(
    tmp_path: Path, clean_environment: Path, number: signal.Signals, warm: bool
) -> None:
    """A cell that stops or kills its supervisor gains nothing: kernel and daemon end in time, and only they."""
    (tmp_path / "own").mkdir()
    (tmp_path / "other").mkdir()
    with ExitStack() as stack:
        launcher = stack.enter_context(Launcher(warm=warm, isolation=FREE))
        other = Bench(stack, launcher, tmp_path / "other")
        other.run(DAEMON)
        own = Bench(stack, launcher, tmp_path / "own")
        kernel = int(text(own.run(f"{DAEMON}\nprint(os.getpid())").outputs))
        supervisor, daemon = psutil.Process(kernel).ppid(), _daemon(own.workdir)
        own.run(f"os.kill({supervisor}, {int(number)})")
        began = time.monotonic()
        own.client.__exit__(None, None, None)
        assert time.monotonic() - began < 5
        _gone([kernel, supervisor, daemon])
        assert psutil.pid_exists(_daemon(other.workdir))
        assert other.run("1").status == "ok"


def test_what_a_killed_supervisor_leaves_ends_at_once(start: Start) -> None:
    """Also when it goes on to start processes that leave their families; the run goes on with a new kernel."""
    own = start()
    result = own.run(
        f"{DAEMON}\n"
        "import time\n"
        "if os.fork() == 0:\n"
        "    for _ in range(300):\n"
        "        if os.fork(): os._exit(0)\n"
        "        os.setsid(); time.sleep(0.01)\n"
        "    os._exit(0)\n"
        "os.kill(os.getppid(), 9)\n"
        "time.sleep(60)"
    )
    assert result.status == "died"
    _gone([_daemon(own.workdir)])
    _until_gone(own.folder)
    assert own.run("'fresh'").status == "ok"


def _daemon(workdir: Path) -> int:
    file = workdir / "daemon.pid"
    end = time.monotonic() + 5
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return int(file.read_text())


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()).is_relative_to(folder)
    except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
        return False


def _gone(pids: list[int], seconds: float = 2.0) -> None:
    end = time.monotonic() + seconds
    while left := [pid for pid in pids if _is_alive(pid)]:
        assert time.monotonic() < end, left
        time.sleep(0.01)


def _until_gone(folder: Path, seconds: float = 5.0) -> None:
    """Wait until no process works in the folder."""
    end = time.monotonic() + seconds
    while left := [process for process in psutil.process_iter() if _works_in(process, folder)]:
        assert time.monotonic() < end, left
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
