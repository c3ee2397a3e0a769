"""Puts what an agent of a recorded run changed onto a new branch of the user's repository, beside all that is there."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from rlm_nb.errors import GitError, SourceError
from rlm_nb.merging.edits import Edits
from rlm_nb.merging.objects import Change, Objects, check
from rlm_nb.workspace import git
from rlm_nb.workspace.apply import Home
from rlm_nb.workspace.conversion import Conversion, parents
from rlm_nb.workspace.files import PIECE, LeftOut, Root
from rlm_nb.workspace.git import Git
from rlm_nb.workspace.recorded import Recorded
from rlm_nb.workspace.scratch import scratch
from rlm_nb.workspace.snapshot import LINK, SUBMODULE, Observer, Tree, Writer, tree_of
from rlm_nb.workspace.worktree import writing

RESULT = "refs/rlm/result"
OTHERWISE = "They build on what was not committed when the run started: commit that first, or leave --branch away."


def branch(run: Recorded, edits: Edits, home: Home, name: str, message: str) -> tuple[str, list[str]]:
    """Make a new branch in the user's repository, with one commit: the edits, on the commit that the run started from.

    What was not committed when the run began is no part of it. Line ends and encodings are as that commit has them, and
    the filters run that it names and the user's settings know, as Git LFS does, on what was changed. The commit is the
    user's own, or rlm-nb's where git has no name for the user. No hook runs, and nothing else is changed.

    Args:
        run: The run's commits.
        edits: What was changed.
        home: Where it belongs.
        name: The branch.
        message: What the commit says.

    Returns:
        The commit's id, and the files that it changes.

    Raises:
        EditConflictError: The edits build on what was not committed; nothing was changed.
        SourceError: There is no repository, no commit to build on, or there is such a branch already.
        GitError: Objects cannot be read or written, or a filter fails.
        RunFolderError: There is no room to work it out.
    """
    users = _repository(home, name)
    with scratch() as place, writing(place):
        files, tree = _merged(run, edits, home.commit, users, place)
        ours = replace(run.git, env={**run.git.env, **_people(users)})
        said = ours.run("commit-tree", tree, "-p", home.commit, stdin=message.encode("utf-8", "replace"))
        commit = said.decode().strip()
        wanted = f"{commit}\n^{home.commit}\n".encode()
        packed = run.git.run("pack-objects", "--revs", "--quiet", "--window=0", place / "new", stdin=wanted)
        with (place / f"new-{packed.decode().strip()}.pack").open("rb") as pack:
            users.feed("unpack-objects", "-q", chunks=iter(partial(pack.read, PIECE), b""))
        users.run("update-ref", "-m", "rlm-nb apply", f"refs/heads/{name}", commit, "0" * len(commit))
    return commit, files


def _repository(home: Home, name: str) -> Git:
    """The user's repository, which has the commit that the run started from, and no branch of this name."""
    if home.is_url:
        raise home.elsewhere()
    if not home.commit:
        raise SourceError(f"{home.repository} had no commit when the run started: leave --branch away")
    where = home.checkout or Path(home.repository)
    if not where.is_dir():
        raise SourceError(f"{where}, which the run worked on, is not there any more")
    users = git.of_user(where)
    ref = f"refs/heads/{name}"
    if name.startswith("-") or name == "HEAD" or users.attempt("check-ref-format", ref).code:
        raise SourceError(f"{name!r} is no name for a branch")
    if users.attempt("rev-parse", "--verify", "--quiet", f"{home.commit}^{{commit}}").code:
        raise SourceError(f"{where} has no commit {home.commit[:10]} any more, which the run started from")
    if users.attempt("show-ref", "--verify", "--quiet", ref).code == 0:
        raise SourceError(f"{where} has a branch {name} already: choose another name")
    return users


