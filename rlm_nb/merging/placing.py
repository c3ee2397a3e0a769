"""Puts files in their places: all of them, or none; what is broken off by a kill, the next one puts back.

Old files make room into a folder beside. A journal there says what is about to happen before it does: that file is what
there is to undo by, here after an error as for another process after a kill, and it is gone once all is done or undone.
"""

from __future__ import annotations

import errno
import filecmp
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from rlm_nb.errors import GitError
from rlm_nb.merging.objects import check

JOURNAL, ASIDE = "journal", "aside"

Signature = tuple[int, ...]
"""What tells whether a file was written since one looked."""

A_FOLDER: Signature = (stat.S_IFDIR,)

Told = tuple[str, bytes, *tuple[int, ...]]
"""A line of a journal: an act, the path that it was about, and what else there is to know to undo it."""

ACTS = ("moved", "removed", "made", "new")
"""An old file, to stand aside; an empty folder; a folder; and a file that is put in its place."""


class Places:
    """What stands in a folder, and what shall stand there. No symbolic link is followed, and none is written through.

    Args:
        top: The folder.
        workshop: A folder of ours on the same file system, for the journal and for what has to make room.
    """

    def __init__(self, top: Path, workshop: Path) -> None:
        self._top, self._aside, self._journal = top, workshop / ASIDE, workshop / JOURNAL
        self._found: dict[bytes, Signature | None] = {}
        self._moved = 0

    def mode(self, path: bytes) -> int | None:
        """The mode of what stands at a path now, a link's own; `None` for nothing."""
        return mode_of(self.of(path))

    def look(self, path: bytes) -> int | None:
        """The same; `put` will hold against it what stands there by then."""
        self._found[path] = _signature(self.of(path))
        return self.mode(path)

    def of(self, path: bytes) -> Path:
        """Where that is."""
        return self._top / os.fsdecode(path)

    def put(self, leaving: Iterable[bytes], coming: Mapping[bytes, Path]) -> None:
        """Remove what is `leaving`, and the folders that this leaves empty; move the files that are `coming` there.

        Whatever keeps it from happening whole, an interrupt included, leaves all as it was.

        Raises:
            OSError: A place cannot be written, or what stands there is not what was looked at. Where not even the old
                files can be put back, the message names the folder that they are in.
        """
        gone = set(leaving)
        self._aside.mkdir()
        with self._undoing():
            for path in leaving:
                self._make_room(path, self._found.get(path))
                self._prune(path)
            for path, file in coming.items():
                self._make_folders(path)
                self._make_room(path, None if path in gone else self._found.get(path))
                self._note("new", path, *_identity(file))
                file.replace(self.of(path))

    def put_back(self) -> None:
        """Undo what the journal tells of, from its end.

        Raises:
            OSError: Something cannot be put back: somebody else has written in its place, for one. Everything else is.
        """
        kept = []
        for what, name, *more in reversed(self._told()):
            place = self.of(name)
            try:
                self._check_way(name)
                if what == "new":
                    if _identity(place) == more:  # or it was not moved there yet, or is somebody else's by now
                        place.unlink()
                elif what == "made":
                    with suppress(OSError):  # something else is in it by now
                        place.rmdir()
                elif what == "removed":
                    place.mkdir(exist_ok=True)
                    place.chmod(more[0])
                else:
                    self._return(self._aside / f"{more[0]}", place)
            except OSError as error:
                kept.append(f"{place} ({error.strerror or error})")
        if kept:
            where = f"could not be put back: {', '.join(kept)}; what stood there is in {self._aside}"
            raise OSError(errno.EBUSY, f"{where}; take from it what you want, and remove the folder around it")
        self._journal.unlink()

    def _return(self, old: Path, place: Path) -> None:
        mode = mode_of(old)
        if mode is None:  # it was not moved yet, or has been put back
            return
        if mode_of(place) is not None and not _same(old, place):
            raise FileExistsError(errno.EEXIST, "somebody else has written there")
        old.replace(place)

    def _check_way(self, path: bytes) -> None:
        """See to it that no link has come to stand on the way to a place."""
        folder = self._top
        for part in os.fsdecode(path).split("/")[:-1]:
            folder /= part
            mode = mode_of(folder)
            if mode is not None and not stat.S_ISDIR(mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))

    def _make_room(self, path: bytes, expected: Signature | None) -> None:
        place = self.of(path)
        if expected == A_FOLDER:  # it held nothing but what has left, and is gone with that, or holds empty folders
            for folder, _, _ in os.walk(place, topdown=False):
                self._remove(Path(folder))
            expected = None
        if _signature(place) != expected:
            raise OSError(errno.EBUSY, "it was changed while the edits were applied", str(place))
        if expected is not None:
            self._moved += 1
            self._note("moved", path, self._moved)
            place.replace(self._aside / f"{self._moved}")

    def _make_folders(self, path: bytes) -> None:
        folder = self._top
        for part in os.fsdecode(path).split("/")[:-1]:
            folder /= part
            mode = mode_of(folder)
            if mode is None:
                self._note("made", folder)
                folder.mkdir()
            elif not stat.S_ISDIR(mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))

    def _prune(self, path: bytes) -> None:
        """Remove the folders that have become empty, as git does."""
        folder = self.of(path).parent
        with suppress(OSError):  # it is not empty
            while folder != self._top:
                self._remove(folder)
                folder = folder.parent

    def _remove(self, folder: Path) -> None:
        """Remove an empty folder."""
        with os.scandir(folder) as entries:
            if any(entries):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(folder))
        self._note("removed", folder, stat.S_IMODE(folder.lstat().st_mode))
        folder.rmdir()

    @contextmanager
    def _undoing(self) -> Iterator[None]:
        with self._journal.open("x", encoding="utf-8", buffering=1) as self._log:
            try:
                yield
            except BaseException as error:
                try:
                    self.put_back()
                except OSError as worse:
                    raise worse from error
                raise
        self._journal.unlink()

    def _note(self, what: str, path: bytes | Path, *more: int) -> None:
        place = path if isinstance(path, Path) else self.of(path)
        self._log.write(json.dumps([what, str(place.relative_to(self._top)), *more]) + "\n")

    def _told(self) -> list[Told]:
        """What the journal tells of. It may be another process's, and in a folder that others can write in."""
        told: list[Told] = []
        try:
            # A line that lacks its end was being written: what it tells of has not begun.
            for line in self._journal.read_text(encoding="utf-8").split("\n")[:-1]:
                what, name, *more = json.loads(line)
                path = os.fsencode(name)
                check(path)
                if what not in ACTS or not all(type(number) is int for number in more):
                    raise ValueError(what)
                told.append((what, path, *more))
        except (ValueError, TypeError, GitError) as error:
            raise OSError(errno.EINVAL, "it does not tell what is to be put back", str(self._journal)) from error
        return told


def mode_of(place: Path) -> int | None:
    """The mode of what stands there, a link's own; `None` for nothing."""
    try:
        return place.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _identity(place: Path) -> list[int]:
    """What tells a file of ours, wherever it was moved to, from one that somebody else has written since."""
    try:
        status = place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _same(one: Path, other: Path) -> bool:
    """Whether two files, or two links, are equal."""
    mode = one.lstat().st_mode
    if mode != other.lstat().st_mode:
        return False
    if stat.S_ISLNK(mode):
        return one.readlink() == other.readlink()
    return stat.S_ISREG(mode) and filecmp.cmp(one, other, shallow=False)


def _signature(place: Path) -> Signature | None:
    try:
        status = place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(status.st_mode):
        return A_FOLDER
    return (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
