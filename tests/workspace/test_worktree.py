"""Agents do what they like in their worktrees; their edits are kept, and nothing else of it gets out."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import WorkspaceSettings
from rlm_nb.errors import CancelledError, GitError, SourceError
from rlm_nb.workspace.scratch import remove_tree, scratch
from rlm_nb.workspace.source import Source
from tests.workspace import witness
from tests.workspace.nobody import as_nobody


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A program that leaves `ran` beside it when anybody starts it."""
    program = tmp_path / "trap"
    program.write_text(f"#!/bin/sh\necho $0 $* >> {tmp_path}/ran\ncat\n")
    program.chmod(0o755)
    return program


def sprung(trap: Path) -> bool:
    return trap.with_name("ran").exists()


def test_an_agents_git_works_inside_and_reaches_nothing_outside(repository, git, open_source, check_out):
    """Commit, branch, stash, gc and prune are the agent's own; the user and the other agents see none of it."""
    (repository / "README.md").write_text("uncommitted\n")
    git(repository, "stash", "store", git(repository, "stash", "create").strip())
    before = witness.everything(repository)
    source = open_source(repository)
    tree, other = check_out(source), check_out(source, "root.1")
    held = git(source.ctl, "for-each-ref")
    git(tree.path, "config", "user.name", "Mallory")
    git(tree.path, "checkout", "--quiet", "-b", "topic")
    (tree.path / "new").write_text("one\n")
    git(tree.path, "add", "new")
    git(tree.path, "commit", "--message=Mine")
    (tree.path / "new").write_text("two\n")
    git(tree.path, "stash")
    git(tree.path, "worktree", "prune")
    git(tree.path, "gc", "--prune=now", "--quiet")
    git(tree.path, "stash", "pop")
    assert git(tree.path, "branch", "--show-current").strip() == "topic"
    assert git(other.path, "branch", "--list", "topic") == ""
    assert git(other.path, "stash", "list") == ""
    assert git(source.ctl, "for-each-ref") == held
    assert tree.patch().files == ("new",)
    assert "+two" in tree.patch().text
    assert other.patch().files == ()
    assert witness.everything(repository) == before


def sparse(path: Path, size: int) -> None:
    """A file that takes hardly any room and long to read."""
    with path.open("wb") as file:
        file.truncate(size)


def test_switching_branches_and_resetting_counts_as_what_is_on_disk(repository, git, open_source, check_out):
    """The patch is what the files say, whatever the agent's own history says."""
    (repository / "README.md").write_text("uncommitted\n")
    tree = check_out(open_source(repository))
    git(tree.path, "reset", "--quiet", "--hard", "HEAD~1")
    patch = tree.patch()
    assert patch.files == ("README.md",)
    assert "-uncommitted" in patch.text


def test_a_child_starts_from_what_its_parent_sees(repository, git, open_source, check_out):
    """Uncommitted edits included; its patch is against that, and two children may edit one file."""
    source = open_source(repository)
    parent = check_out(source)
    (parent.path / "README.md").write_text("parent\n")
    (parent.path / "shared").write_text("parent\n")
    base = parent.snapshot("Before the children")
    first, second = check_out(source, "root.1", base), check_out(source, "root.2", base)
    (first.path / "shared").write_text("first\n")
    (second.path / "shared").write_text("second\n")
    (second.path / "README.md").unlink()
    assert (first.path / "README.md").read_text() == "parent\n"
    assert first.patch().base == second.patch().base == base
    assert first.patch().files == ("shared",)
    assert second.patch().files == ("README.md", "shared")
    assert parent.patch().files == ("README.md", "shared")
    assert (parent.path / "shared").read_text() == "parent\n"


def test_every_snapshot_is_kept(repository, git, open_source, check_out):
    """In a row below the agent's ref, out of the reach of `git gc`, and after the worktree is gone."""
    source = open_source(repository)
    tree = check_out(source)
    untouched = check_out(source, "root.1")
    commits = []
    for number in range(3):
        (tree.path / "note").write_text(f"{number}\n")
        commits.append(tree.snapshot(f"Number {number}"))
    assert tree.snapshot("Nothing new") == commits[-1]
    assert untouched.snapshot("Nothing at all") == source.base
    remove_tree(tree.path)
    git(source.ctl, "gc", "--quiet", "--prune=now")
    assert [git(source.ctl, "show", f"{commit}:note") for commit in commits] == ["0\n", "1\n", "2\n"]
    assert git(source.ctl, "log", "--format=%s", "refs/rlm/root").splitlines()[:3] == [
        "Number 2",
        "Number 1",
        "Number 0",
    ]
    assert git(source.ctl, "rev-parse", "refs/rlm/root.1", "refs/rlm/start").split() == [source.base] * 2


