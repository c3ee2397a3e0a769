"""What an agent changed is merged into a folder that has gone on meanwhile: all of it or nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rlm_nb.errors import EditConflictError, GitError
from rlm_nb.merging.edits import Edits, _Merge
from rlm_nb.merging.objects import Change as Changed
from rlm_nb.merging.objects import Entry, Objects
from rlm_nb.merging.placing import Places
from tests.conftest import Git
from tests.workspace import witness
from tests.workspace.nobody import as_nobody

LINES = "".join(f"line {number}\n" for number in range(20))

Change = Callable[[Path], object]


@dataclass(frozen=True)
class Child:
    """What a child left, to be applied to its parent's worktree."""

    edits: Edits
    here: Path

    def apply(self, **how: bool) -> list[str]:
        return self.edits.apply(self.here, self.here.parent, **how)


class Family:
    """A parent's worktree, and what a child that started from it left: each changed by a function.

    Args:
        folder: Where all of it is.
        git: Runs git.
        options: For `git init`.
    """

    def __init__(self, folder: Path, git: Git, *options: str) -> None:
        self.here, self._folder, self._git = folder / "work", folder, git
        (self.here / "folder").mkdir(parents=True)
        for name, text in [("text", LINES), ("other", "other\n"), ("folder/one", "one\n"), ("folder/two", "two\n")]:
            (self.here / name).write_text(text)
        (self.here / "binary").write_bytes(bytes(range(256)))
        (self.here / "link").symlink_to("text")
        git(self.here, "init", "--quiet", *options)
        self.base = self._commit(self.here)

    def child(self, *changes: Change) -> Child:
        """A child that starts from what the parent has now."""
        there = shutil.copytree(self.here, self._folder / "child", symlinks=True)
        base = self._commit(there)
        for change in changes:
            change(there)
        return Child(Edits("root.1", base, self._commit(there), there / ".git/objects"), self.here)

    def state(self) -> dict[str, tuple[bool, bytes]]:
        """The parent's files."""
        return witness.files(self.here)

    def _commit(self, folder: Path) -> str:
        self._git(folder, "add", "--all", "--force")
        self._git(folder, "commit", "--quiet", "--allow-empty", "--message=x")
        return self._git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture
def family(tmp_path: Path, git: Git) -> Family:
    """See `Family`."""
    return Family(tmp_path, git)


def write(name: str, text: str | bytes) -> Change:
    def change(top: Path) -> None:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    return change


def replace_line(number: int, text: str, name: str = "text") -> Change:
    def change(top: Path) -> None:
        path = top / name
        path.write_text(path.read_text().replace(f"line {number}\n", f"{text}\n"))

    return change


def remove(name: str) -> Change:
    return lambda top: shutil.rmtree(top / name) if (top / name).is_dir() else (top / name).unlink()


def move(old: str, new: str) -> Change:
    return lambda top: (top / old).rename(top / new)


def link(name: str, target: str) -> Change:
    return lambda top: (top / name).symlink_to(target)


def mode(name: str, bits: int) -> Change:
    return lambda top: (top / name).chmod(bits)


def test_everything_that_a_child_can_do_arrives(family: Family) -> None:
    """New, changed, deleted and renamed files, binary ones, modes, links, folders that become files, any name."""
    child = family.child(
        replace_line(3, "three"),
        write("binary", bytes(255 - n for n in range(256))),
        move("other", "moved"),
        mode("moved", 0o755),
        remove("link"),
        write("link/now a folder", "x"),
        remove("folder"),
        write("folder", "now a file"),
        write("deep/er/new", "x"),
        link("new link", "deep/er"),
        write(os.fsdecode(b"\xff\n"), "odd"),
    )
    theirs = witness.files(child.edits.objects.parent.parent)
    new = {"moved", "link/now a folder", "folder", "deep/er/new", "new link", os.fsdecode(b"\xff\n")}
    old = {"text", "binary", "other", "link", "folder/one", "folder/two"}
    assert child.apply() == sorted(new | old)
    assert family.state() == theirs
    assert child.apply() == []
    assert [path.name for path in family.here.parent.glob(".rlm-nb-*")] == []


