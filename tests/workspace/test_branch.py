"""What an agent changed becomes a commit on a new branch, and that branch is all that is new in the repository."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from rlm_nb.errors import EditConflictError, GitError, SourceError
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


def test_line_ends_and_encodings_are_those_of_the_commit(git: Git, tmp_path: Path) -> None:
    """The agent's files are as on disk, the commit is as git stores them; what was not committed is no part of it."""
    where, top = make(git, tmp_path, "top")
    assert top is not None
    (top / ".gitattributes").write_text("wide working-tree-encoding=UTF-16\nid ident\n")
    (top / "wide").write_bytes("one\n".encode("utf-16"))
    (top / "id").write_text("$Id$\none\n")
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message=More")
    git(top, "config", "core.autocrlf", "true")
    for name in ("text", "other", "id"):
        (top / name).unlink()
        git(top, "checkout", "--", name)
    assert b"line 3\r\n" in (top / "text").read_bytes()
    assert b"$Id: " in (top / "id").read_bytes()
    (top / "other").write_bytes((top / "other").read_bytes().replace(b"line 15\r\n", b"uncommitted\r\n"))
    with run_on(where, tmp_path / "run") as (run, tree):
        for name in ("text", "other"):
            file = tree.path / name
            file.write_bytes(file.read_bytes().replace(b"line 3\r\n", b"three\r\n"))
        (tree.path / "wide").write_bytes("one\r\ntwo\r\n".encode("utf-16"))
        (tree.path / "id").write_bytes((tree.path / "id").read_bytes().replace(b"one\r\n", b"two\r\n"))
        (tree.path / "new").write_bytes(b"new\r\n")
    put(run)
    for name in ("text", "other"):
        expected = git(top, "show", f"main:{name}").replace("line 3\n", "three\n")
        assert git(top, "show", f"topic:{name}") == expected
    assert git(top, "show", "topic:wide", "topic:id", "topic:new") == "one\ntwo\n$Id$\ntwo\nnew\n"
    assert run.apply() == ["id", "new", "other", "text", "wide"]
    assert b"three\r\n" in (top / "text").read_bytes()


def add_filter(top: Path, git: Git) -> None:
    """Have git store what ends in `.f` with a word in front of each line, which is not there on disk."""
    git(top, "config", "filter.x.clean", "sed 's/^/STORED /'")
    git(top, "config", "filter.x.smudge", "sed 's/^STORED //'")
    git(top, "config", "filter.x.required", "true")
    (top / ".gitattributes").write_text("*.f filter=x\n")
    for name in ("one.f", "two.f", "a/three.f"):
        (top / name).write_text(f"{name}\n")
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message=Filtered")


def test_filters_of_the_users_are_run(git: Git, tmp_path: Path) -> None:
    """On what was changed, new or moved, by the attributes of the user's commit, not by those that the agent left."""
    where, top = make(git, tmp_path, "top")
    assert top is not None
    add_filter(top, git)
    ran = tmp_path / "ran"
    git(top, "config", "filter.other.clean", f"touch {ran}; cat")
    for setting in ("core.splitIndex", "core.sparseCheckout", "core.safecrlf"):
        git(top, "config", setting, "true")
    names = {path.name for path in (top / ".git").iterdir()}
    with run_on(where, tmp_path / "run") as (run, tree):
        (tree.path / "one.f").write_text("changed\n")
        (tree.path / "new\n.f").write_text("new\n")
        (tree.path / "two.f").rename(tree.path / "moved.f")
        shutil.rmtree(tree.path / "a")
        (tree.path / "a").write_text("a file now\n")
        (tree.path / "text").write_text("changed\n")
        (tree.path / ".gitattributes").write_text("*.f -filter\n* filter=other\n")
    put(run)
    assert {path.name for path in (top / ".git").iterdir()} == names
    changed = ("one.f", "new\n.f", "moved.f", "text", "a", ".gitattributes")
    said = [git(top, "cat-file", "blob", f"topic:{name}") for name in changed]
    assert said[:3] == ["STORED changed\n", "STORED new\n", "STORED two.f\n"]
    assert said[3:] == ["changed\n", "a file now\n", "*.f -filter\n* filter=other\n"]
    assert git(top, "ls-tree", "topic", "two.f") == ""
    assert not ran.exists()
    git(top, "fsck", "--strict")


def test_what_a_filter_has_no_part_in(git: Git, tmp_path: Path) -> None:
    """A run that starts from a commit has files as git stores them; uncommitted edits and failing filters are said."""
    where, top = make(git, tmp_path, "top")
    assert top is not None
    add_filter(top, git)
    with run_on(where, tmp_path / "exact", branch="main") as (run, tree):
        assert (tree.path / "one.f").read_text() == "STORED one.f\n"
        (tree.path / "one.f").write_text("STORED by hand\n")
        (tree.path / "new.f").write_text("new\n")
    put(run, "exact")
    assert git(top, "show", "exact:one.f", "exact:new.f") == "STORED by hand\nSTORED new\n"
    (top / "one.f").write_text("uncommitted\n")
    with run_on(where, tmp_path / "run") as (run, tree):
        (tree.path / "one.f").write_text("uncommitted\nedited\n")
        (tree.path / "two.f").write_text("edited\n")
    before, at_times = witness.modes_and_bytes(top), witness.everything(top)
    with pytest.raises(EditConflictError, match=r"one\.f: .*commit that first, or leave --branch away"):
        put(run)
    assert witness.everything(top) == at_times
    git(top, "config", "filter.x.clean", "false")
    with pytest.raises(GitError, match=r"external filter 'false' failed"):
        put(run)
    git(top, "config", "filter.x.clean", "sed 's/^/STORED /'")
    assert witness.modes_and_bytes(top) == before


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="Git LFS is not installed")
def test_git_lfs(git: Git, tmp_path: Path) -> None:
    """The commit has pointers, and what they point to is there."""
    where, top = make(git, tmp_path, "top")
    assert top is not None
    git(top, "lfs", "install", "--local")
    git(top, "lfs", "track", "*.png")
    (top / "one.png").write_bytes(b"\0one")
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message=Large")
    with run_on(where, tmp_path / "run") as (run, tree):
        (tree.path / "one.png").write_bytes(b"\0changed")
        (tree.path / "new.png").write_bytes(b"\0new")
    put(run)
    assert git(top, "show", "topic:one.png", "topic:new.png").count("version https://git-lfs.github.com/spec/v1") == 2
    git(top, "checkout", "--quiet", "topic")
    assert git(top, "status", "--short") == ""
    assert [(top / name).read_bytes() for name in ("one.png", "new.png")] == [b"\0changed", b"\0new"]


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
