"""Where a run starts: a repository, a folder or a URL becomes a commit in the run's own `ctl.git`.

What the user named is only ever read, by git commands that write nothing.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import WorkspaceSettings
from rlm_nb.errors import RunFolderError, SourceError
from rlm_nb.merging.objects import WORKSHOP
from rlm_nb.records import JSON
from rlm_nb.workspace import git, refs, remote, repository
from rlm_nb.workspace.files import KEYS, NESTED, UNREADABLE, LeftOut, Root, named
from rlm_nb.workspace.git import Git
from rlm_nb.workspace.snapshot import LISTED, SUBMODULE, Entry, Observer, Tree, Writer, tree_id, tree_of

START = "refs/rlm/start"
"""The ref of `ctl.git` that keeps the state that the run started from."""

TOP = PurePosixPath()
RUN = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
"""How the folders of runs are called."""

UNREADABLE_FOLDER = re.compile(r"^warning: could not open directory '(.*?)/?': ", re.MULTILINE)


@dataclass(frozen=True)
class Wish:
    """What was asked for.

    Args:
        where: A path or a URL.
        branch: A branch or a tag, instead of the present state.
        commit: A commit, instead of the present state; counts more than `branch`.
        run_folder: The folder of this run; if it lies in the checkout it is no part of it.
        runs_dir: Where runs are recorded; those in it are no part of the checkout either.
        settings: What is taken.
    """

    where: str
    branch: str | None = None
    commit: str | None = None
    run_folder: Path | None = None
    runs_dir: Path | None = None
    settings: WorkspaceSettings = field(default_factory=WorkspaceSettings)


@dataclass(frozen=True)
class Start:
    """The state that a run starts from.

    Args:
        base: The commit in `ctl.git` that holds it.
        head: The user's commit below it, or empty.
        origin: What the user named: an absolute path, or a URL without its login.
        top: The folder whose files the run's commits hold: the user's checkout, or the folder without git; `None` for
            a bare repository or a URL.
        subfolder: Where in the repository the user pointed.
        algorithm: How objects are named, `sha1` or `sha256`.
        absent: Paths of the commit that a sparse checkout has not on disk.
        notices: What the user should know, in sentences.
        tree: What `base` holds.
    """

    base: str
    head: str
    origin: str
    top: Path | None = None
    subfolder: PurePosixPath = TOP
    algorithm: str = "sha1"
    absent: frozenset[bytes] = frozenset()
    notices: tuple[str, ...] = ()
    tree: Tree = field(default_factory=dict, repr=False)

    def as_json(self) -> dict[str, JSON]:
        """What of it is put on record; the rest is told by the commit."""
        return {
            "base": self.base,
            "head": self.head,
            "origin": self.origin,
            "top": None if self.top is None else str(self.top),
            "subfolder": str(self.subfolder),
            "algorithm": self.algorithm,
            "absent": sorted(quote(path) for path in self.absent),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], ctl: Path) -> Start:
        """The way back.

        Args:
            record: What was put on record.
            ctl: The repository that holds the commit.

        Raises:
            RunFolderError: This is no such record.
            GitError: The commit cannot be read.
        """
        try:
            found = cls(
                base=str(record["base"]),
                head=str(record["head"]),
                origin=str(record["origin"]),
                top=None if record["top"] is None else Path(record["top"]),
                subfolder=PurePosixPath(record["subfolder"]),
                algorithm=str(record["algorithm"]),
                absent=frozenset(unquote_to_bytes(path) for path in record["absent"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(f"{ctl.parent}: nothing says what its agents started from: {error!r}") from error
        return replace(found, tree=tree_of(git.controlled(ctl), found.base))


def start(wish: Wish, ctl: Path, cancel: Cancellation | None = None) -> Start:
    """Make the repository `ctl`, with the state in it that the run starts from.

    Raises:
        SourceError: There is nothing to start from; the message says why.
        CancelledError: `cancel` was set.
    """
    git.require()
    if not wish.where or wish.where.startswith("-"):
        raise SourceError(f"not a folder or a URL: {wish.where!r}")
    # What is there on disk comes first: a folder may well be called `a:b`.
    if remote.is_url(wish.where) and not os.path.lexists(wish.where):
        return _remote(wish, ctl, cancel)
    try:
        folder = Path(wish.where).expanduser().resolve(strict=True)
        entries = os.scandir(folder)
    except (FileNotFoundError, RuntimeError):  # RuntimeError: the home of a user who does not exist
        raise SourceError(f"no such folder: {wish.where}") from None
    except NotADirectoryError:
        raise SourceError(f"{wish.where} is a file: name the folder that it is in") from None
    except OSError as error:
        raise SourceError(f"{wish.where} cannot be read: {error.strerror}") from None
    entries.close()
    return _local(wish, folder, ctl, cancel)


def _remote(wish: Wish, ctl: Path, cancel: Cancellation | None) -> Start:
    url, algorithm = remote.fetch(wish.where, ctl, cancel)
    ours = git.controlled(ctl, cancel=cancel)
    head = refs.choose(ours, url, wish.branch, wish.commit, ("refs/remotes/origin/", "refs/tags/"), remote.HEAD)
    notices = (remote.SEEN,) if url.endswith(f"?{remote.HIDDEN}") else ()
    return _exact(ours, Start(head, head, url, algorithm=algorithm, notices=notices))


def _local(wish: Wish, folder: Path, ctl: Path, cancel: Cancellation | None) -> Start:
    users = git.of_user(folder, cancel)
    place = repository.locate(users)
    if isinstance(place, git.Ended):
        if "not a git repository (or any" in place.err:
            return _plain(wish, folder, ctl, None, f"{folder} is not a git repository: its files were copied", cancel)
        if "safe.directory" in place.err:
            raise SourceError(
                f"{folder} belongs to another user, so git does not trust it; if you do, say "
                f"`git config --global --add safe.directory {folder}`"
            )
        raise SourceError(f"{folder}: git cannot read this repository: {place.err}")
    if not place.inside:
        return _bare(wish, users, folder, ctl, place, cancel)
    if place.prefix and users.attempt("check-ignore", "--quiet", folder).code == 0:
        notice = f"{folder} is ignored by the repository around it: its files were copied"
        return _plain(wish, folder, ctl, place, notice, cancel)
    repository.borrow(ctl, place)
    top = Path(place.top)
    found = Start("", place.head, str(folder), top, PurePosixPath(place.prefix), place.algorithm)
    if wish.branch is not None or wish.commit is not None:
        head = refs.choose(users, str(top), wish.branch, wish.commit, refs.LOCAL)
        return _exact(git.controlled(ctl, cancel=cancel), replace(found, base=head, head=head))
    if not place.head:
        found = replace(found, notices=(f"{top} has no commit yet: the run starts from its files as they are",))
    users = git.of_user(top, cancel)
    checkout = _Checkout(top, *_listed(users, top, place.files, wish), executable=place.executable)
    old = checkout.tracked if place.head else {}
    if place.head and tree_id(old, place.algorithm) != place.tree:  # as a rule the index holds what the commit does
        old = tree_of(users, place.head)
    return _present(ctl, checkout, found, old, wish, cancel)


def _bare(
    wish: Wish, users: Git, folder: Path, ctl: Path, place: repository.Place, cancel: Cancellation | None
) -> Start:
    repository.borrow(ctl, place)
    head = refs.choose(users, str(folder), wish.branch, wish.commit, refs.LOCAL, "HEAD")
    notice = f"{folder} is a bare repository: the run starts from its commit {head[:10]}"
    ours = git.controlled(ctl, cancel=cancel)
    return _exact(ours, Start(head, head, str(folder), algorithm=place.algorithm, notices=(notice,)))


def _plain(
    wish: Wish, folder: Path, ctl: Path, around: repository.Place | None, notice: str, cancel: Cancellation | None
) -> Start:
    """A folder without git: its files, `.gitignore` files obeyed."""
    if wish.branch is not None or wish.commit is not None:
        raise SourceError(f"{folder} is not a git repository: it has no {wish.commit or wish.branch!r}")
    excludes = around.excludes if around else repository.users_excludes(git.of_user(folder))
    repository.make(ctl, "sha1", excludes=excludes)
    found = Start("", "", str(folder), folder, notices=(notice,))
    lister = git.controlled(ctl, work_tree=folder, cancel=cancel)
    files = lister.attempt("ls-files", "-z", "-t", "--others", "--exclude-standard")
    return _present(ctl, _Checkout(folder, *_listed(lister, folder, files, wish)), found, {}, wish, cancel)


def _exact(ours: Git, found: Start) -> Start:
    """A commit as it is: nothing of the user's present state, and no filter run on it."""
    ours.run("update-ref", START, found.base)
    tree = tree_of(ours, found.base)
    notices = [*found.notices, *_submodules(tree)]
    if filters := repository.filters(ours, tree):
        notices.append(f"files with the filter {', '.join(filters)} are as git stores them: filters are not run")
    return replace(found, notices=tuple(notices), tree=tree)


