"""What an agent changed becomes a commit on a new branch, and that branch is all that is new in the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlm_nb.errors import EditConflictError, SourceError
from rlm_nb.workspace.apply import Home
from rlm_nb.workspace.branch import branch
from rlm_nb.workspace.recorded import recorded
from tests.conftest import Git
from tests.workspace import witness
from tests.workspace.test_apply import LINES, Run, make, run_on, work


def put(run: Run, name: str = "topic") -> tuple[str, list[str]]:
    """The root's edits on a branch."""
    with recorded(run.folder) as commits:
        return branch(commits, commits.edits("root"), run.home, name, "Do it\n\nrlm-nb run x, root\n")


def plant_hooks(repository: Path, ran: Path) -> None:
    """Hooks that leave a trace when they run."""
    hooks = repository / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("reference-transaction", "post-commit", "post-checkout", "pre-auto-gc", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (hooks / name).chmod(0o755)


@pytest.mark.parametrize("kind", ["top", "subfolder", "bare", "linked", "detached", "sha256"])
def test_a_branch_is_all_that_is_new(kind: str, git: Git, tmp_path: Path) -> None:
    """One commit on the source commit, with the edits in it; beside it, objects; no hook has run."""
    where, top = make(git, tmp_path, kind)
    store = Path(git(Path(where), "rev-parse", "--path-format=absolute", "--git-common-dir").strip())
    if top is not None:
        (top / "other").write_text("uncommitted\n")
        (top / "untracked").write_text("untracked\n")
    plant_hooks(store, tmp_path / "ran")
    with run_on(where, tmp_path / "run") as (run, tree):
        work(tree.path)
    before, mine = witness.modes_and_bytes(store), top and witness.files(top)
    commit, files = put(run)
    assert git(store, "rev-parse", "topic", "topic^").split() == [commit, run.home.commit]
    after = witness.modes_and_bytes(store)
    new = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert {name for name in new if not name.startswith("objects/")} - {"logs/refs/heads/topic"} == {"refs/heads/topic"}
    assert top is None or witness.files(top) == mine
    assert not (tmp_path / "ran").exists()
    git(store, "fsck", "--strict")
    names = git(store, "-c", "core.quotePath=false", "ls-tree", "-r", "-z", "--name-only", "topic").split("\0")
    assert {"moved", "goes", "new/er/file", os.fsdecode(b"caf\xe9 \xff")} <= set(names)
    assert not {"a/b/moves", "goes/on", "untracked"} & set(names)
    assert git(store, "show", "topic:other") == f"other\n{LINES}"
    assert git(store, "show", "topic:text") == "text\n" + LINES.replace("line 3\n", "three\n")
    assert git(store, "show", "topic:link") == "a/nowhere"
    assert git(store, "ls-tree", "topic", "moved").startswith("100755")
    assert set(files) >= {"moved", "a/b/moves", "goes", "text", "binary"}
    assert git(store, "log", "-1", "--format=%s/%an/%cn", "topic") == "Do it/rlm-nb/rlm-nb\n"


def test_the_commit_is_the_users(git: Git, tmp_path: Path) -> None:
    """As git knows the user; uncommitted edits in the same file are no part of it."""
    where, top = make(git, tmp_path, "top")
    assert top is not None
    git(top, "config", "user.name", "Ada Ł")
    git(top, "config", "user.email", "ada@example.org")
    git(top, "config", "commit.gpgSign", "true")
    (top / "text").write_text((top / "text").read_text().replace("line 15\n", "uncommitted\n"))
    with run_on(where, tmp_path / "run") as (run, tree):
        work(tree.path)
    put(run, "agents/topic")
    said = git(top, "log", "-1", "--format=%an <%ae>, %cn <%ce>", "agents/topic")
    assert said == "Ada Ł <ada@example.org>, Ada Ł <ada@example.org>\n"
    assert git(top, "show", "agents/topic:text") == "text\n" + LINES.replace("line 3\n", "three\n")
    assert git(top, "diff", "--name-only") == "text\n"


def test_line_ends_are_those_of_the_commit(git: Git, tmp_path: Path) -> None:
    """Where git has written CR LF into the checkout, the agent's lines have it, and the commit does not."""
    where, top = make(git, tmp_path, "top")
    assert top is not None
    git(top, "config", "core.autocrlf", "true")
    (top / "text").unlink()
    git(top, "checkout", "--", "text")
    assert b"line 3\r\n" in (top / "text").read_bytes()
    with run_on(where, tmp_path / "run") as (run, tree):
        (tree.path / "text").write_bytes((tree.path / "text").read_bytes().replace(b"line 3\r\n", b"three\r\n"))
    put(run)
    assert git(top, "diff", "--stat", "main", "topic").endswith("1 file changed, 1 insertion(+), 1 deletion(-)\n")
    assert run.apply() == ["text"]
    assert b"three\r\n" in (top / "text").read_bytes()


def test_edits_of_what_was_not_committed(git: Git, tmp_path: Path) -> None:
    """They have nothing to stand on: nothing is made, and the files are named."""
    where, top = make(git, tmp_path, "top")
    assert top is not None
    (top / "untracked").write_text("untracked\n")
    with run_on(where, tmp_path / "run") as (run, tree):
        work(tree.path)
        (tree.path / "untracked").write_text("edited\n")
    before = witness.everything(top)
    with pytest.raises(EditConflictError, match=r"untracked: .*commit that first, or leave --branch away"):
        put(run)
    assert witness.everything(top) == before


def test_what_is_refused(git: Git, tmp_path: Path) -> None:
    """A name that is taken or none, a folder, a repository without a commit, a URL, a commit that has gone."""
    where, top = make(git, tmp_path, "top")
    with run_on(where, tmp_path / "run") as (run, tree):
        work(tree.path)
    assert top is not None
    before = witness.everything(top)
    for name, said in [
        ("main", "has a branch main already"),
        ("a..b", "is no name for a branch"),
        ("-f", "is no name for a branch"),
        ("HEAD", "is no name for a branch"),
        ("", "is no name for a branch"),
    ]:
        with pytest.raises(SourceError, match=said):
            put(run, name)
    for home, said in [
        (Home(str(top), top), "had no commit when the run started: leave --branch away"),
        (Home("https://example.org/repo", None, "0" * 40), "is not on this machine; clone it"),
        (Home(str(top), top, "0" * 40), "has no commit 0000000000 any more"),
        (Home(f"{tmp_path}/gone", tmp_path / "gone", "0" * 40), "is not there any more"),
    ]:
        with pytest.raises(SourceError, match=said):
            put(Run(run.folder, home))
    assert witness.everything(top) == before
