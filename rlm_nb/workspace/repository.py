"""The repositories that we make: `ctl.git`, the controller's, and a private one for each agent."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlm_nb.errors import GitError
from rlm_nb.workspace import git
from rlm_nb.workspace.git import Git
from rlm_nb.workspace.scratch import remove_tree, scratch
from rlm_nb.workspace.snapshot import Tree

RAW = "* -text -crlf !eol -filter -ident -working-tree-encoding !diff !merge\n"
"""Attributes that outrank every `.gitattributes`: what is stored is what is on disk, to the byte."""

PRIVATE = """\
[core]
	bare = false
	logAllRefUpdates = true
[user]
	name = agent
	email = agent@localhost
[gc]
	auto = 0
[advice]
	detachedHead = false
"""


def borrow(ctl: Path, users: Git) -> str:
    """Make `ctl`, which finds the objects of the user's repository without copying any; returns their algorithm."""
    wanted = [("--git-path", name) for name in ("objects", "shallow", "info/exclude")]
    algorithm, objects, shallow, exclude = rev_parse(users, ("--show-object-format",), *wanted)
    make(
        ctl,
        algorithm,
        objects=Path(objects),
        excludes=users_excludes(users, Path(exclude)),
        shallow=Path(shallow).read_bytes() if Path(shallow).is_file() else None,
    )
    return algorithm


def make(
    folder: Path,
    algorithm: str,
    *,
    objects: Path | None = None,
    excludes: bytes = b"",
    shallow: bytes | None = None,
) -> None:
    """Make a repository with nothing in it but what is given here: no template, no hook, no remote.

    Args:
        folder: The git directory.
        algorithm: `sha1` or `sha256`.
        objects: A folder of objects to borrow.
        excludes: What is ignored beside the `.gitignore` files.
        shallow: What says where the borrowed history ends, if it does.
    """
    git.controlled(folder).run("init", "--bare", "--quiet", "--template=", f"--object-format={algorithm}")
    _furnish(folder, objects, excludes, shallow)


OURS = frozenset({"HEAD", "config", "info", "objects", "packed-refs", "refs", "shallow"})
"""What a repository of ours has in it."""


def renew(ctl: Path, algorithm: str) -> None:
    """Make a repository as trustworthy as a new one, after agents could reach it: its commits stay, its settings go.

    Raises:
        GitError: Something in it is neither a file nor a folder.
    """
    check(ctl)
    with scratch() as place:
        make(place / "git", algorithm)
        (ctl / "config").write_bytes((place / "git/config").read_bytes())
    (ctl / "info/attributes").write_text(RAW)
    for entry in list(ctl.iterdir()):
        if entry.name not in OURS:
            remove_tree(entry)


def copy(ctl: Path, folder: Path, algorithm: str) -> None:
    """Make a repository that borrows the objects of a recorded run's, and has its rules of what is ignored.

    Raises:
        GitError: Something in that is neither a file nor a folder.
    """
    check(ctl)
    shallow, excludes = ctl / "shallow", ctl / "info/exclude"
    make(
        folder,
        algorithm,
        objects=ctl / "objects",
        excludes=excludes.read_bytes() if excludes.is_file() else b"",
        shallow=shallow.read_bytes() if shallow.is_file() else None,
    )


def duplicate(ctl: Path, folder: Path, refs: Container[str]) -> None:
    """Make a repository with the objects of a recorded run's, which borrows what that borrows and needs nothing of it.

    Args:
        ctl: The run's repository.
        folder: Where the other is made.
        refs: Which of the names of agents' commits it has, too; it has that of the start.

    Raises:
        GitError: Something in the run's repository is neither a file nor a folder, or a commit cannot be read.
        OSError: A file cannot be written.
    """
    check(ctl)
    theirs = git.controlled(ctl)
    listed = theirs.run("for-each-ref", "--format=%(objectname) %(refname)", "refs/rlm/").decode("utf-8", "replace")
    rows = [line.split(" ", 1) for line in listed.splitlines()]
    copy(ctl, folder, "sha256" if any(len(oid) == 64 for oid, _ in rows) else "sha1")
    shutil.copytree(ctl / "objects", folder / "objects", symlinks=True, dirs_exist_ok=True)
    if not (ctl / "objects/info/alternates").is_file():
        (folder / "objects/info/alternates").unlink()
    ours = git.controlled(folder)
    for oid, name in rows:
        if name == "refs/rlm/start" or name in refs:
            ours.run("update-ref", name, oid)


