"""What cells are kept from, tried from inside of real kernels: at each level, as root and as one without rights."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from filelock import FileLock

from rlm_nb.bridge.server import Server
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import IsolationSettings
from rlm_nb.errors import IsolationError, KernelStartError
from rlm_nb.kernel.isolation import landlock
from rlm_nb.kernel.isolation.checking import check
from rlm_nb.kernel.isolation.choice import Found, Isolation
from rlm_nb.kernel.isolation.detection import Host
from rlm_nb.kernel.isolation.policy import Level, Policy
from rlm_nb.kernel.isolation.report import Report as Confined
from rlm_nb.kernel.launch import FOUND, Launcher
from rlm_nb.kernel.limits import Limits
from tests.kernel.conftest import Bench
from tests.kernel.isolation.levels import USERS, Report, done, need, report, undone

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

WAYS = [(user, level) for user in USERS for level in ("ns", "landlock", "bwrap")]


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def confined(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of one user, at one level that this machine can hold."""
    user, level = request.param
    need(level)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return report(user, level, "warm", "none")
    # Each costs seconds: processes that share these tests share what these look at.
    kept = tmp_path_factory.getbasetemp().parent / f"report-{user}-{level}.json"
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            kept.write_text(json.dumps(report(user, level, "warm", "none")))
    found: Report = json.loads(kept.read_text())
    return found


def test_the_level_is_in_force(confined: Report) -> None:
    """The kernel is at the level that was asked for; its controller sees it under its own number, and it answers."""
    assert confined["level"] in ("ns", "landlock", "bwrap")
    assert confined["landlock"] == (landlock.version() if landlock.exists() else None)
    assert confined["seen"]
    assert confined["answered"] == "1.5\n"


def test_nothing_forbidden_can_be_done(confined: Report) -> None:
    """Files, processes, sockets and the system: no attempt succeeds, and what was planted is as it was."""
    assert done(confined["attempts"]) == set()
    assert confined["unharmed"]
    if confined["level"] != "landlock":  # two walls: that the inner one is there shows where the outer is of no avail
        assert "Read-only" in confined["attempts"]["change this Python"]
        assert "No such file" in confined["attempts"]["read a secret"]
    assert confined["other is well"] == "ok"


def test_the_first_process_shows_nothing(confined: Report) -> None:
    """Neither the files that it began with, where it is ours, nor those of the system."""
    assert not confined["attempts"]["read it below the init's root"].startswith("done")


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
        assert done(confined["attempts in namespaces"]) == set()
    else:
        assert "see a secret" in done(confined["attempts in namespaces"])


def test_common_work_is_done(confined: Report) -> None:
    """git, pytest, processes, a compiler, environments, commands, files in memory, and what the settings have added."""
    assert undone(confined["work"]) == {}
    if confined["level"] != "landlock":
        assert undone(confined["work in namespaces"]) == {}
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
    assert OPEN - done(everything) == set()


@pytest.mark.parametrize("level", ["ns", "landlock"])
def test_a_cold_start_is_confined_likewise(level: str) -> None:
    """Without a forkserver, the same policy is in force."""
    need(level)
    found = report(USERS[-1], level, "cold", "none")
    assert done(found["attempts"]) == set()
    assert undone(found["work"]) == {}


@pytest.mark.parametrize(
    ("network", "reached"), [("loopback", {"talk to itself"}), ("host", {"talk to itself", "connect by TCP"})]
)
def test_networks(network: str, reached: set[str]) -> None:
    """A network of its own has nobody else in it; the host's has everybody, but no abstract sockets of others."""
    need("ns")
    found = report(USERS[-1], "ns", "warm", network)
    assert done(found["network"]) == reached
    others = {
        "connect an abstract socket",
        "connect a unix socket",
        "open a vsock",
        "read a secret",
        "trace a bystander",
    }
    assert done(found["attempts"]) & others == set()


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
    need("ns")
    settings = IsolationSettings(level="ns", read=(clean_environment,))
    with ExitStack() as stack:
        launcher = stack.enter_context(Launcher(isolation=settings))
        with pytest.raises(KernelStartError, match="could be reached from inside"):
            Bench(stack, launcher, tmp_path)


