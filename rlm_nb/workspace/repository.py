"""The repositories that we make: `ctl.git`, the controller's, and a private one for each agent."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rlm_nb.errors import GitError
from rlm_nb.workspace import git
from rlm_nb.workspace.git import Ended, Git
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

QUESTIONS = (
    ("--is-inside-work-tree",),
    ("--show-object-format",),
    ("--git-path", "objects"),
    ("--git-path", "shallow"),
    ("--git-path", "info/exclude"),
    ("--show-prefix",),
    ("--show-toplevel",),
    ("HEAD^{commit}",),
    ("HEAD^{tree}",),
)
"""What we want to know of a repository; `git rev-parse` answers in one go, up to the first that it has no answer to."""

SETTINGS = ("config", "-z", "--get-regexp", r"^core\.(excludesfile|filemode)$")
FALSE = ("false", "no", "off", "0", "")
FILES = ("ls-files", "-z", "-t", "--full-name", "--stage", "--others", "--exclude-standard", "--", ":/")


@dataclass(frozen=True)
class Place:
    """A folder of the user's, and the repository that it is in.

    Args:
        inside: Whether the folder is part of a checkout.
        algorithm: How objects are named, `sha1` or `sha256`.
        objects: The folder with the repository's objects.
        shallow: What says where its history ends, if it does.
        excludes: What the user has git ignore outside `.gitignore` files.
        executable: Whether the file system knows which files can be run.
        prefix: The way from the top of the checkout to the folder.
        top: The top of the checkout; empty when there is none.
        head: The commit that is checked out; empty when there is none.
        tree: The tree of that commit.
        files: What git says about the files: how the index has them, and which are neither tracked nor ignored.
    """

    inside: bool
    algorithm: str
    objects: Path
    shallow: bytes | None
    excludes: bytes
    executable: bool
    prefix: str
    top: str
    head: str
    tree: str
    files: Ended


def locate(users: Git) -> Place | Ended:
    """Where a folder is; or how git ended when it takes it for no part of a repository."""
    said, settings, files = users.attempt_all(_asking(*QUESTIONS), SETTINGS, FILES)
    if said.code and not said.out:
        return said
    lines = said.out.split(b"\n")[:-1]
    if said.code or len(lines) != len(QUESTIONS):  # it lacks a checkout or a commit, or a path holds a newline
        each = [users.attempt(*_asking(question)) for question in QUESTIONS]
        lines = [b"" if ended.code else ended.out.removesuffix(b"\n") for ended in each]
    inside, algorithm, objects, shallow, exclude, prefix, top, head, tree = map(os.fsdecode, lines)
    rules, executable = _settings(settings)
    return Place(
        inside == "true",
        algorithm,
        Path(objects),
        Path(shallow).read_bytes() if Path(shallow).is_file() else None,
        _rules(rules) + _rules(Path(exclude)),
        executable,
        prefix,
        top,
        head,
        tree,
        files,
    )


def users_excludes(users: Git) -> bytes:
    """What the user has git ignore everywhere."""
    return _rules(_settings(users.attempt(*SETTINGS))[0])


def borrow(ctl: Path, place: Place) -> None:
    """Make `ctl`, which finds the objects of the user's repository without copying any."""
    make(ctl, place.algorithm, objects=place.objects, excludes=place.excludes, shallow=place.shallow)


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
    _lay_out(folder, "ref: refs/heads/main")
    (folder / "config").write_bytes(_config(folder, algorithm))
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


def _lay_out(folder: Path, head: str) -> None:
    """What `git init` makes, but for the settings; to start git takes longer: see gitrepository-layout(5)."""
    folder.mkdir(parents=True, exist_ok=True)
    place = str(folder)
    for part in ("objects", "objects/info", "objects/pack", "refs", "refs/heads", "refs/tags", "info"):
        os.mkdir(f"{place}/{part}")  # noqa: PTH102 - here and below, texts: there is one for each agent
    (folder / "HEAD").write_text(f"{head}\n")


