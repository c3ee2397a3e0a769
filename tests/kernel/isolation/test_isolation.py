"""What cells are kept from, tried from inside of real kernels: at each level, as root and as one without rights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

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

Report = dict[str, Any]


def report(user: str, *how: str) -> Report:
    """What a controller of this user's says that its kernels could do."""
    done = people.run(user, "tests.kernel.isolation.controller", *how)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module", params=[(user, level) for user in USERS for level in ("ns", "landlock")], ids="-".join)
def confined(request: pytest.FixtureRequest) -> Report:
    """The report of one user, at one level that this machine can hold."""
    user, level = request.param
    _need(level)
    return report(user, level, "warm", "none")


def test_the_level_is_in_force(confined: Report) -> None:
    """The kernel is at the level that was asked for; its controller sees it under its own number, and it answers."""
    assert confined["level"] in ("ns", "landlock")
    assert confined["seen"]
    assert confined["answered"] == "1.5\n"


def test_nothing_forbidden_can_be_done(confined: Report) -> None:
    """Files, processes, sockets and the system: no attempt succeeds, and what was planted is as it was."""
    assert _done(confined["attempts"]) == set()
    assert confined["unharmed"]
    if confined["level"] == "ns":  # two walls: that the inner one is there shows where the outer one is of no avail
        assert "Read-only" in confined["attempts"]["change this Python"]
        assert "No such file" in confined["attempts"]["read a secret"]
    assert confined["other is well"] == "ok"


def test_namespaces_hide_what_landlock_shows(confined: Report) -> None:
    """At level `ns` not even a name, a time or a permission can be reached; at `landlock` they can, as `gaps` say."""
    if confined["level"] == "ns":
        assert _done(confined["attempts in namespaces"]) == set()
    else:
        assert "see a secret" in _done(confined["attempts in namespaces"])


def test_common_work_is_done(confined: Report) -> None:
    """git, pytest, processes, a compiler, environments, commands, files in memory, and what the settings have added."""
    assert _undone(confined["work"]) == {}
    if confined["level"] == "ns":
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
        with pytest.raises(
            KernelStartError, match=r"no system calls are filtered.*shares namespaces with us: user, mnt"
        ):
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


def test_cells_can_be_interrupted_and_limits_hold(tmp_path: Path) -> None:
    """A cell that runs too long or fills the disk is interrupted, one that takes too much memory told; all goes on."""
    _need("ns")
    with ExitStack() as stack:
        launcher = stack.enter_context(Launcher(isolation=IsolationSettings(level="ns")))
        bench = Bench(stack, launcher, tmp_path, cell_timeout=1.5, memory_limit="512MiB", disk_limit="24MiB")
        assert bench.run("x = 1\nwhile True: pass").error is not None
        full = bench.run("import time\nopen('full', 'wb').write(bytes(32 << 20))\ntime.sleep(9)")
        assert any("held more than 24 MiB" in event for event in full.events)
        assert (bench.run("b = bytes(1 << 30)").error or "").startswith("MemoryError")
        assert text(bench.run("print(x)").outputs) == "1\n"


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
    everything = ("--user", "--map-root-user", "--mount", "--pid", "--net", "--fork", "--mount-proc")
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", *everything, "true"], capture_output=True).returncode
    ):
        pytest.skip("user namespaces, or a /proc in them, may not be made here")
