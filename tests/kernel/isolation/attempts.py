"""What no cell may do, tried by a cell: this file is what the cell runs, with the facts in `PLANTED` before it.

Nothing here may do harm where it succeeds: it changes planted files at most. Calls that would change the machine are
made so that they fail all the same, by another error than the one of those who are kept from them.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PLANTED: dict[str, Any] = globals().get("PLANTED", {})
"""What the controller has planted, or is.

`secret`, `home`, `other` (another agent's folder), `record` (a run's), `shared` (in /dev/shm), `segment`, `tcp`, `udp`,
`unix`, `datagrams`, `abstract`, `controller`, `bystander`, `python`.
"""

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
X86 = platform.machine() == "x86_64"


def call(x86: int, arm: int, *arguments: Any) -> None:
    result = libc.syscall(ctypes.c_long(x86 if X86 else arm), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def peer(family: int, kind: int, address: Any, protocol: int = 0) -> None:
    with socket.socket(family, kind, protocol) as one:
        one.settimeout(2)
        one.connect(address)


def datagram(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.sendto(b"told", address)


def message(address: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.sendmsg([b"told"], [], 0, address)


def read(path: str) -> None:
    assert Path(path).read_bytes() is not None


def append(path: str) -> None:
    with Path(path).open("ab") as file:
        file.write(b"!")


def make(path: str) -> None:
    Path(path).write_text("made")


def through_a_link() -> None:
    link = Path("link")
    link.unlink(missing_ok=True)
    link.symlink_to(PLANTED["secret"])
    read(str(link))


def by_a_hard_link() -> None:
    os.link(PLANTED["secret"], "hard")


def by_handle() -> None:
    handle, mounted = ctypes.create_string_buffer(struct.pack("Ii", 120, 0), 128), ctypes.c_int()
    call(303, 264, -100, PLANTED["secret"].encode(), handle, ctypes.byref(mounted), 0)


def cut_to_nothing() -> None:
    os.truncate(PLANTED["python"], os.stat(PLANTED["python"]).st_size)


def trace() -> None:
    call(101, 117, ctypes.c_long(0x4206), ctypes.c_long(PLANTED["bystander"]), None, None)  # PTRACE_SEIZE


def look_into_memory() -> None:
    mine = ctypes.create_string_buffer(8)
    spec = struct.pack("QQ", ctypes.addressof(mine), 8)
    with suppress_bad_address():
        call(310, 270, ctypes.c_long(PLANTED["bystander"]), spec, 1, spec, 1, 0)


@contextmanager
def suppress_bad_address() -> Iterator[None]:
    """Who may not look is told that, and not where there is nothing to see."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EFAULT, errno.EBADF):
            raise


def take_a_descriptor() -> None:
    with suppress_bad_address():
        call(438, 438, -1, 0, 0)


def new_namespace(flag: int) -> None:
    if (child := os.fork()) == 0:  # were it to work, this process should not be the one
        try:
            call(272, 97, ctypes.c_ulong(flag))
            os._exit(0)
        except OSError:
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise PermissionError


def clone_into_a_namespace() -> None:
    child = libc.syscall(ctypes.c_long(56 if X86 else 220), ctypes.c_ulong(0x10000000 | 17), None, None, None, None)
    if child == 0:
        os._exit(0)
    if child < 0:
        raise OSError(ctypes.get_errno(), "clone")
    os.waitpid(child, 0)


