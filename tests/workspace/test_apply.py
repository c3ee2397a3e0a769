"""What an agent changed comes home into the user's files, and into nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlm_nb.errors import EditConflictError, RunFolderError, SourceError
from rlm_nb.merging.edits import Edits
from rlm_nb.workspace.apply import Home, apply, instruction
from rlm_nb.workspace.recorded import recorded
from rlm_nb.workspace.source import Source
from rlm_nb.workspace.worktree import Worktree
from tests.conftest import Git
from tests.workspace import witness

LINES = "".join(f"line {number}\n" for number in range(20))


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    folder: Path
    home: Home

    @contextmanager
    def edits(self, agent: str = "root") -> Iterator[Edits]:
        with recorded(self.folder) as commits:
            yield commits.edits(agent)

    def apply(self, agent: str = "root") -> list[str]:
        with self.edits(agent) as edits:
            return apply(edits, self.home)


@contextmanager
def run_on(where: str | Path, folder: Path, **options: str) -> Iterator[tuple[Run, Worktree]]:
    """A run in which the block does the work; it has ended, its worktree gone, when the block has."""
    (folder / "agent").mkdir(parents=True)
    with Source.open(str(where), folder, **options) as source:
        home = Home(source.origin, source.top, source.head, "Do it")
        with source.checkout("root", folder / "agent") as tree:
            yield Run(folder, home), tree
    shutil.rmtree(folder / "agent")


def make(git: Git, folder: Path, kind: str) -> tuple[str | Path, Path | None]:
    """What a run of a kind is started on, and the folder that its files are of."""
    top = folder / "it's here"
    (top / "a/b").mkdir(parents=True)
    for name in ("text", "other", "a/b/moves", "goes/on", "twin\n"):
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_text(f"{name}\n{LINES}")
    (top / "crlf").write_bytes(b"one\r\ntwo\r\n")
    (top / "binary").write_bytes(bytes(range(256)))
    (top / "link").symlink_to("text")
    if kind == "folder":
        return top, top
    git(top, "init", "--quiet", "--initial-branch=main", *(["--object-format=sha256"] if kind == "sha256" else []))
    if kind == "ignored":
        shutil.copytree(top, top / "inside", ignore=shutil.ignore_patterns(".git"), symlinks=True)
        (top / ".gitignore").write_text("/inside/\n")
        git(top, "add", "--all")
        git(top, "commit", "--quiet", "--message=Begin")
        return top / "inside", top / "inside"
    if kind == "no commit":
        return top, top
    if kind == "autocrlf":
        git(top, "config", "core.autocrlf", "true")
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message=Begin")
    if kind == "detached":
        git(top, "checkout", "--quiet", "--detach")
    if kind == "linked":
        git(top, "worktree", "add", "--quiet", folder / "linked")
        return folder / "linked/a", folder / "linked"
    if kind in ("bare", "url"):
        git(folder, "clone", "--quiet", "--bare", top, "bare.git")
        return folder / "bare.git" if kind == "bare" else f"file://{folder}/bare.git", None
    return top / "a/b" if kind == "subfolder" else top, top


def work(top: Path) -> None:
    """What an agent can do to files."""
    (top / "text").write_text((top / "text").read_text().replace("line 3\n", "three\n"))
    (top / "crlf").write_bytes(b"one\r\n2\r\n")
    (top / "binary").write_bytes(bytes(255 - number for number in range(256)))
    (top / "a/b/moves").rename(top / "moved")
    (top / "moved").chmod(0o755)
    shutil.rmtree(top / "goes")
    (top / "goes").write_text("a file now\n")
    (top / "link").unlink()
    (top / "link").symlink_to("a/nowhere")
    (top / os.fsdecode(b"caf\xe9 \xff")).write_text("odd\n")
    (top / "new/er").mkdir(parents=True)
    (top / "new/er/file").write_bytes(b"new\r\n")


KINDS = ["top", "subfolder", "ignored", "folder", "linked", "detached", "no commit", "autocrlf", "sha256"]


@pytest.mark.parametrize("kind", KINDS)
def test_edits_come_home_wherever_the_run_started(kind: str, git: Git, tmp_path: Path) -> None:
    """Onto uncommitted and untracked files, as the agent left them; a second time nothing; no repository is changed."""
    where, top = make(git, tmp_path, kind)
    assert top is not None
    (top / "other").write_text("uncommitted\n")
    (top / "untracked").write_text("untracked\n")
    repositories = [path for path in tmp_path.rglob(".git") if path.is_dir()]
    before = [witness.everything(path) for path in repositories]
    with run_on(where, tmp_path / "run") as (run, tree):
        work(tree.path)
        (tree.path / "untracked").write_text("edited\n")
        left = witness.files(tree.path)
    mine = witness.files(top)
    changed = run.apply()
    after = witness.files(top)
    assert {name: after.get(name) for name in left} == left
    assert {name for name in mine.keys() | after.keys() if mine.get(name) != after.get(name)} == set(changed)
    assert run.apply() == []
    assert [witness.everything(path) for path in repositories] == before
    assert not list(top.glob(".rlm-nb-*"))


def test_what_the_user_did_meanwhile_stays(git: Git, tmp_path: Path) -> None:
    """Other lines, other files, commits, another branch: the checkout has moved on, and edits are merged into it."""
    where, top = make(git, tmp_path, "top")
    assert top is not None
    with run_on(where, tmp_path / "run") as (run, tree):
        work(tree.path)
    git(top, "checkout", "--quiet", "-b", "elsewhere")
    (top / "text").write_text((top / "text").read_text().replace("line 15\n", "fifteen\n"))
    git(top, "commit", "--quiet", "--all", "--message=Go on")
    (top / "other").write_text("mine\n")
    git(top, "add", "other")
    before = witness.everything(top / ".git")
    run.apply()
    assert witness.everything(top / ".git") == before
    assert (top / "text").read_text() == "text\n" + LINES.replace("line 3\n", "three\n").replace("line 15", "fifteen")
    assert (top / "other").read_text() == "mine\n"


def test_where_modes_say_nothing(git: Git, tmp_path: Path) -> None:
    """On a file system of Windows every file can be run: that is no change of the user's, and needs no second try."""
    where, top = make(git, tmp_path, "top")
    assert top is not None
    git(top, "config", "core.fileMode", "false")
    for path in top.rglob("*"):
        if path.is_file() and not path.is_symlink() and ".git" not in path.parts:
            path.chmod(0o755)
    with run_on(where, tmp_path / "run") as (run, tree):
        work(tree.path)
        (tree.path / "other").unlink()
        (tree.path / "binary").chmod(0o755)
    assert {"text", "other", "a/b/moves", "moved", "goes"} <= set(run.apply())
    assert not (top / "other").exists()
    for path in (top / "new/er/file", top / "goes"):
        path.chmod(0o755)
    assert run.apply() == []


