"""What a folder holds at a moment, to tell later whether anything in it changed."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def everything(folder: Path) -> dict[str, tuple[int, bytes, int]]:
    """Mode, bytes and time of each file, link and folder below, `.git` included."""
    found = {}
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in [*folders, *files]):
            status = path.lstat()
            found[str(path.relative_to(folder))] = (status.st_mode, _data(path, status.st_mode), status.st_mtime_ns)
    return found


def modes_and_bytes(folder: Path) -> dict[str, tuple[int, bytes]]:
    """`everything` but the times, which git renews for what it finds still in use."""
    return {name: found[:2] for name, found in everything(folder).items()}


def files(folder: Path) -> dict[str, tuple[bool, bytes]]:
    """Each file and link below, the `.git` at the top excepted: whether it can be run, and its bytes."""
    return {
        name: (bool(mode & stat.S_IXUSR), data)
        for name, (mode, data, _) in everything(folder).items()
        if name.split("/")[0] != ".git" and not stat.S_ISDIR(mode)
    }


def _data(path: Path, mode: int) -> bytes:
    if stat.S_ISLNK(mode):
        return os.fsencode(path.readlink())
    return path.read_bytes() if stat.S_ISREG(mode) else b""
