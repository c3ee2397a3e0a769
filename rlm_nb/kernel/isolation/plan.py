"""What there is in a world of its own: which files and folders of this machine, at the places where they are here.

`namespaces.py` and `bubblewrap.py` both build such a world, each by its own means.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Literal

from rlm_nb.kernel.isolation.policy import DEVICES, Policy

PRIVATE = ("/tmp", "/dev/shm")
"""Empty at first, in memory, and seen by nobody else."""

Kind = Literal["read", "write", "device"]
"""What may be done with it."""


@dataclass(frozen=True)
class Bind:
    """Something of the old world that is to be in the new one, at the same place."""

    path: str
    is_folder: bool
    kind: Kind


def foresee(policy: Policy) -> None:
    """Find out once, for all processes that are forked from this one, what of the system is where."""
    for path in (*policy.read, *DEVICES):
        with suppress(FileNotFoundError):
            _locate(path)


def plan(policy: Policy) -> tuple[list[Bind], dict[str, str]]:
    """What is to be there, outer folders first, and the symbolic links that lead to it."""
    found: dict[str, tuple[Kind, bool]] = {}
    links: dict[str, str] = {}
    wanted: tuple[tuple[Kind, tuple[str, ...]], ...] = (
        ("read", policy.read),
        ("write", policy.write),
        ("device", DEVICES),
    )
    for kind, paths in wanted:
        for path in paths:
            with suppress(FileNotFoundError):
                real, is_folder, passed = _locate(path)
                links.update(passed)
                found[real] = kind, is_folder
    binds = []
    for path in sorted(found, key=lambda path: path.count("/")):
        kind, is_folder = found[path]
        outer = next((found[parent][0] for parent in above(path) if parent in found), None)
        if outer != kind:
            binds.append(Bind(path, is_folder, kind))
    return binds, links


def above(path: str) -> Iterator[str]:
    """The folders that a path is in, the innermost first."""
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        yield path


@cache
def _locate(path: str) -> tuple[str, bool, tuple[tuple[str, str], ...]]:
    """The path without symbolic links, whether a folder is there, and the links on the way.

    Raises `FileNotFoundError` where there is nothing: that may come yet.
    """
    links: dict[str, str] = {}
    real = _follow(path, links)
    return real, stat.S_ISDIR(os.lstat(real).st_mode), tuple(links.items())


def _follow(path: str, links: dict[str, str]) -> str:
    """The path without symbolic links on the way; notes those, since programs go by them."""
    waiting, real = path.split("/")[::-1], ""
    for _ in range(1000):
        if not waiting:
            return real or "/"
        part = waiting.pop()
        if part in ("", "."):
            continue
        if part == "..":
            real = real.rpartition("/")[0]
            continue
        here = f"{real}/{part}"
        if not os.path.islink(here):  # noqa: PTH114
            real = here
            continue
        links[here] = target = os.readlink(here)  # noqa: PTH115
        waiting += target.split("/")[::-1]
        real = "" if target.startswith("/") else real
    raise OSError(errno.ELOOP, f"{path}: {os.strerror(errno.ELOOP)}")
