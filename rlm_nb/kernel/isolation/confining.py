"""The steps in which a process gives up what it is not to reach; then it tries whether it has."""

from __future__ import annotations

from collections.abc import Iterable

from rlm_nb.kernel.isolation import canaries, landlock, namespaces, plan, seccomp, system
from rlm_nb.kernel.isolation.policy import DEVICES, Policy
from rlm_nb.kernel.isolation.report import Report

TERMINALS = ("/dev/pts", "/dev/ptmx")

SHARED = ("/dev/shm",)
"""What cannot be private without namespaces, and what `multiprocessing` cannot do without."""

OF_THE_SYSTEM = (
    "cpuinfo",
    "filesystems",
    "loadavg",
    "meminfo",
    "stat",
    "sys/kernel",
    "sys/vm/overcommit_memory",
    "uptime",
    "version",
    *(f"self/{name}" for name in ("cgroup", "cmdline", "comm", "fd", "fdinfo", "limits", "maps", "mountinfo")),
    *(f"self/{name}" for name in ("mounts", "stat", "statm", "status", "task")),
)
"""What may be read below `/proc` where the processes in it are not our own."""


def foresee(policy: Policy) -> None:
    """Work out once what is the same for all processes under such a policy that are forked from this one."""
    if policy.level == "ns":
        plan.foresee(policy)
    if policy.level != "none":
        _filter(policy)


def confine(policy: Policy) -> Report:
    """Keep this process, and all that it will start, from everything that the policy does not name.

    At level `ns` the caller is the second process in the new namespaces, which is to build and to live in them; at
    level `bwrap` it is in a world that has been built.

    Raises:
        OSError: A step failed; this process must not go on.
    """
    if policy.level == "none":
        return Report("none")
    if policy.level == "ns":
        namespaces.build(policy)
    system.give_up_capabilities()
    system.gain_nothing()
    abi = _landlock(policy)
    seccomp.install(_filter(policy))
    return Report(policy.level, landlock=abi, reached=tuple(canaries.reached(policy.canaries)))


def _filter(policy: Policy) -> bytes:
    return seccomp.program(policy.network, connect=policy.apart)


def _landlock(policy: Policy) -> int | None:
    private = policy.apart
    proc: Iterable[str] = ("/proc",) if private else (f"/proc/{name}" for name in OF_THE_SYSTEM)
    try:
        return landlock.restrict(
            read=(*policy.read, *proc),
            write=(*policy.write, *(plan.PRIVATE if private else SHARED)),
            devices=(*DEVICES, *(TERMINALS if private else ())),
            # A package that is installed as a link is found by looking through the folder that it is in. In a world of
            # its own, no folder has anything else in it.
            listed=("/",) if private else policy.listed,
            # In a network of its own there is nobody else to talk to.
            tcp=private and policy.network != "none",
            abstract=private and policy.network != "host",
        )
    except OSError:
        if private and not landlock.exists():
            return None  # the other two walls stand without it, and the report says that it is missing
        raise
