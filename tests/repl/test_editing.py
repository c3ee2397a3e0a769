"""`edit_file` on real files: what it changes, and where it does not go."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from rlm_nb.repl.editing import edit_file


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    folder = tmp_path / "work tree"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "app.py").write_text("a = 1\nb = 2\nc = 2\n")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("untouched")
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_one_replacement(workdir: Path) -> None:
    """The text changes, the sentence says what did, and nothing else appears in the folder."""
    assert edit_file("src/app.py", "a = 1", "a = 10", workdir=workdir) == "src/app.py: replaced 1 occurrence"
    assert (workdir / "src/app.py").read_text() == "a = 10\nb = 2\nc = 2\n"
    assert files(workdir) == ["src", "src/app.py"]


def test_paths_of_any_kind(workdir: Path) -> None:
    """Relative, absolute, as a `Path`, and with `..` that stays inside."""
    for path in (workdir / "src" / "app.py", str(workdir / "src" / "app.py"), Path("src/app.py"), "src/../src/app.py"):
        edit_file(path, "a = 1\n", "a = 2\n", workdir=workdir)
        edit_file(path, "a = 2\n", "a = 1\n", workdir=workdir)


def test_not_unique(workdir: Path) -> None:
    """What is there twice is not replaced, unless told."""
    with pytest.raises(ValueError, match=r"src/app.py: the text to replace is there 2 times; .* replace_all=True"):
        edit_file("src/app.py", "= 2", "= 3", workdir=workdir)
    assert edit_file("src/app.py", "= 2", "= 3", workdir=workdir, replace_all=True).endswith("replaced 2 occurrences")
    assert (workdir / "src/app.py").read_text() == "a = 1\nb = 3\nc = 3\n"


def test_missing_text(workdir: Path) -> None:
    """An `old` that is not there changes nothing, with `replace_all` too."""
    for replace_all in (False, True):
        with pytest.raises(ValueError, match="not in the file; read it again"):
            edit_file("src/app.py", "a  = 1", "x", workdir=workdir, replace_all=replace_all)


def test_unchanged_text(workdir: Path) -> None:
    """To replace a text by itself is a mistake of whoever asks."""
    with pytest.raises(ValueError, match="old and new are the same"):
        edit_file("src/app.py", "a = 1", "a = 1", workdir=workdir)


def test_deleting(workdir: Path) -> None:
    """An empty `new` takes the text out, down to an empty file."""
    edit_file("src/app.py", "a = 1\nb = 2\nc = 2\n", "", workdir=workdir)
    assert (workdir / "src/app.py").read_bytes() == b""


def test_creating(workdir: Path) -> None:
    """An empty `old` makes a file and the folders on the way; an empty file may be filled, a full one not."""
    before = os.umask(0o027)
    try:
        assert edit_file("new/deep/x.txt", "", "hello\n", workdir=workdir) == "new/deep/x.txt: created"
    finally:
        os.umask(before)
    made = workdir / "new/deep/x.txt"
    assert made.read_text() == "hello\n"
    assert stat.S_IMODE(made.stat().st_mode) == 0o640
    with pytest.raises(FileExistsError, match=r"'new/deep/x\.txt' exists; say in `old`"):
        edit_file("new/deep/x.txt", "", "again", workdir=workdir)
    (workdir / "empty").touch()
    edit_file("empty", "", "text", workdir=workdir)
    assert (workdir / "empty").read_text() == "text"


def test_no_such_file(workdir: Path) -> None:
    """The error says how to make one."""
    with pytest.raises(FileNotFoundError, match=r"no file 'src/nowhere\.py'; to make one, pass old=''"):
        edit_file("src/nowhere.py", "a", "b", workdir=workdir)


@pytest.mark.parametrize("old", ["", "a"])
def test_what_is_no_file(workdir: Path, old: str) -> None:
    """A folder and a FIFO are neither read, nor written, nor waited for."""
    os.mkfifo(workdir / "fifo")
    for path in ("src", "fifo"):
        with pytest.raises(ValueError, match=f"'{path}' is not a file"):
            edit_file(path, old, "b", workdir=workdir)


@pytest.mark.parametrize("old", ["", "untouched"])
def test_the_way_out(workdir: Path, old: str) -> None:
    """`..`, absolute paths, and links to files and folders outside: all refused, existing or not."""
    outside = workdir.parent / "outside"
    (workdir / "link").symlink_to(outside / "secret.txt")
    (workdir / "folder").symlink_to(outside)
    (workdir / "dangling").symlink_to(outside / "new.txt")
    (workdir / "hop").symlink_to("folder/secret.txt")
    before = files(outside)
    for path in (
        "../outside/secret.txt",
        "src/../../outside/new.txt",
        str(outside / "secret.txt"),
        "/etc/passwd",
        "link",
        "folder/secret.txt",
        "folder/new.txt",
        "dangling",
        "hop",
        f"../{workdir.name}-sibling/x",
        ".",
        "",
    ):
        with pytest.raises(PermissionError, match="outside the worktree"):
            edit_file(path, old, "changed", workdir=workdir)
    assert files(outside) == before
    assert (outside / "secret.txt").read_text() == "untouched"


def test_links_inside(workdir: Path) -> None:
    """A link to a file of the worktree stays a link; its target changes. So it is when the worktree itself is one."""
    (workdir / "link.py").symlink_to("src/app.py")
    assert edit_file("link.py", "a = 1", "a = 5", workdir=workdir).startswith("src/app.py:")
    assert (workdir / "link.py").is_symlink()
    assert "a = 5" in (workdir / "src/app.py").read_text()
    alias = workdir.parent / "alias"
    alias.symlink_to(workdir)
    edit_file("src/app.py", "a = 5", "a = 6", workdir=alias)
    edit_file(alias / "src/app.py", "a = 6", "a = 7", workdir=alias)


@pytest.mark.parametrize("path", [".git", ".git/config", ".git/hooks/pre-commit", "sub/.git/config", ".GIT/config"])
def test_git_is_gits(workdir: Path, path: str) -> None:
    """What belongs to git is left to git; what is only named like it is not."""
    with pytest.raises(PermissionError, match="belongs to git"):
        edit_file(path, "", "x", workdir=workdir)
    edit_file(".gitignore", "", "*.log\n", workdir=workdir)
    edit_file(".github/workflows/x.yml", "", "on: push\n", workdir=workdir)


def test_windows_line_ends(workdir: Path) -> None:
    """In a file with `\\r\\n`, a text with `\\n` is found, and what is put in gets the file's line ends."""
    file = workdir / "dos.txt"
    file.write_bytes(b"one\r\ntwo\r\nthree\r\n")
    edit_file("dos.txt", "one\ntwo\n", "1\n2\n2.5\r\n", workdir=workdir)
    assert file.read_bytes() == b"1\r\n2\r\n2.5\r\nthree\r\n"


