"""The commit that a person means by the name of a branch, a tag or a commit."""

from __future__ import annotations

import difflib
import os

from rlm_nb.errors import SourceError
from rlm_nb.workspace.git import Git

LOCAL = ("refs/heads/", "refs/tags/", "refs/remotes/origin/", "refs/remotes/")
"""Where a name is looked up in a repository on disk, in this order."""


def choose(
    git: Git, repository: str, branch: str | None, commit: str | None, places: tuple[str, ...], default: str = "HEAD"
) -> str:
    """The id of `commit`, else of the tip of `branch`, else of `default`.

    Args:
        git: The repository to look in.
        repository: How a message names it.
        branch: A branch or a tag.
        commit: Anything that git takes for a commit.
        places: The prefixes of refs that a branch may have.
        default: A ref.

    Raises:
        SourceError: There is no such branch or commit; the message names near ones.
    """
    refs = {os.fsdecode(line) for line in git.run("for-each-ref", "--format=%(refname)").splitlines()}
    names = sorted({name for place in places for name in _below(place, refs)})
    if branch is not None and not any(place + branch in refs for place in places):
        raise SourceError(f"{repository} has no branch or tag {branch!r}{_hint(branch, names)}")
    if commit is not None:
        if found := _commit(git, commit):
            return found
        raise SourceError(f"{repository} has no commit {commit!r}{_hint(commit, names)}")
    if branch is not None:
        for place in places:
            if place + branch in refs and (found := _commit(git, place + branch)):
                return found
        raise SourceError(f"{repository}: {branch!r} does not name a commit")
    if found := _commit(git, default):
        return found
    if not names:
        raise SourceError(f"{repository} is empty: it has no commit to start from")
    raise SourceError(f"{repository} does not say which branch to start from: name one{_hint('main', names)}")


def _commit(git: Git, name: str) -> str:
    ended = git.attempt("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    return ended.out.decode().strip() if ended.code == 0 else ""


def _below(place: str, refs: set[str]) -> set[str]:
    return {ref.removeprefix(place) for ref in refs if ref.startswith(place) and not ref.endswith("/HEAD")}


def _hint(name: str, names: list[str]) -> str:
    """The names that come near, else the first few."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; it has {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else ""
