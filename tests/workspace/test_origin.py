"""Whatever the user names becomes the state that a run starts from, and stays as it was."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path, PurePosixPath

import pytest

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import WorkspaceSettings
from rlm_nb.errors import CancelledError, RunFolderError, SourceError
from rlm_nb.workspace.source import Source
from tests.workspace import witness


def test_a_run_starts_from_what_the_user_sees(repository, git, open_source, check_out):
    """Staged, unstaged, deleted, untracked: all as on disk; ignored files are missing; the user's side is as before."""
    (repository / "README.md").write_text("staged\n")
    git(repository, "add", "README.md")
    (repository / "README.md").write_text("staged, then changed\n")
    (repository / "tests/test_hello.py").unlink()
    (repository / "tool").write_text("#!/bin/sh\n")
    (repository / "tool").chmod(0o755)
    (repository / "link").symlink_to("greeting/hello.py")
    (repository / "broken").symlink_to("nowhere")
    (repository / "new folder").mkdir()
    (repository / "new folder/line\nbreak").write_text("x")
    (repository / os.fsdecode(b"caf\xe9")).write_bytes(b"\0\xff")
    expected = witness.files(repository)
    (repository / "debug.log").write_text("ignored\n")
    (repository / "forced.log").write_text("tracked although ignored\n")
    git(repository, "add", "--force", "forced.log")
    expected["forced.log"] = (False, b"tracked although ignored\n")
    git(repository, "stash", "create")
    before = witness.everything(repository)

    source = open_source(repository)
    tree = check_out(source)

    assert witness.files(tree.path) == expected
    assert source.head == git(repository, "rev-parse", "HEAD").strip()
    assert source.base != source.head
    assert source.origin == str(repository)
    assert source.notices == ()
    assert tree.path == tree.workdir
    assert witness.everything(repository) == before


def test_a_clean_checkout_starts_from_its_own_commit(repository, git, open_source):
    """Nothing is uncommitted, so the base is the user's commit, and no object is written."""
    source = open_source(repository)
    assert source.base == source.head == git(repository, "rev-parse", "HEAD").strip()
    assert not [path for path in (source.ctl / "objects").rglob("*") if path.suffix == ".pack"]


def test_a_file_that_only_looks_unchanged_is_read(repository, git, open_source, check_out):
    """Same size, same time stamp, and an index told to assume the best: the bytes count."""
    file = repository / "README.md"
    git(repository, "update-index", "--assume-unchanged", "README.md")
    status = file.stat()
    file.write_bytes(file.read_bytes().swapcase())
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (check_out(open_source(repository)).path / "README.md").read_text() == "# GREETING\n\nsAYS HELLO.\n"


def test_line_endings_and_filters_leave_the_bytes_alone(repository, git, open_source, check_out, tmp_path):
    """The agent gets the bytes that the user sees; no filter runs, in either direction; its status is clean."""
    trap = tmp_path / "ran"
    for way in ("clean", "smudge", "process"):
        git(repository, "config", f"filter.big.{way}", f"touch {trap}; cat")
    git(repository, "config", "core.autocrlf", "true")
    (repository / ".gitattributes").write_text(
        "*.bin filter=big -text\n*.txt text eol=crlf ident\n*.u16 working-tree-encoding=UTF-16\n"
    )
    (repository / "a.txt").write_bytes(b"one $Id$\r\ntwo\r\n")
    (repository / "mixed").write_bytes(b"one\r\ntwo\n")
    (repository / "a.bin").write_bytes(b"\0big\r\n")
    (repository / "a.u16").write_bytes("héllo\n".encode("utf-16"))
    git(repository, "add", "--all")
    git(repository, "commit", "--message=Converted")
    trap.unlink()
    before = witness.everything(repository)
    tree = check_out(open_source(repository))
    assert witness.files(tree.path) == witness.files(repository)
    assert git(tree.path, "status", "--porcelain") == ""
    assert tree.patch().text == ""
    assert not trap.exists()
    assert witness.everything(repository) == before


