"""seccomp: system calls that are denied whatever they are asked, and kinds of sockets that there are none of.

The filter is a program for the kernel's packet filter (BPF), which sees a call's number and its arguments, but nothing
that these point to. So it can deny `connect()`, and not the connection to one address; where files can be told apart,
Landlock and namespaces do it. See seccomp(2), and linux/filter.h for the instructions.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import socket
import struct

from rlm_nb.kernel.isolation import system
from rlm_nb.kernel.isolation.policy import Network

DENIED = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # parts of the kernel that are of use to few, and have been a way out for some
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # the machine
    "acct": (163, 89),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "init_module": (175, 105),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "vhangup": (153, 58),
}
"""System calls that end with EPERM, with their numbers on x86_64 and aarch64."""

DENIED_ON_X86 = {"ioperm": 173, "iopl": 172, "modify_ldt": 154, "uselib": 134}

UNKNOWN = {
    "clone3": (435, 435),  # its flags are out of our sight: the C library goes back to clone
    "io_uring_setup": (425, 425),  # what is done through it no filter sees
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}
"""System calls that this kernel seems not to have: programs know what to do then."""

_SOCKET, _SOCKETPAIR, _CONNECT, _SENDTO, _CLONE, _IOCTL = (
    (41, 198),
    (53, 199),
    (42, 203),
    (44, 206),
    (56, 220),
    (16, 29),
)
_SECCOMP_MODE_FILTER = 2
_ARCHITECTURE = (0xC000003E, 0xC00000B7)
_X32 = 0x40000000

_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""

_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
"""To type into a terminal in somebody's place."""

# Instructions, and where in what they look at the parts of a call stand.
_LOAD, _AND, _EQUAL, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000


@functools.lru_cache
@functools.cache
def program(network: Network, *, connect: bool) -> bytes:
    """The filter.

    Args:
        network: `none` leaves unix sockets alone; else there are IPv4 and IPv6, too. Nothing else in any case.
        connect: Whether sockets may be connected. If not, there are none either that reach somebody without.
    """
    here = system.column()
    is_x86 = here == 0
    lines = [
        _instruction(_LOAD, _MACHINE),
        _instruction(_EQUAL, _ARCHITECTURE[here], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    if is_x86:
        lines += [_instruction(_AT_LEAST, _X32, 0, 1), _deny(errno.ENOSYS)]
    for table, error in ((DENIED, errno.EPERM), (UNKNOWN, errno.ENOSYS)):
        for numbers in table.values():
            lines += _if_number(numbers[here], [_deny(error)])
    if is_x86:
        for number in DENIED_ON_X86.values():
            lines += _if_number(number, [_deny(errno.EPERM)])
    lines += _if_number(_CLONE[here], [*_if_bits(0, _NEW_NAMESPACES, errno.EPERM)])
    lines += _if_number(
        _IOCTL[here], [line for code in (_TIOCSTI, _TIOCLINUX) for line in _if_is(1, code, errno.EPERM)]
    )
    if not connect:
        lines += _if_number(_CONNECT[here], [_deny(errno.EACCES)])
        # A datagram can be sent to an address without a connection. Its place in `sendmsg` we cannot see, so there are
        # no sockets for datagrams either; `sendto` with an address would be for one that was handed to this process.
        lines += _if_number(_SENDTO[here], [*_unless_is(4, 0, errno.EACCES)])
        streams = _unless_kind((socket.SOCK_STREAM, socket.SOCK_SEQPACKET), errno.EACCES)
        lines += _if_number(_SOCKETPAIR[here], streams)
    families = _families(network)
    lines += _if_number(_SOCKET[here], families if connect else [*families, *streams])
    lines.append(_instruction(_RETURN, _ALLOW))
    return b"".join(lines)


def install(code: bytes) -> None:
    """Have the filter look at every system call of this process, and of all that it starts."""
    text = ctypes.create_string_buffer(code, len(code))
    whole = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(text))
    holder = ctypes.create_string_buffer(whole, len(whole))
    system.prctl("seccomp", system.PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(holder))


def _families(network: Network) -> list[bytes]:
    """What `socket()` may be asked for."""
    allowed = [socket.AF_UNIX, *([] if network == "none" else [socket.AF_INET, socket.AF_INET6])]
    lines = [_instruction(_LOAD, _ARGUMENTS)]
    # Where a program wants to know which addresses there are, libzmq aborts over any other error than this.
    refused = [(socket.AF_NETLINK, errno.EOPNOTSUPP)]
    if network == "none":
        # The words for it that programs print, and people know.
        refused += [(socket.AF_INET, errno.ENETUNREACH), (socket.AF_INET6, errno.ENETUNREACH)]
    for family, error in refused:
        lines += [_instruction(_EQUAL, family, 0, 1), _deny(error)]
    for at, family in enumerate(allowed, 1):
        lines.append(_instruction(_EQUAL, family, len(allowed) - at + 1, 0))
    return [*lines, _deny(errno.EAFNOSUPPORT)]


def _if_number(number: int, then: list[bytes]) -> list[bytes]:
    """Lines for one system call; after them, its number is loaded again."""
    assert len(then) < 255
    return [_instruction(_EQUAL, number, 0, len(then) + 1), *then, _instruction(_LOAD, _NUMBER)]


def _if_is(argument: int, value: int, error: int) -> list[bytes]:
    return [_instruction(_LOAD, _ARGUMENTS + 8 * argument), _instruction(_EQUAL, value, 0, 1), _deny(error)]


def _unless_is(argument: int, value: int, error: int) -> list[bytes]:
    """Both halves of the argument, which is an address."""
    lines = []
    for half in (0, 4):
        place = _ARGUMENTS + 8 * argument + half
        lines += [_instruction(_LOAD, place), _instruction(_EQUAL, value, 1, 0), _deny(error)]
    return lines


def _if_bits(argument: int, bits: int, error: int) -> list[bytes]:
    return [_instruction(_LOAD, _ARGUMENTS + 8 * argument), _instruction(_HAS_BITS, bits, 0, 1), _deny(error)]


def _unless_kind(kinds: tuple[int, ...], error: int) -> list[bytes]:
    """Unless the socket is of one of these kinds; its flags stand in the same number."""
    lines = [_instruction(_LOAD, _ARGUMENTS + 8), _instruction(_AND, 0xF)]
    for at, kind in enumerate(kinds, 1):
        lines.append(_instruction(_EQUAL, kind, len(kinds) - at + 1, 0))
    return [*lines, _deny(error)]


def _deny(error: int) -> bytes:
    return _instruction(_RETURN, _ERROR | error)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
