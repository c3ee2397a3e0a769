"""Takes over what a sub-agent changed: three-way, file by file, all of it or nothing.

The three sides are the state that the sub-agent started from, the one that it left, and what stands in the worktree of
the agent that asked for it by now. The first two are commits of the run. The third is read from disk, and not from the
agent's own repository, whose history, index and settings are the agent's to spoil.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlm_nb.errors import EditConflictError
from rlm_nb.repl.objects import Change, Entry, Objects

LINK, SUBMODULE = "120000", "160000"

OTHER = Entry("", "")
"""Something that is neither file nor link, or stands in the way of a path."""

BINARY = 8000
"""Bytes at a file's beginning that tell, by a zero among them, that it is no text: git's own measure."""

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Edits:
    """What one sub-agent changed, and where it belongs.

    Args:
        agent: Whose it is.
        base: The commit that it started from.
        commit: The commit that holds the state that it left.
        objects: The folder with the objects of both.
        worktree: The top of the worktree of the agent that asked for it.
    """

    agent: str
    base: str
    commit: str
    objects: Path
    worktree: Path

    def apply(self, *, markers: bool = False) -> list[str]:
        """Put them into the worktree, merged with what is there; returns the files that this changed.

        Args:
            markers: What to do in case of a conflict: take over what fits and leave conflict markers in the text files
                that do not, rather than changing nothing at all.

        Raises:
            EditConflictError: Not everything fits.
            GitError: The run's commits cannot be read.
            OSError: The worktree cannot be written; it is as it was.
        """
        algorithm = "sha256" if len(self.commit) == 64 else "sha1"
        # Beside the worktree: what is made ready here is only moved there, and no snapshot sees it before.
        with (
            _one_at_a_time,
            tempfile.TemporaryDirectory(prefix="edits-", dir=self.worktree.parent, ignore_cleanup_errors=True) as name,
        ):
            objects = Objects(self.objects, Path(name, "git"), algorithm)
            merge = _Merge(objects, self.worktree, Path(name), algorithm, self.agent)
            changes = objects.changes(self.base, self.commit)
            # What goes makes room: a folder may become a file, and a file a folder.
            for change in sorted(
                changes, key=lambda change: (change.after is not None, change.source == change.target)
            ):
                merge.add(change)
            if not merge.conflicts or markers:
                merge.carry_out()
        if merge.conflicts:
            raise EditConflictError(self.agent, dict(sorted(merge.conflicts.items())), kept=markers)
        return sorted({os.fsdecode(path) for path in (*merge.leaving, *merge.coming)})


class _Merge:
    """What is to happen to a worktree, worked out file by file before any of it happens.

    Args:
        objects: Where the contents are.
        worktree: Where they are to go.
        folder: Where they are made ready; on the same file system.
        algorithm: How objects are named.
        agent: Whose edits they are: a conflict marker says it.
    """

    def __init__(self, objects: Objects, worktree: Path, folder: Path, algorithm: str, agent: str) -> None:
        self._objects, self._worktree, self._folder = objects, worktree, folder
        self._algorithm, self._agent = algorithm, agent
        self._count = 0
        self.leaving: dict[bytes, None] = {}
        self.coming: dict[bytes, Path] = {}
        self.conflicts: dict[str, str] = {}

    def add(self, change: Change) -> None:
        """Work out one change."""
        before, after = change.before, change.after
        ours, moved = self._standing(change.source), change.source != change.target
        there = self._standing(change.target) if moved else ours
        if there == after and (ours is None or not moved):
            return  # it was taken over before
        if after is None and ours == OTHER:
            return  # a folder has its name now, or a file that of its folder: it is gone already
        if moved and there is not None:
            self._conflict(change, "renamed to this there, which is something else here")
        elif SUBMODULE in (before and before.mode, after and after.mode):
            self._conflict(change, "a submodule")
        elif ours == before:
            if after is not None:
                self._take(change, self._blob(after), after.mode)
            else:
                self.leaving[change.source] = None
        elif ours == OTHER:
            self._conflict(change, "something else stands in its place here")
        elif after is None:
            self._conflict(change, "deleted there, changed here")
        elif ours is None:
            self._take(change, self._blob(after), after.mode)
            self._conflict(change, "changed there, deleted here")
        elif ours.is_file and after.is_file and (before is None or before.is_file):
            self._merge(change, before, ours, after)
        else:
            self._conflict(change, "a link on one side, or another one on each")

    def carry_out(self) -> None:
        """Let it happen. Whatever keeps it from happening whole, an interrupt included, leaves all as it was."""
        undo: list[tuple[Path, Path | None]] = []
        made: list[Path] = []
        try:
            for path in self.leaving:
                self._put_away(self._place(path), undo)
                self._prune(self._place(path).parent)
            for path, file in self.coming.items():
                place = self._place(path)
                made += _make_folder(place.parent)
                self._put_away(place, undo)
                file.replace(place)
        except BaseException:
            for place, kept in reversed(undo):
                if kept is None:
                    place.unlink(missing_ok=True)
                elif _mode(kept) is not None:  # or it was not moved yet
                    place.parent.mkdir(parents=True, exist_ok=True)
                    kept.replace(place)
            for folder in reversed(made):
                with suppress(OSError):  # it is needed again
                    folder.rmdir()
            raise

    def _merge(self, change: Change, before: Entry | None, ours: Entry, after: Entry) -> None:
        """Both sides changed a file: its contents, its mode, or the one here and the other there."""
        mode = after.mode if before is not None and ours.mode == before.mode else ours.mode
        here = self._place(change.source)
        if before is not None and ours.oid == before.oid:
            return self._take(change, self._blob(after), mode, like=here)
        merged = shutil.copyfile(here, self._new())
        if after.oid in (ours.oid, before and before.oid):
            return self._take(change, merged, mode, like=here)
        base, theirs = self._blob(before), self._blob(after)
        if any(_is_binary(file) for file in (merged, base, theirs)):
            return self._conflict(change, "no text, and changed on both sides")
        names = [part for name in ("here", "before", self._agent) for part in ("-L", name)]
        if self._objects.git("merge-file", "--quiet", *names, merged, base, theirs, ok=range(128)).returncode:
            self._conflict(change, "the same lines were changed on both sides")
        elif Entry(mode, _file_id(merged, self._algorithm)) == ours and change.source == change.target:
            return None  # all of it is here already
        return self._take(change, merged, mode, like=here)

    def _take(self, change: Change, file: Path, mode: str, like: Path | None = None) -> None:
        """The target shall be `file`, with the permissions of `like` as far as git does not know them."""
        if change.source != change.target:
            self.leaving[change.source] = None
        if mode == LINK:
            target = file.read_bytes()
            file.unlink()
            file.symlink_to(os.fsdecode(target))
        else:
            permissions = stat.S_IMODE((like or file).stat().st_mode) & ~0o111
            file.chmod(permissions | ((permissions & 0o444) >> 2 if mode == "100755" else 0))
        self.coming[change.target] = file

    def _conflict(self, change: Change, why: str) -> None:
        self.conflicts[os.fsdecode(change.target)] = why

    def _standing(self, path: bytes) -> Entry | None:
        """What is at a path of the worktree, without what is leaving already."""
        if path in self.leaving:
            return None
        parts = path.split(b"/")
        for end in range(1, len(parts)):
            above = b"/".join(parts[:end])
            mode = _mode(self._place(above))
            if mode is None or above in self.leaving:
                return None
            if not stat.S_ISDIR(mode):
                return OTHER
        place = self._place(path)
        mode = _mode(place)
        if mode is None:
            return None
        if stat.S_ISREG(mode):
            return Entry("100755" if mode & stat.S_IXUSR else "100644", _file_id(place, self._algorithm))
        if stat.S_ISLNK(mode):
            return Entry(LINK, _object_id(os.fsencode(place.readlink()), self._algorithm))
        return OTHER if self._holds_anything(path) or not stat.S_ISDIR(mode) else None

    def _holds_anything(self, folder: bytes) -> bool:
        """Whether anything stays below a folder."""
        top = os.fsencode(self._worktree)
        for place, folders, files in os.walk(os.path.join(top, folder)):  # noqa: PTH118 - in bytes
            links = [name for name in folders if os.path.islink(os.path.join(place, name))]  # noqa: PTH114, PTH118
            inside = os.path.relpath(place, top)
            if any(inside + b"/" + name not in self.leaving for name in (*files, *links)):
                return True
        return False

    def _blob(self, entry: Entry | None) -> Path:
        """A file with the contents of an object; an empty one for `None`."""
        file = self._new()
        if entry is None:
            file.touch()
        else:
            self._objects.write(entry.oid, file)
        return file

    def _new(self) -> Path:
        self._count += 1
        return self._folder / f"{self._count}"

    def _place(self, path: bytes) -> Path:
        return self._worktree / os.fsdecode(path)

    def _put_away(self, place: Path, undo: list[tuple[Path, Path | None]]) -> None:
        if _mode(place) is None:
            undo.append((place, None))
        else:
            kept = self._new()
            undo.append((place, kept))
            place.replace(kept)

    def _prune(self, folder: Path) -> None:
        """Remove the folders that have become empty, as git does."""
        with suppress(OSError):  # it is not empty
            while folder != self._worktree:
                folder.rmdir()
                folder = folder.parent


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it; returns those that were made."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _mode(place: Path) -> int | None:
    try:
        return place.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _file_id(place: Path, algorithm: str) -> str:
    with place.open("rb") as file:
        digest = hashlib.new(algorithm, b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _object_id(data: bytes, algorithm: str) -> str:
    return hashlib.new(algorithm, b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _is_binary(file: Path) -> bool:
    with file.open("rb") as opened:
        return b"\0" in opened.read(BINARY)
