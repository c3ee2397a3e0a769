"""What cells are kept from, tried from inside of real kernels: at each level, as root and as one without rights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest

from rlm_nb.config import IsolationSettings
from rlm_nb.errors import IsolationError, KernelStartError
from rlm_nb.kernel.isolation import landlock
from rlm_nb.kernel.isolation.checking import check
from rlm_nb.kernel.isolation.choice import Isolation
from rlm_nb.kernel.isolation.policy import Policy
from rlm_nb.kernel.launch import Launcher
from tests.kernel.conftest import Bench, text
from tests.kernel.isolation import people
from tests.whole_runs.conftest import until

USERS = ["root", "nobody"] if os.getuid() == 0 else ["me"]

OPEN = {
    "read a secret",
    "read it through a link",
    "list a home",
    "change a secret",
    "read another agent's file",
    "read a run's ledger",
    "change this Python",
    "read a process's variables",
    "signal the controller",
    "signal a bystander",
    "connect by TCP",
    "send by UDP",
    "connect a unix socket",
    "send to a unix socket",
    "connect an abstract socket",
    "open a netlink socket",
    "mount",
    "use keys of the system",
    "type into a terminal",
    "see a bystander",
    "read shared memory",
}
"""Attempts that succeed on any machine, without isolation and without rights: these tests see what they are to see."""

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
from rlm_nb.kernel.launch import Launcher
from tests.kernel.conftest import Bench

with ExitStack() as stack:
    launcher = stack.enter_context(Launcher(isolation=IsolationSettings(level=sys.argv[3])))
    bench = Bench(stack, launcher, Path(sys.argv[1]))
    bench.run(sys.argv[2])
    print("running", flush=True)
    bench.run("while True: pass")
"""

Report = dict[str, Any]


def report(user: str, *how: str, **more: Any) -> Report:
    """What a controller of this user's says that its kernels could do."""
    done = people.run(user, "tests.kernel.isolation.controller", *how, **more)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


WAYS = [(user, level) for user in USERS for level in ("ns", "landlock", "bwrap")]


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def confined(request: pytest.FixtureRequest) -> Report:
    """The report of one user, at one level that this machine can hold."""
    user, level = request.param
    _need(level)
    return report(user, level, "warm", "none")


def test_the_level_is_in_force(confined: Report) -> None:
    """The kernel is at the level that was asked for; its controller sees it under its own number, and it answers."""
    assert confined["level"] in ("ns", "landlock", "bwrap")
    assert confined["landlock"] == (landlock.version() if landlock.exists() else None)
    assert confined["seen"]
    assert confined["answered"] == "1.5\n"


def test_nothing_forbidden_can_be_done(confined: Report) -> None:
    """Files, processes, sockets and the system: no attempt succeeds, and what was planted is as it was."""
    assert _done(confined["attempts"]) == set()
    assert confined["unharmed"]
    if confined["level"] != "landlock":  # two walls: that the inner one is there shows where the outer is of no avail
        assert "Read-only" in confined["attempts"]["change this Python"]
        assert "No such file" in confined["attempts"]["read a secret"]
    assert confined["other is well"] == "ok"


def test_mounts_have_their_attributes(confined: Report) -> None:
    """In namespaces all but a few folders is read-only, and no file is a device or gives a right to who runs it."""
    if confined["level"] != "landlock":
        for place, flags in confined["mounts"].items():
            assert flags & os.ST_NOSUID, place
            assert bool(flags & os.ST_NODEV) == (place != "/dev/null"), place
            assert bool(flags & os.ST_RDONLY) == (place in ("/", "/usr", "/proc")), place


def test_namespaces_hide_what_landlock_shows(confined: Report) -> None:
    """In namespaces not even a name, a time or a permission can be reached; at `landlock` they can, as `gaps` say."""
    if confined["level"] != "landlock":
        assert _done(confined["attempts in namespaces"]) == set()
    else:
        assert "see a secret" in _done(confined["attempts in namespaces"])


