"""Folders that an agent may do anything in, and that are gone afterwards all the same."""

from __future__ import annotations

import logging
import os
import secrets
import stat
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

from rlm_nb.processes import is_abandoned, mark

log = logging.getLogger(__name__)

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a folder is opened: never through a symbolic link that somebody put in its place."""

ROUNDS = 5
"""How often a removal starts again because something was still writing below the folder."""

SHORT = Path("/tmp")
"""Where the sockets of kernels are, when the path of the temporary folder leaves them no room."""

SHALLOW = 20
"""Levels of folders that are removed where they are, with a descriptor each: nearly always all that there are."""

SPREAD = 0x0002_0000
"""`FS_TOPDIR_FL` of the header linux/fs.h: what is below this folder is not related."""

_FLAGS = struct.Struct("l")
_GET_FLAGS, _SET_FLAGS = 0x8000_6601 | _FLAGS.size << 16, 0x4000_6602 | _FLAGS.size << 16

_there: set[Path] = set()
_leaving = Event()


@contextmanager
def scratch(tell: Callable[[str], None] = log.warning) -> Iterator[Path]:
    """A new folder that only its owner can enter; removed at the end, whatever is in it by then.

    Its name says which process it belongs to, so that a later one can remove it if that one was killed.

    Args:
        tell: Called with a sentence when the system does not let go of all of it.
    """
    folder = Path(tempfile.mkdtemp(prefix=mark())).resolve()
    _there.add(folder)
    _spread(folder)
    try:
        yield folder
    finally:
        gone = remove_tree(folder)
        _there.discard(folder)
        if not gone:
            why = "it holds a mount point, or files that may not be removed (chattr +i)"
            tell(f"the temporary folder {folder} could not be removed whole: {why}")


def _spread(folder: Path) -> None:
    """Ask the file system to spread what is made in a folder over the disk, as `chattr +T` does.

    ext4 avoids the places of files that were deleted in the last minutes, and looks through all of them, near the
    folder, each time that a file is made. Agents that come and go make and delete thousands: where they all do it in
    one place, a run of sixteen takes a fifth more of the processor.
    """
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):  # a file system that has no such thing
            opened = os.open(folder, FOLDER)
            try:
                (flags,) = _FLAGS.unpack(fcntl.ioctl(opened, _GET_FLAGS, bytes(_FLAGS.size)))
                fcntl.ioctl(opened, _SET_FLAGS, _FLAGS.pack(flags | SPREAD))
            finally:
                os.close(opened)


def remove_abandoned() -> None:
    """Remove the scratch folders of processes that are gone."""
    for folder in abandoned():
        remove_tree(folder)


def abandoned() -> list[Path]:
    """Our user's scratch folders whose process is gone: by number and start, never by age."""
    found = []
    for place in _places():
        for folder in place.glob("rlm-*"):
            with suppress(OSError):  # gone meanwhile
                if is_abandoned(folder.name) and folder.lstat().st_uid == os.getuid():
                    found.append(folder)
    return sorted(found)


def _places() -> set[Path]:
    return {Path(tempfile.gettempdir()).resolve(), SHORT.resolve()}


def remove_all() -> bool:
    """Remove every temporary folder of this process that is still there: for an exit that unwinds nothing.

    Returns:
        Whether there was any.
    """
    _leaving.set()
    named = (folder for place in _places() for folder in place.glob(f"{mark()}*"))  # sockets have folders, too
    found = [folder for folder in {*_there, *named} if os.path.lexists(folder)]
    for folder in found:
        remove_tree(folder)
    return bool(found)


def is_leaving() -> bool:
    """Whether `remove_all` has begun: from then on, a file that is missing is not one that an agent has deleted."""
    return _leaving.is_set()


def remove_tree(path: Path) -> bool:
    """Remove a folder and everything below it, however deep, unreadable or busy; returns whether it is gone.

    Never raises for what stands there, never follows a symbolic link, and leaves only what the system will not let
    go (a mount point, somebody else's file).
    """
    for _ in range(ROUNDS):
        try:
            top = _open(str(path))
        except FileNotFoundError:
            return True
        except NotADirectoryError:  # a file or a link in its place
            with suppress(OSError):
                path.unlink()
            return not os.path.lexists(path)
        except OSError:
            return False
        try:
            _empty(top)
        finally:
            os.close(top)
        with suppress(OSError):
            path.rmdir()
    return not os.path.lexists(path)


def _empty(top: int) -> None:
    """Remove what is below the open folder `top`: first what is not deep, and then whatever is left."""
    _clear(top, SHALLOW)
    _empty_deep(top)


def _clear(folder: int, depth: int) -> None:
    """Remove what is below the open folder, to so many levels."""
    with os.scandir(folder) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in names:
        with suppress(OSError):  # vanished, or not ours to remove, or not empty yet
            if not is_folder:
                os.unlink(name, dir_fd=folder)
                continue
            if depth:
                inner = _open(name, folder)
                try:
                    _clear(inner, depth - 1)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=folder)


def _empty_deep(top: int) -> None:
    """Remove what is below the open folder `top`, at any depth.

    Each folder found is first moved to stand directly below `top`. So nothing here recurses, no path grows past what
    the system takes, and two open folders are enough.
    """
    token = secrets.token_hex(8)  # names that nothing below can have already
    waiting = [f"{token}-{number}" for number in range(_lift(top, top, token, 0))]
    lifted = len(waiting)
    while waiting:
        name = waiting.pop()
        with suppress(OSError):
            folder = _open(name, top)
            try:
                found = _lift(folder, top, token, lifted)
            finally:
                os.close(folder)
            waiting.extend(f"{token}-{number}" for number in range(lifted, lifted + found))
            lifted += found
            os.rmdir(name, dir_fd=top)


def _lift(folder: int, top: int, token: str, first: int) -> int:
    """Unlink the files of `folder` and move its folders to `top`, numbered from `first`; returns how many moved."""
    moved = 0
    with os.scandir(folder) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in names:
        with suppress(OSError):  # vanished, or not ours to remove
            if not is_folder:
                os.unlink(name, dir_fd=folder)
                continue
            os.close(_open(name, folder))  # a folder can be moved only when it can be written
            os.rename(name, f"{token}-{first + moved}", src_dir_fd=folder, dst_dir_fd=top)
            moved += 1
    return moved


def _open(name: str, parent: int | None = None) -> int:
    """Open a folder and see to it that its owner may read, write and enter it."""
    try:
        folder = os.open(name, FOLDER, dir_fd=parent)
    except PermissionError:
        _unlock(name, parent)
        folder = os.open(name, FOLDER, dir_fd=parent)
    with suppress(OSError):
        mode = stat.S_IMODE(os.fstat(folder).st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            os.fchmod(folder, mode | stat.S_IRWXU)
    return folder


def _unlock(name: str, parent: int | None) -> None:
    """`chmod u+rwx` for a folder that cannot be opened, and for nothing that a symbolic link leads to."""
    if os.chmod in os.supports_follow_symlinks:
        os.chmod(name, stat.S_IRWXU, dir_fd=parent, follow_symlinks=False)
        return
    # Linux before Python 3.13: by the descriptor of a folder that was found, not opened.
    found = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        Path(f"/proc/self/fd/{found}").chmod(stat.S_IRWXU)
    finally:
        os.close(found)