@dataclass(frozen=True)
class _Checkout:
    """What the user's checkout consists of.

    Args:
        top: The folder.
        tracked: What the index holds.
        sparse: What of it need not be on disk.
        untracked: Files that are not tracked and yet taken.
        left: What could not be listed, or is not taken.
        executable: Whether the file system knows which files can be run.
    """

    top: Path
    tracked: Tree
    sparse: frozenset[bytes]
    untracked: frozenset[bytes]
    left: LeftOut
    executable: bool = True


def _present(ctl: Path, checkout: _Checkout, found: Start, old: Tree, wish: Wish, cancel: Cancellation | None) -> Start:
    """What the user sees: uncommitted and untracked files too, ignored ones not, every byte as it is on disk.

    Each file is read, the unchanged ones too: the index may vouch for a file whose bytes on disk are others than those
    that git stores (line endings, filters). A checkout, which must write them all, takes far longer.

    Args:
        ctl: The run's repository.
        checkout: What is there.
        found: What is known of the start.
        old: What its commit holds.
        wish: What was asked for.
        cancel: Ends the reading.
    """
    kept = {path: entry for path, entry in checkout.tracked.items() if entry.mode == SUBMODULE}
    paths = sorted((checkout.tracked.keys() | checkout.untracked) - kept.keys())
    left, absent, files = checkout.left, set(), {}
    with Root(checkout.top, cancel, wish.settings.max_file_size) as root:
        observer = Observer(found.algorithm, executable=checkout.executable)
        new, rest = observer.small(root, paths, old)
        for path in rest:
            try:
                status = root.stat(path)
            except OSError:
                left.add(path, UNREADABLE)
                if path in old:
                    kept[path] = old[path]
                continue
            if status is not None and not stat.S_ISDIR(status.st_mode):
                files[path] = status
            elif path in checkout.sparse:
                kept[path] = checkout.tracked[path]
                absent.add(path)
        new = {**new, **observer.observe(root, files, old, left), **kept}
        if not new:
            raise SourceError(f"{checkout.top} is empty: there is no commit and no file to start from")
        base = found.head
        if new == old:
            repository.point(ctl, START, base)
        else:
            writer = Writer(git.controlled(ctl, cancel=cancel), root, found.algorithm, left)
            stored = {entry.oid for entry in kept.values()}
            base, new = writer.commit(START, base, "The files as the run found them", old, new, stored)
    notices = (*found.notices, *_submodules(new), *left.sentences())
    return replace(found, base=base, absent=frozenset(absent), notices=notices, tree=new)