def test_a_change_that_hides_its_time_is_seen(repository, open_source, check_out):
    """Same size and same modification time as in the last snapshot: the bytes count."""
    tree = check_out(open_source(repository))
    file = tree.path / "note"
    for text in ("one", "two", "six", "ten"):
        file.write_text(text)
        os.utime(file, ns=(0, 0))
        tree.snapshot(text)
        assert f"+{text}\n" in tree.patch().text


def test_sixteen_checkouts_at_once(repository, git, open_source, check_out):
    """No lock is in anybody's way, while opening or while keeping what was done."""
    source = open_source(repository)

    def work(number: int) -> tuple[str, ...]:
        tree = check_out(source, f"root.{number}")
        (tree.path / f"file-{number}").write_text("x\n")
        assert git(tree.path, "status", "--porcelain").strip() == f"?? file-{number}"
        return tree.patch().files

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(16))) == [(f"file-{number}",) for number in range(16)]


def test_one_worktree_is_kept_by_many_threads(repository, git, open_source, check_out):
    """A batch of children starts from one parent at the same time."""
    source = open_source(repository)
    tree = check_out(source)
    (tree.path / "new").write_text("x\n")
    with ThreadPoolExecutor(8) as pool:
        commits = set(pool.map(tree.snapshot, map(str, range(8))))
    assert len(commits) == 1


def test_nothing_planted_runs_or_stands_in_the_way(repository, git, open_source, check_out, trap):
    """Filters, hooks, fsmonitor, textconv, a poisoned `.gitmodules`: none runs, and the honest edit is kept."""
    before = witness.everything(repository)
    tree = check_out(open_source(repository))
    for setting in (
        "core.fsmonitor",
        "core.pager",
        "core.sshCommand",
        "diff.external",
        "diff.evil.textconv",
        "diff.evil.command",
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "merge.evil.driver",
        "gpg.program",
    ):
        git(tree.path, "config", setting, str(trap))
    git(tree.path, "config", "core.hooksPath", str(tree.path / "hooks"))
    (tree.path / "hooks").mkdir()
    for hook in ("post-index-change", "reference-transaction", "pre-commit", "post-checkout", "fsmonitor-watchman"):
        shutil.copy(trap, tree.path / "hooks" / hook)
    (tree.path / ".gitattributes").write_text("* filter=evil diff=evil merge=evil export-subst\n")
    (tree.path / ".gitmodules").write_text("[this is not\n= valid")
    (tree.path / "README.md").write_text("honest\n")
    patch = tree.patch()
    assert "+honest" in patch.text
    assert ".gitmodules" in patch.files
    assert not sprung(trap)
    assert witness.everything(repository) == before


@pytest.mark.parametrize(
    "replacement", ["repository", "link to the user's", "link to nowhere", "fifo", "nothing", "own"]
)
def test_the_git_file_of_a_worktree_may_be_anything(repository, git, open_source, check_out, trap, replacement):
    """We never ask it where the repository is."""
    before = witness.everything(repository)
    tree = check_out(open_source(repository))
    dot_git = tree.path / ".git"
    private = tree.path.parent / "git"
    dot_git.unlink()
    if replacement == "repository":
        git(tree.path, "init", "--quiet")
        git(tree.path, "config", "core.fsmonitor", str(trap))
        git(tree.path, "config", "core.worktree", "/")
    elif replacement == "link to the user's":
        dot_git.symlink_to(repository / ".git")
    elif replacement == "link to nowhere":
        dot_git.symlink_to("/nowhere")
    elif replacement == "fifo":
        os.mkfifo(dot_git)
    elif replacement == "own":
        shutil.rmtree(private)
    (tree.path / "README.md").write_text("honest\n")
    assert tree.patch().files == ("README.md",)
    assert not sprung(trap)
    assert witness.everything(repository) == before