def _config(folder: Path, algorithm: str) -> bytes:
    """What git has to know about a repository, and would find out itself about the file system that it is on."""
    lines = ["[core]", f"\trepositoryFormatVersion = {int(algorithm != 'sha1')}", "\tfileMode = true", "\tbare = true"]
    if (folder / "head").exists():  # it tells no small letters from capitals
        lines.append("\tignoreCase = true")
    composed, decomposed = (folder / os.fsdecode(name) for name in (b"\xc3\xa4", b"a\xcc\x88"))
    composed.touch()
    if decomposed.exists():  # nor one way to write an umlaut from another
        lines.append("\tprecomposeUnicode = true")
    composed.unlink()
    if algorithm != "sha1":
        lines += ["[extensions]", f"\tobjectFormat = {algorithm}"]
    return "".join(f"{line}\n" for line in lines).encode()


def point(folder: Path, ref: str, commit: str) -> None:
    """Make a ref that nobody else writes, without starting git for it."""
    file = folder / ref
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f"{file.name}.lock")
    beside.write_text(f"{commit}\n")
    beside.replace(file)


def _furnish(folder: Path, objects: Path | None, excludes: bytes, shallow: bytes | None) -> None:
    (folder / "info/attributes").write_text(RAW)
    (folder / "info/exclude").write_bytes(excludes)
    if objects is not None:
        (folder / "objects/info/alternates").write_bytes(alternate(objects))
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
    _lay_out(folder, head)
    (folder / "config").write_bytes(template.config)
    _furnish(folder, template.objects, template.excludes, template.shallow)
    (work_tree / ".git").write_bytes(b"gitdir: " + os.fsencode(os.path.relpath(folder, work_tree)) + b"\n")


def check(ctl: Path) -> None:
    """See to it that the run's own repository holds nothing that git would wait for.

    A cell may have put a FIFO there; whatever changes between this and git's own look ends with git's time.

    Raises:
        GitError: Something in it is neither a file nor a folder.
    """
    waiting = [str(ctl)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:  # git itself will say it
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                # What is gone again was a temporary file or a lock of another agent's git.
                elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                    raise GitError(f"{entry.path} was put there by somebody: it is neither a file nor a folder")


def filters(ours: Git, tree: Tree) -> list[str]:
    """The names of the filters that the `.gitattributes` files of `tree` ask for."""
    names: set[str] = set()
    for path, entry in tree.items():
        if path.rpartition(b"/")[2] == b".gitattributes":
            text = ours.run("cat-file", "blob", entry.oid).decode("utf-8", "replace")
            rules = [rule for rule in text.splitlines() if not rule.startswith("#")]
            names.update(name for rule in rules for name in re.findall(r"\sfilter=(\S+)", rule))
    return sorted(names)


def _asking(*questions: tuple[str, ...]) -> list[str]:
    return ["rev-parse", "--path-format=absolute", *(part for question in questions for part in question)]


def _settings(said: Ended) -> tuple[Path, bool]:
    """The file that says what is ignored everywhere, and whether the file system knows which files can be run."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
    rules, executable = config / "git/ignore", True
    for setting in said.out.split(b"\0")[:-1]:  # of two values the later one counts
        name, given, value = os.fsdecode(setting).partition("\n")
        if name == "core.excludesfile":
            rules = Path(os.path.expanduser(value))  # noqa: PTH111 (that of a Path raises for a user who does not exist)
        else:
            executable = not given or value.lower() not in FALSE
    return rules, executable


def _rules(file: Path) -> bytes:
    return file.read_bytes() + b"\n" if os.access(file, os.R_OK) and file.is_file() else b""


def borrowed(objects: Path) -> tuple[Path, ...]:
    """A folder of objects, and all those that it borrows from, whether they are there or not."""
    found: dict[Path, None] = {}
    waiting = [objects]
    while waiting:
        folder = waiting.pop()
        if folder in found:
            continue
        found[folder] = None
        with suppress(OSError):  # it borrows nothing
            lines = (folder / "info/alternates").read_bytes().splitlines()
            waiting += [folder / os.fsdecode(_unquoted(line)) for line in lines if line and not line.startswith(b"#")]
    return tuple(found)


def _unquoted(line: bytes) -> bytes:
    if not line.startswith(b'"'):
        return line
    return re.sub(rb"\\(.)", lambda escape: b"\n" if escape[1] == b"n" else escape[1], line[1:-1])


def alternate(objects: Path) -> bytes:
    """A line of `objects/info/alternates`; git unquotes what starts with a quotation mark."""
    path = os.fsencode(objects)
    if b"\n" not in path:
        return path + b"\n"
    escaped = path.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return b'"' + escaped + b'"\n'
