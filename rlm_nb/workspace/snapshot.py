"""The state of a folder as a commit, without ever letting git look into that folder.

An agent can put anything into its worktree: a FIFO called `.gitignore`, a broken `.gitmodules`, a filter, a repository
where a folder was. So we look ourselves, and git is told what was found through `git fast-import`, which reads nothing
but its standard input. Every byte is kept as it stands on disk: no line endings are converted, no filter is run. That
also leaves the user's repository alone: `git add` refreshes the times of each object that it finds already there,
borrowed ones included.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rlm_nb.workspace.files import LARGE, PIECE, SPECIAL, STILL_LARGE, UNREAD, UNREADABLE, UNSTEADY, LeftOut, Root
from rlm_nb.workspace.git import Git, controlled
from rlm_nb.workspace.scratch import scratch

RACY = 100_000_000
"""Nanoseconds. A file changed so shortly before we looked may change again without a new time stamp."""

BETWEEN_CHECKS = 100
"""Small files that are read in a row before one looks whether somebody wants that to end."""

LARGEST_IGNORE_FILE = 1_000_000
"""Bytes. No person wrote a longer `.gitignore`."""

FAST_IMPORT = ("--quiet", "--force", "--done", "--big-file-threshold=1m")
"""What is larger than the threshold git passes on to the disk, instead of holding it in memory whole."""

SUBMODULE = "160000"
LINK = "120000"


HASHES = {"sha1": hashlib.sha1, "sha256": hashlib.sha256}
"""By how a repository names its objects. `hashlib.new` takes longer than most files."""

ENTRY = re.compile(rb"(\d+) \w+ (\w+)\t([^\0]+)\0")
"""What `git ls-tree -z` says of a path."""

LISTED = re.compile(rb"(?:\? ([^\0]+)|(\S) (\d+) (\w+) \d\t([^\0]+))\0")
"""What `git ls-files -z -t --stage` says: a path that is not tracked; or a tag, a mode, an id and the path."""


class Entry(NamedTuple):
    """What a tree holds at one path: its mode (`100644`, `100755`, `120000`, `160000`) and the object's id."""

    mode: str
    oid: str


Tree = Mapping[bytes, Entry]


def tree_of(git: Git, commit: str) -> dict[bytes, Entry]:
    """Everything that a commit holds, by path."""
    listed = git.run("ls-tree", "-r", "-z", "--full-tree", commit)
    return {path: Entry(mode.decode(), oid.decode()) for mode, oid, path in ENTRY.findall(listed)}


def tree_id(tree: Tree, algorithm: str) -> str:
    """The id that git gives to a tree of these entries."""
    folders: dict[bytes, list[tuple[bytes, bytes]]] = {b"": []}
    for path, entry in tree.items():
        folder, _, name = path.rpartition(b"/")
        above = folder
        while above not in folders:
            folders[above] = []
            above = above.rpartition(b"/")[0]
        folders[folder].append((name, b"%b %b\0%b" % (entry.mode.encode(), name, bytes.fromhex(entry.oid))))
    for folder in sorted(folders, key=lambda path: path.count(b"/") if path else -1, reverse=True):
        above, _, name = folder.rpartition(b"/")
        listing = b"".join(line for _, line in sorted(folders[folder]))
        digest = HASHES[algorithm](b"tree %d\0%b" % (len(listing), listing), usedforsecurity=False)
        # Git sorts a folder as if its name ended in a slash.
        folders[above].append((name + b"/", b"40000 %b\0%b" % (name, digest.digest())))
    return digest.hexdigest()