def test_a_canary_that_one_kernel_can_reach_keeps_it_from_starting(clean_environment: Path, tmp_path: Path) -> None:
    """Each kernel tries for itself: what one may read beside what all may, is not known before.

    What held until then is to be tried again.
    """
    need("ns")
    (tmp_path / "work").mkdir()
    with (
        Launcher(isolation=IsolationSettings(level="ns")) as launcher,
        Server(lambda call, cancel: None, Cancellation()) as bridge,
        bridge.kernel_end as wire,
    ):
        launcher.confinement()
        assert len(FOUND) == 1
        with pytest.raises(IsolationError, match="could be reached from inside"):
            launcher.start(tmp_path, tmp_path / "work", wire.fileno(), Limits(), [clean_environment]).close()
        assert not FOUND


def test_what_has_held_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until a kernel could not be confined all the same; what has not held is tried each time."""
    need("ns")
    found: Found = {}
    settings, tried = IsolationSettings(level="ns"), list[Level]()

    def trying(said: Confined) -> Host:
        def host(asked: socket.socket) -> None:
            tried.append(said.level)
            with asked.makefile("rb") as questions:
                assert len(questions.readlines()) == 1
            asked.sendall(f"{said.as_text()}\n".encode())

        return host

    for one in (Confined("ns", error="not today"), Confined("ns", landlock=3), Confined("ns", error="too late")):
        with Isolation(settings, trying(one), found) as isolation:
            if one.error == "not today":
                with pytest.raises(IsolationError, match="not today"):
                    isolation.choice()
                assert not found
            else:
                assert isolation.choice().landlock == 3
    assert len(tried) == 2
    with Isolation(IsolationSettings(level="ns", network="host"), trying(Confined("ns")), found) as isolation:
        assert isolation.choice().landlock is None  # something else is asked for
    assert len(tried) == 3
    with Isolation(settings, trying(Confined("ns", landlock=4)), found) as isolation:
        isolation.forget()
    with Isolation(settings, trying(Confined("ns", landlock=5)), found) as isolation:
        assert isolation.choice().landlock == 5
    with Isolation(settings, None, found) as one, Isolation(settings, None, found) as other:
        before = len(found)
        one.forget()
        assert other.choice().landlock == 5
        assert len(found) == before - 1  # what is remembered by one is no reason to remember it again
    with Isolation(settings, trying(Confined("ns", landlock=6)), found) as isolation:
        assert isolation.choice().landlock == 6
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Isolation(settings, trying(Confined("ns", landlock=7)), found) as isolation:
        assert isolation.choice().landlock == 7  # the canaries stand elsewhere


def test_the_controller_looks_for_itself() -> None:
    """A process that only says that it is confined is found out from outside."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as free:
        rights = "it has capabilities, " if os.getuid() == 0 else ""
        wrong = f"it may gain rights, no system calls are filtered, {rights}it shares namespaces with us: user, mnt"
        with pytest.raises(KernelStartError, match=wrong):
            check(free.pid, Policy(level="ns"))
        free.kill()


def test_who_may_not_look_closely_sees_enough(confined: Report) -> None:
    """Of processes of root, as those of a set-user-id bubblewrap, all can see whether they are in a world apart."""
    assert "it shares namespaces with us: user," in confined["the first process"]
    assert " pid" in confined["the first process"]


def test_what_is_asked_for_and_not_there_is_named(tmp_path: Path) -> None:
    """A folder of the settings that does not exist is an error that names it."""
    need("ns")
    settings = IsolationSettings(level="ns", write=(tmp_path / "gone",))
    with (
        Isolation(settings) as isolation,
        pytest.raises(IsolationError, match=r"isolation\.write: .*gone is not there"),
    ):
        isolation.policy((), (), None)
