"""Where agents work: each in a checkout of its own, which starts from what the user, or its parent, sees.

    run_folder/ctl.git     the controller's repository: the start, every snapshot; borrows the user's objects
    folder/work            an agent's files; `.git` in it names the next
    folder/git             the agent's own repository: commit, branch, stash work and reach nothing else

The user's repository is only read. What an agent does to its files, or to its repository, we read file by file: see
`snapshot.py`.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import WorkspaceSettings
from rlm_nb.errors import CancelledError, GitError, RunFolderError
from rlm_nb.records import Patch
from rlm_nb.workspace import git, origin, patch, repository
from rlm_nb.workspace.files import LARGE, STILL_LARGE, UNREADABLE, LeftOut, Root
from rlm_nb.workspace.git import Git
from rlm_nb.workspace.scratch import remove_tree, scratch
from rlm_nb.workspace.snapshot import SUBMODULE, Entry, Observer, Tree, Writer, ignored, tree_of

REMEMBERED = 8
"""Commits whose contents are kept at hand."""

SMALL = 1_000_000
"""Bytes. Files up to this size are kept first when an agent has ended, lest the time be up before they are."""

END = "The end"

__all__ = ["Source", "Worktree", "remove_tree", "scratch"]


class Source:
    """What a run works on, held in the run's own repository. Open it with `Source.open`.

    Args:
        ctl: That repository.
        start: The state in it that the run starts from.
        settings: What is taken from a checkout or a worktree.
    """

    def __init__(self, ctl: Path, start: origin.Start, settings: WorkspaceSettings) -> None:
        self.ctl = ctl
        self._start, self._settings = start, settings
        self._template = repository.Template.of(ctl)
        self._lock = threading.Lock()
        self._trees: dict[str, Tree] = {}

    @classmethod
    @contextmanager
    def open(
        cls,
        where: str,
        run_folder: Path,
        *,
        branch: str | None = None,
        commit: str | None = None,
        runs_dir: Path | None = None,
        settings: WorkspaceSettings | None = None,
        cancel: Cancellation | None = None,
    ) -> Iterator[Source]:
        """Make `run_folder/ctl.git` with the user's present state in it, or the branch or commit asked for.

        Args:
            where: A repository or any folder inside one, a bare repository, a folder without git, or a URL.
            run_folder: The folder of this run; it exists.
            branch: A branch or a tag to start from.
            commit: A commit to start from.
            runs_dir: Where runs are kept; those in it are no part of what is worked on.
            settings: What is taken.
            cancel: Ends the opening, transfers and the reading of files included.

        Raises:
            SourceError: There is nothing to start from, or it cannot be read.
            RunFolderError: The run's folder cannot be written.
            CancelledError: `cancel` was set.
        """
        ctl = run_folder.resolve() / "ctl.git"
        settings = settings or WorkspaceSettings()
        wish = origin.Wish(where, branch, commit, run_folder, runs_dir, settings)
        with _writing(ctl):
            ctl.mkdir()
            try:
                source = cls(ctl, origin.start(wish, ctl, cancel), settings)
            except BaseException:
                remove_tree(ctl)
                raise
        yield source

    @property
    def base(self) -> str:
        """The commit in `ctl.git` that holds the state that the run starts from."""
        return self._start.base

    @property
    def head(self) -> str:
        """The user's commit that it came from; empty when there was none."""
        return self._start.head

    @property
    def origin(self) -> str:
        """What the user named: an absolute path, or a URL without any login."""
        return self._start.origin

    @property
    def subfolder(self) -> PurePosixPath:
        """Where in the repository the user pointed; `.` for its top."""
        return self._start.subfolder

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know about the start, in sentences."""
        return self._start.notices

    @contextmanager
    def checkout(
        self, agent: str, folder: Path, base: str | None = None, cancel: Cancellation | None = None
    ) -> Iterator[Worktree]:
        """Give an agent a worktree, `folder/work`, with a private repository behind it, `folder/git`.

        May be called from many threads at once. The folder is the caller's to remove.

        Args:
            agent: Whose it is.
            folder: An empty folder that only its owner can enter.
            base: The commit in `ctl.git` to start from; the run's own start when there is none.
            cancel: Ends the writing of the files.

        Raises:
            GitError: Git could not write it: the disk is full, a partial clone lacks a file, or somebody has tampered
                with `ctl.git`.
            RunFolderError: The folder cannot be written.
            CancelledError: `cancel` was set.
        """
        base = base or self.base
        with _writing(folder):
            tree = self._check_out(folder / "work", folder / "git", base, cancel)
            worktree = Worktree(self.ctl, agent, folder / "work", base, tree, self._start, self._settings)
        yield worktree

    def _check_out(self, work: Path, private: Path, base: str, cancel: Cancellation | None) -> Tree:
        repository.check(self.ctl)
        tree = self._tree(base, cancel)
        work.mkdir(mode=0o700)
        repository.make_private(private, work, self._template, base)
        absent = self._start.absent & tree.keys()
        # The index is the agent's from here on: we never look into it again.
        ours = git.controlled(self.ctl, work_tree=work, index=private / "index", cancel=cancel)
        if not absent:
            ours.run("read-tree", "--reset", "-u", base)
            return tree
        ours.run("read-tree", base)
        ours.run("update-index", "--skip-worktree", "-z", "--stdin", stdin=b"\0".join(absent))
        ours.run("checkout-index", "--quiet", "--all", "--index")
        return tree

    def _tree(self, base: str, cancel: Cancellation | None) -> Tree:
        """What a commit holds; read once for all the sub-agents of a batch, which start from the same one."""
        with self._lock:
            if base not in self._trees:
                self._trees[base] = tree_of(git.controlled(self.ctl, cancel=cancel), base)
                while len(self._trees) > REMEMBERED:
                    del self._trees[next(iter(self._trees))]
            return self._trees[base]


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
    ) -> None:
        self.path, self.base = path, base
        self._ctl, self._git = ctl, git.controlled(ctl)
        self._ref = f"refs/rlm/{agent}"
        self._algorithm, self._absent = start.algorithm, start.absent
        self._largest, self._include = settings.max_file_size, settings.include
        self._lock = threading.Lock()
        self._last, self._tree = "", tree
        self._left = LeftOut()
        self._observer = Observer(start.algorithm)
        with Root(path) as root:
            self._observer.trust(root, tree)
        self.workdir = _nearest_folder(path, start.subfolder)

    def snapshot(self, message: str, cancel: Cancellation | None = None) -> str:
        """Keep the present state as a commit of `ctl.git`, held by the ref `refs/rlm/<agent>`; returns its id.

        Ignored files are no part of it. What cannot be taken stays as it was in the last one.

        Raises:
            GitError: The commit cannot be written, or somebody has tampered with `ctl.git`.
            RunFolderError: There is no room to work out what is ignored.
            CancelledError: `cancel` was set; the last state is what it was.
        """
        with self._lock, _writing(self.path):
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
        with self._lock, _writing(self.path):
            found = Patch(base=self.base)
            try:
                for largest in sorted({min(SMALL, self._largest), self._largest}):
                    found = replace(found, commit=self._snapshot(END, largest, cancel))
                    found = patch.between(ours, self.base, found.commit, self._left.sentences(), largest=self._largest)
                    if not self._left.paths.keys() & {LARGE, STILL_LARGE}:
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
            self._git.run("update-ref", self._ref, commit)
        self._last, self._tree, self._left = commit, tree, left
        return commit


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What the system refuses, in words that the user can do something about."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"{error.filename or folder} cannot be written: {error.strerror or error}") from error


def _nearest_folder(path: Path, subfolder: PurePosixPath) -> Path:
    """The folder below `path`, made if it is missing; the one above it where something else has taken its place."""
    for part in subfolder.parts:
        below = path / part
        if not os.path.lexists(below):
            below.mkdir()
        if not stat.S_ISDIR(below.lstat().st_mode):
            break
        path = below
    return path