def test_nothing_in_the_users_repository_is_started(repository, git, open_source, tmp_path):
    """Hooks and an fsmonitor program are for the user's own commands; reading starts none of them."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("fsmonitor", "post-index-change", "reference-transaction"):
        (hooks / name).write_text(f"#!/bin/sh\necho $0 >> {tmp_path}/ran\n")
        (hooks / name).chmod(0o755)
    git(repository, "config", "core.hooksPath", hooks)
    git(repository, "config", "core.fsmonitor", hooks / "fsmonitor")
    git(repository, "config", "core.untrackedCache", "true")
    (repository / "untracked").write_text("x\n")
    before = witness.everything(repository)
    open_source(repository)
    assert not (tmp_path / "ran").exists()
    assert witness.everything(repository) == before


def test_what_the_user_ignores_elsewhere_is_ignored(repository, git, open_source, check_out):
    """`.git/info/exclude` and the user's own ignore file count at the start, and in what the agent leaves."""
    (repository / ".git/info").mkdir(exist_ok=True)
    (repository / ".git/info/exclude").write_text("/private\n")
    own = Path.home() / ".config/git/ignore"
    own.parent.mkdir(parents=True)
    own.write_text("*.swp\n")
    try:
        for name in ("private", "a.swp", "seen"):
            (repository / name).write_text("x\n")
        tree = check_out(open_source(repository))
    finally:
        shutil.rmtree(Path.home() / ".config")
    assert {"seen"} == witness.files(tree.path).keys() - {*git(repository, "ls-files").split()}
    (tree.path / "private").write_text("x")
    (tree.path / "b.swp").write_text("x")
    assert tree.patch().files == ()
    assert git(tree.path, "status", "--porcelain") == ""


def test_a_branch_a_tag_or_a_commit_is_taken_as_it_is(repository, git, open_source, check_out):
    """The present state does not count then; a tag serves as a branch."""
    first = git(repository, "rev-parse", "HEAD").strip()
    git(repository, "tag", "--annotate", "v1", "--message=one")
    git(repository, "checkout", "--quiet", "-b", "topic/two")
    (repository / "README.md").write_text("two\n")
    git(repository, "commit", "--all", "--message=Two")
    second = git(repository, "rev-parse", "HEAD").strip()
    git(repository, "checkout", "--quiet", "main")
    (repository / "untracked").write_text("x\n")
    for wish, commit in [
        ({"branch": "topic/two"}, second),
        ({"branch": "v1"}, first),
        ({"commit": second[:9]}, second),
        ({"commit": "topic/two~1"}, first),
        ({"branch": "main", "commit": second}, second),
    ]:
        source = open_source(repository, **wish)
        assert source.base == source.head == commit, wish
    assert (check_out(source).path / "README.md").read_text() == "two\n"
    assert not (check_out(source).path / "untracked").exists()


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"branch": "mian"}, "no branch or tag 'mian'; did you mean main?"),
        ({"branch": "zzz"}, "no branch or tag 'zzz'; it has main"),
        ({"branch": "HEAD~1"}, "no branch or tag"),
        ({"commit": "1234567"}, "no commit '1234567'"),
        ({"commit": "--all"}, "no commit '--all'"),
    ],
)
def test_an_unknown_branch_or_commit_is_named(repository, open_source, wish, said, tmp_path):
    """With the branches that come near; and the run's folder is left empty."""
    with pytest.raises(SourceError, match=said.replace("?", r"\?")):
        open_source(repository, **wish)
    assert list((tmp_path / "run-0").iterdir()) == []


def test_a_folder_without_git_is_copied(tmp_path, open_source, check_out, git):
    """And said so; its `.gitignore` counts; it stays as it was."""
    folder = tmp_path / "plain"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/file").write_text("one\n")
    (folder / ".gitignore").write_text("*.log\n")
    (folder / "a.log").write_text("ignored\n")
    before = witness.everything(folder)
    source = open_source(folder)
    tree = check_out(source)
    assert witness.files(tree.path).keys() == {".gitignore", "sub/file"}
    assert source.notices == (f"{folder} is not a git repository: its files were copied",)
    assert source.head == ""
    assert git(tree.path, "status", "--porcelain") == ""
    assert witness.everything(folder) == before
    with pytest.raises(SourceError, match="not a git repository: it has no 'main'"):
        open_source(folder, branch="main")


def test_a_folder_that_its_repository_ignores_is_copied(repository, open_source, check_out):
    """The repository around it holds nothing of it."""
    (repository / ".gitignore").write_text("/build/\n")
    (repository / "build").mkdir()
    (repository / "build/made").write_text("x\n")
    source = open_source(repository / "build")
    assert "ignored by the repository around it" in source.notices[0]
    assert witness.files(check_out(source).path).keys() == {"made"}


