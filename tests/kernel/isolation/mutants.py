"""The mechanisms of isolation, and how each is switched off: see `mutations.py`.

Each is a text of a file and what stands there instead. No mutant takes away both namespaces, that of users and that of
mounts: as root, it would then mount over the folders of this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

Edit = tuple[str, str, str]
"""A file below rlm_nb/kernel/, what stands in it, and what is to stand there."""

ISOLATION = "tests/kernel/isolation/test_isolation.py"
ENDS = "tests/kernel/isolation/test_ends.py"
BY_LEVEL = {
    "ns": f"{ISOLATION} -k root-ns",
    "nobody ns": f"{ISOLATION} -k nobody-ns",
    "landlock": f"{ISOLATION} -k root-landlock",
    "nobody landlock": f"{ISOLATION} -k nobody-landlock",
    "bwrap": f"{ISOLATION} -k root-bwrap",
}
LOOPBACK, HOST = f"{ISOLATION} -k test_networks[loopback", f"{ISOLATION} -k test_networks[host"
LIMITS = "tests/kernel/test_limits.py"
SUPERVISION = "tests/kernel/test_supervision.py"
FILTER = "tests/kernel/isolation/test_seccomp.py"


@dataclass(frozen=True)
class Mutant:
    """One or several mechanisms, off.

    Args:
        name: What is off.
        tests: The arguments of pytest for the smallest set of tests that should notice; a space separates them.
        edits: What has to be changed for that.
    """

    name: str
    tests: str
    edits: tuple[Edit, ...]


NS, LANDLOCK, SECCOMP, CONFINING, BUBBLEWRAP, CHECKING = (
    f"isolation/{name}.py" for name in ("namespaces", "landlock", "seccomp", "confining", "bubblewrap", "checking")
)


def proofs() -> Iterator[Mutant]:
    canary, looks = f"{ISOLATION} -k test_a_canary", f"{ISOLATION} -k looks_for_itself"
    yield Mutant(
        "canaries are tried", canary, ((CONFINING, "reached=tuple(canaries.reached(policy.canaries))", "reached=()"),)
    )
    yield Mutant(
        "a canary that is reached counts",
        canary,
        (("isolation/report.py", "if self.reached else None", "if False else None"),),
    )
    for what, line in (
        ("rights to gain", 'facts.get("NoNewPrivs") != "1"'),
        ("a filter", 'facts.get("Seccomp") != "2"'),
        ("capabilities", 'any(int(facts.get(name, "1"), 16) for name in ("CapEff", "CapPrm"))'),
        ("namespaces", "policy.apart and same"),
    ):
        yield Mutant(f"the controller looks for {what}", looks, ((CHECKING, f"if {line}:", "if False:"),))
    yield Mutant(
        "the controller looks for traces of namespaces that are root's",
        f"{ISOLATION} -k nobody-ns and closely",
        ((CHECKING, '    return [*(["user"]', '    return [] and [*(["user"]'),),
    )
    yield Mutant(
        "min_level",
        f"{ISOLATION} -k less_than_the_least",
        (("isolation/choice.py", "RANKS[settings.level] < RANKS[settings.min_level]", "False"),),
    )
    yield Mutant(
        "a process that was not confined does not live",
        f"{ISOLATION} -k one_kernel_can_reach",
        (
            ("isolation/birth.py", "    if report.fault is not None:\n        os._exit(REFUSED)\n", ""),
            ("provisioner.py", "if self.report.fault is not None:", "if False:"),
        ),
    )


def lives() -> Iterator[Mutant]:
    yield Mutant(
        "the supervisor ends with the controller",
        f"{ENDS} -k controllers_sigkill[landlock",
        (("supervisor.py", "if side.fileno() in ready and not side.recv(64):", "if False:"),),
    )
    yield Mutant(
        "the supervisor adopts orphans",
        f"{SUPERVISION} -k a_daemon_ends_with",
        (("supervisor.py", '    if sys.platform == "linux":\n', "    if False:\n"),),
    )
    orphans = ("guard.py", "        if child not in self.started:\n            os.kill(child, signal.SIGKILL)\n", "")
    yield Mutant(
        "all below a supervisor end, by it and by the guard",
        f"{SUPERVISION} -k a_daemon_ends",
        (("supervisor.py", "        family.end(os.getpid())\n", ""), orphans),
    )
    yield Mutant("the guard ends orphans", f"{SUPERVISION} -k attacks_its_supervisor", (orphans,))
    allowed = "tests/kernel/test_environment.py -k harmless"
    yield Mutant(
        "only harmless variables",
        allowed,
        (("environment.py", 'if name in HARMLESS or name.startswith("LC_")', "if True"),),
    )
    hidden = "tests/kernel/test_environment.py"
    yield Mutant(
        "keys leave the controller's environment", hidden, (("environment.py", "    _overwrite(gone)\n", "    pass\n"),)
    )
    yield Mutant(
        "nobody looks into the controller", hidden, (("environment.py", "    _deny_attaching()\n", "    pass\n"),)
    )


def limits() -> Iterator[Mutant]:
    of_the_system = f"{LIMITS} -k meets_its_limits"
    for what, line in (
        ("memory", "_lower(resource.RLIMIT_DATA, self.memory)"),
        ("open files", "_lower(resource.RLIMIT_NOFILE, self.open_files)"),
        ("the size of files", "_lower(resource.RLIMIT_FSIZE, self.file_size)"),
        ("core files", "_lower(resource.RLIMIT_CORE, 0)"),
        ("who goes first when memory ends", "os.write(file, str(FIRST_TO_GO).encode())"),
    ):
        yield Mutant(f"limit of {what}", of_the_system, (("limits.py", line, "pass"),))
    yield Mutant(
        "the sum of memory", f"{LIMITS} -k passes_the_limit_itself", (("watch.py", "if limit is None:", "if True:"),)
    )
    yield Mutant(
        "the number of processes",
        f"{ENDS} -k limits_hold[ns",
        (("watch.py", "len(members) > self._limits.processes", "False"),),
    )
    yield Mutant("room on the disk", f"{ENDS} -k limits_hold[ns", (("watch.py", "passed = self._disk.look()", "pass"),))
