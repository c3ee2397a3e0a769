"""What the system says of a confined process, seen from outside: its own word need not be believed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rlm_nb.errors import IsolationError
from rlm_nb.kernel.isolation import namespaces
from rlm_nb.kernel.isolation.policy import Policy

_NUMBERS = re.compile(r"^NSpid:\s+\d+\s+\d+", re.MULTILINE)
_FACTS = re.compile(r"^(NoNewPrivs|Seccomp|CapEff|CapPrm):\s+(\w+)", re.MULTILINE)


def check(pid: int, policy: Policy) -> None:
    """Look at a process that has been confined, before it is given anything to run.

    Landlock cannot be seen from outside; the canaries have tried that.

    Raises:
        IsolationError: It is not as the policy says, or is gone.
    """
    if policy.level == "none":
        return
    try:
        facts = dict(_FACTS.findall(Path(f"/proc/{pid}/status").read_text()))
        same = _shared(pid, policy)
    except OSError as error:
        raise IsolationError(f"whether the kernel is confined cannot be seen: {error}") from error
    wrong = []
    if facts.get("NoNewPrivs") != "1":
        wrong.append("it may gain rights")
    if facts.get("Seccomp") != "2":
        wrong.append("no system calls are filtered")
    if any(int(facts.get(name, "1"), 16) for name in ("CapEff", "CapPrm")):
        wrong.append("it has capabilities")
    if policy.apart and same:
        wrong.append(f"it shares namespaces with us: {', '.join(same)}")
    if wrong:
        raise IsolationError(f"the kernel is not confined: {', '.join(wrong)}")


def _shared(pid: int, policy: Policy) -> list[str]:
    """Which namespaces are ours that should not be."""
    try:
        return [kind for kind in namespaces.kinds(policy) if _namespace(pid, kind) == _namespace(os.getpid(), kind)]
    except PermissionError:
        if policy.level != "bwrap":
            raise
    # Those that a set-user-id bubblewrap has made are root's, and others may not look at them. Of two the traces can be
    # seen: who is who in that of users, and a second number in that of processes.
    users = [Path(f"/proc/{one}/uid_map").read_text() for one in (pid, "self")]
    numbers = _NUMBERS.findall(Path(f"/proc/{pid}/status").read_text())
    return [*(["user"] if users[0] == users[1] else []), *([] if numbers else ["pid"])]


def _namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")  # noqa: PTH115