def _furnish(folder: Path, objects: Path | None, excludes: bytes, shallow: bytes | None) -> None:
    (folder / "info").mkdir()
    (folder / "info/attributes").write_text(RAW)
    (folder / "info/exclude").write_bytes(excludes)
    if objects is not None:
        (folder / "objects/info/alternates").write_bytes(_alternate(objects))
    if shallow is not None:
        (folder / "shallow").write_bytes(shallow)


@dataclass(frozen=True)
class Template:
    """What each agent's repository is made from. Read once, while no agent can have put a FIFO in a file's place."""

    objects: Path
    config: bytes
    excludes: bytes
    shallow: bytes | None

    @classmethod
    def of(cls, ctl: Path) -> Template:
        """What the run's own repository gives to those of its agents."""
        shallow = ctl / "shallow"
        return cls(
            objects=ctl / "objects",
            # Git has put into it what it found out about this file system; of two values the later one counts.
            config=(ctl / "config").read_bytes() + PRIVATE.encode(),
            excludes=(ctl / "info/exclude").read_bytes(),
            shallow=shallow.read_bytes() if shallow.is_file() else None,
        )


def make_private(folder: Path, work_tree: Path, template: Template, head: str) -> None:
    """Make the repository that an agent uses in its worktree as it likes: `HEAD` detached at `head`, no branch yet."""
    # What `git init` would make, without starting it for each agent: see gitrepository-layout(5).
    for part in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
        (folder / part).mkdir(parents=True)
    (folder / "config").write_bytes(template.config)
    _furnish(folder, template.objects, template.excludes, template.shallow)
    (folder / "HEAD").write_text(f"{head}\n")
    (work_tree / ".git").write_bytes(b"gitdir: " + os.fsencode(os.path.relpath(folder, work_tree)) + b"\n")


def check(ctl: Path) -> None:
    """See to it that the run's own repository holds nothing that git would wait for.

    A cell may have put a FIFO there; whatever changes between this and git's own look ends with git's time.

    Raises:
        GitError: Something in it is neither a file nor a folder.
    """
    for place, folders, files in os.walk(ctl):
        for name in (*folders, *files):
            path = Path(place, name)
            with suppress(FileNotFoundError):  # a temporary file or a lock of another agent's git
                mode = path.lstat().st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    raise GitError(f"{path} was put there by somebody: it is neither a file nor a folder")


def users_excludes(users: Git, exclude: Path | None = None) -> bytes:
    """What the user has git ignore outside `.gitignore` files, the more special rules last.

    Args:
        users: Reads the user's settings.
        exclude: The file with a repository's own rules; found out when there is a repository, and it is not given.
    """
    ended = users.attempt("config", "--type=path", "--get", "core.excludesFile")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
    anywhere = Path(os.fsdecode(ended.out.removesuffix(b"\n"))) if ended.code == 0 else config / "git/ignore"
    files = [anywhere]
    if exclude is None and users.attempt("rev-parse", "--git-dir").code == 0:
        exclude = Path(rev_parse(users, ("--git-path", "info/exclude"))[0])
    if exclude is not None:
        files.append(exclude)
    return b"".join(file.read_bytes() + b"\n" for file in files if os.access(file, os.R_OK) and file.is_file())


def filters(ours: Git, tree: Tree) -> list[str]:
    """The names of the filters that the `.gitattributes` files of `tree` ask for."""
    names: set[str] = set()
    for path, entry in tree.items():
        if path.rpartition(b"/")[2] == b".gitattributes":
            text = ours.run("cat-file", "blob", entry.oid).decode("utf-8", "replace")
            rules = [rule for rule in text.splitlines() if not rule.startswith("#")]
            names.update(name for rule in rules for name in re.findall(r"\sfilter=(\S+)", rule))
    return sorted(names)


def line(repository: Git, *arguments: str) -> str:
    """What a command prints on its one line, whatever bytes it holds."""
    return os.fsdecode(repository.run(*arguments).removesuffix(b"\n"))


def rev_parse(users: Git, *questions: tuple[str, ...]) -> list[str]:
    """What `git rev-parse` answers to each of the questions, whatever bytes it holds; in one call where it can be."""
    asked = [part for question in questions for part in question]
    lines = users.run("rev-parse", "--path-format=absolute", *asked).split(b"\n")[:-1]
    if len(lines) == len(questions):
        return [os.fsdecode(answer) for answer in lines]
    # A path holds a newline.
    return [line(users, "rev-parse", "--path-format=absolute", *question) for question in questions]


def _alternate(objects: Path) -> bytes:
    """A line of `objects/info/alternates`; git unquotes what starts with a quotation mark."""
    path = os.fsencode(objects)
    if b"\n" not in path:
        return path + b"\n"
    escaped = path.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return b'"' + escaped + b'"\n'