def _listed(
    lister: Git, top: Path, listing: git.Ended, wish: Wish
) -> tuple[Tree, frozenset[bytes], frozenset[bytes], LeftOut]:
    """What git has listed: what is tracked, what of it need not be on disk, what else is taken, and what is not.

    That is what is neither tracked nor ignored nor recorded by a run. Ignored files are taken when a pattern of the
    settings includes them. A `.env` is left out: whoever forgot to ignore it did not mean to show it to a model. Only a
    pattern that ends in its name says so.
    """
    left, include = LeftOut(), wish.settings.include
    listings = [listing]
    if include:
        patterns = (f"--exclude={pattern}" for pattern in include)
        listings.append(lister.attempt("ls-files", "-z", "-t", "--others", "--ignored", *patterns))
    tracked, sparse, files = {}, set(), set()
    for ended in listings:
        if ended.code:
            raise SourceError(f"{top}: git cannot list the files: {ended.err}")
        for folder in UNREADABLE_FOLDER.findall(ended.err):
            left.add(os.fsencode(folder), UNREADABLE)
        for other, tag, mode, oid, path in LISTED.findall(ended.out):
            if other:
                files.add(other)
                continue
            tracked[path] = Entry(mode.decode(), oid.decode())
            if tag == b"S":
                sparse.add(path)
    ours = (WORKSHOP, *(os.fsencode(inside) + b"/" for inside in _inside(top, _runs(wish))))
    keys_too = any(pattern.rpartition("/")[2] == ".env" for pattern in include)
    taken = set()
    for path in sorted(files):
        if path.startswith(ours):
            continue
        if path.endswith(b"/"):  # git does not list what is in a repository within the repository
            left.add(path, NESTED)
        elif path.rpartition(b"/")[2] == b".env" and not keys_too:  # ours, with the model's key, is read from one
            left.add(path, KEYS)
        else:
            taken.add(path)
    return tracked, frozenset(sparse), frozenset(taken), left


def _runs(wish: Wish) -> list[Path]:
    """The folders of this run and of those recorded beside it."""
    folders = [] if wish.run_folder is None else [wish.run_folder]
    if wish.runs_dir is not None:
        with suppress(FileNotFoundError):
            folders += [folder for folder in wish.runs_dir.iterdir() if _is_run(folder)]
    return folders


def _is_run(folder: Path) -> bool:
    """Whether it is we who made this folder: a person may well call one of their own `runs`."""
    if RUN.fullmatch(folder.name) and ((folder / "ctl.git").is_dir() or (folder / "root.ipynb").is_file()):
        return True
    try:
        state = json.loads((folder / "run.json").read_bytes()) if (folder / "run.json").is_file() else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(state, dict) and {"version", "id", "task", "base"} <= state.keys()


def _inside(top: Path, folders: Sequence[Path]) -> list[PurePosixPath]:
    """Those of `folders` that lie strictly inside `top`, relative to it."""
    real = [folder.resolve() for folder in folders]
    return [PurePosixPath(folder.relative_to(top)) for folder in real if folder != top and folder.is_relative_to(top)]


def _submodules(tree: Mapping[bytes, Entry]) -> tuple[str, ...]:
    """A sentence that names the submodules, if there are any."""
    submodules = [path for path, entry in tree.items() if entry.mode == SUBMODULE]
    return (f"submodules are left out: {named(submodules)}",) if submodules else ()