def _merged(run: Recorded, edits: Edits, commit: str, users: Git, place: Path) -> tuple[list[str], str]:
    """The files that change, and the tree that results, when edits are merged onto a commit."""
    old = tree_of(run.git, commit)
    conversion = Conversion(users, commit, old, place / "conversion", run.algorithm)
    there = place / "there"
    there.mkdir()
    with Objects(run.objects, place / "objects", run.algorithm) as objects:
        changes = objects.changes(edits.base, edits.commit)
        touched = _met_by(changes, old)
        _lay_out(objects, {path: old[path] for path in touched}, there)
        as_stored = _have_as_on_disk(objects, conversion, changes, old, there, place)
    merged = {os.fsencode(file) for file in edits.apply(there, place, otherwise=OTHERWISE)}
    results = {path: there / os.fsdecode(path) for path in merged - as_stored}
    results = {path: file for path, file in results.items() if file.is_file() and not file.is_symlink()}
    conversion.write({results[path]: oid for path, oid in conversion.stored(results, keep=True).items()})
    left = LeftOut()
    with Root(there) as root:
        found = Observer(run.algorithm).observe(root, root.walk(old, (), left), old, left)
        new = {path: entry for path, entry in old.items() if path not in touched} | found
        if left.paths:
            raise GitError(f"the edits cannot be put together: {'; '.join(left.sentences())}")
        result, _ = Writer(run.git, root, run.algorithm, left).commit(RESULT, commit, "merged", old, new)
    changed = [os.fsdecode(path) for path in sorted(old.keys() | new.keys()) if old.get(path) != new.get(path)]
    return changed, run.git.run("rev-parse", f"{result}^{{tree}}").decode().strip()


def _met_by(changes: list[Change], tree: Tree) -> set[bytes]:
    """The files of a tree that the changes are about, or that stand in their way: above or below a path."""
    paths = {path for change in changes for path in (change.source, change.target)}
    above = {parent for path in paths for parent in parents(path)}
    return {
        path
        for path, entry in tree.items()
        if entry.mode != SUBMODULE and (path in paths or path in above or not paths.isdisjoint(parents(path)))
    }


def _lay_out(objects: Objects, tree: Tree, there: Path) -> None:
    for path, entry in tree.items():
        check(path)
        file = there / os.fsdecode(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        objects.write(entry.oid, file)
        if entry.mode == LINK:
            target = file.read_bytes()
            file.unlink()
            file.symlink_to(os.fsdecode(target))
        elif entry.mode == "100755":
            file.chmod(0o755)


def _have_as_on_disk(
    objects: Objects, conversion: Conversion, changes: list[Change], old: Tree, there: Path, place: Path
) -> set[bytes]:
    """Have files that were changed as they stand on disk, if git stores them otherwise: so the agent had them.

    Returns the files that the agent had as git stores them although on disk they would be others, as it is when a run
    starts from a commit that is not checked out.
    """
    before = {}
    for number, change in enumerate(changes):
        committed = old.get(change.source)
        if change.before and change.before.is_file and committed and committed.mode.startswith("100"):
            before[change.source] = place / f"before-{number}"
            objects.write(change.before.oid, before[change.source])
    as_stored: set[bytes] = set()
    stored, filtered = conversion.stored(before), conversion.filtered(before)
    for change in changes:
        path = change.source
        if path not in before or change.before is None:
            continue
        if change.before.oid == old[path].oid:
            as_stored.update({change.target} if stored.get(path) != old[path].oid else ())
        elif stored.get(path) == old[path].oid:
            (there / os.fsdecode(path)).write_bytes(before[path].read_bytes())
        elif path not in filtered:  # there is more to it: it was not committed when the run began
            (there / os.fsdecode(path)).write_bytes(conversion.on_disk(path))
    return as_stored


def _people(users: Git) -> dict[str, str]:
    """Author and committer: the user, as git knows one."""
    said = [users.attempt("config", "--get", f"user.{what}").out.removesuffix(b"\n") for what in ("name", "email")]
    name, email = map(os.fsdecode, said) if all(said) else ("rlm-nb", "rlm-nb@localhost")
    known = {"NAME": name, "EMAIL": email}
    return {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in known.items()}
