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


def all_of_them() -> Iterator[Mutant]:
    """Every mutant, in the order of the walls."""
    yield from _namespaces()
    yield from _landlock()
    yield from _seccomp()
    yield from _rights()
    yield from _bubblewrap()
    yield from _proofs()
    yield from _lives()
    yield from _limits()


_NS, _LANDLOCK, _SECCOMP, _CONFINING, _BUBBLEWRAP, _CHECKING, _SUPERVISOR, _LIMITS = (
    "isolation/namespaces.py",
    "isolation/landlock.py",
    "isolation/seccomp.py",
    "isolation/confining.py",
    "isolation/bubblewrap.py",
    "isolation/checking.py",
    "supervisor.py",
    "limits.py",
)

NO_LANDLOCK_AT_NS = (
    _CONFINING,
    "    private = policy.apart\n",
    "    private = policy.apart\n    if private:\n        return landlock.version()\n",
)
NO_DUMPABLE = (_NS, '    system.prctl("PR_SET_DUMPABLE", system.PR_SET_DUMPABLE, 0)', "    pass")
NO_CHROOT = (_NS, '    os.chroot("/proc/self/fdinfo")', "    pass")
NO_PTRACE = tuple(
    (_SECCOMP, f'    "{name}": {numbers},\n', "")
    for name, numbers in (("ptrace", "(101, 117)"), ("process_vm_readv", "(310, 270)"))
)
NO_TCP_IN_SECCOMP = (_SECCOMP, 'if network == "none" else [socket.AF_INET', "if False else [socket.AF_INET")


def _namespaces() -> Iterator[Mutant]:
    kinds = 'KINDS = ("user", "mnt", "pid", "net", "ipc", "uts")'
    for kind, tests in (
        ("user", "ns"),
        ("pid", "ns"),
        ("ipc", "ns"),
        ("net", "loopback"),
    ):
        tests = BY_LEVEL.get(tests, LOOPBACK)
        yield Mutant(f"namespace {kind}, looked for or not", tests, ((_NS, kinds, kinds.replace(f'"{kind}", ', "")),))
    for kind in ("user", "pid", "net", "ipc", "uts"):
        left = (
            _NS,
            'for kind in kinds(policy) if kind != "mnt")',
            f'for kind in kinds(policy) if kind not in ("mnt", "{kind}"))',
        )
        yield Mutant(f"namespace {kind}", BY_LEVEL["ns"], (left,))
    yield Mutant("namespace mnt", BY_LEVEL["ns"], ((_NS, '    _unshare(["mnt"])\n', ""),))
    yield Mutant(
        "the old root goes away",
        BY_LEVEL["ns"],
        ((_NS, '    system.unmount(".", _DETACH)', '    system.call("pivot", _PIVOT_ROOT[0], b".", b".")'),),
    )
    own = '    system.mount("proc", f"{ROOT}/proc", "proc", _NO_SUID | _NO_DEVICES | _NO_EXECUTION)\n'
    yield Mutant(
        "private /proc", BY_LEVEL["ns"], ((_NS, own, '    _attach(Bind("/proc", True, "write"), _clone("/proc"))\n'),)
    )
    shm = '        system.mount("tmpfs", f"{ROOT}{place}", "tmpfs", _NO_SUID | _NO_DEVICES, f"mode=1777{size}")\n'
    yield Mutant(
        "private /dev/shm",
        BY_LEVEL["ns"],
        ((_NS, shm, f'{shm}    _attach(Bind("/dev/shm", True, "write"), _clone("/dev/shm"))\n'),),
    )
    yield Mutant(
        "size of /tmp and /dev/shm", f"{ISOLATION} -k limits_hold[ns", ((_NS, 'f",size={policy.memory}"', '""'),)
    )
    yield Mutant(
        "read-only /proc", BY_LEVEL["ns"], ((_NS, '    _set(f"{ROOT}/proc", _ATTRIBUTE_READ_ONLY)', "    pass"),)
    )
    yield Mutant(
        "read-only root", BY_LEVEL["ns"], ((_NS, '    _set("/", _ATTRIBUTE_READ_ONLY, recursive=False)\n', ""),)
    )
    read = '"read": _ATTRIBUTE_READ_ONLY | _ATTRIBUTE_NO_SUID | _ATTRIBUTE_NO_DEVICES'
    for name in ("READ_ONLY", "NO_SUID", "NO_DEVICES"):
        mutated = read.replace(f"_ATTRIBUTE_{name}", "0")
        yield Mutant(f"what is read: {name.lower()}", BY_LEVEL["ns"], ((_NS, read, mutated),))
    write = '"write": _ATTRIBUTE_NO_SUID | _ATTRIBUTE_NO_DEVICES'
    for name in ("NO_SUID", "NO_DEVICES"):
        yield Mutant(
            f"what is changed: {name.lower()}",
            BY_LEVEL["ns"],
            ((_NS, write, write.replace(f"_ATTRIBUTE_{name}", "0")),),
        )
    yield Mutant("devices: no_suid", BY_LEVEL["ns"], ((_NS, '"device": _ATTRIBUTE_NO_SUID', '"device": 0'),))
    for name in ("_NO_SUID", "_NO_DEVICES"):
        yield Mutant(f"/tmp and /dev/shm: {name[1:].lower()}", BY_LEVEL["ns"], ((_NS, shm, shm.replace(name, "0")),))
    yield Mutant(
        "what keeps the init's root from cells: its own root, its memory, Landlock",
        BY_LEVEL["ns"],
        (NO_CHROOT, NO_DUMPABLE, NO_LANDLOCK_AT_NS),
    )
    yield Mutant(
        "the init ends with its maker",
        f"{ISOLATION} -k its_supervisor[ns",
        ((_NS, "    while os.read(lifeline, 1):\n        pass", "    while True:\n        signal.pause()"),),
    )