def test_what_is_no_file_is_left_out_and_named(repository, open_source, check_out):
    """FIFOs, sockets, git's own files as FIFOs: nothing hangs, and a tracked file stays as it was."""
    tree = check_out(open_source(repository))
    (tree.path / "README.md").unlink()
    os.mkfifo(tree.path / "README.md")
    for name in (".gitignore", ".gitattributes", ".gitmodules", "greeting/.gitignore", "greeting/.gitattributes"):
        (tree.path / name).unlink(missing_ok=True)
        os.mkfifo(tree.path / name)
    (tree.path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tree.path / "socket"))
        (tree.path / "honest").write_text("x\n")
        patch = tree.patch()
    assert patch.files == ("honest", "zero")
    assert len(patch.notes) == 1
    assert "neither file nor link" in patch.notes[0]
    assert ".gitattributes" in patch.notes[0]
    assert "and 2 more" in patch.notes[0]


def test_nested_repositories_are_left_out_and_named(repository, git, open_source, check_out, trap):
    """A clone, one without a commit, one with poison in it; edits to tracked files beside their `.git` are kept."""
    tree = check_out(open_source(repository))
    for name in ("clone", "greeting", "made/deep"):
        (tree.path / name).mkdir(parents=True, exist_ok=True)
        git(tree.path / name, "init", "--quiet")
        git(tree.path / name, "config", "core.fsmonitor", str(trap))
        (tree.path / name / "file").write_text("x\n")
    (tree.path / "fifo").mkdir()
    (tree.path / "fifo/.GIT").mkdir()
    os.mkfifo(tree.path / "fifo/.GIT/HEAD")
    (tree.path / "greeting/hello.py").write_text("tracked\n")
    (tree.path / "made/beside").write_text("x\n")
    patch = tree.patch()
    assert patch.files == ("greeting/hello.py", "made/beside")
    assert patch.notes == ("left out, repositories of their own: clone, fifo, greeting, made/deep",)
    assert not sprung(trap)


def test_a_link_in_the_place_of_a_folder_leads_nowhere(repository, open_source, check_out, tmp_path):
    """It is kept as a link; what is behind it is not read, and the files that were there count as deleted."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/hello.py").write_text("SECRET\n")
    tree = check_out(open_source(repository))
    shutil.rmtree(tree.path / "greeting")
    (tree.path / "greeting").symlink_to(tmp_path / "secret")
    (tree.path / "README.md").unlink()
    (tree.path / "README.md").symlink_to(tmp_path / "secret/hello.py")
    patch = tree.patch()
    assert "SECRET" not in patch.text
    assert "deleted file mode 100644\nindex" in patch.text
    assert {"greeting", "greeting/hello.py", "README.md"} <= {*patch.files}
    (tree.path / "greeting").unlink()
    (tree.path / "greeting").mkdir()
    (tree.path / "greeting/hello.py").write_text("back\n")
    assert "greeting" not in tree.patch().files


def test_a_link_swapped_in_while_we_look_is_not_followed(repository, open_source, check_out, tmp_path):
    """A thread that replaces a folder by a link outside, again and again, never gets the file behind it read."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/file").write_text("SECRET\n")
    tree = check_out(open_source(repository))
    stop = threading.Event()

    def swap() -> None:
        folder, link = tree.path / "folder", tree.path / "link"
        while not stop.is_set():
            folder.mkdir()
            (folder / "file").write_text("honest\n")
            shutil.rmtree(folder)
            link.symlink_to(tmp_path / "secret")
            link.rename(folder)
            folder.unlink()

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        assert not [number for number in range(100) if "SECRET" in tree.patch().text]
    finally:
        stop.set()
        swapper.join()


def test_a_worktree_that_is_gone_keeps_its_last_state(repository, open_source, check_out):
    """Removed, or a link to the user's own checkout in its place: what was kept last stands, with a note."""
    tree = check_out(open_source(repository))
    (tree.path / "README.md").write_text("kept\n")
    last = tree.snapshot("The last good one")
    tree.path.rename(tree.path.with_name("elsewhere"))
    assert tree.patch().commit == last
    tree.path.symlink_to(repository)
    patch = tree.patch()
    assert patch.commit == last
    assert patch.notes == ("left out, not readable: .",)