class Observer:
    """Says which object each file would be, and reads a file again only when it looks different.

    Args:
        algorithm: `sha1` or `sha256`, as the repository names its objects.
        largest: Bytes of the largest file that is taken in the end, though a root may put off reading it.
        executable: Whether the file system knows which files can be run.
    """

    def __init__(self, algorithm: str, largest: int | None = None, *, executable: bool = True) -> None:
        self.algorithm = algorithm
        self._hash = HASHES[algorithm]
        self._largest = largest
        self._executable = executable
        self._seen: dict[bytes, tuple[tuple[int, ...], Entry]] = {}

    def trust(self, root: Root, tree: Tree) -> None:
        """Take it that the files are what `tree` says: they have just been checked out, and nobody else is there yet.

        Whatever is changed from here on gets a later time stamp than a file that is older than one made only now.
        """
        now = root.time_stamp() + RACY
        for path in sorted(tree):
            with suppress(OSError):
                if status := root.stat(path):
                    self._remember(path, status, tree[path], now)

    def small(self, root: Root, paths: Iterable[bytes], before: Tree) -> tuple[dict[bytes, Entry], list[bytes]]:
        """The entries of those of the files that are small, the fastest way; and the others, left to `observe`."""
        tree, others = {}, []
        for number, path in enumerate(paths):
            if number % BETWEEN_CHECKS == 0:
                root.cancel.check()
            found = root.small(path)
            if found is None:
                others.append(path)
                continue
            status, data = found
            tree[path] = Entry(self._mode(status, before.get(path)), self._small_id(data))
        return tree, others

    def observe(
        self, root: Root, files: Mapping[bytes, os.stat_result], before: Tree, left: LeftOut
    ) -> dict[bytes, Entry]:
        """The entries for `files`; for one that cannot be taken, the entry that it had `before`, if any."""
        now = time.time_ns()
        tree = {}
        for path, status in files.items():
            root.cancel.check()
            old = before.get(path)
            kind = stat.S_IFMT(status.st_mode)
            known = self._seen.get(path)
            if known is not None and known[0] == _signature(status):
                tree[path] = known[1]
                continue
            try:
                if kind not in (stat.S_IFREG, stat.S_IFLNK):
                    raise OSError(SPECIAL)
                oid = self._object_id(root, path)
            except FileNotFoundError:  # gone since it was listed
                continue
            except OSError as error:
                if error.errno == errno.EFBIG:
                    later = self._largest is not None and status.st_size <= self._largest
                    left.add(path, UNREAD if later else LARGE if old is None else STILL_LARGE)
                else:
                    left.add(path, UNREADABLE if kind in (stat.S_IFREG, stat.S_IFLNK) else SPECIAL)
                if old is not None:
                    tree[path] = old
                continue
            tree[path] = Entry(self._mode(status, old), oid)
            self._remember(path, status, tree[path], now)
        return tree

    def forget(self, path: bytes) -> None:
        """Read this file anew next time."""
        self._seen.pop(path, None)

    def _object_id(self, root: Root, path: bytes) -> str:
        if found := root.small(path):
            return self._small_id(found[1])
        with root.reading(path) as (size, pieces):
            digest = self._hash(b"blob %d\0" % size, usedforsecurity=False)
            for piece in pieces:
                digest.update(piece)
        return digest.hexdigest()

    def _small_id(self, data: bytes) -> str:
        return self._hash(b"blob %d\0%b" % (len(data), data), usedforsecurity=False).hexdigest()

    def _mode(self, status: os.stat_result, old: Entry | None) -> str:
        if stat.S_ISLNK(status.st_mode):
            return LINK
        if self._executable:
            return "100755" if status.st_mode & stat.S_IXUSR else "100644"
        return old.mode if old is not None and old.mode.startswith("100") else "100644"

    def _remember(self, path: bytes, status: os.stat_result, entry: Entry, now: int) -> None:
        if status.st_ctime_ns < now - RACY:
            self._seen[path] = (_signature(status), entry)
        else:
            self.forget(path)


def ignored(
    git: Git,
    root: Root,
    files: Mapping[bytes, os.stat_result],
    untracked: Collection[bytes],
    include: Collection[str] = (),
) -> set[bytes]:
    """Which of `untracked` the repository's own rules, and the `.gitignore` files that are there now, ignore.

    Git judges names only, in a folder that holds copies of those files and nothing else. What a pattern of `include`
    matches is not ignored, whatever those rules say.
    """
    if not untracked:
        return set()
    with scratch() as rules:
        for path, status in files.items():
            if path.rpartition(b"/")[2] != b".gitignore" or not stat.S_ISREG(status.st_mode):
                continue
            if status.st_size > LARGEST_IGNORE_FILE:
                continue
            with suppress(FileNotFoundError, PermissionError), root.reading(path) as (size, pieces):
                if size <= LARGEST_IGNORE_FILE:
                    copy = rules / os.fsdecode(path)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(b"".join(pieces))
        matched = _matched(git, rules, untracked)
    if not include or not matched:
        return matched
    # Rules for a folder count more than those for a file in it: so these are judged where there are no others.
    with scratch() as alone:
        repository = alone / ".git"
        for folder in ("objects", "refs", "info"):
            (repository / folder).mkdir(parents=True)
        (repository / "HEAD").write_text("ref: refs/heads/none\n")
        (repository / "info/exclude").write_text("".join(f"{pattern}\n" for pattern in include))
        return matched - _matched(controlled(repository, cancel=git.cancel), alone, matched)