def test_common_work_is_done(confined: Report) -> None:
    """git, pytest, processes, a compiler, environments, commands, files in memory, and what the settings have added."""
    assert _undone(confined["work"]) == {}
    if confined["level"] != "landlock":
        assert _undone(confined["work in namespaces"]) == {}
        assert confined["forked"] == "from a child\n"
    assert confined["command"].split() == ["from", "a", "command"]
    assert confined["added"] == "x = 1\n\n"


def test_a_kernel_that_died_is_replaced(confined: Report) -> None:
    """What it left in a session of its own ends with it, and a new one is confined as the first was."""
    assert confined["again"] == "alive again\n"


@pytest.mark.parametrize("user", [user for user in USERS if user != "root"])
def test_the_attempts_succeed_without_isolation(user: str) -> None:
    """They would not prove anything else. Never as root: some of them would then change this machine."""
    found = report(user, "none", "warm", "none")
    assert found["level"] == "none"
    everything = found["attempts"] | found["attempts in namespaces"]
    assert OPEN - _done(everything) == set()


@pytest.mark.parametrize("level", ["ns", "landlock"])
def test_a_cold_start_is_confined_likewise(level: str) -> None:
    """Without a forkserver, the same policy is in force."""
    _need(level)
    found = report(USERS[-1], level, "cold", "none")
    assert _done(found["attempts"]) == set()
    assert _undone(found["work"]) == {}


@pytest.mark.parametrize(
    ("network", "reached"), [("loopback", {"talk to itself"}), ("host", {"talk to itself", "connect by TCP"})]
)
def test_networks(network: str, reached: set[str]) -> None:
    """A network of its own has nobody else in it; the host's has everybody, but no abstract sockets of others."""
    _need("ns")
    found = report(USERS[-1], "ns", "warm", network)
    assert _done(found["network"]) == reached
    others = {
        "connect an abstract socket",
        "connect a unix socket",
        "open a vsock",
        "read a secret",
        "trace a bystander",
    }
    assert _done(found["attempts"]) & others == set()


def test_less_than_the_least_is_refused() -> None:
    """`min_level` holds against `none`, and what cannot be isolated is not started."""
    settings = IsolationSettings(level="none", min_level="landlock")
    with Isolation(settings) as isolation, pytest.raises(IsolationError, match="min_level allows no less"):
        isolation.choice()
    settings = IsolationSettings(level="landlock", network="host")
    with Isolation(settings) as isolation, pytest.raises(IsolationError, match="needs namespaces"):
        isolation.choice()


def test_a_canary_that_can_be_reached_keeps_kernels_from_starting(clean_environment: Path, tmp_path: Path) -> None:
    """Settings that open the temporary folder open what is planted there: no kernel starts, and the reason is told."""
    _need("ns")
    settings = IsolationSettings(level="ns", read=(clean_environment,))
    with ExitStack() as stack:
        launcher = stack.enter_context(Launcher(isolation=settings))
        with pytest.raises(KernelStartError, match="could be reached from inside"):
            Bench(stack, launcher, tmp_path)