@pytest.mark.parametrize(
    ("meanwhile", "named"),
    [
        ("sed -i 's/line 3$/drei/' text", "text: the same lines were changed on both sides"),
        ("rm -r a && ln -s {outside} a", "moved: "),
        ("rm text && ln -s {outside}/file text", "text: a link on one side"),
        ("mkdir -p new && ln -s {outside} new/er", "new/er/file: something else stands in its place here"),
        ("echo mine > goes/mine", "goes: something else stands in its place here"),
        ("echo mine > moved", "moved: renamed to this there, which is something else here"),
        ("mkdir new && echo secret > new/er", "new/er/file: something else"),
    ],
)
def test_nothing_of_the_users_is_clobbered(git: Git, tmp_path: Path, meanwhile: str, named: str) -> None:
    """One file that does not fit, ignored ones included, keeps all from being changed, and is named."""
    where, top = make(git, tmp_path, "top")
    assert top is not None
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    (outside / "file").write_text("outside\n")
    shutil.copy(top / "a/b/moves", outside / "b/moves")
    (top / ".git/info/exclude").write_text("/new/\n")
    with run_on(where, tmp_path / "run") as (run, tree):
        work(tree.path)
        (tree.path / ".gitignore").write_text("!new\n")
    subprocess.run(["sh", "-ec", meanwhile.format(outside=outside)], cwd=top, check=True)
    before = witness.everything(top), witness.everything(outside)
    with pytest.raises(EditConflictError, match="--branch NAME puts the edits on a branch") as caught:
        run.apply()
    assert named in str(caught.value)
    assert (witness.everything(top), witness.everything(outside)) == before


