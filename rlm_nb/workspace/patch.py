"""What lies between two states of a run, as a patch that plain `git apply` takes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import IO

from rlm_nb.records import Patch
from rlm_nb.workspace.files import PIECE, named
from rlm_nb.workspace.git import Git
from rlm_nb.workspace.snapshot import Entry, Tree

DIFF = ("diff-tree", "-r", "--no-ext-diff", "--no-textconv", "--no-color", "--find-renames")
RAW = (*DIFF, "--raw", "--no-abbrev", "-z")

LARGEST = 64_000_000
"""Bytes of the longest patch: it is held in memory whole, and a person is to read it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One entry between two trees.

    Args:
        status: `A`, `D`, `M`, `R` for a renamed file, `T` where a file became a link or the like; empty if unknown.
        oids: What was there and what is there, as object ids; zeros, or empty, for nothing.
        paths: Where; of a rename, the old path and the new one.
    """

    status: str
    oids: tuple[str, str]
    paths: tuple[bytes, ...]


def between(
    git: Git,
    base: str,
    commit: str,
    notes: tuple[str, ...] = (),
    *,
    largest: int | None = None,
    most: int = LARGEST,
    binary: bool = True,
    trees: tuple[Tree, Tree] | None = None,
) -> Patch:
    """The patch that leads from `base` to `commit`, two commits of the run's own repository.

    Args:
        git: That repository. It looks into no worktree, so no attribute that an agent wrote counts.
        base: Where it starts.
        commit: Where it leads.
        notes: What is not in `commit`, and why.
        largest: Bytes of the largest file whose contents are compared; git holds them in memory several times.
        most: Bytes of the longest text. Files that do not fit are named in the patch's notes, and stand in its
            `files` all the same.
        binary: Whether the contents of binary files are part of it; else it says only that they differ.
        trees: What the two hold, for who knows: that spares git the most of the questions.

    Raises:
        GitError: One of the two is not there.
        CancelledError: The signal of `git` was set.
    """
    if base == commit:
        return Patch(base=base, commit=commit, notes=notes)
    touched = _differing(*trees) if trees else _changes(git, base, commit)
    # Of a new file it was seen when it was read that it is not too large.
    unknown = [change for change in touched if change.oids[0]] if trees else touched
    over = [] if largest is None else _larger(git, unknown, largest)
    if over and trees:  # which of them were only moved, git finds out
        return between(git, base, commit, notes, largest=largest, most=most, binary=binary)
    but = [f":(exclude,literal){os.fsdecode(path)}" for change in over for path in change.paths]
    form = ("--patch", "--binary", "--full-index") if binary else ("--patch",)
    with git.reading(*RAW, *form, base, commit, "--", *but) as stream:
        changes, line = _listed_first(stream)
        text, cut = _whole_sections(chain([line], iter(partial(stream.readline, PIECE), b"")), changes, most)
    if missing := {path for change in (*over, *cut) for path in change.paths}:
        why = f"left out of the patch for its size, but kept in commit {commit[:10]} of the run's ctl.git"
        notes = (*notes, f"{why}: {named(missing)}")
    files = sorted({os.fsdecode(path) for change in touched for path in change.paths})
    return Patch(text.decode("utf-8", "surrogateescape"), tuple(files), base, commit, notes)


def _differing(old: Tree, new: Tree) -> list[Change]:
    """What differs between two trees; a file that was renamed is deleted here and added there."""
    paths = [path for path in old.keys() | new.keys() if old.get(path) != new.get(path)]
    nothing = Entry("", "")
    return [Change("", (old.get(path, nothing).oid, new.get(path, nothing).oid), (path,)) for path in paths]


def _changes(git: Git, base: str, commit: str) -> list[Change]:
    """What differs, in the order in which a patch has it."""
    return _parsed(git.run(*RAW, base, commit))


def _listed_first(stream: IO[bytes]) -> tuple[list[Change], bytes]:
    """What differs, as git says it before the patch that follows; and that one's first line."""
    head = bytearray()
    while line := stream.readline(PIECE):
        head += line
        if b"\0\0" in head:
            break
    raw, _, first = bytes(head).partition(b"\0\0")
    return _parsed(raw + b"\0"), first


def _parsed(raw: bytes) -> list[Change]:
    fields = iter(raw.split(b"\0"))
    changes = []
    while field := next(fields):
        _, _, old, new, status = field.decode().split()
        paths = tuple(next(fields) for _ in range(2 if status[0] in "RC" else 1))
        changes.append(Change(status[0], (old, new), paths))
    return changes


def _larger(git: Git, changes: Iterable[Change], largest: int) -> list[Change]:
    """Those of the changes that would have git read an object of more than so many bytes."""
    differing = [change for change in changes if change.oids[0] != change.oids[1]]
    if not differing:
        return []
    asked = "".join(f"{oid}\n" for change in differing for oid in change.oids).encode()
    lines = iter(git.run("cat-file", "--batch-check=%(objectsize)", stdin=asked).splitlines())
    # An object that is missing (a side that is not there, a submodule's commit) is answered with words.
    sizes = ([int(size) for size in (next(lines), next(lines)) if size.isdigit()] for _ in differing)
    return [change for change, found in zip(differing, sizes, strict=True) if max(found, default=0) > largest]


def _whole_sections(lines: Iterable[bytes], changes: Sequence[Change], most: int) -> tuple[bytes, list[Change]]:
    """As many of a patch's files as fit into `most` bytes, and the changes that do not."""
    text = bytearray()
    cut: list[Change] = []
    # Where a file becomes a link, the patch removes the one and adds the other.
    sections = iter(change for change in changes for _ in range(2 if change.status == "T" else 1))
    here: Change | None = None
    begin, fresh = 0, True
    for line in lines:
        # Neither text, which stands behind a sign, nor binary data, which has no spaces, can look like this.
        if fresh and line.startswith(b"diff --git ") and (section := next(sections)) is not here:
            here, begin = section, len(text)
        fresh = line.endswith(b"\n")
        if here is not None and (not cut or cut[-1] is not here):
            text += line
            if len(text) > most:
                del text[begin:]
                cut.append(here)
    return bytes(text), cut
