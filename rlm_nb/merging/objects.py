"""Reads commits of a run past whatever an agent did to repositories and settings. Used in kernels, too."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rlm_nb.errors import GitError

WORKSHOP = b".rlm-nb-"
"""How the name of a folder begins in which edits are made ready."""

DIFF = ("diff-tree", "-r", "-z", "--raw", "--no-abbrev", "--find-renames", "-l2000")
PIECE = 1 << 20

UNSEEN = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
"""What file systems of macOS leave out of a name when they compare it."""

GIT = re.compile(r"(\.git|git~1)[ .]*([:\\].*)?", re.IGNORECASE | re.DOTALL)
"""The names that some file system takes for `.git`: those of Windows know a short one, and ignore how a name ends."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands at a path: its mode as git writes it (`100644`, `100755`, `120000`, …) and the object's id."""

    mode: str
    oid: str

    @property
    def is_file(self) -> bool:
        """Whether it is a file, rather than a link or something else."""
        return self.mode.startswith("100")


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one path: `before` stood at `source`, `after` stands at `target`; `None` for nothing.

    The two paths differ when a file was renamed.
    """

    source: bytes
    target: bytes
    before: Entry | None
    after: Entry | None


class Objects:
    """The objects of a run, and git with nothing else in its reach. Use it in a `with`.

    Args:
        store: The folder that holds the objects.
        folder: A new folder for an empty repository; the caller removes it.
        algorithm: How objects are named, `sha1` or `sha256`.
    """

    def __init__(self, store: Path, folder: Path, algorithm: str) -> None:
        self._folder = folder
        (folder / "refs").mkdir(parents=True)
        (folder / "HEAD").write_text("ref: refs/heads/none\n")
        version = f"[core]\n\trepositoryformatversion = 1\n[extensions]\n\tobjectformat = {algorithm}\n"
        (folder / "config").write_text(version if algorithm != "sha1" else "")
        self._env: Mapping[str, str] = {
            "PATH": os.environ.get("PATH", os.defpath),
            "GIT_DIR": str(folder),
            "GIT_OBJECT_DIRECTORY": str(store),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_ALLOW_PROTOCOL": "",
            "LC_ALL": "C",
        }
        self._reader: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            with self._reader as reader:
                reader.kill()

    def changes(self, base: str, commit: str) -> list[Change]:
        """What leads from one commit to another.

        Raises:
            GitError: One of them cannot be read, or it holds a path that git itself would not check out.
        """
        fields = iter(self.git(*DIFF, base, commit).stdout.split(b"\0")[:-1])
        changes = []
        for field in fields:
            before, after, old, new, status = field.decode().removeprefix(":").split()
            source = next(fields)
            target = next(fields) if status[0] in "RC" else source
            for path in (source, target):
                check(path)
            changes.append(Change(source, target, _entry(before, old), _entry(after, new)))
        return changes

    def write(self, oid: str, path: Path) -> None:
        """Write a blob to a new file.

        Raises:
            GitError: It is not there.
            OSError: The file cannot be written.
        """
        if self._reader is None:  # one for all of them: to start git takes longer than most of what it does
            self._reader = subprocess.Popen(
                ["git", "cat-file", "--batch"],
                env=self._env,
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=PIECE,
            )
        asked, answers = self._reader.stdin, self._reader.stdout
        assert asked is not None
        assert answers is not None
        try:
            asked.write(f"{oid}\n".encode())
            asked.flush()
        except BrokenPipeError:
            raise GitError(f"the object {oid} of the run cannot be read: git has ended") from None
        found = answers.readline().split()
        if len(found) != 3 or found[1] != b"blob":
            raise GitError(f"the object {oid} of the run cannot be read")
        missing = int(found[2])
        with path.open("xb") as file:
            while missing:
                piece = answers.read(min(missing, PIECE))
                if not piece:
                    raise GitError(f"the object {oid} of the run cannot be read whole")
                file.write(piece)
                missing -= len(piece)
        answers.read(1)  # the newline behind it

    def git(self, *arguments: str | Path, ok: range = range(1)) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end.

        Args:
            arguments: The command and its arguments.
            ok: The exit codes that are no failure.

        Raises:
            GitError: It failed.
        """
        done = subprocess.run(
            ["git", *arguments],
            env=self._env,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode not in ok:
            said = done.stderr.decode(errors="replace").strip()
            raise GitError(f"`git {arguments[0]}` failed: {said or f'exit code {done.returncode}'}")
        return done


def check(path: bytes) -> None:
    """Whoever can write objects can write a tree with any path in it, though no git would.

    Raises:
        GitError: It leads out of the folder that it is in, into a `.git`, or where edits are made ready.
    """
    if path.startswith(WORKSHOP):
        raise GitError(f"a path in a folder of ours: {path!r}")
    for part in path.split(b"/"):
        if part in (b"", b".", b"..") or is_git(part):
            raise GitError(f"a path that no git would check out: {path!r}")


def is_git(name: bytes) -> bool:
    """Whether a name is `.git`, or is so on some system: git checks out neither."""
    if name.isascii() and name[:1] not in (b".", b"g", b"G"):  # nearly all
        return False
    return GIT.fullmatch(UNSEEN.sub("", name.decode("utf-8", "replace"))) is not None


def _entry(mode: str, oid: str) -> Entry | None:
    return Entry(mode, oid) if mode != "000000" else None
