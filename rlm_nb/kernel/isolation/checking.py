"""What the system says of a confined process, seen from outside: its own word need not be believed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rlm_nb.errors import IsolationError
from rlm_nb.kernel.isolation import namespaces
from rlm_nb.kernel.isolation.policy import Policy

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
        same = [kind for kind in namespaces.kinds(policy) if _namespace(pid, kind) == _namespace(os.getpid(), kind)]
    except OSError as error:
        raise IsolationError(f"whether the kernel is confined cannot be seen: {error}") from error
    wrong = []
    if facts.get("NoNewPrivs") != "1":
        wrong.append("it may gain rights")
    if facts.get("Seccomp") != "2":
        wrong.append("no system calls are filtered")
    if any(int(facts.get(name, "1"), 16) for name in ("CapEff", "CapPrm")):
        wrong.append("it has capabilities")
    if policy.level == "ns" and same:
        wrong.append(f"it shares namespaces with us: {', '.join(same)}")
    if wrong:
        raise IsolationError(f"the kernel is not confined: {', '.join(wrong)}")


def _namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")  # noqa: PTH115
