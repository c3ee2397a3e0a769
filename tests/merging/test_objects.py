"""What is read from a run's commits is checked: its agents can write there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rlm_nb.errors import GitError
from rlm_nb.merging.objects import Entry, Objects
from tests.conftest import Git


def planted(repository: Path, git: Git, *path: str) -> str:
    """A commit with one more file, at a path that git would refuse: made of trees that are written by hand."""

    def write(kind: str, data: bytes) -> str:
        command = ["git", "-C", str(repository), "hash-object", "-w", "--literally", "-t", kind, "--stdin"]
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout.decode().strip()

    oid, mode = write("blob", b"#!/bin/sh\n"), b"100755"
    for name in reversed(path):
        oid, mode = write("tree", mode + b" " + name.encode() + b"\0" + bytes.fromhex(oid)), b"40000"
    return git(repository, "commit-tree", oid, "-m", "x").strip()


@pytest.mark.parametrize(
    "path",
    [(".git", "hooks", "pre-commit"), ("a", ".GIT", "config"), (".g\u200cit", "x"), ("..", "x"), ("a", ".", "x")],
    ids="/".join,
)
def test_a_path_that_leads_elsewhere(repository: Path, git: Git, tmp_path: Path, path: tuple[str, ...]) -> None:
    """Into a `.git`, however it is written, or out of the folder: such a commit is not taken over."""
    commit = planted(repository, git, *path)
    with Objects(repository / ".git/objects", tmp_path / "git", "sha1") as objects:
        with pytest.raises(GitError, match="a path that no git would check out"):
            objects.changes(git(repository, "rev-parse", "HEAD").strip(), commit)


def test_contents_are_whole_or_an_error(repository: Path, git: Git, tmp_path: Path) -> None:
    """Large, empty and missing ones, one after the other."""
    large = bytes(range(256)) * 20_000
    (tmp_path / "large").write_bytes(large)
    oid = git(repository, "hash-object", "-w", tmp_path / "large").strip()
    empty = git(repository, "hash-object", "-w", "/dev/null").strip()
    with Objects(repository / ".git/objects", tmp_path / "git", "sha1") as objects:
        objects.write(oid, tmp_path / "1")
        with pytest.raises(GitError, match="0123456789"):
            objects.write("0123456789" * 4, tmp_path / "2")
        with pytest.raises(GitError):
            objects.write(git(repository, "rev-parse", "HEAD").strip(), tmp_path / "3")
    with Objects(repository / ".git/objects", tmp_path / "again", "sha1") as objects:
        objects.write(empty, tmp_path / "4")
        objects.write(oid, tmp_path / "5")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "5").read_bytes() == large
    assert (tmp_path / "4").read_bytes() == b""
    assert Entry("100644", oid).is_file
