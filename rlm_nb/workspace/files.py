"""The files of a folder that somebody else is writing in: found and read without following one symbolic link."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from rlm_nb.cancellation import Cancellation
from rlm_nb.merging.objects import WORKSHOP, is_git
from rlm_nb.workspace.scratch import FOLDER

LONGEST_PATH = 1000
"""Bytes. Some systems end at 1,024, the folder's own path included: what is longer could be applied nowhere."""

PIECE = 1 << 20
SMALL = 1 << 17
"""Bytes of a file that is read in one go."""

READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How a file is opened: not through a link, and without waiting for whoever writes into a FIFO put in its place."""

NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

BARE = (frozenset({b"head", b"objects", b"refs"}), frozenset({b"head", b"commondir"}))
"""What makes git take a folder for a repository, and heed its settings, though it has no `.git`."""

MARKS = frozenset().union(*BARE)

SPECIAL = "neither file nor link"
UNREADABLE = "not readable"
NESTED = "repositories of their own"
OURS = "names that rlm-nb uses"
DISGUISED = "names that some systems take for .git"
KEYS = "they may hold keys"
IN_SUBMODULE = "inside a submodule"
TOO_LONG = "paths too long"
UNSTEADY = "changed while they were read"
LARGE = "larger than workspace.max_file_size"
UNREAD = "not read when the time was up"
STILL_LARGE = "their changes, since they are larger than workspace.max_file_size"


@dataclass
class LeftOut:
    """What could not be taken, by reason; and the folders that we could not look into."""

    paths: dict[str, list[bytes]] = field(default_factory=dict)
    unseen: set[bytes] = field(default_factory=set)

    def add(self, path: bytes, reason: str) -> None:
        """Name a file or a folder."""
        self.paths.setdefault(reason, []).append(path)

    def add_unseen(self, folder: bytes, reason: str) -> None:
        """Name a folder whose files may or may not be there still."""
        self.add(folder, reason)
        self.unseen.add(folder)

    def hides(self, path: bytes) -> bool:
        """Whether `path` stands in a folder that we could not look into."""
        parts = path.split(b"/")
        return bool(self.unseen) and any(b"/".join(parts[:end]) in self.unseen for end in range(len(parts) + 1))

    def sentences(self) -> tuple[str, ...]:
        """One sentence a reason, naming a few of the paths."""
        return tuple(f"left out, {reason}: {named(paths)}" for reason, paths in self.paths.items())


def named(paths: Iterable[bytes], most: int = 5) -> str:
    """A few paths for a person to read: on one line, and valid text whatever bytes they hold."""
    every = sorted(paths)
    shown = [path.decode("utf-8", "backslashreplace") or "." for path in every[:most]]
    text = ", ".join(path if path.isprintable() else repr(path) for path in shown)
    return f"{text} and {len(every) - most} more" if len(every) > most else text


class Root:
    """The files below one folder. No path leads out of it, whatever is swapped for a symbolic link and when.

    Args:
        path: The folder.
        cancel: Ends whatever is being read or listed with `CancelledError`.
        largest: Bytes of the largest file that is read; `None` for any.
    """

    def __init__(
        self, path: str | os.PathLike[str], cancel: Cancellation | None = None, largest: int | None = None
    ) -> None:
        self.cancel = cancel or Cancellation()
        self._largest = largest
        self._small = SMALL if largest is None else min(SMALL, largest)
        self._root = os.open(path, FOLDER)
        self._last: tuple[bytes, int] | None = None

    def __enter__(self) -> Root:
        return self

    def __exit__(self, *_: object) -> None:
        self._keep(None)
        os.close(self._root)

    def folder(self, path: bytes) -> int:
        """A descriptor of the folder at `path`, valid until the next call; `b""` is the root itself."""
        last = self._last
        if last is not None and last[0] == path:
            return last[1]
        if not path:
            return self._root
        here = os.dup(self._root)
        for part in path.split(b"/"):
            try:
                below = os.open(part, FOLDER, dir_fd=here)
            finally:
                os.close(here)
            here = below
        self._keep((path, here))
        return here

    def stat(self, path: bytes) -> os.stat_result | None:
        """What stands at `path`, a link as a link; `None` for nothing.

        Raises:
            OSError: A folder on the way may not be entered.
        """
        parent, _, name = path.rpartition(b"/")
        try:
            return os.stat(name, dir_fd=self.folder(parent), follow_symlinks=False)
        except OSError as error:
            if error.errno in NOTHING_THERE:
                return None
            raise

    def time_stamp(self) -> int:
        """The time, in nanoseconds, that the file system gives to what is changed now: it may run behind the clock."""
        name = f".{secrets.token_hex(8)}"
        opened = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._root)
        try:
            return os.fstat(opened).st_ctime_ns
        finally:
            os.close(opened)
            os.unlink(name, dir_fd=self._root)

    def small(self, path: bytes) -> tuple[os.stat_result, bytes] | None:
        """All of a small file, and what it is, several times faster than by `stat` and `reading`; `None` for others."""
        parent, _, name = path.rpartition(b"/")
        try:
            opened = os.open(name, READING, dir_fd=self.folder(parent))
        except OSError:  # `reading` tells a link from what may not be read
            return None
        try:
            status = os.fstat(opened)
            if status.st_size > self._small or not stat.S_ISREG(status.st_mode):
                return None
            data = os.read(opened, status.st_size)
            return (status, data) if len(data) == status.st_size else None
        except OSError:
            return None
        finally:
            os.close(opened)

    @contextmanager
    def reading(self, path: bytes) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The size of a file, and as many of its bytes in pieces; fewer when it shrinks meanwhile.

        A symbolic link is read as its target's name.

        Raises:
            OSError: It is gone, is no file, may not be read, or is too large (`EFBIG`).
        """
        parent, _, name = path.rpartition(b"/")
        folder = self.folder(parent)
        if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            target = os.readlink(name, dir_fd=folder)
            yield len(target), iter((target,))
            return
        opened = os.open(name, READING, dir_fd=folder)
        try:
            status = os.fstat(opened)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, SPECIAL)
            if self._largest is not None and status.st_size > self._largest:
                raise OSError(errno.EFBIG, LARGE)
            yield status.st_size, self._pieces(opened, status.st_size)
        finally:
            os.close(opened)

    def walk(
        self, tracked: Collection[bytes], submodules: Collection[bytes], left: LeftOut
    ) -> dict[bytes, os.stat_result]:
        """Every file, link and other thing that is no folder, `.git` and what is left out excepted.

        Args:
            tracked: Paths that count inside nested repositories too.
            submodules: Folders not to look into.
            left: Is told what is left out.
        """
        found: dict[bytes, os.stat_result] = {}
        waiting = [(b"", False)]
        while waiting:
            self.cancel.check()
            folder, nested = waiting.pop()
            try:
                entries = self._entries(folder)
            except OSError as error:
                if error.errno not in NOTHING_THERE or not folder:
                    left.add_unseen(folder, UNREADABLE)
                continue
            names = {name.lower() for name, _ in entries}
            bare = any(names >= marks for marks in BARE)
            if folder and not nested and (bare or b".git" in names):
                left.add(folder, NESTED)
                nested = True
            for name, status in entries:
                path = folder + b"/" + name if folder else name
                if name[:1] in b".gG" or not name.isascii():  # few names are so much as near to git's
                    if name.lower() == b".git":
                        continue
                    if is_git(name) or path.startswith(WORKSHOP):
                        left.add_unseen(path, DISGUISED if is_git(name) else OURS)
                        continue
                if bare and not folder and name.lower() in MARKS and path not in tracked:
                    left.add_unseen(path, NESTED)
                elif len(path) > LONGEST_PATH:
                    left.add_unseen(path, TOO_LONG)
                elif path in submodules:
                    if not stat.S_ISDIR(status.st_mode) or self._holds_anything(path):
                        left.add(path, IN_SUBMODULE)
                elif stat.S_ISDIR(status.st_mode):
                    waiting.append((path, nested))
                elif not nested or path in tracked:
                    found[path] = status
        return found

    def _entries(self, folder: bytes) -> list[tuple[bytes, os.stat_result]]:
        entries = []
        with os.scandir(self.folder(folder)) as iterator:
            for entry in iterator:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # gone since it was listed
                    continue
                entries.append((os.fsencode(entry.name), status))
        return entries

    def _holds_anything(self, folder: bytes) -> bool:
        try:
            with os.scandir(self.folder(folder)) as entries:
                return any(entries)
        except OSError as error:
            return error.errno not in NOTHING_THERE

    def _pieces(self, opened: int, size: int) -> Iterator[bytes]:
        with suppress(OSError):  # a disk that fails in the middle: too few bytes say so
            while size and (piece := os.read(opened, min(size, PIECE))):
                self.cancel.check()
                size -= len(piece)
                yield piece

    def _keep(self, last: tuple[bytes, int] | None) -> None:
        if self._last is not None:
            os.close(self._last[1])
        self._last = last