def test_both_sides_of_a_file_are_kept(family: Family) -> None:
    """Other lines of a text, a mode and a text, an edit to what was renamed there, the same twice; then nothing."""
    child = family.child(
        replace_line(3, "three"),
        write("other", "changed\n"),
        move("folder/one", "folder/renamed"),
        write("same", "same\n"),
        remove("folder/two"),
        mode("binary", 0o755),
    )
    for change in (
        replace_line(15, "fifteen"),
        write("binary", "edited\n"),
        mode("other", 0o700),
        write("folder/one", "edited\n"),
        write("same", "same\n"),
        remove("folder/two"),
        write("mine", "mine\n"),
    ):
        change(family.here)
    assert child.apply() == ["binary", "folder/one", "folder/renamed", "other", "text"]
    left = witness.everything(family.here)
    assert child.apply() == []
    assert witness.everything(family.here) == left
    text = (family.here / "text").read_text()
    assert "three\n" in text
    assert "fifteen\n" in text
    assert (family.here / "other").read_text() == "changed\n"
    assert (family.here / "other").stat().st_mode & 0o777 == 0o700
    assert not (family.here / "folder/one").exists()
    assert (family.here / "folder/renamed").read_text() == "edited\n"
    assert (family.here / "mine").read_text() == "mine\n"


CONFLICTS: dict[str, tuple[list[Change], list[Change], str, str]] = {
    "lines": ([replace_line(3, "there")], [replace_line(3, "here")], "text", "the same lines"),
    "both new": ([write("new", "there\n")], [write("new", "here\n")], "new", "the same lines"),
    "binary": ([write("binary", b"\0there")], [write("binary", b"\0here")], "binary", "no text"),
    "deleted there": ([remove("text")], [replace_line(3, "here")], "text", "deleted there, changed here"),
    "deleted here": ([replace_line(3, "there")], [remove("text")], "text", "changed there, deleted here"),
    "renamed there": ([move("text", "new")], [remove("text")], "new", "changed there, deleted here"),
    "taken name": ([move("text", "new")], [write("new", "here\n")], "new", "renamed to this there"),
    "links": (
        [remove("link"), link("link", "there")],
        [remove("link"), link("link", "here")],
        "link",
        "a link on one side",
    ),
    "a folder here": ([replace_line(3, "there")], [remove("text"), write("text/x", "x")], "text", "something else"),
    "a file in the way": ([write("a/b", "there")], [write("a", "here")], "a/b", "something else"),
    "a link in the way": ([write("a/b", "there")], [link("a", "/tmp")], "a/b", "something else"),
    "a folder in the way": (
        [remove("folder"), write("folder", "there")],
        [write("folder/mine", "here")],
        "folder",
        "something else",
    ),
    "a fifo": ([replace_line(3, "there")], [remove("text"), lambda top: os.mkfifo(top / "text")], "text", "something"),
}


@pytest.mark.parametrize("case", CONFLICTS)
def test_a_conflict_changes_nothing(family: Family, case: str) -> None:
    """Not even the files that fit; the error names the one that does not, and why."""
    there, here, path, why = CONFLICTS[case]
    child = family.child(*there, write("fits", "x"))
    for change in here:
        change(family.here)
    before = witness.everything(family.here)
    with pytest.raises(EditConflictError, match=r"Nothing was changed") as caught:
        child.apply()
    assert caught.value.files == (path,)
    assert f"{path}: {why}" in str(caught.value)
    assert witness.everything(family.here) == before


def test_markers_are_left_when_they_are_asked_for(family: Family) -> None:
    """What fits is taken over; what cannot be marked stays as it is here, or, deleted here, is as it is there."""
    child = family.child(
        replace_line(3, "there"), write("binary", b"\0there"), write("other", "there\n"), write("fits", "x")
    )
    for change in (replace_line(3, "here"), write("binary", b"\0here"), remove("other")):
        change(family.here)
    with pytest.raises(EditConflictError, match=r"All else was taken over") as caught:
        child.apply(markers=True)
    assert caught.value.files == ("binary", "other", "text")
    marked = "<<<<<<< here\nhere\n=======\nthere\n>>>>>>> root.1\n"
    assert (family.here / "text").read_text() == LINES.replace("line 3\n", marked)
    assert (family.here / "binary").read_bytes() == b"\0here"
    assert (family.here / "other").read_text() == "there\n"
    assert (family.here / "fits").read_text() == "x"