def _matched(git: Git, rules: Path, paths: Collection[bytes]) -> set[bytes]:
    """Which of the paths are ignored by the rules of `git`, and by the `.gitignore` files in a folder."""
    # `./` keeps git from taking a name like `:(top)x` for more than a name.
    names = b"".join(b"./" + path + b"\0" for path in paths)
    said = git.run(f"--work-tree={rules}", "check-ignore", "--no-index", "-z", "--stdin", stdin=names, ok=(0, 1))
    return {path.removeprefix(b"./") for path in said.split(b"\0")[:-1]}


@dataclass
class Writer:
    """Writes commits whose content comes from the files below `root`.

    Args:
        git: The repository of ours that they are written to.
        root: The files.
        algorithm: How objects are named.
        left: Is told which files changed while they were read.
    """

    git: Git
    root: Root
    algorithm: str
    left: LeftOut

    def commit(
        self, ref: str, parent: str, message: str, old: Tree, new: Tree, stored: Collection[str] = ()
    ) -> tuple[str, dict[bytes, Entry]]:
        """Make `ref` a commit of the tree `new` on top of `parent`, whose tree is `old`.

        Args:
            ref: Replaced, whatever it was.
            parent: A commit, or empty for none.
            message: What the commit says.
            old: The tree of `parent`.
            new: The tree that is wanted.
            stored: Objects that need not be read, beside those of `old`.

        Returns:
            The commit's id, and its tree: `new`, save what changed again since it was observed.
        """
        tree = dict(new)
        present = {entry.oid for entry in old.values()}.union(stored)
        commands = self._stream(ref, parent, message, old, tree, present)
        said = self.git.feed("fast-import", *FAST_IMPORT, chunks=commands)
        return said.decode().strip(), tree

    def _stream(
        self, ref: str, parent: str, message: str, old: Tree, tree: dict[bytes, Entry], present: Collection[str]
    ) -> Iterator[bytes]:
        """What fast-import reads: the new blobs, then the commit that places them."""
        changed = [path for path, entry in tree.items() if old.get(path) != entry]
        marks: dict[bytes, int] = {}
        for number, path in enumerate(changed, start=2):
            entry = tree[path]
            if entry.mode == SUBMODULE or entry.oid in present:
                continue
            oid = yield from self._blob(number, path)
            if oid is not None:
                tree[path], marks[path] = Entry(entry.mode, oid), number
            else:
                self.left.add(path, UNSTEADY)
                if path in old:
                    tree[path] = old[path]
                else:
                    del tree[path]
        text = message.encode("utf-8", "replace")
        yield b"commit %s\nmark :1\n" % ref.encode()
        yield b"committer rlm-nb <rlm-nb@localhost> %d +0000\ndata %d\n%s\n" % (time.time(), len(text), text)
        if parent:
            yield b"from %s\n" % parent.encode()
        # What goes makes room first: a folder may have become a file, or a file a folder.
        for path in old:
            if path not in tree:
                yield b"D %s\n" % quoted(path)
        for path in changed:
            if path in tree and old.get(path) != tree[path]:
                place = b":%d" % marks[path] if path in marks else tree[path].oid.encode()
                yield b"M %s %s %s\n" % (tree[path].mode.encode(), place, quoted(path))
        yield b"\nget-mark :1\ndone\n"

    def _blob(self, mark: int, path: bytes) -> Generator[bytes, None, str | None]:
        """One blob for fast-import; returns its id, or `None` when the file did not hold still."""
        with ExitStack() as stack:
            try:
                size, pieces = stack.enter_context(self.root.reading(path))
            except OSError:
                return None
            digest = HASHES[self.algorithm](b"blob %d\0" % size, usedforsecurity=False)
            yield b"blob\nmark :%d\ndata %d\n" % (mark, size)
            missing = size
            for piece in pieces:
                digest.update(piece)
                missing -= len(piece)
                yield piece
            whole = not missing
            while missing:  # so many bytes were announced, and so many must come
                yield bytes(min(missing, PIECE))
                missing -= min(missing, PIECE)
            yield b"\n"
            return digest.hexdigest() if whole else None


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def quoted(path: bytes) -> bytes:
    """A path as git reads it where one stands on a line, whatever bytes it holds."""
    plain = b"".join(bytes((b,)) if 32 <= b < 127 and b not in b'"\\' else b"\\%03o" % b for b in path)
    return b'"' + plain + b'"'