def _landlock() -> Iterator[Mutant]:
    yield Mutant("Landlock at ns", BY_LEVEL["ns"], (NO_LANDLOCK_AT_NS,))
    off = "    private = policy.apart\n    return landlock.version()\n"
    yield Mutant(
        "Landlock at landlock", BY_LEVEL["nobody landlock"], ((_CONFINING, "    private = policy.apart\n", off),)
    )
    yield Mutant("Landlock: cutting files", BY_LEVEL["nobody landlock"], ((_LANDLOCK, ", (3, TRUNCATE)", ""),))
    yield Mutant(
        "Landlock: reading files",
        BY_LEVEL["landlock"],
        ((_LANDLOCK, "(1, (1 << 13) - 1)", "(1, ((1 << 13) - 1) & ~4)"),),
    )
    yield Mutant(
        "Landlock: reading folders",
        BY_LEVEL["landlock"],
        ((_LANDLOCK, "(1, (1 << 13) - 1)", "(1, ((1 << 13) - 1) & ~8)"),),
    )
    yield Mutant(
        "Landlock: writing files",
        BY_LEVEL["landlock"],
        ((_LANDLOCK, "(1, (1 << 13) - 1)", "(1, ((1 << 13) - 1) & ~2)"),),
    )
    yield Mutant(
        "Landlock: making files",
        BY_LEVEL["landlock"],
        ((_LANDLOCK, "(1, (1 << 13) - 1)", "(1, ((1 << 13) - 1) & ~256)"),),
    )
    yield Mutant("Landlock: making devices", BY_LEVEL["landlock"], ((_LANDLOCK, "& ~(MAKE_CHAR | ", "& ~("),))
    yield Mutant(
        "Landlock: signals",
        BY_LEVEL["landlock"],
        ((_LANDLOCK, "_known(SCOPES, abi) & (", "_known(SCOPES, abi) & 0b01 & ("),),
    )
    yield Mutant("Landlock: abstract sockets", HOST, ((_LANDLOCK, "(0b10 if abstract else 0b11)", "0b10"),))
    yield Mutant(
        "Landlock: most of /proc",
        BY_LEVEL["landlock"],
        ((_CONFINING, 'if private else (f"/proc/{name}" for name in OF_THE_SYSTEM)', ""),),
    )
    yield Mutant(
        "no TCP at landlock, by seccomp's families, its connect, and Landlock",
        BY_LEVEL["landlock"],
        (
            NO_TCP_IN_SECCOMP,
            (
                _SECCOMP,
                "        refused += [(socket.AF_INET, errno.ENETUNREACH), (socket.AF_INET6, errno.ENETUNREACH)]\n",
                "        pass\n",
            ),
            (_CONFINING, "connect=policy.apart)", "connect=True)"),
            (_LANDLOCK, "0 if tcp else _known(TCP, abi)", "0"),
        ),
    )
    yield Mutant(
        "no abstract sockets at landlock, by seccomp and Landlock",
        BY_LEVEL["landlock"],
        ((_CONFINING, "connect=policy.apart)", "connect=True)"), (_LANDLOCK, "(0b10 if abstract else 0b11)", "0b10")),
    )