def test_the_edits_of_a_sub_agent(git: Git, tmp_path: Path) -> None:
    """Its own ones, from where it started: what its parent did before, or has not taken over, is not among them."""
    where, top = make(git, tmp_path, "top")
    assert top is not None
    (tmp_path / "run/agent").mkdir(parents=True)
    (tmp_path / "run/child").mkdir()
    with Source.open(str(where), tmp_path / "run") as source, source.checkout("root", tmp_path / "run/agent") as tree:
        (tree.path / "parents").write_text("x\n")
        base = tree.snapshot("root asks for sub-agents")
        with source.checkout("root.1", tmp_path / "run/child", base) as child:
            (child.path / "text").write_text("by the child\n")
        (tree.path / "parents").write_text("y\n")
    run = Run(tmp_path / "run", Home(str(where), top, source.head))
    assert run.apply("1") == ["text"]
    assert run.apply("root.1") == []
    assert run.apply() == ["parents"]
    with pytest.raises(RunFolderError, match=r"kept nothing of an agent 1\.2; it has root, root\.1"):
        run.apply("1.2")


def test_what_somebody_did_to_the_runs_repository(git: Git, tmp_path: Path) -> None:
    """Settings, attributes and hooks in `ctl.git` do not count when its edits are taken over."""
    where, top = make(git, tmp_path, "top")
    assert top is not None
    with run_on(where, tmp_path / "run") as (run, tree):
        work(tree.path)
    ran, ctl = tmp_path / "ran", run.folder / "ctl.git"
    for name in ("diff.external", "core.fsmonitor", "filter.x.smudge", "merge.x.driver", "diff.x.textconv"):
        git(ctl, "config", name, f"touch {ran}")
    (ctl / "info/attributes").write_text("* filter=x merge=x diff=x text eol=crlf\n")
    (ctl / "hooks").mkdir()
    for hook in ("reference-transaction", "post-checkout", "post-index-change"):
        (ctl / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (ctl / "hooks" / hook).chmod(0o755)
    assert "text" in run.apply()
    assert (top / "new/er/file").read_bytes() == b"new\r\n"
    assert not ran.exists()


def test_where_there_are_no_files(git: Git, tmp_path: Path) -> None:
    """A bare repository, a URL, a checkout that has gone, a run that kept nothing: each is told what to do."""
    bare, _ = make(git, tmp_path, "bare")
    with run_on(bare, tmp_path / "run") as (run, tree):
        work(tree.path)
    with pytest.raises(SourceError, match="bare repository, which has no files: say --branch NAME"):
        run.apply()
    with pytest.raises(SourceError, match=r"example\.org/repo is not on this machine; clone it"):
        Run(run.folder, Home("https://example.org/repo", None)).apply()
    with pytest.raises(SourceError, match="gone, which the run worked on, is not there any more"):
        Run(run.folder, Home(f"{tmp_path}/gone", tmp_path / "gone")).apply()
    with pytest.raises(RunFolderError, match=r"has no ctl\.git"):
        Run(tmp_path, run.home).apply()


def test_what_cannot_be_written_is_said(git: Git, tmp_path: Path) -> None:
    """In the middle of the work: everything is as it was."""
    where, top = make(git, tmp_path, "top")
    assert top is not None
    with run_on(where, tmp_path / "run") as (run, tree):
        work(tree.path)
    before = witness.modes_and_bytes(top)
    if subprocess.run(["chattr", "+i", top / "text"], capture_output=True).returncode:
        pytest.skip("only root, and not on every file system")
    try:
        with pytest.raises(RunFolderError, match="text cannot be written: Operation not permitted"):
            run.apply()
    finally:
        subprocess.run(["chattr", "-i", top / "text"], check=True)
    assert witness.modes_and_bytes(top) == before


def test_the_command_that_is_told(tmp_path: Path) -> None:
    """`rlm-nb apply`; for a bare repository with a branch; for a URL git's own, in a clone."""
    patch = tmp_path / "it's.patch"
    assert instruction(Home("/r", Path("/r")), patch, "rlm-nb apply 1") == "to have it: rlm-nb apply 1"
    assert instruction(Home("/r", None), patch, "rlm-nb apply 1") == "to have it: rlm-nb apply 1 --branch NAME"
    told = instruction(Home("https://example.org/r", None), patch, "rlm-nb apply 1")
    assert told == f"to have it in a clone: git apply '{tmp_path}/it'\"'\"'s.patch'"
