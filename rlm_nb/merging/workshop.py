"""Where edits are made ready before any of them is put in its place: a folder for it, by oneself."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlm_nb.merging.objects import WORKSHOP
from rlm_nb.merging.placing import JOURNAL, Places

PREFIX = os.fsdecode(WORKSHOP)

WAITING = 60.0
"""Seconds to wait for somebody else who applies edits to the same folder."""

NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOTSUP)
"""What file systems say that cannot lock a folder, such as those of a network."""


@contextmanager
def workshop(top: Path, beside: Path) -> Iterator[Path]:
    """A new folder in `beside`, while nobody else has one to apply edits to `top`; removed in the end.

    Whatever one that was killed has left half done in `top` is put back first.

    Args:
        top: The folder that edits are applied to.
        beside: A folder on the same file system.

    Raises:
        OSError: A folder cannot be made, or what was left half done cannot be put back.
    """
    with _locked(top) as alone:
        for left in sorted(beside.glob(f"{PREFIX}*")) if alone else ():
            _put_back(top, left)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=beside))
        try:
            yield folder
        finally:
            if not (folder / JOURNAL).exists():  # or it holds old files that could not be put back
                shutil.rmtree(folder, ignore_errors=True)


def _put_back(top: Path, left: Path) -> None:
    if left.is_symlink() or not left.is_dir():
        return
    if (left / JOURNAL).is_file():
        Places(top, left).put_back()
    shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(top: Path) -> Iterator[bool]:
    """Nobody else applies edits to `top` meanwhile; tells whether that is sure. A lock ends with whoever holds it."""
    folder = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield _lock(folder, top)
    finally:
        os.close(folder)


def _lock(folder: int, top: Path) -> bool:
    until = time.monotonic() + WAITING
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise OSError(errno.EBUSY, "somebody else is applying edits there", str(top)) from None
            time.sleep(0.05)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return False
        else:
            return True
