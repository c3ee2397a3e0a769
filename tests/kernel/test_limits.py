"""What an agent's processes may take, with real kernels that take more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from rlm_nb.config import KernelSettings
from rlm_nb.kernel.launch import Launcher
from rlm_nb.kernel.limits import Limits, machine_memory, memory_kills
from tests.kernel.conftest import FREE, Bench, Start, text

GONE = "Its variables and imports are gone; the files in the worktree are as they were."

CHILD = "import time; x = bytearray(b'1') * (200 << 20); time.sleep(60)"
"""Each well below the limit of these tests, ten of them far beyond it."""

CHILDREN = f"""
import subprocess, sys
kept = 1
children = [subprocess.Popen([sys.executable, '-c', {CHILD!r}]) for _ in range(10)]
print({{child.wait() for child in children}})
"""

SHARED = """
import mmap
shared = mmap.mmap(-1, 600 << 20)
for at in range(0, 600 << 20, 4096):
    shared[at] = 1
import time; time.sleep(30)
"""
"""Memory that the system's limit does not count."""

BOMB = "import os, time\nend = time.time() + 10\nwhile time.time() < end: os.fork()"
"""Gives up by itself, should nobody stop it."""


@pytest.mark.parametrize("warm", [True, False], ids=["forked", "cold"])
def test_a_process_meets_its_limits(launcher: Launcher, tmp_path: Path, warm: bool) -> None:
    """Too much memory is a MemoryError, too large or too many files an OSError, with advice; no variable is lost."""
    with ExitStack() as stack:
        starts = launcher if warm else stack.enter_context(Launcher(warm=False, isolation=FREE))
        own = Bench(stack, starts, tmp_path, memory_limit="400MiB", open_files=300, file_size="20MiB")
        own.run("kept = [bytes(10**6)]")
        result = own.run("while True: kept.append(bytes(10**6))")
        assert result.status == "error"
        assert str(result.error).startswith("MemoryError")
        (advice,) = result.events
        assert "A process may take 400 MiB of memory (kernel.memory_limit)" in advice
        assert 200 < int(text(own.run("print(len(kept)); del kept[1:]").outputs)) < 420
        assert own.run("files = [open('/dev/null') for _ in range(301)]").error == (
            "OSError: [Errno 24] Too many open files: '/dev/null'"
        )
        result = own.run("with open('large', 'wb') as file: file.write(bytes(21 << 20))")
        assert (result.error, result.events) == (
            "OSError: [Errno 27] File too large",
            ("A file may have 20 MiB (kernel.file_size): write several smaller ones.",),
        )
        limits = (
            "import resource as r; print(*(r.getrlimit(n) for n in (r.RLIMIT_DATA, r.RLIMIT_NOFILE, r.RLIMIT_CORE)))"
        )
        assert text(own.run(limits).outputs) == f"({400 << 20}, {400 << 20}) (300, 300) (0, 0)\n"
        assert text(own.run("print(open('/proc/self/oom_score_adj').read())").outputs).strip() == "500"
        assert text(own.run("!ulimit -n").outputs).strip() == "300"


def test_children_together_take_no_more_than_the_kernel_may(start: Start) -> None:
    """Ten children below the limit each are killed when they pass it together; the kernel keeps its variables."""
    own = start(memory_limit="400MiB")
    result = own.run(CHILDREN)
    assert (result.status, text(result.outputs)) == ("ok", "{-9}\n")
    (event,) = result.events
    assert event.startswith("What cells had started was killed, because the kernel and what it started took more than")
    assert "400 MiB of memory (kernel.memory_limit)" in event
    assert own.run("kept + 1").events == ()


def test_forked_processes_share_what_they_have(start: Start) -> None:
    """Memory that is common to a kernel and its workers counts once."""
    own = start(memory_limit="450MiB")
    own.run(
        "data = bytearray(b'1') * (250 << 20)\nimport multiprocessing, time\nfork = multiprocessing.get_context('fork')"
    )
    result = own.run(
        "for _ in range(25):\n    with fork.Pool(4) as pool: pool.map(time.sleep, [0.05] * 4)\nprint(sum(data[:1000]))"
    )
    assert (result.status, result.events) == ("ok", ())


def test_a_kernel_that_passes_the_limit_itself(start: Start) -> None:
    """What the system does not count, the supervisor does; one message says why the kernel ended and what is lost."""
    own = start(memory_limit="400MiB")
    own.run("open('kept.txt', 'w').write('kept')")
    result = own.run(SHARED)
    assert result.status == "died"
    (event,) = result.events
    assert event.startswith(
        "The kernel ended while this cell ran: signal SIGKILL, because the kernel and what it started"
    )
    assert "took more than 400 MiB of memory (kernel.memory_limit)" in event
    assert event.endswith(GONE)
    assert text(own.run("print(open('kept.txt').read())").outputs) == "kept\n"


