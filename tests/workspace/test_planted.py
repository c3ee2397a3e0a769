"""What an agent leaves for the user's next git command to find is not brought home."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import Git
from tests.workspace import witness
from tests.workspace.test_apply import make, run_on


def plant(folder: Path, ran: Path, *names: str) -> None:
    """Parts of a repository without a `.git`, whose settings have git run something."""
    folder.mkdir(exist_ok=True)
    core = ("repositoryFormatVersion = 0", "bare = false", "worktree = .", f'fsmonitor = "touch {ran}; false"')
    setting = "\n\t".join(("[core]", *core)) + "\n"
    files = {"HEAD": "ref: refs/heads/main\n", "config": setting, "commondir": "../rest\n"}
    for name in names:
        if name in files:
            (folder / name).write_text(files[name])
        else:
            (folder / name).mkdir()
            (folder / name / "keep").touch()


def sprung(ran: Path, *folders: Path) -> bool:
    """Whether what was planted runs when a person asks git for the status there."""
    for folder in folders:
        subprocess.run(["git", "status"], cwd=folder, capture_output=True)
    return ran.exists()


def test_a_folder_that_git_would_take_for_a_repository(git: Git, tmp_path: Path) -> None:
    """It is left out and named, however it is put together, save for what stood there before."""
    where, top = make(git, tmp_path, "top")
    assert top is not None
    ran = tmp_path / "ran"
    with run_on(where, tmp_path / "run") as (run, tree):
        plant(tree.path / "docs", ran, "HEAD", "config", "objects", "refs")
        assert sprung(ran, tree.path / "docs")  # the trap is a good one
        ran.unlink()
        plant(tree.path / "rest", ran, "config", "objects", "refs")
        plant(tree.path / "linked", ran, "HEAD", "commondir")
        plant(tree.path / "a", ran, "HEAD", "config", "objects", "refs")
        plant(tree.path / "bit by bit", ran, "HEAD", "config", "objects")
        tree.snapshot("one bit is missing")
        plant(tree.path / "bit by bit", ran, "refs")
        (tree.path / "a/b/moves").write_text("tracked\n")
        patch = tree.patch()
    assert patch.notes == ("left out, repositories of their own: a, bit by bit, docs, linked",)
    assert set(run.apply()) == {
        "a/b/moves",
        *(f"bit by bit/{name}" for name in ("HEAD", "config", "objects/keep")),
        *(f"rest/{name}" for name in ("config", "objects/keep", "refs/keep")),
    }
    assert not sprung(ran, top, *(path for path in top.rglob("*") if path.is_dir() and ".git" not in path.parts))


def test_a_folder_without_git_does_not_become_a_repository(git: Git, tmp_path: Path) -> None:
    """What would make it one is left out; the rest is taken."""
    where, top = make(git, tmp_path, "folder")
    assert top is not None
    with run_on(where, tmp_path / "run") as (run, tree):
        plant(tree.path, tmp_path / "ran", "HEAD", "config", "objects", "refs")
        (tree.path / "text").write_text("edited\n")
        patch = tree.patch()
    assert patch.notes == ("left out, repositories of their own: HEAD, objects, refs",)
    assert run.apply() == ["config", "text"]
    assert not sprung(tmp_path / "ran", top)


@pytest.mark.parametrize("name", ["git~1", "GIT~1", ".git ", ".git.", ".git::$INDEX_ALLOCATION", ".g\u200cit"])
def test_what_is_git_on_another_system(git: Git, tmp_path: Path, name: str) -> None:
    """A name that Windows or macOS take for `.git` is left out and named; what the user has there stays as it is."""
    where, top = make(git, tmp_path, "top")
    assert top is not None
    (top / "a" / name).mkdir()
    (top / "a" / name / "mine").write_text("mine\n")
    before = witness.files(top)
    with run_on(where, tmp_path / "run") as (run, tree):
        assert (tree.path / "a" / name / "mine").read_text() == "mine\n"
        (tree.path / "a" / name / "mine").write_text("not mine\n")
        (tree.path / name).mkdir()
        (tree.path / name / "config").write_text("[core]\n")
        (tree.path / "new").write_text("new\n")
        patch = tree.patch()
    assert patch.notes[0].startswith("left out, names that some systems take for .git: ")
    assert run.apply() == ["new"]
    assert witness.files(top) == before | {"new": (False, b"new\n")}
    assert [path.name for path in (top / "a" / name).iterdir()] == ["mine"]