def test_a_repository_without_a_commit_starts_from_its_files(tmp_path, git, open_source, check_out):
    """With a notice; and one with no files either is refused."""
    folder = tmp_path / "new"
    folder.mkdir()
    git(folder, "init", "--quiet")
    with pytest.raises(SourceError, match="empty"):
        open_source(folder)
    (folder / "file").write_text("one\n")
    git(folder, "add", "--intent-to-add", "file")
    (folder / "empty").touch()
    git(folder, "add", "--intent-to-add", "empty")
    before = witness.everything(folder)
    source = open_source(folder)
    assert witness.files(check_out(source).path).keys() == {"empty", "file"}
    assert "no commit yet" in source.notices[0]
    assert source.head == ""
    assert witness.everything(folder) == before


def test_a_subfolder_stands_for_its_repository(repository, open_source, check_out):
    """The whole repository is there, and the agent starts where the user pointed."""
    (repository / "greeting/new\nplace").mkdir()
    source = open_source(repository / "greeting/new\nplace")
    tree = check_out(source)
    assert source.subfolder == PurePosixPath("greeting/new\nplace")
    assert tree.workdir == tree.path / "greeting/new\nplace"
    assert tree.workdir.is_dir()
    assert (tree.path / "README.md").is_file()


def test_the_place_to_start_is_never_behind_a_link(repository, git, open_source, check_out, tmp_path):
    """Where the commit has a link in the place of the subfolder, the agent starts above it."""
    git(repository, "checkout", "--quiet", "-b", "linked")
    shutil.rmtree(repository / "greeting")
    (repository / "greeting").symlink_to(tmp_path)
    git(repository, "add", "--all")
    git(repository, "commit", "--message=A link")
    git(repository, "checkout", "--quiet", "main")
    tree = check_out(open_source(repository / "greeting", branch="linked"))
    assert tree.workdir == tree.path


def test_a_detached_head_and_a_linked_worktree_are_sources(repository, git, open_source, check_out, tmp_path):
    """What counts is the checkout that was named, not the one it is linked to."""
    linked = tmp_path / "linked"
    git(repository, "worktree", "add", "--quiet", "--detach", linked)
    (linked / "README.md").write_text("linked\n")
    git(linked, "commit", "--all", "--message=Linked")
    (linked / "untracked").write_text("x\n")
    before = witness.everything(repository), witness.everything(linked)
    source = open_source(linked)
    tree = check_out(source)
    assert witness.files(tree.path) == witness.files(linked)
    assert source.head == git(linked, "rev-parse", "HEAD").strip()
    assert git(tree.path, "log", "--format=%s").split("\n")[1:3] == ["Linked", "Greet"]
    assert (witness.everything(repository), witness.everything(linked)) == before


def test_a_bare_repository_starts_from_its_head(repository, git, open_source, check_out, tmp_path):
    """With a notice, and from another branch when one is named."""
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "--quiet", "--bare", repository, bare)
    source = open_source(bare)
    assert "bare repository" in source.notices[0]
    assert (check_out(source).path / "README.md").is_file()
    with pytest.raises(SourceError, match="no branch or tag 'other'"):
        open_source(bare, branch="other")
    git(tmp_path, "init", "--quiet", "--bare", "empty.git")
    with pytest.raises(SourceError, match="empty"):
        open_source(tmp_path / "empty.git")


def test_submodules_and_nested_repositories_are_left_out_and_named(repository, git, open_source, check_out, tmp_path):
    """The link to the submodule's commit stays; what the agent puts there is no part of its patch."""
    library = tmp_path / "library"
    shutil.copytree(repository, library)
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", library, "vendor/lib")
    git(repository, "commit", "--message=A submodule")
    (repository / "scratch repo").mkdir()
    git(repository / "scratch repo", "init", "--quiet")
    (repository / "scratch repo/file").write_text("x\n")
    before = witness.everything(repository)
    source = open_source(repository)
    assert "submodules are left out: vendor/lib" in source.notices
    assert any("repositories of their own" in notice and "scratch repo" in notice for notice in source.notices)
    tree = check_out(source)
    assert not (tree.path / "scratch repo").exists()
    assert list((tree.path / "vendor/lib").iterdir()) == []
    assert git(tree.path, "status", "--porcelain") == ""
    (tree.path / "vendor/lib/file").write_text("x")
    patch = tree.patch()
    assert patch.files == ()
    assert patch.notes == ("left out, inside a submodule: vendor/lib",)
    shutil.rmtree(tree.path / "vendor")
    assert tree.patch().files == ()
    assert witness.everything(repository) == before