@pytest.mark.parametrize("harm", ["deleted", "a link to nowhere", "poisoned", "in the environment"])
def test_what_the_agent_did_to_its_own_repository_does_not_count(
    family: Family, git: Git, harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settings, its `.git` and its variables are never asked."""
    child = family.child(replace_line(3, "three"), write("new\r\n", "a\r\n"))
    replace_line(15, "fifteen")(family.here)
    ran = tmp_path / "ran"
    if harm == "poisoned":
        (family.here / ".gitattributes").write_text("* merge=evil filter=evil text eol=crlf\n")
        for name in ("merge.evil.driver", "filter.evil.smudge", "core.fsmonitor"):
            git(family.here, "config", name, f"touch {ran}")
        (Path.home() / ".gitconfig").write_text("[merge]\n\tconflictStyle = diff3\n[core]\n\tautocrlf = true\n")
    elif harm == "in the environment":
        monkeypatch.setenv("GIT_DIR", "/nowhere")
        monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere")
        monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'core.autocrlf=true'")
    else:
        shutil.rmtree(family.here / ".git")
        if harm == "a link to nowhere":
            (family.here / ".git").write_text("gitdir: /nowhere\n")
    try:
        assert child.apply() == ["new\r\n", "text"]
    finally:
        (Path.home() / ".gitconfig").unlink(missing_ok=True)
    assert (family.here / "new\r\n").read_bytes() == b"a\r\n"
    assert (family.here / "text").read_text() == LINES.replace("line 3\n", "three\n").replace("line 15\n", "fifteen\n")
    assert not ran.exists()


def test_what_cannot_be_written_leaves_all_as_it_was(family: Family) -> None:
    """A folder that lets nothing be replaced in it, met in the middle of the work."""
    (family.here / "z").mkdir()
    (family.here / "z/last").write_text("z\n")
    child = family.child(
        remove("other"), write("a/b", "x"), replace_line(3, "three"), write("z/last", "y"), move("folder/one", "new")
    )
    before = witness.modes_and_bytes(family.here)
    if subprocess.run(["chattr", "+i", family.here / "z/last"], capture_output=True).returncode:
        pytest.skip("only root, and not on every file system")
    try:
        with pytest.raises(PermissionError):
            child.apply()
    finally:
        subprocess.run(["chattr", "-i", family.here / "z/last"], check=True)
    assert witness.modes_and_bytes(family.here) == before


def test_commits_that_are_not_there(family: Family) -> None:
    """An error, and nothing is changed."""
    child = family.child(write("new", "x"))
    child = replace(child, edits=replace(child.edits, commit="0123456789" * 4))
    before = witness.everything(family.here)
    with pytest.raises(GitError, match="diff-tree"):
        child.apply()
    assert witness.everything(family.here) == before


def test_a_sha256_repository(tmp_path: Path, git: Git) -> None:
    """The names of its objects are longer, and all the same."""
    family = Family(tmp_path, git, "--object-format=sha256")
    child = family.child(replace_line(3, "three"), link("new", "x"))
    replace_line(15, "fifteen")(family.here)
    assert child.apply() == ["new", "text"]
    assert child.apply() == []


def test_permissions_that_git_does_not_know_stay(family: Family) -> None:
    """A file that only its owner may read is so afterwards, whether it was edited here or not; none becomes setuid."""
    child = family.child(replace_line(3, "three"), write("other", "changed\n"))
    for name, bits in (("text", 0o600), ("other", 0o4640)):
        (family.here / name).chmod(bits)
    assert child.apply() == ["other", "text"]
    assert [(family.here / name).stat().st_mode & 0o7777 for name in ("text", "other")] == [0o600, 0o640]


def test_a_folder_that_we_may_not_look_into_does_not_make_room() -> None:
    """Nobody knows what would be lost with it."""
    as_nobody(_a_closed_folder)


def _a_closed_folder() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.environ["HOME"] = name
        top = Path(name, "top")
        (top / "closed/below").mkdir(parents=True)
        (top / "closed/below/mine").write_text("mine\n")
        (top / "closed/below").chmod(0)
        with Objects(Path(name, "objects"), Path(name, "git"), "sha1") as objects:
            merge = _Merge(objects, Places(top, Path(name)), Path(name), "sha1", "root.1")
            merge.add(Changed(b"closed", b"closed", None, Entry("100644", "0" * 40)))
        (top / "closed/below").chmod(0o700)
        assert merge.conflicts == {"closed": "something else stands in its place here"}


def test_three_hundred_files_take_a_few_processes(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git is started for the list, for the contents, and for each file that both sides changed; not for each file."""
    child = family.child(replace_line(3, "three"), *(write(f"new/{number}", f"{number}\n") for number in range(300)))
    replace_line(15, "fifteen")(family.here)
    real, count = shutil.which("git"), tmp_path / "count"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/git").write_text(f'#!/bin/sh\necho "$1" >> {count}\nexec {real} "$@"\n')
    (tmp_path / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert len(child.apply()) == 301
    assert sorted(count.read_text().split()) == ["cat-file", "diff-tree", "merge-file"]
