"""What git stores of a file where that is not what stands on disk: line ends, encodings, and filters such as Git LFS.

It is the user's own git that converts, by the user's settings and by the attributes of one commit. Those that an agent
has written do not count, lest what is kept encrypted, say, be stored as it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from rlm_nb.merging.objects import Objects
from rlm_nb.workspace.git import Git
from rlm_nb.workspace.repository import alternate
from rlm_nb.workspace.snapshot import LISTED, Tree

ATTRIBUTES = b".gitattributes"

OURS = ("core.safecrlf=false", "core.sparseCheckout=false", "core.splitIndex=false", "index.sparse=false")
"""What of the user's settings does not count: an index of ours is small, and leaves no part in the repository."""

NO_FILTER = (b"unspecified", b"unset", b"set", b"")
"""What an attribute says that names no filter."""


class Conversion:
    """Converts files as the user's repository does at one commit, and writes nothing there; a filter may.

    Args:
        users: The user's repository.
        commit: Whose attributes count.
        tree: What it holds.
        place: A new folder for what is worked with; the caller removes it.
        algorithm: How objects are named.
    """

    def __init__(self, users: Git, commit: str, tree: Tree, place: Path, algorithm: str) -> None:
        self._commit, self._place, self._algorithm = commit, place, algorithm
        self._count = 0
        asked = ("--absolute-git-dir",), ("--path-format=absolute", "--git-path", "objects")
        git_dir, objects = (os.fsdecode(users.run("rev-parse", *each).removesuffix(b"\n")) for each in asked)
        (place / "objects/info").mkdir(parents=True)
        (place / "objects/info/alternates").write_bytes(alternate(Path(objects)))
        # What `of_user` says of a folder comes first, and is of no use here.
        options = (f"--git-dir={git_dir}", *users.options[2:], *(part for each in OURS for part in ("-c", each)))
        self._users = replace(users, options=options, env={**users.env, "GIT_OBJECT_DIRECTORY": f"{place}/objects"})
        self._attributes = {
            path: self._users.run("cat-file", "blob", entry.oid)
            for path, entry in tree.items()
            if path.rpartition(b"/")[2] == ATTRIBUTES and entry.mode.startswith("100")
        }

    def stored(self, files: Mapping[bytes, Path], *, keep: bool = False) -> dict[bytes, str]:
        """The ids of what git stores of files, by their paths in the repository.

        Args:
            files: By those paths.
            keep: Whether it is kept, to be written to files.
        """
        folder, ids = self._folder(files), {}
        write, no_write = (("-w",), ()) if keep else ((), ("--info-only",))
        for path, file in files.items():
            if path.rpartition(b"/")[2].lower() == ATTRIBUTES:  # in the folder it would count
                name = f"--path={os.fsdecode(path)}"
                said = self._run(folder, "hash-object", *write, "--stdin", name, stdin=file.read_bytes())
                ids[path] = said.decode().strip()
            else:
                copy = folder / os.fsdecode(path)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
        index = folder.with_suffix(".index")
        self._run(folder, "read-tree", self._commit, index=index)
        names = b"".join(path + b"\0" for path in files.keys() - ids.keys())
        self._run(folder, "update-index", *no_write, "--add", "--replace", "-z", "--stdin", stdin=names, index=index)
        listed = self._run(folder, "ls-files", "-z", "-t", "--stage", index=index)
        return {path: oid.decode() for _, _, _, oid, path in LISTED.findall(listed) if path in files} | ids

    def filtered(self, paths: Collection[bytes]) -> set[bytes]:
        """Those of the paths that a program is to filter."""
        names = b"".join(path + b"\0" for path in paths)
        said = self._run(self._folder(paths), "check-attr", "-z", "--stdin", "filter", stdin=names)
        fields = said.split(b"\0")[:-1]
        return {path for path, value in zip(fields[::3], fields[2::3], strict=True) if value not in NO_FILTER}

    def on_disk(self, path: bytes) -> bytes:
        """What stands on disk of a file of the commit, after a checkout."""
        return self._run(self._folder([path]), "cat-file", "--filters", f"{self._commit}:{os.fsdecode(path)}")

    def write(self, ids: Mapping[Path, str]) -> None:
        """Replace files by what git stores of them, which was kept."""
        with Objects(self._place / "objects", self._place / "reading", self._algorithm) as objects:
            for file, oid in ids.items():
                mode = file.stat().st_mode
                file.unlink()
                objects.write(oid, file)
                file.chmod(mode)

    def _folder(self, paths: Iterable[bytes]) -> Path:
        """A new folder, with those attributes of the commit in it that count for the paths."""
        self._count += 1
        folder = self._place / f"{self._count}"
        folder.mkdir()
        above = {parent for path in paths for parent in parents(path)} | {b""}
        for path, text in self._attributes.items():
            if path.rpartition(b"/")[0] in above:
                file = folder / os.fsdecode(path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(text)
        return folder

    def _run(self, work_tree: Path, *arguments: str, stdin: bytes = b"", index: Path | None = None) -> bytes:
        where = (f"--work-tree={work_tree}", "-C", str(work_tree))
        return self._users.run(*where, *arguments, stdin=stdin, GIT_INDEX_FILE=index or self._place / "no index")


def parents(path: bytes) -> list[bytes]:
    """The folders that a path leads through."""
    parts = path.split(b"/")
    return [b"/".join(parts[:end]) for end in range(1, len(parts))]
