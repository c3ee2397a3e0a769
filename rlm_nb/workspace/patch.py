"""What lies between two states of a run, as a patch that plain `git apply` takes."""

from __future__ import annotations

import os

from rlm_nb.records import Patch
from rlm_nb.workspace.git import Git

DIFF = ("diff-tree", "-r", "--no-ext-diff", "--no-textconv", "--no-color", "--find-renames")


def between(git: Git, base: str, commit: str, notes: tuple[str, ...] = ()) -> Patch:
    """The patch that leads from `base` to `commit`, two commits of the run's own repository.

    Args:
        git: That repository. It looks into no worktree, so no attribute that an agent wrote counts.
        base: Where it starts.
        commit: Where it leads.
        notes: What is not in `commit`, and why.

    Raises:
        GitError: One of the two is not there.
    """
    if base == commit:
        return Patch(base=base, commit=commit, notes=notes)
    text = git.run(*DIFF, "--patch", "--binary", "--full-index", base, commit)
    return Patch(text.decode("utf-8", "surrogateescape"), _files(git, base, commit), base, commit, notes)


def _files(git: Git, base: str, commit: str) -> tuple[str, ...]:
    """Every path that the patch touches; of a rename, the old one and the new one."""
    fields = iter(git.run(*DIFF, "--name-status", "-z", base, commit).split(b"\0")[:-1])
    paths: set[str] = set()
    for status in fields:
        paths.update(os.fsdecode(next(fields)) for _ in range(2 if status[:1] in b"RC" else 1))
    return tuple(sorted(paths))
