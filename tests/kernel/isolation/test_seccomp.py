"""The filter of system calls, asked as the system asks it: what it says to calls that fail in any case."""

from __future__ import annotations

import errno
import platform
import struct

import pytest

from rlm_nb.kernel.isolation import seccomp

X86_64, I386, X32 = 0xC000003E, 0x40000003, 0x40000000
ALLOWED, KILLED = "allowed", "killed"
IN_VAIN = {
    "acct": 163,
    "chroot": 161,
    "bpf": 321,
    "clock_settime": 227,
    "delete_module": 176,
    "finit_module": 313,
    "init_module": 175,
    "ioperm": 173,
    "iopl": 172,
    "kexec_file_load": 320,
    "kexec_load": 246,
    "modify_ldt": 154,
    "move_mount": 429,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "open_tree": 428,
    "perf_event_open": 298,
    "pivot_root": 155,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "ptrace": 101,
    "quotactl": 179,
    "reboot": 169,
    "setdomainname": 171,
    "sethostname": 170,
    "setns": 308,
    "settimeofday": 164,
    "swapoff": 168,
    "swapon": 167,
    "syslog": 103,
    "umount2": 166,
    "vhangup": 153,
}
"""Calls that fail in a cell for want of a right, or of somebody to be their victim: no attempt can tell whether the
filter lets them pass."""

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers here are those of x86_64")


def test_what_would_be_in_vain_is_denied() -> None:
    """Modules, the clock, swap, mounts, the memory of others: denied by the filter, too, should another wall fall."""
    assert {name for name, number in IN_VAIN.items() if answer(number) != errno.EPERM} == set()
    assert answer(0) == ALLOWED  # read


def test_other_ways_to_call_are_none() -> None:
    """Calls of 32-bit programs end the process, and those of x32, which have other numbers, are unknown."""
    assert answer(0, machine=I386) == KILLED
    assert answer(0 | X32) == errno.ENOSYS


def answer(number: int, *arguments: int, machine: int = X86_64) -> int | str:
    """What the filter says to a call: the error, `ALLOWED` or `KILLED`. See linux/filter.h."""
    call = struct.pack("=iIQ6Q", number, machine, 0, *arguments, *([0] * (6 - len(arguments))))
    code, at, held = seccomp.program("none", connect=True), 0, 0
    while True:
        kind, if_true, if_false, value = struct.unpack_from("HBBI", code, 8 * at)
        at += 1
        if kind == 0x06:
            return {0x7FFF0000: ALLOWED, 0x80000000: KILLED}.get(value, value & 0xFFFF)
        if kind == 0x20:
            held = struct.unpack_from("=I", call, value)[0]
        elif kind == 0x54:
            held &= value
        else:
            is_so = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[kind]
            at += if_true if is_so else if_false