def test_unix_line_ends(workdir: Path) -> None:
    """And the other way round: no `\\r` gets into a file that has none."""
    edit_file("src/app.py", "a = 1\r\n", "a = 1\r\naa = 1\r\n", workdir=workdir)
    assert (workdir / "src/app.py").read_bytes() == b"a = 1\naa = 1\nb = 2\nc = 2\n"


def test_mixed_line_ends(workdir: Path) -> None:
    """In a file with both, texts are taken as they stand."""
    file = workdir / "mixed.txt"
    file.write_bytes(b"one\r\ntwo\nthree\r\n")
    edit_file("mixed.txt", "one\r\ntwo\n", "1\r\n2\n", workdir=workdir)
    assert file.read_bytes() == b"1\r\n2\nthree\r\n"


def test_bytes_around_an_edit_stay(workdir: Path) -> None:
    """A byte order mark, form feeds, a missing last newline: all as before."""
    file = workdir / "odd.txt"
    file.write_bytes("\ufeffnaïve\x0c\x00 old \u2028end".encode())
    edit_file("odd.txt", " old ", " new ", workdir=workdir)
    assert file.read_bytes() == "\ufeffnaïve\x0c\x00 new \u2028end".encode()


def test_not_utf8(workdir: Path) -> None:
    """A binary is not guessed at, and not changed."""
    file = workdir / "image.png"
    file.write_bytes(b"\x89PNG\r\n\xff old")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        edit_file("image.png", "old", "new", workdir=workdir)
    assert file.read_bytes() == b"\x89PNG\r\n\xff old"


@pytest.mark.parametrize("mode", [0o755, 0o600, 0o444])
def test_modes_stay(workdir: Path, mode: int) -> None:
    """An executable stays executable, a private file private."""
    file = workdir / "src/app.py"
    file.chmod(mode)
    edit_file("src/app.py", "a = 1", "a = 2", workdir=workdir)
    assert stat.S_IMODE(file.stat().st_mode) == mode


def test_long_and_odd_names(workdir: Path) -> None:
    """As long as the system allows, with spaces and newlines."""
    for name in ("n" * 255, " a\nb ", "naïve 🐍.txt"):
        edit_file(name, "", "old", workdir=workdir)
        edit_file(name, "old", "new", workdir=workdir)
        assert (workdir / name).read_text() == "new"


def test_what_cannot_be_written(workdir: Path) -> None:
    """A failure in the middle leaves the old file, and nothing beside it."""
    before = files(workdir)
    for path, old in (("src/app.py", "a = 1"), ("src/fresh.py", "")):
        with pytest.raises(UnicodeEncodeError):
            edit_file(path, old, "\ud800", workdir=workdir)
    assert files(workdir) == before
    assert (workdir / "src/app.py").read_text() == "a = 1\nb = 2\nc = 2\n"
