"""What a run works on: the user's state as a commit of the run's own repository, and worktrees that start from it.

    run_folder/ctl.git     the controller's repository: the start, every snapshot; borrows the user's objects
    folder/work            an agent's files; `.git` in it names the next
    folder/git             the agent's own repository: commit, branch, stash work and reach nothing else

The user's repository is only read.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import WorkspaceSettings
from rlm_nb.errors import RunFolderError, SourceError
from rlm_nb.records import JSON, Patch
from rlm_nb.workspace import git, origin, patch, repository
from rlm_nb.workspace.scratch import remove_tree
from rlm_nb.workspace.snapshot import Tree, tree_of
from rlm_nb.workspace.worktree import Worktree, nearest_folder, writing

REMEMBERED = 8
"""Commits whose contents are kept at hand."""


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
        self._trees: dict[str, Tree] = {start.base: start.tree}

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
        with writing(ctl):
            ctl.mkdir()
            try:
                source = cls(ctl, origin.start(wish, ctl, cancel), settings)
            except BaseException:
                remove_tree(ctl)
                raise
        yield source

    @classmethod
    def reopen(cls, run_folder: Path, record: Mapping[str, Any], settings: WorkspaceSettings | None = None) -> Source:
        """What a recorded run works on, for one that goes on, or whose cells run again.

        Args:
            run_folder: The folder of the run.
            record: What `as_json` gave.
            settings: What is taken from worktrees.

        Raises:
            RunFolderError: The run has no such repository, or this is no such record.
            GitError: The start cannot be read: the repository that its objects are borrowed from may be gone.
        """
        ctl = _recorded_repository(run_folder)
        with writing(ctl):
            repository.renew(ctl, _algorithm(record))
        return cls(ctl, origin.Start.from_json(record, ctl), settings or WorkspaceSettings())

    @classmethod
    def borrow(
        cls, run_folder: Path, record: Mapping[str, Any], place: Path, settings: WorkspaceSettings | None = None
    ) -> Source:
        """What a recorded run worked on, in a repository of its own, so that the run's stays as it is.

        Args:
            run_folder: The folder of the run.
            record: What `as_json` gave.
            place: Where that repository is made; it borrows the objects of the run's.
            settings: What is taken from worktrees.

        Raises:
            RunFolderError: The run has no repository, this is no such record, or nothing can be written there.
            GitError: The start cannot be read: the repository that its objects are borrowed from may be gone.
        """
        ctl = _recorded_repository(run_folder)
        with writing(place):
            repository.copy(ctl, place, _algorithm(record))
            return cls(place, origin.Start.from_json(record, place), settings or WorkspaceSettings())

    def write(self, folder: Path, base: str) -> Path:
        """Write the files of a commit to `folder/work`, with a private repository behind it; returns where to work.

        For files whose later state nobody wants to keep; `checkout` is for all others, and says what is raised.
        """
        with writing(folder):
            self._check_out(folder / "work", folder / "git", base, None)
            return nearest_folder(folder / "work", self._start.subfolder)

    def as_json(self) -> dict[str, JSON]:
        """What is put on record of it."""
        return self._start.as_json()

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
    def top(self) -> Path | None:
        """The folder that edits can be applied to: the top of a checkout, or a folder without git; else `None`."""
        return self._start.top

    @property
    def subfolder(self) -> PurePosixPath:
        """Where in the repository the user pointed; `.` for its top."""
        return self._start.subfolder

    @property
    def borrowed(self) -> tuple[Path, ...]:
        """The folders of objects that worktrees read from: the run's own, and those that it borrows."""
        return repository.borrowed(self.ctl / "objects")

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know about the start, in sentences."""
        return self._start.notices

    def last(self, agent: str) -> str | None:
        """The commit that holds the last state of an agent's files that was kept; `None` when none was."""
        ref = f"refs/rlm/{agent}"
        ended = git.controlled(self.ctl).attempt("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        return ended.out.decode().strip() if ended.code == 0 else None

    def patch(self, recorded: Patch) -> Patch:
        """A patch of a recorded agent, with its text. Raises `GitError`."""
        if not recorded.files:
            return recorded
        ours, largest = git.controlled(self.ctl), self._settings.max_file_size
        return patch.between(ours, recorded.base, recorded.commit, recorded.notes, largest=largest)

    @contextmanager
    def checkout(
        self,
        agent: str,
        folder: Path,
        base: str | None = None,
        cancel: Cancellation | None = None,
        *,
        after: str | None = None,
    ) -> Iterator[Worktree]:
        """Give an agent a worktree, `folder/work`, with a private repository behind it, `folder/git`.

        May be called from many threads at once. The folder is the caller's to remove. However the block ends, the last
        state of the files is kept: if nobody asked for the patch, it is read at the end.

        Args:
            agent: Whose it is.
            folder: An empty folder that only its owner can enter.
            base: The commit in `ctl.git` to start from; the run's own start when there is none.
            cancel: Ends the writing of the files.
            after: The commit that holds the last state of an earlier worktree of this agent: later ones follow it.

        Raises:
            GitError: Git could not write it: the disk is full, a partial clone lacks a file, or somebody has tampered
                with `ctl.git`.
            RunFolderError: The folder cannot be written.
            CancelledError: `cancel` was set.
        """
        base = base or self.base
        with writing(folder):
            tree = self._check_out(folder / "work", folder / "git", base, cancel)
            worktree = self._worktree(agent, folder / "work", base, tree)
            if after is not None:
                worktree.follow(after, self._tree(after, cancel))
        with closing(worktree):
            yield worktree

    @contextmanager
    def present(self, agent: str) -> Iterator[Worktree]:
        """The user's own files, as they are at any moment, in the place of a worktree: they are only read.

        Raises:
            SourceError: There are none: the run works on a URL or on a bare repository.
        """
        if self.top is None:
            raise SourceError(f"{self.origin} has no files here that one could work in")
        with writing(self.top):
            worktree = self._worktree(agent, self.top, self.base, self._tree(self.base, None))
        with closing(worktree):
            yield worktree

    def _worktree(self, agent: str, path: Path, base: str, tree: Tree) -> Worktree:
        return Worktree(self.ctl, agent, path, base, tree, self._start, self._settings, self._remember)

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
        """What a commit holds; as a rule we have made it, and know."""
        with self._lock:
            if base in self._trees:
                return self._trees[base]
        tree = tree_of(git.controlled(self.ctl, cancel=cancel), base)
        self._remember(base, tree)
        return tree

    def _remember(self, commit: str, tree: Tree) -> None:
        with self._lock:
            self._trees.pop(commit, None)
            self._trees[commit] = tree
            while len(self._trees) > REMEMBERED:
                del self._trees[next(iter(self._trees))]


def _recorded_repository(run_folder: Path) -> Path:
    ctl = run_folder.resolve() / "ctl.git"
    if ctl.is_symlink() or not ctl.is_dir():
        raise RunFolderError(f"{run_folder} has no ctl.git: the files that its agents began with are gone")
    return ctl


def _algorithm(record: Mapping[str, Any]) -> str:
    return "sha256" if len(str(record.get("base", ""))) == 64 else "sha1"