@pytest.mark.parametrize("index", ["--sparse-index", "--no-sparse-index"])
def test_a_sparse_checkout_stays_sparse(repository, git, open_source, check_out, index):
    """Only what the user has on disk is checked out, and the rest does not count as deleted."""
    git(repository, "sparse-checkout", "set", "--cone", index, "greeting")
    before = witness.modes_and_bytes(repository)
    tree = check_out(open_source(repository))
    assert witness.files(tree.path) == witness.files(repository)
    assert not (tree.path / "tests").exists()
    assert git(tree.path, "status", "--porcelain") == ""
    assert tree.patch().files == ()
    (tree.path / "tests").mkdir()
    (tree.path / "tests/new").write_text("x\n")
    assert tree.patch().files == ("tests/new",)
    assert witness.modes_and_bytes(repository) == before


def test_a_merge_in_progress_is_taken_with_its_markers(repository, git, open_source, check_out):
    """The user sees a conflict, and so does the agent."""
    for branch, text in (("main", "ours\n"), ("side", "theirs\n")):
        git(repository, "checkout", "--quiet", "-B", branch, *(["main~1"] if branch == "side" else []))
        (repository / "README.md").write_text(text)
        git(repository, "commit", "--all", "--message=Mine")
    with pytest.raises(AssertionError, match="git"):
        git(repository, "merge", "main")
    before = witness.everything(repository)
    assert "<<<<<<<" in (check_out(open_source(repository)).path / "README.md").read_text()
    assert witness.everything(repository) == before


def test_split_indexes_and_shallow_clones_are_read(repository, git, open_source, check_out, tmp_path):
    """However git keeps its index and its history."""
    (repository / "README.md").write_text("two\n")
    git(repository, "commit", "--all", "--message=Two")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{repository}", shallow)
    git(shallow, "update-index", "--split-index")
    (shallow / "new").write_text("x\n")
    before = witness.modes_and_bytes(shallow)
    tree = check_out(open_source(shallow))
    assert witness.files(tree.path) == witness.files(shallow)
    assert git(tree.path, "log", "--format=%s").split("\n")[1:] == ["Two", ""]
    assert witness.modes_and_bytes(shallow) == before


def test_a_sha256_repository_is_a_source(tmp_path, git, open_source, check_out):
    """The run's repository and the agent's name objects as the user's does."""
    folder = tmp_path / "sha256"
    folder.mkdir()
    git(folder, "init", "--quiet", "--object-format=sha256")
    (folder / "file").write_text("one\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--message=One")
    (folder / "file").write_text("two\n")
    source = open_source(folder)
    tree = check_out(source)
    assert len(source.base) == 64
    assert git(tree.path, "status", "--porcelain") == ""
    (tree.path / "file").write_text("three\n")
    assert "+three" in tree.patch().text


def test_runs_inside_the_checkout_are_no_part_of_it(repository, git):
    """Neither this run nor those recorded before; what else is in a folder of that name stays."""
    run_folder = repository / "runs/two"
    run_folder.mkdir(parents=True)
    for name, file, text in (
        ("one", "run.json", '{"version": 1, "id": "x", "task": "x", "base": "x"}'),
        ("20260101-120000-0a1b", "root.ipynb", "{}"),
        ("20260101-120000-0a1c", "ctl.git/HEAD", "x"),
        ("experiment", "run.json", '{"id": "x"}'),
        ("notebooks", "root.ipynb", "{}"),
        ("broken", "run.json", "{"),
    ):
        (repository / "runs" / name / file).parent.mkdir(parents=True)
        (repository / "runs" / name / file).write_text(text)
    (repository / "runs/notes.md").write_text("not committed\n")
    (repository / "runs/kept.md").write_text("committed\n")
    git(repository, "add", "--force", "runs/kept.md")
    git(repository, "commit", "--message=Keep")
    (repository / "run.md").write_text("not a run\n")
    with Source.open(str(repository), run_folder, runs_dir=repository / "runs") as source:
        held = git(source.ctl, "ls-tree", "-r", "--name-only", source.base).split()
    theirs = {"broken/run.json", "experiment/run.json", "kept.md", "notebooks/root.ipynb", "notes.md"}
    assert {name for name in held if name.startswith("run")} == {"run.md", *(f"runs/{name}" for name in theirs)}


def test_a_run_folder_that_cannot_be_written_is_an_error(repository, tmp_path):
    """A second opening in the same folder, for one, is refused."""
    (tmp_path / "ctl.git").mkdir()
    with pytest.raises(RunFolderError, match=r"ctl\.git cannot be written: File exists"):
        with Source.open(str(repository), tmp_path):
            pass


