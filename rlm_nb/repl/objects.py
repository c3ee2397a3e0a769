"""Reads commits of the run inside a kernel, past whatever the agent did to its own repository and settings."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from rlm_nb.errors import GitError

DIFF = ("diff-tree", "-r", "-z", "--raw", "--no-abbrev", "--find-renames", "-l2000")


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
    """The objects of a run, and git with nothing else in its reach.

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
        self._env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "GIT_DIR": str(folder),
            "GIT_OBJECT_DIRECTORY": str(store),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_ALLOW_PROTOCOL": "",
            "LC_ALL": "C",
        }

    def changes(self, base: str, commit: str) -> list[Change]:
        """What leads from one commit to another. Raises `GitError`."""
        fields = iter(self.git(*DIFF, base, commit).stdout.split(b"\0")[:-1])
        changes = []
        for field in fields:
            before, after, old, new, status = field.decode().removeprefix(":").split()
            source = next(fields)
            target = next(fields) if status[0] in "RC" else source
            changes.append(Change(source, target, _entry(before, old), _entry(after, new)))
        return changes

    def write(self, oid: str, path: Path) -> None:
        """Write a blob to a new file. Raises `GitError`."""
        with path.open("xb") as file:
            self.git("cat-file", "blob", oid, stdout=file.fileno())

    def git(
        self, *arguments: str | Path, ok: range = range(1), stdout: int = subprocess.PIPE
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end.

        Args:
            arguments: The command and its arguments.
            ok: The exit codes that are no failure.
            stdout: The descriptor of a file that takes what it prints.

        Raises:
            GitError: It failed.
        """
        done = subprocess.run(
            ["git", *arguments],
            env=self._env,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            check=False,
        )
        if done.returncode not in ok:
            said = done.stderr.decode(errors="replace").strip()
            raise GitError(f"`git {arguments[0]}` failed: {said or f'exit code {done.returncode}'}")
        return done


def _entry(mode: str, oid: str) -> Entry | None:
    return Entry(mode, oid) if mode != "000000" else None