def _seccomp() -> Iterator[Mutant]:
    yield Mutant("seccomp", BY_LEVEL["ns"], ((_CONFINING, "    seccomp.install(_filter(policy))\n", ""),))
    for name, numbers in (
        ("process_vm_readv", "(310, 270)"),
        ("pidfd_getfd", "(438, 438)"),
        ("unshare", "(272, 97)"),
        ("mount", "(165, 40)"),
        ("chroot", "(161, 51)"),
        ("name_to_handle_at", "(303, 264)"),
        ("bpf", "(321, 280)"),
        ("perf_event_open", "(298, 241)"),
        ("userfaultfd", "(323, 282)"),
        ("keyctl", "(250, 219)"),
    ):
        yield Mutant(f"seccomp: {name}", BY_LEVEL["nobody ns"], ((_SECCOMP, f'    "{name}": {numbers},\n', ""),))
    yield Mutant("seccomp: ptrace", FILTER, (NO_PTRACE[0],))
    for name, numbers in (
        ("setns", "(308, 268)"),
        ("open_tree", "(428, 428)"),
        ("init_module", "(175, 105)"),
        ("reboot", "(169, 142)"),
    ):
        yield Mutant(f"seccomp: {name}", FILTER, ((_SECCOMP, f'    "{name}": {numbers},\n', ""),))
    yield Mutant("seccomp: calls of x86", FILTER, ((_SECCOMP, '"ioperm": 173, ', ""),))
    yield Mutant(
        "seccomp: other machines' calls",
        FILTER,
        ((_SECCOMP, "_instruction(_RETURN, _KILL)", "_instruction(_RETURN, _ALLOW)"),),
    )
    yield Mutant(
        "seccomp: x32",
        FILTER,
        ((_SECCOMP, "_deny(errno.ENOSYS)]\n    for table", "_instruction(_RETURN, _ALLOW)]\n    for table"),),
    )
    yield Mutant("seccomp: io_uring", BY_LEVEL["ns"], ((_SECCOMP, '    "io_uring_setup": (425, 425),', "    # "),))
    yield Mutant(
        "seccomp: clone into namespaces",
        BY_LEVEL["ns"],
        ((_SECCOMP, "_if_bits(0, _NEW_NAMESPACES, errno.EPERM)", "_if_bits(0, 0, errno.EPERM)"),),
    )
    yield Mutant("seccomp: clone3", BY_LEVEL["ns"], ((_SECCOMP, '    "clone3": (435, 435),', "    # "),))
    yield Mutant(
        "seccomp: typing into terminals",
        BY_LEVEL["ns"],
        ((_SECCOMP, "for code in (_TIOCSTI, _TIOCLINUX)", "for code in (_TIOCLINUX,)"),),
    )
    yield Mutant(
        "seccomp: kinds of sockets",
        BY_LEVEL["ns"],
        ((_SECCOMP, "return [*lines, _deny(errno.EAFNOSUPPORT)]", "return [*lines, _instruction(_RETURN, _ALLOW)]"),),
    )
    yield Mutant(
        "seccomp: netlink",
        BY_LEVEL["ns"],
        (
            (_SECCOMP, "(socket.AF_NETLINK, errno.EOPNOTSUPP)", "(255, errno.EOPNOTSUPP)"),
            (_SECCOMP, "allowed = [socket.AF_UNIX,", "allowed = [socket.AF_UNIX, socket.AF_NETLINK,"),
        ),
    )
    yield Mutant(
        "seccomp: connect at landlock", BY_LEVEL["landlock"], ((_CONFINING, "connect=policy.apart)", "connect=True)"),)
    )
    yield Mutant(
        "seccomp: connect alone",
        BY_LEVEL["landlock"],
        ((_SECCOMP, "        lines += _if_number(_CONNECT[here], [_deny(errno.EACCES)])\n", ""),),
    )
    yield Mutant(
        "seccomp: datagrams at landlock, by kind and by address",
        BY_LEVEL["landlock"],
        (
            (_SECCOMP, "families if connect else [*families, *streams]", "families"),
            (_SECCOMP, "[*_unless_is(4, 0, errno.EACCES)]", "[_instruction(_LOAD, _NUMBER)]"),
        ),
    )


def _rights() -> Iterator[Mutant]:
    yield Mutant(
        "capabilities are given up", BY_LEVEL["ns"], ((_CONFINING, "    system.give_up_capabilities()\n", ""),)
    )
    yield Mutant("no_new_privs", BY_LEVEL["ns"], ((_CONFINING, "    system.gain_nothing()\n", ""),))
    yield Mutant(
        "capabilities and no_new_privs, not looked for",
        BY_LEVEL["ns"],
        (
            (_CONFINING, "    system.give_up_capabilities()\n", ""),
            (_CHECKING, "    if any(int(", "    if False and any(int("),
        ),
    )


