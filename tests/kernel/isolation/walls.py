"""The walls around a kernel, and how each is switched off: see `mutations.py`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.kernel.isolation.mutants import (
    BUBBLEWRAP,
    BY_LEVEL,
    CHECKING,
    CONFINING,
    ENDS,
    FILTER,
    HOST,
    ISOLATION,
    LANDLOCK,
    LOOPBACK,
    NS,
    SECCOMP,
    Edit,
    Mutant,
)

NO_LANDLOCK_AT_NS: Edit = (
    CONFINING,
    "    private = policy.apart\n",
    "    private = policy.apart\n    if private:\n        return landlock.version()\n",
)
NO_DUMPABLE = (NS, '    system.prctl("PR_SET_DUMPABLE", system.PR_SET_DUMPABLE, 0)', "    pass")
NO_CHROOT = (NS, '    os.chroot("/proc/self/fdinfo")', "    pass")
NO_TCP_IN_SECCOMP = (SECCOMP, 'if network == "none" else [socket.AF_INET', "if False else [socket.AF_INET")


def namespaces() -> Iterator[Mutant]:
    kinds = 'KINDS = ("user", "mnt", "pid", "net", "ipc", "uts")'
    for kind, tests in (
        ("user", "ns"),
        ("pid", "ns"),
        ("ipc", "ns"),
        ("net", "loopback"),
    ):
        tests = BY_LEVEL.get(tests, LOOPBACK)
        yield Mutant(f"namespace {kind}, looked for or not", tests, ((NS, kinds, kinds.replace(f'"{kind}", ', "")),))
    for kind in ("user", "pid", "net", "ipc", "uts"):
        left = (
            NS,
            'for kind in kinds(policy) if kind != "mnt")',
            f'for kind in kinds(policy) if kind not in ("mnt", "{kind}"))',
        )
        yield Mutant(f"namespace {kind}", BY_LEVEL["ns"], (left,))
    yield Mutant("namespace mnt", BY_LEVEL["ns"], ((NS, '    _unshare(["mnt"])\n', ""),))
    yield Mutant(
        "the old root goes away",
        BY_LEVEL["ns"],
        ((NS, '    system.unmount(".", _DETACH)', '    system.call("pivot", _PIVOT_ROOT[0], b".", b".")'),),
    )
    own = '    system.mount("proc", f"{ROOT}/proc", "proc", _NO_SUID | _NO_DEVICES | _NO_EXECUTION)\n'
    yield Mutant(
        "private /proc", BY_LEVEL["ns"], ((NS, own, '    _attach(Bind("/proc", True, "write"), _clone("/proc"))\n'),)
    )
    shm = '        system.mount("tmpfs", f"{ROOT}{place}", "tmpfs", _NO_SUID | _NO_DEVICES, f"mode=1777{size}")\n'
    yield Mutant(
        "private /dev/shm",
        BY_LEVEL["ns"],
        ((NS, shm, f'{shm}    _attach(Bind("/dev/shm", True, "write"), _clone("/dev/shm"))\n'),),
    )
    yield Mutant("size of /tmp and /dev/shm", f"{ENDS} -k limits_hold[ns", ((NS, 'f",size={policy.memory}"', '""'),))
    yield Mutant(
        "read-only /proc", BY_LEVEL["ns"], ((NS, '    _set(f"{ROOT}/proc", _ATTRIBUTE_READ_ONLY)', "    pass"),)
    )
    yield Mutant(
        "read-only root", BY_LEVEL["ns"], ((NS, '    _set("/", _ATTRIBUTE_READ_ONLY, recursive=False)\n', ""),)
    )
    read = '"read": _ATTRIBUTE_READ_ONLY | _ATTRIBUTE_NO_SUID | _ATTRIBUTE_NO_DEVICES'
    for name in ("READ_ONLY", "NO_SUID", "NO_DEVICES"):
        mutated = read.replace(f"_ATTRIBUTE_{name}", "0")
        yield Mutant(f"what is read: {name.lower()}", BY_LEVEL["ns"], ((NS, read, mutated),))
    write = '"write": _ATTRIBUTE_NO_SUID | _ATTRIBUTE_NO_DEVICES'
    for name in ("NO_SUID", "NO_DEVICES"):
        yield Mutant(
            f"what is changed: {name.lower()}",
            BY_LEVEL["ns"],
            ((NS, write, write.replace(f"_ATTRIBUTE_{name}", "0")),),
        )
    yield Mutant("devices: no_suid", BY_LEVEL["ns"], ((NS, '"device": _ATTRIBUTE_NO_SUID', '"device": 0'),))
    for name in ("_NO_SUID", "_NO_DEVICES"):
        yield Mutant(f"/tmp and /dev/shm: {name[1:].lower()}", BY_LEVEL["ns"], ((NS, shm, shm.replace(name, "0")),))
    yield Mutant(
        "what keeps the init's root from cells: its own root, its memory, Landlock",
        f"{ISOLATION} -k first_process_shows_nothing[root-ns",
        (NO_CHROOT, NO_DUMPABLE, NO_LANDLOCK_AT_NS),
    )
    yield Mutant(
        "the init ends with its maker",
        f"{ENDS} -k its_supervisor[ns",
        ((NS, "    while os.read(lifeline, 1):\n        pass", "    while True:\n        signal.pause()"),),
    )


def landlock() -> Iterator[Mutant]:
    yield Mutant("Landlock at ns", BY_LEVEL["ns"], (NO_LANDLOCK_AT_NS,))
    off = "    private = policy.apart\n    return landlock.version()\n"
    yield Mutant(
        "Landlock at landlock", BY_LEVEL["nobody landlock"], ((CONFINING, "    private = policy.apart\n", off),)
    )
    yield Mutant("Landlock: cutting files", BY_LEVEL["nobody landlock"], ((LANDLOCK, ", (3, TRUNCATE)", ""),))
    yield Mutant(
        "Landlock: reading files",
        BY_LEVEL["landlock"],
        ((LANDLOCK, "(1, (1 << 13) - 1)", "(1, ((1 << 13) - 1) & ~4)"),),
    )
    yield Mutant(
        "Landlock: reading folders",
        BY_LEVEL["landlock"],
        ((LANDLOCK, "(1, (1 << 13) - 1)", "(1, ((1 << 13) - 1) & ~8)"),),
    )
    yield Mutant(
        "Landlock: writing files",
        BY_LEVEL["landlock"],
        ((LANDLOCK, "(1, (1 << 13) - 1)", "(1, ((1 << 13) - 1) & ~2)"),),
    )
    yield Mutant(
        "Landlock: making files",
        BY_LEVEL["landlock"],
        ((LANDLOCK, "(1, (1 << 13) - 1)", "(1, ((1 << 13) - 1) & ~256)"),),
    )
    yield Mutant("Landlock: making devices", BY_LEVEL["landlock"], ((LANDLOCK, "& ~(MAKE_CHAR | ", "& ~("),))
    yield Mutant(
        "Landlock: signals",
        BY_LEVEL["landlock"],
        ((LANDLOCK, "_known(SCOPES, abi) & (", "_known(SCOPES, abi) & 0b01 & ("),),
    )
    yield Mutant("Landlock: abstract sockets", HOST, ((LANDLOCK, "(0b10 if abstract else 0b11)", "0b10"),))
    yield Mutant(
        "Landlock: most of /proc",
        BY_LEVEL["landlock"],
        ((CONFINING, 'if private else (f"/proc/{name}" for name in OF_THE_SYSTEM)', ""),),
    )
    yield Mutant(
        "no TCP at landlock, by seccomp's families, its connect, and Landlock",
        BY_LEVEL["landlock"],
        (
            NO_TCP_IN_SECCOMP,
            (
                SECCOMP,
                "        refused += [(socket.AF_INET, errno.ENETUNREACH), (socket.AF_INET6, errno.ENETUNREACH)]\n",
                "        pass\n",
            ),
            (CONFINING, "connect=policy.apart)", "connect=True)"),
            (LANDLOCK, "0 if tcp else _known(TCP, abi)", "0"),
        ),
    )
    yield Mutant(
        "no abstract sockets at landlock, by seccomp and Landlock",
        BY_LEVEL["landlock"],
        ((CONFINING, "connect=policy.apart)", "connect=True)"), (LANDLOCK, "(0b10 if abstract else 0b11)", "0b10")),
    )


def seccomp() -> Iterator[Mutant]:
    yield Mutant("seccomp", BY_LEVEL["ns"], ((CONFINING, "    seccomp.install(_filter(policy))\n", ""),))
    for name, numbers in (
        ("pidfd_getfd", "(438, 438)"),
        ("unshare", "(272, 97)"),
        ("mount", "(165, 40)"),
        ("userfaultfd", "(323, 282)"),
        ("keyctl", "(250, 219)"),
    ):
        yield Mutant(f"seccomp: {name}", BY_LEVEL["nobody ns"], ((SECCOMP, f'    "{name}": {numbers},\n', ""),))
    for name, numbers in (
        ("ptrace", "(101, 117)"),
        ("process_vm_readv", "(310, 270)"),
        ("chroot", "(161, 51)"),
        ("name_to_handle_at", "(303, 264)"),
        ("bpf", "(321, 280)"),
        ("perf_event_open", "(298, 241)"),
        ("setns", "(308, 268)"),
        ("open_tree", "(428, 428)"),
        ("init_module", "(175, 105)"),
        ("reboot", "(169, 142)"),
    ):
        yield Mutant(f"seccomp: {name}", FILTER, ((SECCOMP, f'    "{name}": {numbers},\n', ""),))
    yield Mutant("seccomp: calls of x86", FILTER, ((SECCOMP, '"ioperm": 173, ', ""),))
    yield Mutant(
        "seccomp: other machines' calls",
        FILTER,
        ((SECCOMP, "_instruction(_RETURN, _KILL)", "_instruction(_RETURN, _ALLOW)"),),
    )
    yield Mutant(
        "seccomp: x32",
        FILTER,
        ((SECCOMP, "_deny(errno.ENOSYS)]\n    for table", "_instruction(_RETURN, _ALLOW)]\n    for table"),),
    )
    yield Mutant("seccomp: io_uring", BY_LEVEL["ns"], ((SECCOMP, '    "io_uring_setup": (425, 425),', "    # "),))
    yield Mutant(
        "seccomp: clone into namespaces",
        BY_LEVEL["ns"],
        ((SECCOMP, "_if_bits(0, _NEW_NAMESPACES, errno.EPERM)", "_if_bits(0, 0, errno.EPERM)"),),
    )
    yield Mutant("seccomp: clone3", BY_LEVEL["ns"], ((SECCOMP, '    "clone3": (435, 435),', "    # "),))
    yield Mutant(
        "seccomp: typing into terminals",
        BY_LEVEL["ns"],
        ((SECCOMP, "for code in (_TIOCSTI, _TIOCLINUX)", "for code in (_TIOCLINUX,)"),),
    )
    yield Mutant(
        "seccomp: kinds of sockets",
        BY_LEVEL["ns"],
        ((SECCOMP, "return [*lines, _deny(errno.EAFNOSUPPORT)]", "return [*lines, _instruction(_RETURN, _ALLOW)]"),),
    )
    yield Mutant(
        "seccomp: netlink",
        BY_LEVEL["ns"],
        (
            (SECCOMP, "(socket.AF_NETLINK, errno.EOPNOTSUPP)", "(255, errno.EOPNOTSUPP)"),
            (SECCOMP, "allowed = [socket.AF_UNIX,", "allowed = [socket.AF_UNIX, socket.AF_NETLINK,"),
        ),
    )
    yield Mutant(
        "seccomp: connect at landlock", BY_LEVEL["landlock"], ((CONFINING, "connect=policy.apart)", "connect=True)"),)
    )
    yield Mutant(
        "seccomp: connect alone",
        BY_LEVEL["landlock"],
        ((SECCOMP, "        lines += _if_number(_CONNECT[here], [_deny(errno.EACCES)])\n", ""),),
    )
    yield Mutant(
        "seccomp: datagrams at landlock, by kind and by address",
        BY_LEVEL["landlock"],
        (
            (SECCOMP, "families if connect else [*families, *streams]", "families"),
            (SECCOMP, "[*_unless_is(4, 0, errno.EACCES)]", "[_instruction(_LOAD, _NUMBER)]"),
        ),
    )


def rights() -> Iterator[Mutant]:
    yield Mutant("capabilities are given up", BY_LEVEL["ns"], ((CONFINING, "    system.give_up_capabilities()\n", ""),))
    yield Mutant("no_new_privs", BY_LEVEL["ns"], ((CONFINING, "    system.gain_nothing()\n", ""),))
    yield Mutant(
        "capabilities and no_new_privs, not looked for",
        BY_LEVEL["ns"],
        (
            (CONFINING, "    system.give_up_capabilities()\n", ""),
            (CHECKING, "    if any(int(", "    if False and any(int("),
        ),
    )


def bubblewrap() -> Iterator[Mutant]:
    every = 'for kind in namespaces.kinds(policy) if kind != "mnt"]'
    for kind in ("user", "pid", "net", "ipc", "uts"):
        mutated = every.replace('kind != "mnt"', f'kind not in ("mnt", "{kind}")')
        yield Mutant(f"bwrap: namespace {kind}", BY_LEVEL["bwrap"], ((BUBBLEWRAP, every, mutated),))
    yield Mutant(
        "bwrap: capabilities, by it and by us",
        BY_LEVEL["bwrap"],
        (
            (BUBBLEWRAP, ', "--cap-drop", "ALL"]', ', "--cap-add", "ALL"]'),
            (CONFINING, "    system.give_up_capabilities()\n", ""),
        ),
    )
    yield Mutant(
        "bwrap: it ends with its maker",
        f"{ENDS} -k its_supervisor[bwrap",
        ((BUBBLEWRAP, '"--die-with-parent", ', ""),),
    )
    yield Mutant(
        "bwrap: what is read cannot be changed", BY_LEVEL["bwrap"], ((BUBBLEWRAP, '"--ro-bind-try"', '"--bind-try"'),)
    )
    places = 'for place in ("/proc", "/dev", "/"):'
    yield Mutant("bwrap: read-only /proc", BY_LEVEL["bwrap"], ((BUBBLEWRAP, places, 'for place in ("/dev", "/"):'),))
    yield Mutant("bwrap: read-only root", BY_LEVEL["bwrap"], ((BUBBLEWRAP, places, 'for place in ("/proc", "/dev"):'),))
    yield Mutant(
        "bwrap: size of /tmp and /dev/shm",
        f"{ENDS} -k limits_hold[bwrap",
        ((BUBBLEWRAP, '*(["--size", str(policy.memory)] if sized else [])', "*()"),),
    )
    yield Mutant("bwrap: Landlock", BY_LEVEL["bwrap"], (NO_LANDLOCK_AT_NS,))
    yield Mutant("bwrap: seccomp", BY_LEVEL["bwrap"], ((CONFINING, "    seccomp.install(_filter(policy))\n", ""),))
