"""The command that is printed for a patch, typed as it stands."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rlm_nb.workspace.apply import instruction
from rlm_nb.workspace.source import Source
from tests.conftest import Git


def make(git: Git, folder: Path, kind: str) -> tuple[str, Path]:
    """A source of a kind, and the file in a checkout that is edited there; the folder's name needs quoting."""
    top = folder / "it's here"
    sub = top / "a" / "b"
    sub.mkdir(parents=True)
    (top / "file.txt").write_text("old\n")
    (sub / "file.txt").write_text("old\n")
    if kind == "folder":
        return str(top), top / "file.txt"
    git(top, "init", "--quiet")
    if kind == "ignored":
        (top / ".gitignore").write_text("/a/\n")
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message=Begin")
    if kind in ("bare", "url"):
        git(folder, "clone", "--quiet", "--bare", top, "bare.git")
        return str(folder / "bare.git") if kind == "bare" else f"file://{folder}/bare.git", top / "file.txt"
    return str(top if kind == "top" else sub), sub / "file.txt" if kind == "ignored" else top / "file.txt"


@pytest.mark.parametrize("kind", ["top", "subfolder", "ignored", "folder", "bare", "url"])
def test_the_command_does_what_it_says(kind: str, git: Git, tmp_path: Path) -> None:
    """Typed anywhere, or in a clone where it says so, it brings the edit, whatever the run started from."""
    where, file = make(git, tmp_path, kind)
    run = tmp_path / "the run"
    (run / "agent").mkdir(parents=True)
    with Source.open(where, run) as source, source.checkout("root", run / "agent") as tree:
        edited = tree.workdir / ("../../file.txt" if kind == "subfolder" else "file.txt")
        edited.write_text("new\n")
        (run / "changes.patch").write_text(tree.patch().text)
        told = instruction(source.origin, run / "changes.patch")
    beginning, _, command = told.partition(": ")
    assert beginning == ("to have it in a clone" if kind in ("bare", "url") else "to have it")
    there = tmp_path if beginning == "to have it" else file.parent
    done = subprocess.run(["sh", "-c", command], cwd=there, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert file.read_text() == "new\n"


def test_a_source_that_has_gone(tmp_path: Path) -> None:
    """Nothing is raised at the end of a run whose folder was removed meanwhile."""
    assert instruction(f"{tmp_path}/gone", Path("/p")) == f"to have it: git -C {tmp_path}/gone apply /p"
