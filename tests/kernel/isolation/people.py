"""Who runs a test: root, or somebody without any rights, who can still start this Python.

`python -m tests.kernel.isolation.people PROGRAM ARGUMENT…` becomes that somebody and runs a module.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

NOBODY = 60000
"""Not 65534, which stands for all users that have no number, and whom a set-user-id bubblewrap cannot map."""

ROOT = Path(__file__).parents[3]
_NEW_MOUNTS, _PRIVATE, _BIND = 0x20000, (1 << 18) | (1 << 14), (1 << 12) | (1 << 14)


def run(user: str, module: str, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a module of the tests as `root`, `nobody`, or `me`."""
    through = ["tests.kernel.isolation.people"] if user == "nobody" else []
    command = [sys.executable, "-m", *through, module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=110, **more)


def become_nobody() -> None:
    """Give up root's rights, in a world in which the folders above this Python and this checkout are open to all."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: bytes, target: bytes, kind: bytes | None, flags: int) -> None:
        if libc.mount(source, target, kind, ctypes.c_ulong(flags), b"mode=755" if kind else None):
            raise OSError(ctypes.get_errno(), f"mount {source!r} on {target!r}")

    if libc.unshare(_NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "unshare")
    mount(b"none", b"/", None, _PRIVATE)
    for needed in dict.fromkeys((Path(sys.base_prefix).resolve(), Path(sys.prefix), ROOT)):
        closed = next((p for p in reversed(needed.parents) if not p.stat().st_mode & 0o001), None)
        if closed is not None:  # such as /root: an empty one in its place, with this Python in it and nothing else
            place = os.open(needed, os.O_PATH)
            mount(b"tmpfs", bytes(closed), b"tmpfs", 0)
            needed.mkdir(parents=True)
            mount(f"/proc/self/fd/{place}".encode(), bytes(needed), None, _BIND)
            os.close(place)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


if __name__ == "__main__":
    become_nobody()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