def test_too_many_processes(start: Start) -> None:
    """More processes than an agent may have are killed, daemons among them; the kernel keeps its variables."""
    own = start(processes=30)
    code = "import subprocess\nkept = 2\nsleepers = [subprocess.Popen(['setsid', 'sleep', '60']) for _ in range(40)]\n"
    result = own.run(f"{code}print(sleepers[0].wait())")
    assert (result.status, text(result.outputs)) == ("ok", "-9\n")
    (event,) = result.events
    assert "because there were more than 30 processes at the same time (kernel.processes)" in event
    assert own.run("assert kept == 2").status == "ok"


FILL = """
import itertools, pathlib, subprocess, time
kept, folder = 3, pathlib.Path('deep/er')
folder.mkdir(parents=True)
for number in itertools.count():
    WRITE
    time.sleep(0.02)
"""

WRITES = {
    "kernel": "(folder / str(number)).write_bytes(bytes(1 << 20))",
    "child": "subprocess.run(['sh', '-c', f'while head -c 1000000 /dev/zero; do sleep 0.02; done >{folder}/file'])",
}


@pytest.mark.parametrize("writer", WRITES)
def test_too_much_on_the_disk(start: Start, writer: str) -> None:
    """What fills the agent's folder is stopped, with what it may do then; the kernel keeps its variables."""
    own = start(disk_limit="24MiB")
    result = own.run(FILL.replace("WRITE", WRITES[writer]))
    assert str(result.error).startswith("KeyboardInterrupt")
    (event,) = result.events
    assert event.startswith("The cell was interrupted, and what cells had started was killed, because the worktree")
    assert "held more than 24 MiB (kernel.disk_limit): delete what" in event
    taken = "sum(path.stat().st_size for path in folder.iterdir()) >> 20"
    assert 24 <= int(text(own.run(f"assert kept == 3\nprint({taken})").outputs)) < 60
    assert own.run("import shutil; shutil.rmtree('deep')").status == "ok"
    assert own.run("open('file', 'wb').write(bytes(20 << 20)); time.sleep(1.5)").events == ()


def test_who_goes_on_filling_the_disk(start: Start) -> None:
    """A kernel that does not heed it is killed, before it has taken much more."""
    own = start(disk_limit="24MiB")
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    result = own.run(f"{deaf}{FILL.replace('WRITE', WRITES['kernel'])}")
    assert result.status == "died"
    assert "signal SIGKILL, because the worktree, HOME and TMPDIR held more than" in result.events[-1]
    assert 24 <= int(text(own.run("!du -sm deep").outputs).split()[0]) < 60


@pytest.mark.parametrize("where", ["kernel", "child"])
def test_a_fork_bomb(start: Start, where: str) -> None:
    """Processes that do nothing but fork are ended long before they give up; a kernel that is one goes with them."""
    own = start(processes=30)
    code = BOMB if where == "kernel" else f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BOMB!r}])"
    began = time.monotonic()
    result = own.run(code)
    assert time.monotonic() - began < 8
    assert result.status == ("died" if where == "kernel" else "ok")
    assert "more than 30 processes" in result.events[0]
    assert own.run("1 + 1").status == "ok"


def test_killed_by_somebody_else(start: Start) -> None:
    """A SIGKILL that nobody here has sent may have been for want of memory, and the message says no more than that."""
    event = start().run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").events[0]
    assert "signal SIGKILL, perhaps because the machine's memory ran out" in event
    assert event.endswith(GONE)


def test_no_limits(start: Start) -> None:
    """`null` leaves what the system allows."""
    own = start(memory_limit=None, processes=None, open_files=None, file_size=None, disk_limit=None)
    limits = (
        "import resource as r; print(*(r.getrlimit(n)[0] for n in (r.RLIMIT_DATA, r.RLIMIT_NOFILE, r.RLIMIT_FSIZE)))"
    )
    done = subprocess.run([sys.executable, "-c", limits], capture_output=True, text=True, check=True)
    assert text(own.run(limits).outputs) == done.stdout


def test_a_share_of_the_machine(tmp_path: Path) -> None:
    """A share is one of what this machine, or its container, has; of a disk, one of what is free."""
    assert 0 < machine_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert Limits.of(KernelSettings(memory_limit="25%"), tmp_path).memory == machine_memory() // 4
    free = shutil.disk_usage(tmp_path).free
    assert 0.4 * free < (Limits.of(KernelSettings(disk_limit="50%"), tmp_path).disk or 0) < 0.6 * free
    assert Limits.from_text(Limits(1, None, 3).as_text()) == Limits(1, None, 3)
    assert memory_kills() >= 0
