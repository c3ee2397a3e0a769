"""Puts files in their places: all of them, or none."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

Signature = tuple[int, ...]
"""What tells whether a file was written since one looked."""

A_FOLDER: Signature = (stat.S_IFDIR,)


class Places:
    """What stands in a folder, and what shall stand there. No symbolic link is followed, and none is written through.

    Args:
        top: The folder.
        aside: An empty folder on the same file system, for what has to make room.
    """

    def __init__(self, top: Path, aside: Path) -> None:
        self._top, self._aside = top, aside
        self._found: dict[bytes, Signature | None] = {}
        self.half_done = False
        """Whether `put` was broken off so badly that `aside` still holds old files."""
        self._undo: list[tuple[Path, Path | None]] = []
        self._made: list[Path] = []
        self._removed: list[tuple[Path, int]] = []

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
        with self._undoing():
            for path in leaving:
                self._make_room(path, self._found.get(path))
                self._prune(self.of(path).parent)
            for path, file in coming.items():
                self._make_folders(path)
                self._make_room(path, None if path in gone else self._found.get(path))
                file.replace(self.of(path))

    def _make_room(self, path: bytes, expected: Signature | None) -> None:
        place = self.of(path)
        if expected == A_FOLDER:  # it held nothing but what has left, and is gone with that, or holds empty folders
            for folder, _, _ in os.walk(place, topdown=False):
                self._remove(Path(folder))
            expected = None
        if _signature(place) != expected:
            raise OSError(errno.EBUSY, "it was changed while the edits were applied", str(place))
        if expected is None:
            self._undo.append((place, None))
            return
        kept = self._aside / f"{len(self._undo)}"
        self._undo.append((place, kept))
        place.replace(kept)

    def _make_folders(self, path: bytes) -> None:
        folder = self._top
        for part in os.fsdecode(path).split("/")[:-1]:
            folder /= part
            mode = mode_of(folder)
            if mode is None:
                folder.mkdir()
                self._made.append(folder)
            elif not stat.S_ISDIR(mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))

    def _prune(self, folder: Path) -> None:
        """Remove the folders that have become empty, as git does."""
        with suppress(OSError):  # it is not empty
            while folder != self._top:
                self._remove(folder)
                folder = folder.parent

    def _remove(self, folder: Path) -> None:
        """Remove an empty folder."""
        mode = folder.lstat().st_mode
        folder.rmdir()
        self._removed.append((folder, mode))

    @contextmanager
    def _undoing(self) -> Iterator[None]:
        self.half_done = True
        try:
            yield
        except BaseException as error:
            try:
                self._put_back()
            except OSError as worse:
                where = (
                    f"{worse.filename} could not be put back ({worse.strerror}); what stood there is in {self._aside}"
                )
                raise OSError(worse.errno, where) from error
            self.half_done = False
            raise
        self.half_done = False

    def _put_back(self) -> None:
        for place, kept in reversed(self._undo):
            if kept is None:
                place.unlink(missing_ok=True)
        for folder in reversed(self._made):
            with suppress(OSError):  # something else is in it by now
                folder.rmdir()
        for folder, mode in reversed(self._removed):
            if mode_of(folder) is None:
                folder.mkdir()
                folder.chmod(stat.S_IMODE(mode))
        for place, kept in reversed(self._undo):
            if kept is not None and mode_of(kept) is not None:  # or it was not moved yet
                kept.replace(place)


def mode_of(place: Path) -> int | None:
    """The mode of what stands there, a link's own; `None` for nothing."""
    try:
        return place.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _signature(place: Path) -> Signature | None:
    try:
        status = place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(status.st_mode):
        return A_FOLDER
    return (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
