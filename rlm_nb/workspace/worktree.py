"""Where an agent works: a checkout of its own, whose state is kept whatever stands in it.

What an agent does to its files, or to its repository, we read file by file: see `snapshot.py`.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import WorkspaceSettings
from rlm_nb.errors import CancelledError, GitError, RLMError, RunFolderError
from rlm_nb.records import Patch
from rlm_nb.workspace import git, origin, patch, repository
from rlm_nb.workspace.files import UNREAD, UNREADABLE, LeftOut, Root
from rlm_nb.workspace.git import Git
from rlm_nb.workspace.scratch import is_leaving
from rlm_nb.workspace.snapshot import SUBMODULE, Entry, Observer, Tree, Writer, ignored

log = logging.getLogger(__name__)

SMALL = 1_000_000
"""Bytes. Files up to this size are kept first when an agent has ended, lest the time be up before they are."""

BRINGING_HOME = 60.0
"""Seconds that reading an agent's edits may take once the run was stopped or its time is up: they must not be lost."""

END = "The end"


class Worktree:
    """An agent's own checkout. Whatever stands in it by now, a snapshot neither runs it, nor fails or hangs over it.

    Args:
        ctl: The repository of the run.
        agent: Whose it is.
        path: The folder.
        base: The commit that was checked out.
        tree: What that commit holds.
        start: Where the run started.
        settings: What is taken.
        remember: Told of each commit that is made here, and what it holds: sub-agents start from it.
    """

    def __init__(
        self,
        ctl: Path,
        agent: str,
        path: Path,
        base: str,
        tree: Tree,
        start: origin.Start,
        settings: WorkspaceSettings,
        remember: Callable[[str, Tree], None],
    ) -> None:
        self.path, self.base = path, base
        self._ctl, self._git = ctl, git.controlled(ctl)
        self._ref = f"refs/rlm/{agent}"
        self._algorithm, self._absent = start.algorithm, start.absent
        self._largest, self._include = settings.max_file_size, settings.include
        self._remember = remember
        self._lock = threading.Lock()
        self._last, self._tree, self._base_tree = "", tree, tree
        self._left = LeftOut()
        self._ended = False
        self._observer = Observer(start.algorithm, settings.max_file_size)
        with Root(path) as root:
            self._observer.trust(root, tree)
        self.workdir = nearest_folder(path, start.subfolder)

    def follow(self, commit: str, tree: Tree) -> None:
        """Let the next snapshot be a commit on top of this one, which was made by an agent of the same name."""
        self._last, self._tree = commit, tree

    def snapshot(self, message: str, cancel: Cancellation | None = None) -> str:
        """Keep the present state as a commit of `ctl.git`, held by the ref `refs/rlm/<agent>`; returns its id.

        Ignored files are no part of it. What cannot be taken stays as it was in the last one.

        Raises:
            GitError: The commit cannot be written, or somebody has tampered with `ctl.git`.
            RunFolderError: There is no room to work out what is ignored.
            CancelledError: `cancel` was set; the last state is what it was.
        """
        with self._lock, writing(self.path):
            return self._snapshot(message, self._largest, cancel or Cancellation())

    def patch(self, cancel: Cancellation | None = None) -> Patch:
        """What changed since the checkout, and what had to be left out.

        When `cancel` is set meanwhile, it is what could be kept by then, and its notes say so.

        Raises:
            GitError: The state cannot be written, or somebody has tampered with `ctl.git`.
            RunFolderError: There is no room to work out what is ignored.
        """
        cancel = cancel or Cancellation()
        ours = replace(self._git, cancel=cancel)
        with self._lock, writing(self.path):
            self._ended = True
            found = Patch(base=self.base)
            try:
                for largest in sorted({min(SMALL, self._largest), self._largest}):
                    found = replace(found, commit=self._snapshot(END, largest, cancel))
                    found = patch.between(
                        ours,
                        self.base,
                        found.commit,
                        self._left.sentences(),
                        largest=self._largest,
                        trees=(self._base_tree, self._tree),
                    )
                    if UNREAD not in self._left.paths:
                        break
            except (CancelledError, GitError) as error:
                if isinstance(error, GitError) and not found.commit:
                    raise
                commit = self._keep(self._last or self.base, self._tree, self._left)
                kept = f"commit {commit[:10]} of the run's ctl.git has all that could be kept"
                note = f"the last edits may be missing, {kept}: {error}"
                notes = (*found.notes, note)
                found = replace(found, commit=commit, notes=notes, error=None if found.text else note)
            return found

    def close(self) -> None:
        """Keep the last state of an agent that ended otherwise than by being asked for its patch; never raises."""
        if not self._ended:
            try:
                self.patch(Cancellation(time.monotonic() + BRINGING_HOME))
            except RLMError as error:
                log.warning("the last state of %s could not be kept: %s", self._ref, error)

    def _snapshot(self, message: str, largest: int, cancel: Cancellation) -> str:
        repository.check(self._ctl)
        left = LeftOut()
        try:
            root = Root(self.path, cancel, largest)
        except OSError:
            left.add_unseen(b"", UNREADABLE)
            return self._keep(self._last or self.base, self._tree, left)
        with root:
            ours = replace(self._git, cancel=cancel)
            new = self._observe(ours, root, left)
            if is_leaving():
                raise RunFolderError(f"{self.path} is being removed: the process was told to end at once")
            if new == self._tree:
                return self._keep(self._last or self.base, self._tree, left)
            writer = Writer(ours, root, self._algorithm, left)
            commit, tree = writer.commit(self._ref, self._last or self.base, message, self._tree, new)
        for path in new:
            if tree.get(path) != new[path]:
                self._observer.forget(path)
        return self._keep(commit, tree, left)

    def _observe(self, ours: Git, root: Root, left: LeftOut) -> dict[bytes, Entry]:
        old = self._tree
        submodules = {path for path, entry in old.items() if entry.mode == SUBMODULE}
        files = root.walk(old, submodules, left)
        untracked = [path for path in files if path not in old]
        for path in ignored(ours, root, files, untracked, self._include):
            del files[path]
        new = self._observer.observe(root, files, old, left)
        for path in old.keys() - new.keys():
            if path in submodules or path in self._absent or left.hides(path):
                new[path] = old[path]
        return new

    def _keep(self, commit: str, tree: Tree, left: LeftOut) -> str:
        if not self._last and commit == self.base:
            repository.point(self._ctl, self._ref, commit)
        self._last, self._tree, self._left = commit, tree, left
        self._remember(commit, tree)
        return commit


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What the system refuses, in words that the user can do something about."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"{error.filename or folder} cannot be written: {error.strerror or error}") from error


def nearest_folder(path: Path, subfolder: PurePosixPath) -> Path:
    """The folder below `path`, made if it is missing; the one above it where something else has taken its place."""
    for part in subfolder.parts:
        below = path / part
        if not os.path.lexists(below):
            below.mkdir()
        if not stat.S_ISDIR(below.lstat().st_mode):
            break
        path = below
    return path