def test_names_of_nothing_get_a_clear_sentence(tmp_path, open_source):
    """No such folder, a file, an option: each is said."""
    (tmp_path / "file").write_text("x")
    for where, said in [
        (tmp_path / "missing", "no such folder"),
        ("ext::sh -c id", "no such folder"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "file/below", "is a file"),
        ("~nobody-of-that-name/x", "no such folder"),
        ("", "not a folder or a URL"),
        ("--upload-pack=evil", "not a folder or a URL"),
    ]:
        with pytest.raises(SourceError, match=said):
            open_source(where)


def test_a_damaged_repository_is_not_taken_for_a_plain_folder(repository, open_source):
    """What git says about it reaches the user."""
    (repository / ".git/config").write_text("[core]\n\trepositoryformatversion = 99\n")
    with pytest.raises(SourceError, match="git cannot read this repository"):
        open_source(repository)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_repository_of_another_user_is_named(repository, open_source):
    """Git does not trust it; the message names it and says how to. A user who does is believed."""
    for path in [repository, *repository.rglob("*")]:
        os.chown(path, 65534, 65534, follow_symlinks=False)
    with pytest.raises(SourceError, match=f"{repository} belongs to another user"):
        open_source(repository)
    trusting = Path.home() / ".gitconfig"
    trusting.write_text(f"[safe]\n\tdirectory = {repository}\n")
    try:
        assert open_source(repository).head
    finally:
        trusting.unlink()


def test_a_commit_with_filters_says_that_none_was_run(repository, git, open_source):
    """Files kept by Git LFS stay pointers when a commit is asked for, and the user is told."""
    (repository / ".gitattributes").write_text("# comment filter=none\n*.bin filter=lfs diff=lfs merge=lfs -text\n")
    git(repository, "add", "--all")
    git(repository, "commit", "--message=LFS")
    assert any("filter lfs" in notice for notice in open_source(repository, branch="main").notices)
    assert open_source(repository).notices == ()


def test_a_file_that_is_too_large_to_start_with_is_left_out_and_named(repository, git, open_source, check_out):
    """A tracked one is as it was committed."""
    (repository / "large").write_text("x" * 1001)
    (repository / "README.md").write_text("x" * 1001)
    source = open_source(repository, settings=WorkspaceSettings(max_file_size=1000))
    assert set(source.notices) == {
        "left out, larger than workspace.max_file_size: large",
        "left out, their changes, since they are larger than workspace.max_file_size: README.md",
    }
    tree = check_out(source)
    assert not (tree.path / "large").exists()
    assert (tree.path / "README.md").read_text() == "# greeting\n\nSays hello.\n"


@pytest.mark.parametrize("tracked", [True, False])
def test_opening_ends_when_it_is_cancelled(repository, git, tmp_path, tracked):
    """In the middle of a file of 64 GB; nothing is left of it."""
    with (repository / "large").open("wb") as file:
        if tracked:
            git(repository, "add", "large")
        file.truncate(64 << 30)
    started = time.monotonic()
    settings = WorkspaceSettings(max_file_size=1 << 40)
    with pytest.raises(CancelledError, match="time limit"):
        with Source.open(str(repository), tmp_path, settings=settings, cancel=Cancellation(started + 0.5)):
            pass
    assert time.monotonic() - started < 20
    assert not (tmp_path / "ctl.git").exists()


def test_ignored_files_that_are_included(repository, open_source, check_out):
    """They are taken from the checkout and, new ones too, from a worktree; other ignored ones and keys are not."""
    (repository / ".gitignore").write_text("/data/\n*.log\n.env\nlocal.toml\n")
    (repository / "data/deep").mkdir(parents=True)
    for name in ("data/a.csv", "data/a.bin", "data/deep/b.csv", "noise.log", "local.toml", "data/.env", ".env"):
        (repository / name).write_text("one\n")
    settings = WorkspaceSettings(include=("data/**/*.csv", "/local.toml", "data/.e*"))
    source = open_source(repository, settings=settings)
    tree = check_out(source)
    assert not {"data/a.bin", "noise.log", "data/.env", ".env"} & witness.files(tree.path).keys()
    for name in ("data/a.csv", "data/deep/b.csv", "local.toml"):
        assert (tree.path / name).read_text() == "one\n"
        (tree.path / name).write_text("two\n")
    for name in ("data/deep/new.csv", "data/new.bin", "new.log", "greeting/local.toml"):
        (tree.path / name).write_text("new\n")
    assert tree.patch().files == ("data/a.csv", "data/deep/b.csv", "data/deep/new.csv", "local.toml")
    included = open_source(repository, settings=WorkspaceSettings(include=("/.env",)))
    assert (check_out(included).path / ".env").read_text() == "one\n"