def test_the_controller_looks_for_itself() -> None:
    """A process that only says that it is confined is found out from outside."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as free:
        rights = "it has capabilities, " if os.getuid() == 0 else ""
        wrong = f"it may gain rights, no system calls are filtered, {rights}it shares namespaces with us: user, mnt"
        with pytest.raises(KernelStartError, match=wrong):
            check(free.pid, Policy(level="ns"))
        free.kill()


def test_what_tries_isolation_leaves_nothing() -> None:
    """A run that ends before it is known what this machine can hold ends the attempts, at whatever step they are."""
    _need("ns")

    def orphans() -> set[int]:
        names = {"rlm_nb.kernel.isolation.attempts", "rlm_nb.kernel.forkserver"}
        found = [one.info for one in psutil.process_iter(["pid", "ppid", "cmdline"])]
        return {one["pid"] for one in found if one["ppid"] == 1 and names & {*(one["cmdline"] or [])}}

    before, settings = orphans(), IsolationSettings(level="ns")
    for step in range(20):
        for host in (Isolation(settings), Launcher(isolation=settings)):
            with host:
                time.sleep(0.02 + step / 100)
    until(lambda: orphans() <= before)


def test_what_is_asked_for_and_not_there_is_named(tmp_path: Path) -> None:
    """A folder of the settings that does not exist is an error that names it."""
    _need("ns")
    settings = IsolationSettings(level="ns", write=(tmp_path / "gone",))
    with (
        Isolation(settings) as isolation,
        pytest.raises(IsolationError, match=r"isolation\.write: .*gone is not there"),
    ):
        isolation.policy((), (), None)


@pytest.mark.parametrize("level", ["ns", "bwrap"])
def test_cells_can_be_interrupted_and_limits_hold(tmp_path: Path, level: Literal["ns", "bwrap"]) -> None:
    """A cell that runs too long or fills the disk is interrupted, one that takes too much memory told; all goes on."""
    _need(level)
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
    _need(level)
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
        until(lambda: not any(_lives(process) for process in family))
        assert time.monotonic() - killed < 1
    assert said == "running\n"
    assert len(family) >= 4  # what starts kernels, a supervisor, a kernel, its daemon


@pytest.mark.parametrize("level", ["ns", "bwrap"])
def test_nothing_survives_its_supervisor(tmp_path: Path, level: Literal["ns", "bwrap"]) -> None:
    """Whoever kills the supervisor and the guard above it, at once, ends the kernel and its daemons with them."""
    _need(level)
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
        until(lambda: not any(_lives(process) for process in family))


def test_a_bubblewrap_that_is_not_there_or_fails_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for it hears what to install, or what it says itself; less than `min_level` it is not."""
    settings = IsolationSettings(level="bwrap", min_level="ns")
    monkeypatch.setenv("PATH", str(tmp_path))
    with Isolation(settings) as isolation, pytest.raises(IsolationError, match="install the package `bubblewrap`"):
        isolation.choice()
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho bwrap: No permissions to create new namespace >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    with Isolation(settings) as isolation, pytest.raises(IsolationError, match="No permissions to create new namesp"):
        isolation.choice()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a program set-user-id root")
def test_a_bubblewrap_that_is_set_user_id_root(clean_environment: Path) -> None:
    """Where only root may make namespaces, such a program does it for others, and kernels are confined as elsewhere."""
    _need("bwrap")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        if os.statvfs(folder).f_flag & os.ST_NOSUID:
            pytest.skip("/tmp is mounted such that no program in it is set-user-id")
        Path(folder).chmod(0o755)
        program = Path(shutil.copy(str(shutil.which("bwrap")), folder))
        program.chmod(0o4755)
        found = report(
            "nobody", "bwrap", "cold", "loopback", env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
        )
    assert _done(found["attempts"] | found["attempts in namespaces"]) == {"send by UDP"}  # to nobody
    assert _undone(found["work"] | found["work in namespaces"]) == {}
    assert _done(found["network"]) == {"talk to itself"}
    assert any("set-user-id" in gap for gap in found["gaps"])


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _done(attempts: dict[str, str]) -> set[str]:
    return {name for name, came in attempts.items() if came.startswith("done")}


def _undone(works: dict[str, str]) -> dict[str, str]:
    return {name: came for name, came in works.items() if came != "done"}


def _need(level: str) -> None:
    """Skip where the machine cannot hold a level, as others than we find out: what we say of it is what is tested."""
    if level == "landlock":
        if not landlock.exists():
            pytest.skip("this system has no Landlock, or has it switched off")
        return
    if level == "bwrap":
        made = ("--unshare-all", "--proc", "/proc", "--dev", "/dev", "--ro-bind", "/usr", "/usr")
        links = [option for lib in ("lib", "lib64") for option in ("--symlink", f"usr/{lib}", f"/{lib}")]
        if shutil.which("bwrap") is None:
            pytest.skip("bubblewrap is not installed")
        if subprocess.run(["bwrap", *made, *links, "/usr/bin/true"], capture_output=True).returncode:
            pytest.skip("bubblewrap may not make namespaces, or a /proc in them, here")
        return
    everything = ("--user", "--map-root-user", "--mount", "--pid", "--net", "--fork", "--mount-proc")
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", *everything, "true"], capture_output=True).returncode
    ):
        pytest.skip("user namespaces, or a /proc in them, may not be made here")