def test_a_worktree_nested_too_deep_is_kept_as_far_as_paths_go(repository, open_source, check_out):
    """Three thousand folders end neither the snapshot nor the removal."""
    tree = check_out(open_source(repository))
    here = os.open(tree.path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("n", dir_fd=here)
        below = os.open("n", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (tree.path / "honest").write_text("x\n")
    patch = tree.patch()
    assert patch.files == ("honest",)
    assert "paths too long" in patch.notes[0]


def test_what_cannot_be_read_is_left_out_and_named():
    """Closed files and folders, the user's and the agent's, stay as they were."""
    as_nobody(_keep_what_is_closed)


def _keep_what_is_closed() -> None:
    with scratch() as folder:
        user = folder / "user"
        (user / "shut").mkdir(parents=True)
        for name in ("kept", "closed", "shut/inside"):
            (user / name).write_text("one\n")
        (user / "unreadable").touch(mode=0)
        (user / "private").mkdir(mode=0)
        (folder / "run").mkdir()
        (folder / "agent").mkdir(mode=0o700)
        with Source.open(str(user), folder / "run") as source, source.checkout("root", folder / "agent") as tree:
            with pytest.raises(SourceError, match="private cannot be read: Permission denied"):
                with Source.open(str(user / "private"), folder / "agent"):
                    pass
            assert source.notices[1:] == ("left out, not readable: private, unreadable",)
            (tree.path / "kept").write_text("two\n")
            (tree.path / "new").write_text("x")
            for name in ("closed", "shut", "new"):
                (tree.path / name).chmod(0)
            patch = tree.patch()
            assert patch.files == ("kept",)
            assert patch.notes == ("left out, not readable: closed, new, shut",)
    assert not folder.exists()


def test_a_repository_of_hostile_names_is_checked_out_and_kept(repository, git, open_source, check_out):
    """Newlines, quotes, bytes that are no UTF-8, names that look like options or like git's magic."""
    names = [b"a b", b'q"', b"n\nl", b"\xe9", b":(icase)x", b"-f", b".gitx", b"..x", b"back\\slash", b"tab\t"]
    for name in names:
        (repository / os.fsdecode(name)).write_bytes(name)
    git(repository, "add", "--all")
    git(repository, "commit", "--message=Names")
    tree = check_out(open_source(repository))
    assert witness.files(tree.path) == witness.files(repository)
    for name in names:
        (tree.path / os.fsdecode(name)).unlink()
    assert set(tree.patch().files) == {os.fsdecode(name) for name in names}


def test_a_large_file_is_streamed(repository, open_source, check_out):
    """Longer than one piece, at the start and in the end; no byte is lost."""
    data = os.urandom(1 << 20) * 3 + b"end"
    (repository / "large").write_bytes(data)
    tree = check_out(open_source(repository))
    assert (tree.path / "large").read_bytes() == data
    (tree.path / "large").rename(tree.path / "moved")
    patch = tree.patch()
    assert "rename from large" in patch.text
    assert len(patch.text) < 1000


def test_a_file_that_shrinks_while_it_is_read_harms_nobody(repository, open_source, check_out):
    """A log that is written and emptied all the time is taken in some state, or named; the rest is kept."""
    tree = check_out(open_source(repository))
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with (tree.path / "growing").open("wb") as file:
                for _ in range(20):
                    file.write(b"x" * 300_000)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        (tree.path / "honest").write_text("x\n")
        for _ in range(10):
            assert "honest" in tree.patch().files
    finally:
        stop.set()
        writer.join()


def test_a_file_that_is_too_large_is_left_out_and_named(repository, git, open_source, check_out):
    """A new one is not taken, a tracked one stays as it was; what is just small enough is there."""
    tree = check_out(open_source(repository, settings=WorkspaceSettings(max_file_size=1000)))
    (tree.path / "README.md").write_text("x" * 1001)
    (tree.path / "large").write_text("x" * 1001)
    (tree.path / "fits").write_text("x" * 1000)
    patch = tree.patch()
    assert patch.files == ("fits",)
    assert set(patch.notes) == {
        "left out, larger than workspace.max_file_size: large",
        "left out, their changes, since they are larger than workspace.max_file_size: README.md",
    }


def test_a_snapshot_is_given_up_when_it_is_cancelled(repository, open_source, check_out):
    """In the middle of a file of 64 GB; the state before stands, and a later one is not harmed."""
    tree = check_out(open_source(repository, settings=WorkspaceSettings(max_file_size=1 << 40)))
    (tree.path / "honest").write_text("x\n")
    sparse(tree.path / "large", 64 << 30)
    started = time.monotonic()
    with pytest.raises(CancelledError, match="time limit"):
        tree.snapshot("Never", Cancellation(started + 0.5))
    assert time.monotonic() - started < 20
    (tree.path / "large").unlink()
    assert tree.patch().files == ("honest",)


def test_the_last_edits_are_read_for_as_long_as_there_is_time(repository, open_source, check_out):
    """What is small is kept before the time is up; the patch says that something is missing."""
    tree = check_out(open_source(repository, settings=WorkspaceSettings(max_file_size=1 << 40)))
    (tree.path / "honest").write_text("x\n")
    sparse(tree.path / "large", 64 << 30)
    sparse(tree.path / "larger", (1 << 40) + 1)
    started = time.monotonic()
    patch = tree.patch(Cancellation(started + 3))
    assert time.monotonic() - started < 20
    assert patch.files == ("honest",)
    assert set(patch.notes[:2]) == {
        "left out, not read when the time was up: large",
        "left out, larger than workspace.max_file_size: larger",
    }
    assert "+x\n" in tree.patch(Cancellation(time.monotonic() + 3)).text
    assert re.match(r"the last edits may be missing, .* kept: the time limit", patch.notes[-1])


def test_without_any_time_the_last_state_stands(repository, git, open_source, check_out):
    """It is kept by its ref, and said to be the last one."""
    source = open_source(repository)
    tree = check_out(source)
    (tree.path / "README.md").write_text("kept\n")
    last = tree.snapshot("The last good one")
    (tree.path / "README.md").write_text("late\n")
    cancel = Cancellation()
    cancel.cancel("enough")
    patch = tree.patch(cancel)
    assert patch.commit == last == git(source.ctl, "rev-parse", "refs/rlm/root").strip()
    assert patch.text == ""
    assert re.match(rf"the last edits may be missing, commit {last[:10]} .* kept: enough", patch.notes[0])


@pytest.mark.parametrize("name", ["HEAD", "config", "info/attributes", "info/exclude", "shallow", "refs/rlm/x"])
def test_a_fifo_in_the_runs_own_repository_holds_nobody_up(repository, open_source, check_out, name):
    """Git would wait for it; whoever wants to start from there, or to keep something there, is told instead."""
    source = open_source(repository)
    tree = check_out(source)
    (tree.path / "README.md").write_text("edited\n")
    fifo = source.ctl / name
    fifo.unlink(missing_ok=True)
    fifo.parent.mkdir(exist_ok=True)
    os.mkfifo(fifo)
    with pytest.raises(GitError, match="neither a file nor a folder"):
        tree.snapshot("Never")
    with pytest.raises(GitError, match="neither a file nor a folder"):
        check_out(source, "root.1")
    with pytest.raises(GitError, match="neither a file nor a folder"):
        tree.patch()


def test_what_nobody_asked_for_is_kept(repository, git, open_source):
    """An agent that is left in the middle, whatever it was that ended it, has its last state in its ref."""
    source = open_source(repository)

    def work(folder: Path) -> None:
        with source.checkout("root", folder) as tree:
            (tree.path / "README.md").write_text("edited\n")
            raise KeyboardInterrupt

    with scratch() as folder, pytest.raises(KeyboardInterrupt):
        work(folder)
    assert git(source.ctl, "show", "refs/rlm/root:README.md") == "edited\n"


ENDED_AT_ONCE = """
import sys
from pathlib import Path
from rlm_nb.errors import RunFolderError
from rlm_nb.workspace.scratch import remove_all, scratch
from rlm_nb.workspace.source import Source

with Source.open(sys.argv[1], Path(sys.argv[2])) as source, scratch() as folder:
    with source.checkout("root", folder) as worktree:
        worktree.path.joinpath("new").touch()
        print(worktree.snapshot("before"))
        remove_all()
        worktree.path.mkdir(parents=True)  # as it is in the midst of its removal
        try:
            worktree.patch()
        except RunFolderError as error:
            print(error)
"""


def test_what_is_removed_with_the_folder_is_not_taken_for_deleted(repository, git, tmp_path):
    """A process that has to end at once removes worktrees under agents that just then keep their edits."""
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", ENDED_AT_ONCE, repository, tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, error = done.stdout.splitlines()
    assert "is being removed" in error
    assert git(tmp_path / "run/ctl.git", "rev-parse", "refs/rlm/root").strip() == before