def _bubblewrap() -> Iterator[Mutant]:
    every = 'for kind in namespaces.kinds(policy) if kind != "mnt"]'
    for kind in ("user", "pid", "net", "ipc", "uts"):
        mutated = every.replace('kind != "mnt"', f'kind not in ("mnt", "{kind}")')
        yield Mutant(f"bwrap: namespace {kind}", BY_LEVEL["bwrap"], ((_BUBBLEWRAP, every, mutated),))
    yield Mutant(
        "bwrap: capabilities, by it and by us",
        BY_LEVEL["bwrap"],
        (
            (_BUBBLEWRAP, ', "--cap-drop", "ALL"]', ', "--cap-add", "ALL"]'),
            (_CONFINING, "    system.give_up_capabilities()\n", ""),
        ),
    )
    yield Mutant(
        "bwrap: it ends with its maker",
        f"{ISOLATION} -k its_supervisor[bwrap",
        ((_BUBBLEWRAP, '"--die-with-parent", ', ""),),
    )
    yield Mutant(
        "bwrap: what is read cannot be changed", BY_LEVEL["bwrap"], ((_BUBBLEWRAP, '"--ro-bind-try"', '"--bind-try"'),)
    )
    places = 'for place in ("/proc", "/dev", "/"):'
    yield Mutant("bwrap: read-only /proc", BY_LEVEL["bwrap"], ((_BUBBLEWRAP, places, 'for place in ("/dev", "/"):'),))
    yield Mutant(
        "bwrap: read-only root", BY_LEVEL["bwrap"], ((_BUBBLEWRAP, places, 'for place in ("/proc", "/dev"):'),)
    )
    yield Mutant(
        "bwrap: size of /tmp and /dev/shm",
        f"{ISOLATION} -k limits_hold[bwrap",
        ((_BUBBLEWRAP, '*(["--size", str(policy.memory)] if sized else [])', ""),),
    )
    yield Mutant("bwrap: Landlock", BY_LEVEL["bwrap"], (NO_LANDLOCK_AT_NS,))
    yield Mutant("bwrap: seccomp", BY_LEVEL["bwrap"], ((_CONFINING, "    seccomp.install(_filter(policy))\n", ""),))


def _proofs() -> Iterator[Mutant]:
    canary, looks = f"{ISOLATION} -k test_a_canary", f"{ISOLATION} -k looks_for_itself"
    yield Mutant(
        "canaries are tried", canary, ((_CONFINING, "reached=tuple(canaries.reached(policy.canaries))", "reached=()"),)
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
        yield Mutant(f"the controller looks for {what}", looks, ((_CHECKING, f"if {line}:", "if False:"),))
    yield Mutant(
        "min_level",
        f"{ISOLATION} -k less_than_the_least",
        (("isolation/choice.py", "RANKS[settings.level] < RANKS[settings.min_level]", "False"),),
    )
    yield Mutant(
        "a process that was not confined does not live",
        canary,
        (
            ("isolation/birth.py", "    if report.fault is not None:\n        os._exit(REFUSED)\n", ""),
            ("provisioner.py", "if self.report.fault is not None:", "if False:"),
        ),
    )


def _lives() -> Iterator[Mutant]:
    yield Mutant(
        "the supervisor ends with the controller",
        f"{ISOLATION} -k controllers_sigkill[landlock",
        ((_SUPERVISOR, "if side.fileno() in ready and not side.recv(64):", "if False:"),),
    )
    yield Mutant(
        "the supervisor adopts orphans",
        f"{SUPERVISION} -k a_daemon_ends_with",
        ((_SUPERVISOR, '    if sys.platform == "linux":\n', "    if False:\n"),),
    )
    yield Mutant(
        "the supervisor ends all below it",
        f"{SUPERVISION} -k a_daemon_ends",
        ((_SUPERVISOR, "        family.end(os.getpid())\n", ""),),
    )
    yield Mutant(
        "the guard ends orphans",
        f"{SUPERVISION} -k attacks_its_supervisor",
        (("guard.py", "        if child not in self.started:\n            os.kill(child, signal.SIGKILL)\n", ""),),
    )
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


def _limits() -> Iterator[Mutant]:
    of_the_system = f"{LIMITS} -k meets_its_limits"
    for what, line in (
        ("memory", "_lower(resource.RLIMIT_DATA, self.memory)"),
        ("open files", "_lower(resource.RLIMIT_NOFILE, self.open_files)"),
        ("the size of files", "_lower(resource.RLIMIT_FSIZE, self.file_size)"),
        ("core files", "_lower(resource.RLIMIT_CORE, 0)"),
        ("who goes first when memory ends", 'Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_GO))'),
    ):
        yield Mutant(f"limit of {what}", of_the_system, ((_LIMITS, line, "pass"),))
    yield Mutant("the sum of memory", f"{LIMITS} -k take_no_more", (("watch.py", "if limit is None:", "if True:"),))
    yield Mutant(
        "the number of processes",
        f"{LIMITS} -k too_many_processes",
        (("watch.py", "len(members) > self._limits.processes", "False"),),
    )
    yield Mutant(
        "room on the disk", f"{LIMITS} -k too_much_on_the_disk", (("watch.py", "passed = self._disk.look()", "pass"),)
    )
