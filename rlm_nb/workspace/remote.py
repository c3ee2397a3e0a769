"""A repository behind a URL is fetched into the run's own `ctl.git`, so that edits outlive the transfer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import SourceError
from rlm_nb.workspace import git, repository
from rlm_nb.workspace.scratch import remove_tree

SCHEMES = ("http", "https", "ssh", "git", "file", "git+ssh", "ssh+git")

HEAD = "refs/remotes/origin/HEAD"
"""Where the default branch of the other side is kept."""


HIDDEN = "…"
"""What is shown instead of a secret."""

SEEN = (
    "while git fetched, the query of the URL stood in the list of processes, which others on this machine can read; a "
    "login (https://user:token@…) never does"
)

SHORTEST = 6
"""Characters of the shortest value of a query that is taken for a secret wherever it appears: `1` is none."""


class Address(NamedTuple):
    """Where to fetch from: a URL that may be shown, and what may not be: a login, and what a query says."""

    url: str
    server: str = ""
    login: tuple[str, str] | None = None
    query: str = ""

    @property
    def whole(self) -> str:
        """The URL without its login, to fetch from."""
        return self.url.replace(f"?{HIDDEN}", f"?{self.query}", 1) if self.query else self.url


def is_url(where: str) -> bool:
    """Whether git reaches `where` through a protocol: `https://…`, `ssh://…`, `user@host:path`."""
    return "://" in where or re.match(r"[^/:\s]+:(?!:)", where) is not None


def address(where: str) -> Address:
    """Take the login, and the query of a web address, which may hold a token, out of a URL.

    Raises:
        SourceError: It is no URL that we fetch from; the message does not repeat it, for what it may hold.
    """
    if "://" not in where:
        if "@" in where.partition(":")[2].partition("/")[0]:
            raise SourceError("this URL holds a password, which ssh takes from nobody: use a key")
        return Address(where)
    try:
        parts = urlsplit(where)
        valid = parts.scheme in SCHEMES and (parts.scheme == "file" or bool(parts.hostname)) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise SourceError(f"not a URL to fetch from: it takes {', '.join(SCHEMES[:5])}, and a server")
    return _without_login(parts)


def fetch(where: str, ctl: Path, cancel: Cancellation | None = None) -> tuple[str, str]:
    """Make `ctl` and fetch every branch and tag into it; returns the URL without its secrets, and the algorithm.

    Raises:
        SourceError: It cannot be reached, wants a login, or is no repository.
        CancelledError: `cancel` was set.
    """
    place = address(where)
    repository.make(ctl, "sha1")
    there = git.over_network(ctl, place.server, place.login, cancel)
    listed = there.attempt("ls-remote", "--quiet", "--", place.whole)
    if listed.code:
        raise _unreachable(place, listed.err)
    rows = (row.partition(b"\t") for row in listed.out.splitlines())
    refs = {name: oid for oid, _, name in rows}
    if not refs:
        raise SourceError(f"{place.url} is empty: it has no commit to start from")
    algorithm = "sha256" if len(next(iter(refs.values()))) == 64 else "sha1"
    if algorithm != "sha1":
        remove_tree(ctl)
        repository.make(ctl, algorithm)
    wanted = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]
    if b"HEAD" in refs:
        wanted.append(f"+HEAD:{HEAD}")
    options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--no-recurse-submodules")
    fetched = there.attempt("fetch", *options, "--", place.whole, *wanted)
    if fetched.code:
        raise _unreachable(place, fetched.err)
    return place.url, algorithm


def _without_login(parts: SplitResult) -> Address:
    userinfo, _, host = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    if parts.scheme not in ("http", "https"):  # a user is part of an ssh address, and no secret
        return Address(parts._replace(netloc=f"{user}@{host}" if user else host).geturl())
    login = (unquote(user), unquote(password)) if userinfo else None
    shown = parts._replace(netloc=host, query=HIDDEN if parts.query else "").geturl()
    return Address(shown, f"{parts.scheme}://{host}", login, parts.query)


def _unreachable(place: Address, said: str) -> SourceError:
    if place.login:  # git does not repeat it, but what the server answers may; a user without a password is a token
        user, password = place.login
        said = said.replace(password or user, HIDDEN)
    said = _without_query(said, place.query)
    hint = ""
    if "could not read Username" in said or "Authentication failed" in said:
        hint = "; it wants a login, or does not exist: use ssh, or have git remember the login"
    reason = " ".join(line.removeprefix("fatal: ") for line in said.splitlines() if line.strip())
    return SourceError(f"{place.url} cannot be fetched: {reason or 'git did not say why'}{hint}")


def _without_query(said: str, query: str) -> str:
    """What git or a server said, which may repeat the query or a part of it."""
    if not query:
        return said
    said = said.replace(f"?{query}", f"?{HIDDEN}")
    values = {part.partition("=")[2] or part for part in query.split("&")}
    values |= {unquote(value) for value in values}
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= SHORTEST:
            said = said.replace(value, HIDDEN)
    return said
