"""bubblewrap: a world like the one of `namespaces.py`, made by a program that may where we may not.

Some systems let no plain process make user namespaces, but this program: it is set-user-id root, or named by a profile
of AppArmor. It makes the namespaces and the mounts, and runs a Python of ours in them, which raises the other walls,
tries the canaries, reports, and only then becomes the kernel. A program that is run has nothing of what ran it in
memory: at this level all kernels start cold.

Outside of the namespaces, a process of bubblewrap's waits for the kernel's end as a child of ours; inside, another is
the init. See bwrap(1).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NoReturn

from rlm_nb.kernel import family
from rlm_nb.kernel.isolation import birth, namespaces
from rlm_nb.kernel.isolation.birth import Born
from rlm_nb.kernel.isolation.plan import PRIVATE, above, plan
from rlm_nb.kernel.isolation.policy import Policy
from rlm_nb.kernel.isolation.report import Report

MISSING = "there is no program `bwrap` on the PATH"

_HERE = b"."
"""What the process inside says first."""

_LAST_WORDS = 500
"""Bytes of what bubblewrap says that are repeated."""


def find() -> str:
    """Where the program is; empty where there is none. What lies in the current folder is not ours to run."""
    places = [place for place in os.environ.get("PATH", os.defpath).split(os.pathsep) if os.path.isabs(place)]  # noqa: PTH117
    return shutil.which("bwrap", path=os.pathsep.join(places)) or ""


def is_set_user_id(program: str) -> bool:
    """Whether it has rights that we lack, and so obeys us in less."""
    with suppress(OSError):
        return os.geteuid() != 0 and bool(os.stat(program).st_mode & stat.S_ISUID)  # noqa: PTH116
    return False


def bear(
    policy: Policy, prepare: Callable[[], None], command: Sequence[str] = (), keep: Sequence[int] = (), cwd: str = "/"
) -> Born:
    """Start a program that is confined before it begins; returns once it is, or has failed to be.

    The caller has one thread.

    Args:
        policy: What it may reach.
        prepare: What the process does that is to become bubblewrap.
        command: The program and its arguments; nothing runs without, once it is known whether something could.
        keep: The descriptors that it is to inherit.
        cwd: Where it runs.
    """
    if not policy.bubblewrap:
        return Born(0, None, Report(policy.level, error=MISSING))
    order = {"policy": policy.as_text(), "command": [*command], "keep": [*keep], "cwd": cwd, "env": dict(os.environ)}
    ours, theirs = socket.socketpair()
    hearing, said = os.pipe()
    with ours, open(hearing, "rb", buffering=0) as words:  # noqa: PTH123
        try:
            monitor = os.fork()
            if monitor == 0:
                try:
                    prepare()
                    _become_bubblewrap(policy, theirs.fileno(), said, keep)
                except BaseException as error:  # noqa: BLE001 - whatever it is, the parent is told
                    os.write(said, f"{type(error).__name__}: {error}".encode(errors="replace"))
                finally:
                    os._exit(birth.REFUSED)
        except OSError as error:
            return Born(0, None, Report(policy.level, error=str(error)))
        finally:
            theirs.close()
            os.close(said)
        init = kernel = 0
        report = None
        ours.settimeout(birth.PATIENCE)
        with suppress(OSError):
            if ours.recv(1) == _HERE:
                # It waits for us, so that there is nobody else yet; its own word for who it is need not be believed.
                init = next(iter(family.children(monitor)), 0)
                kernel = next(iter(family.children(init)), 0)
                ours.sendall(f"{json.dumps(order)}\n".encode())
                report = birth.read(ours.fileno())
        if report is None:
            os.set_blocking(words.fileno(), False)
            last = (words.read(1 << 16) or b"")[-_LAST_WORDS:].decode("utf-8", "replace").strip()
            report = Report(policy.level, error=last or birth.SILENT)
        return Born(kernel if report.fault is None else 0, None, report, monitor, frozenset({monitor, init}))


def _become_bubblewrap(policy: Policy, side: int, said: int, keep: Sequence[int]) -> NoReturn:
    log = os.dup(2)
    os.dup2(said, 2)
    options = os.memfd_create("options", 0)  # they would not all fit into a command, and are nobody's business
    os.write(options, b"".join(os.fsencode(option) + b"\0" for option in _options(policy)))
    os.lseek(options, 0, os.SEEK_SET)
    for descriptor in (side, log, *keep):
        os.set_inheritable(descriptor, True)
    ours = [sys.executable, "-I", "-m", __name__, str(side), str(log)]
    # No variables: a program that is set-user-id loses some, and its init would show them.
    os.execve(policy.bubblewrap, ["bwrap", "--args", str(options), "--", *ours], {})


def _options(policy: Policy) -> list[str]:
    """What bubblewrap is to make: the same as `namespaces.build`."""
    options = [f"--unshare-{kind}" for kind in namespaces.kinds(policy) if kind != "mnt"]  # which it always makes
    options += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    options += ["--proc", "/proc", "--dev", "/dev"]
    sized = policy.memory is not None and not is_set_user_id(policy.bubblewrap)  # which allows nobody to say a size
    for place in PRIVATE:
        options += [*(["--size", str(policy.memory)] if sized else []), "--perms", "1777", "--tmpfs", place]
    binds, links = plan(policy)
    for bind in binds:
        if bind.kind != "device":  # it has made these
            options += ["--ro-bind-try" if bind.kind == "read" else "--bind-try", bind.path, bind.path]
    there = {bind.path for bind in binds}
    for place, target in links.items():
        if there.isdisjoint(above(place)):
            options += ["--symlink", target, place]
    for place in ("/proc", "/dev", "/"):
        options += ["--remount-ro", place]
    return options


def main() -> None:
    """In the new world: `python -I -m rlm_nb.kernel.isolation.bubblewrap SIDE_FD LOG_FD`."""
    side, log = map(int, sys.argv[1:])
    for descriptor in (side, log):
        os.set_inheritable(descriptor, False)
    os.write(side, _HERE)
    with open(side, encoding="utf-8", closefd=False) as said:
        order = json.loads(said.readline())
    os.dup2(log, 2)
    live = partial(birth.become, order["command"], order["cwd"], order["keep"], order["env"])
    birth.begin(Policy.from_text(order["policy"]), os.setsid, live if order["command"] else _end, side)


def _end() -> NoReturn:
    os._exit(0)


if __name__ == "__main__":
    main()