def clone3_into_a_namespace() -> None:
    child = libc.syscall(ctypes.c_long(435), struct.pack("8Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0), ctypes.c_size_t(64))
    if child == 0:
        os._exit(0)
    if child < 0:
        raise OSError(ctypes.get_errno(), "clone3")
    os.waitpid(child, 0)


def type_into_a_terminal() -> None:
    """Into something that is none: who may, is told that."""
    with open("/dev/null", "wb") as file:
        try:
            fcntl.ioctl(file, 0x5412, b"x")
        except OSError as error:
            if error.errno != errno.ENOTTY:
                raise


def read_a_command() -> None:
    assert b"bystander" in Path(f"/proc/{PLANTED['bystander']}/cmdline").read_bytes()


def make_a_device() -> None:
    """One that stands for nothing, which no right is needed for; Landlock alone denies it."""
    os.mknod("device", stat.S_IFCHR | 0o600, 0)
    os.unlink("device")


def a_signal(pid: int) -> None:
    os.kill(pid, 0)


def mount() -> None:
    """On a folder that is not there: who may mount is told so."""
    try:
        call(165, 40, b"none", b"no-such-folder", b"tmpfs", 0, None)
    except FileNotFoundError:
        return


def open_for_writing(path: str, flags: int = 0) -> None:
    """And write nothing."""
    os.close(os.open(path, os.O_WRONLY | flags, 0o600))


def gain() -> None:
    facts = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    if facts["NoNewPrivs"] == "1" and not any(int(facts[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")):
        raise PermissionError


def attach() -> None:
    libc.shmat.restype = ctypes.c_long
    if libc.shmat(PLANTED["segment"], None, 0o10000) == -1:
        raise OSError(ctypes.get_errno(), "shmat")


def strays() -> str:
    """Descriptors that were left open: folders, and files that are none of this agent's."""
    for name in os.listdir("/proc/self/fd"):
        target = os.path.realpath(f"/proc/self/fd/{name}")
        known = ("/dev/", "/proc/", str(Path.cwd().parent))
        if os.path.isabs(target) and os.path.exists(target) and not target.startswith(known):
            return target
    raise PermissionError


EVERYWHERE = {
    "read a secret": lambda: read(PLANTED["secret"]),
    "read it through a link": through_a_link,
    "read it below a process's root": lambda: read(f"/proc/{PLANTED['controller']}/root{PLANTED['secret']}"),
    "read it below the init's root": lambda: read(f"/proc/1/root{PLANTED['secret']}"),
    "read it below its own root": lambda: read(f"/proc/self/root{PLANTED['secret']}"),
    "link to it": by_a_hard_link,
    "open it by its handle": by_handle,
    "list a home": lambda: os.listdir(PLANTED["home"]),
    "change a secret": lambda: append(PLANTED["secret"]),
    "make a file in a home": lambda: make(f"{PLANTED['home']}/made"),
    "read another agent's file": lambda: read(f"{PLANTED['other']}/work/theirs"),
    "change another agent's file": lambda: append(f"{PLANTED['other']}/work/theirs"),
    "list another agent's folder": lambda: os.listdir(PLANTED["other"]),
    "find another agent's sockets": lambda: next(read(str(p)) for p in Path(PLANTED["other"]).glob("s-*/*.json")),
    "read a run's ledger": lambda: read(f"{PLANTED['record']}/budget.json"),
    "read a run's notebook": lambda: read(f"{PLANTED['record']}/root.ipynb"),
    "change this Python": lambda: append(PLANTED["python"]),
    "cut this Python": cut_to_nothing,
    "make a file beside this Python": lambda: make(f"{os.path.dirname(PLANTED['python'])}/made.py"),
    "make a file in /usr": lambda: open_for_writing("/usr", os.O_TMPFILE),
    "make a device": make_a_device,
    "read the shadow file": lambda: os.close(os.open("/etc/shadow", os.O_RDONLY)),
    "read a process's variables": lambda: read(f"/proc/{PLANTED['bystander']}/environ"),
    "read a process's memory": lambda: os.close(os.open(f"/proc/{PLANTED['bystander']}/mem", os.O_RDONLY)),
    "change a setting of the system": lambda: open_for_writing("/proc/sys/kernel/domainname"),
    "read a process's command": read_a_command,
    "signal the controller": lambda: a_signal(PLANTED["controller"]),
    "signal a bystander": lambda: a_signal(PLANTED["bystander"]),
    "signal the first process": lambda: a_signal(1),
    "trace a bystander": trace,
    "look into a bystander's memory": look_into_memory,
    "take a descriptor": take_a_descriptor,
    "connect by TCP": lambda: peer(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", PLANTED["tcp"])),
    "connect by MPTCP": lambda: peer(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", PLANTED["tcp"]), 262),
    "send by UDP": lambda: datagram(socket.AF_INET, ("127.0.0.1", PLANTED["udp"])),
    "connect a unix socket": lambda: peer(socket.AF_UNIX, socket.SOCK_STREAM, PLANTED["unix"]),
    "send to a unix socket": lambda: datagram(socket.AF_UNIX, PLANTED["datagrams"]),
    "send a message to a unix socket": lambda: message(PLANTED["datagrams"]),
    "connect an abstract socket": lambda: peer(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{PLANTED['abstract']}"),
    "open a vsock": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),
    "open a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "open a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM),
    "use io_uring": lambda: call(425, 425, 1, b"\0" * 120),
    "make a user namespace": lambda: new_namespace(0x10000000),
    "clone into a user namespace": clone_into_a_namespace,
    "clone into one by the newer call": clone3_into_a_namespace,
    "type into a terminal": type_into_a_terminal,
    "make a mount namespace": lambda: new_namespace(0x20000),
    "mount": mount,
    "change the root": lambda: call(161, 51, b"/"),
    "use keys of the system": lambda: call(250, 219, 0, -3, 0, 0, 0),
    "load a program into the system": lambda: call(321, 280, 5, b"\0" * 64, 64),
    "count events": lambda: call(298, 241, b"\0" * 112, 0, -1, -1, 0),
    "handle page faults": lambda: call(323, 282, 1),
    "gain rights": gain,
    "find a stray descriptor": strays,
    "rename a secret": lambda: os.rename(PLANTED["secret"], f"{PLANTED['secret']}2"),
}

IN_NAMESPACES = {
    "see a secret": lambda: os.stat(PLANTED["secret"]),
    "see a home": lambda: os.stat(PLANTED["home"]),
    "change a secret's permissions": lambda: os.chmod(PLANTED["secret"], 0o644),
    "change a secret's times": lambda: os.utime(PLANTED["secret"]),
    "see a bystander": lambda: os.stat(f"/proc/{PLANTED['bystander']}/stat") and the_same(PLANTED["bystander"]),
    "read shared memory": lambda: read(PLANTED["shared"]),
    "read shared memory of System V": attach,
}
"""What Landlock alone does not prevent."""


def the_same(pid: int) -> None:
    """Numbers are used again in another world: whether this one stands for the process that is meant."""
    if b"bystander" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        raise ProcessLookupError


def talk_to_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer(socket.AF_INET, socket.SOCK_STREAM, server.getsockname())


OF_A_NETWORK = {"talk to itself": talk_to_itself, "connect by TCP": EVERYWHERE["connect by TCP"]}


def tried(attempts: dict[str, Any]) -> dict[str, str]:
    """What came of each: `done`, or the error."""
    came: dict[str, str] = {}
    for name, attempt in attempts.items():
        try:
            found = attempt()
            came[name] = "done" if found is None else f"done: {found}"
        except Exception as error:  # noqa: BLE001 - a report
            came[name] = f"{type(error).__name__}: {error}"
    return came
