"""Repositories that we make, and names of trees that we work out, are those that git would make."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm_nb.workspace import git as gits
from rlm_nb.workspace import repository
from rlm_nb.workspace.snapshot import tree_id, tree_of
from tests.conftest import Git


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_repository_is_what_git_makes(tmp_path: Path, git: Git, algorithm: str) -> None:
    """With the same folders and settings, what git finds out about the file system included."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    repository.make(ours, algorithm)
    git(tmp_path, "init", "--quiet", "--bare", "--template=", f"--object-format={algorithm}", theirs)
    said = [sorted(git(folder, "config", "--list", "--file", "config").splitlines()) for folder in (ours, theirs)]
    assert said[0] == said[1]
    folders = [{path.relative_to(top) for path in top.rglob("*") if path.is_dir()} for top in (ours, theirs)]
    assert folders[0] == folders[1] | {Path("info")}
    git(ours, "fsck", "--strict")


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_the_name_of_a_tree(tmp_path: Path, git: Git, algorithm: str) -> None:
    """Whatever the order: files and folders whose names sort otherwise with a slash, links, programs, any bytes."""
    git(tmp_path, "init", "--quiet", f"--object-format={algorithm}")
    for name in ("a/b", "a.b", "a-b", "a0", "a b/c/d", "a/b.c", "\udcff", "z/y/x/w", "ab/c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name.encode("utf-8", "replace").decode())
    (tmp_path / "a0").chmod(0o755)
    (tmp_path / "link").symlink_to("a")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--message=x")
    tree = tree_of(gits.of_user(tmp_path), "HEAD")
    for paths in (sorted(tree), sorted(tree, reverse=True)):
        assert tree_id({path: tree[path] for path in paths}, algorithm) == git(tmp_path, "rev-parse", "HEAD:").strip()
