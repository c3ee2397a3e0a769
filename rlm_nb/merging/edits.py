"""Takes over what an agent changed: three-way, file by file, all of it or nothing.

It stands below both `repl` and `workspace`: a kernel does so for `result.apply()`, and we for `rlm-nb apply`. The three
sides are the state that the agent started from, the one that it left, and what stands in the folder by now. The first
two are commits of the run. The third is read from disk, and not from the repository there, whose history, index and
settings may be anybody's to spoil, and are not ours to change.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from rlm_nb.errors import EditConflictError
from rlm_nb.merging.objects import Change, Entry, Objects
from rlm_nb.merging.placing import Places
from rlm_nb.merging.workshop import workshop

LINK, SUBMODULE = "120000", "160000"

OTHER = Entry("", "")
"""Something that is neither file nor link, or stands in the way of a path."""

BINARY = 8000
"""Bytes at a file's beginning that tell, by a zero among them, that it is no text: git's own measure."""


@dataclass(frozen=True)
class Edits:
    """What one agent changed.

    Args:
        agent: Whose it is.
        base: The commit that it started from.
        commit: The commit that holds the state that it left.
        objects: The folder with the objects of both.
    """

    agent: str
    base: str
    commit: str
    objects: Path

    def apply(
        self, top: Path, beside: Path, *, markers: bool = False, modes: bool = True, otherwise: str = ""
    ) -> list[str]:
        """Put them into a folder, merged with what is there; returns the files that this changed.

        Args:
            top: The folder: a worktree, a checkout.
            beside: A folder on the same file system; everything is made ready in it before any of it is moved.
            markers: What to do in case of a conflict: take over what fits and leave conflict markers in the text files
                that do not, rather than changing nothing at all.
            modes: Whether what the folder says about which files can be run counts.
            otherwise: What can be done when nothing was changed for a conflict: the end of the error's message.

        Raises:
            EditConflictError: Not everything fits.
            GitError: The run's commits cannot be read.
            OSError: The folder cannot be written, or somebody else has just written there; it is as it was.
        """
        algorithm = "sha256" if len(self.commit) == 64 else "sha1"
        with workshop(top, beside) as bench, Objects(self.objects, bench / "git", algorithm) as objects:
            places = Places(top, bench)
            merge = _Merge(objects, places, bench, algorithm, self.agent, modes and _keeps_modes(bench))
            changes = objects.changes(self.base, self.commit)
            # What goes makes room: a folder may become a file, and a file a folder.
            for change in sorted(changes, key=lambda each: (each.after is not None, each.source == each.target)):
                merge.add(change)
            if not merge.conflicts or markers:
                places.put(merge.leaving, merge.coming)
        if merge.conflicts:
            raise EditConflictError(
                self.agent, dict(sorted(merge.conflicts.items())), kept=markers, otherwise=otherwise
            )
        return sorted({os.fsdecode(path) for path in (*merge.leaving, *merge.coming)})


class _Merge:
    """What is to happen to a folder, worked out file by file before any of it happens.

    Args:
        objects: Where the contents are.
        places: Where they are to go.
        folder: Where they are made ready; on the same file system.
        algorithm: How objects are named.
        agent: Whose edits they are: a conflict marker says it.
        modes: Whether the files there tell if they can be run.
    """

    def __init__(
        self, objects: Objects, places: Places, folder: Path, algorithm: str, agent: str, modes: bool = True
    ) -> None:
        self._objects, self._places, self._folder = objects, places, folder
        self._algorithm, self._agent, self._modes = algorithm, agent, modes
        self._count = 0
        self.leaving: dict[bytes, None] = {}
        self.coming: dict[bytes, Path] = {}
        self.conflicts: dict[str, str] = {}

    def add(self, change: Change) -> None:
        """Work out one change."""
        before, after = change.before, change.after
        ours, moved = self._standing(change.source), change.source != change.target
        there = self._standing(change.target) if moved else ours
        if self._seen(there, after) == after and (ours is None or not moved):
            return  # it was taken over before
        ours = self._seen(ours, before)
        if after is None and ours == OTHER:
            return  # a folder has its name now, or a file that of its folder: it is gone already
        if moved and ours is None and there is not None:
            self.add(replace(change, source=change.target))  # it was renamed here, too
        elif moved and there is not None:
            self._conflict(change, "renamed to this there, which is something else here")
        elif SUBMODULE in (before and before.mode, after and after.mode):
            self._conflict(change, "a submodule")
        elif ours == before:
            if after is not None:
                here = self._places.of(change.source) if ours is not None and ours.is_file else None
                self._take(change, self._blob(after), after.mode, like=here)
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

    def _seen(self, ours: Entry | None, like: Entry | None) -> Entry | None:
        """What stands there, with the mode of what it is compared with where nobody knows its own."""
        if self._modes or ours is None or like is None or not (ours.is_file and like.is_file):
            return ours
        return Entry(like.mode, ours.oid)

    def _merge(self, change: Change, before: Entry | None, ours: Entry, after: Entry) -> None:
        """Both sides changed a file: its contents, its mode, or the one here and the other there."""
        mode = after.mode if before is not None and ours.mode == before.mode else ours.mode
        here = self._places.of(change.source)
        if before is not None and ours.oid == before.oid:
            return self._take(change, self._blob(after), mode, like=here)
        stays = mode == ours.mode and change.source == change.target
        contents_stay = after.oid in (ours.oid, before and before.oid)
        if stays and contents_stay:
            return None  # all of it is here already
        merged = shutil.copyfile(here, self._new())
        if contents_stay:
            return self._take(change, merged, mode, like=here)
        base, theirs = self._blob(before), self._blob(after)
        if any(_is_binary(file) for file in (merged, base, theirs)):
            return self._conflict(change, "no text, and changed on both sides")
        names = [part for name in ("here", "before", self._agent) for part in ("-L", name)]
        if self._objects.git("merge-file", "--quiet", *names, merged, base, theirs, ok=range(128)).returncode:
            self._conflict(change, "the same lines were changed on both sides")
        elif stays and _file_id(merged, self._algorithm) == ours.oid:
            return None
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
            permissions = (like or file).stat().st_mode & 0o666
            file.chmod(permissions | ((permissions & 0o444) >> 2 if mode == "100755" else 0))
        self.coming[change.target] = file

    def _conflict(self, change: Change, why: str) -> None:
        self.conflicts[os.fsdecode(change.target)] = why

    def _standing(self, path: bytes) -> Entry | None:
        """What is at a path of the folder, without what is leaving already."""
        if path in self.leaving:
            return None
        parts = path.split(b"/")
        for end in range(1, len(parts)):
            above = b"/".join(parts[:end])
            mode = self._places.mode(above)
            if mode is None or above in self.leaving:
                return None
            if not stat.S_ISDIR(mode):
                return OTHER
        place, mode = self._places.of(path), self._places.look(path)
        if mode is None:
            return None
        if stat.S_ISREG(mode):
            return Entry("100755" if mode & stat.S_IXUSR else "100644", _file_id(place, self._algorithm))
        if stat.S_ISLNK(mode):
            return Entry(LINK, _object_id(os.fsencode(place.readlink()), self._algorithm))
        return OTHER if self._holds_anything(path) or not stat.S_ISDIR(mode) else None

    def _holds_anything(self, folder: bytes) -> bool:
        """Whether anything stays below a folder, as far as we may look."""
        top = os.fsencode(self._places.of(folder))
        unseen: list[OSError] = []
        for place, folders, files in os.walk(top, onerror=unseen.append):
            links = [name for name in folders if os.path.islink(os.path.join(place, name))]  # noqa: PTH114, PTH118
            inside = folder + place.removeprefix(top)
            if any(inside + b"/" + name not in self.leaving for name in (*files, *links)):
                return True
        return bool(unseen)

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


def _keeps_modes(folder: Path) -> bool:
    """Whether the file system knows which files can be run."""
    probe = folder / "probe"
    probe.touch(0o600)
    return not probe.stat().st_mode & stat.S_IXUSR


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
