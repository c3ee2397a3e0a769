"""A patch leads from the start state to the end state, with nothing but plain `git apply`."""

from __future__ import annotations

import os
import shutil

from rlm_nb.workspace.git import controlled
from rlm_nb.workspace.patch import between
from tests.workspace import witness

HARD_NAMES = [
    b"with space",
    b'quote"d',
    b"new\nline",
    b"latin-\xe9",
    b"\xff\xfe",
    b":(icase)x",
    b"-rf",
    "snow-☃".encode(),
]


def test_a_patch_applies_to_a_copy_of_the_start_state(repository, git, open_source, check_out, tmp_path):
    """Binary files, renames, deletions, modes, links and names in any bytes arrive as the agent left them."""
    (repository / "picture.bin").write_bytes(bytes(range(256)) * 40)
    (repository / "long.txt").write_text("".join(f"line {n}\n" for n in range(100)))
    (repository / "dos.txt").write_bytes(b"one\r\ntwo\r\nthree\r\n")
    (repository / "latin.txt").write_bytes(b"caf\xe9\n")
    (repository / "folder").mkdir()
    (repository / "folder/inside").write_text("in\n")
    copy = shutil.copytree(repository, tmp_path / "copy", symlinks=True)
    tree = check_out(open_source(repository))

    (tree.path / "picture.bin").write_bytes(bytes(range(255, -1, -1)) * 50)
    (tree.path / "long.txt").rename(tree.path / "renamed.txt")
    (tree.path / "dos.txt").write_bytes(b"one\r\n2\r\nthree\r\n")
    (tree.path / "latin.txt").write_bytes(b"caf\xe9 cr\xe8me")
    (tree.path / "README.md").unlink()
    (tree.path / "greeting/hello.py").chmod(0o755)
    (tree.path / "link").symlink_to("greeting/hello.py")
    (tree.path / "nothing").touch()
    shutil.rmtree(tree.path / "folder")
    (tree.path / "folder").write_text("now a file\n")
    for name in HARD_NAMES:
        (tree.path / os.fsdecode(name)).write_bytes(name)

    patch = tree.patch()
    file = tmp_path / "changes.patch"
    file.write_text(patch.text, encoding="utf-8", errors="surrogateescape", newline="")
    git(copy, "apply", file)

    assert witness.files(copy) == witness.files(tree.path)
    assert patch.notes == ()
    assert patch.files == tuple(sorted(patch.files))
    assert {"long.txt", "renamed.txt", "README.md", "folder", "folder/inside", "greeting/hello.py"} <= {*patch.files}
    assert {os.fsdecode(name) for name in HARD_NAMES} <= {*patch.files}
    assert "rename from long.txt" in patch.text


def test_no_change_is_an_empty_patch(repository, open_source, check_out):
    """An agent that only read has nothing to bring home."""
    source = open_source(repository)
    patch = check_out(source).patch()
    assert (patch.text, patch.files, patch.notes) == ("", (), ())
    assert patch.base == patch.commit == source.base


def test_attributes_of_an_agent_do_not_bend_the_patch(repository, git, open_source, check_out, tmp_path):
    """Whatever `.gitattributes` says of diffs, text and binary, the patch leads to the same bytes."""
    (repository / "a.txt").write_text("one\n")
    copy = shutil.copytree(repository, tmp_path / "copy", symlinks=True)
    tree = check_out(open_source(repository))
    (tree.path / ".gitattributes").write_text(
        "*.txt -diff eol=crlf ident\n*.bin diff=evil text working-tree-encoding=UTF-16\n"
    )
    (tree.path / "a.txt").write_text("$Id$\n")
    (tree.path / "b.bin").write_bytes(b"\0\r\n\xff\n")
    file = tmp_path / "changes.patch"
    patch = tree.patch()
    assert "+$Id$\n" in patch.text
    file.write_text(patch.text, encoding="utf-8", errors="surrogateescape", newline="")
    git(copy, "-c", "core.attributesFile=/dev/null", "apply", "--exclude=.gitattributes", file)
    assert (copy / "a.txt").read_bytes() == b"$Id$\n"
    assert (copy / "b.bin").read_bytes() == b"\0\r\n\xff\n"


def test_an_ignored_file_is_no_part_of_a_patch(repository, open_source, check_out):
    """What the rules at the start, or those that the agent adds, ignore stays away; what is tracked does not."""
    tree = check_out(open_source(repository))
    (tree.path / "debug.log").write_text("noise\n")
    (tree.path / "new").mkdir()
    (tree.path / "new/.gitignore").write_text("/out\n!kept.log\n")
    (tree.path / "new/out").mkdir()
    (tree.path / "new/out/a").write_text("noise\n")
    (tree.path / "new/kept.log").write_text("signal\n")
    (tree.path / ".gitignore").write_text("*.log\nREADME.md\n")
    (tree.path / "README.md").write_text("tracked, so still followed\n")
    assert set(tree.patch().files) == {".gitignore", "README.md", "new/.gitignore", "new/kept.log"}


def test_a_patch_that_is_too_long_has_the_files_that_fit(repository, git, open_source, check_out, tmp_path):
    """The others are named, and none is there in part, not even a file that became a link: two sections of a patch."""
    (repository / "long").write_text("line\n" * 1000)
    git(repository, "add", "--all")
    git(repository, "commit", "--message=Long")
    copy = shutil.copytree(repository, tmp_path / "copy", symlinks=True)
    source = open_source(repository)
    tree = check_out(source)
    (tree.path / "a").write_text("diff --git a/x b/x\n")
    (tree.path / "b").write_text("x" * 5000)
    (tree.path / "long").unlink()
    (tree.path / "long").symlink_to("a")
    (tree.path / "z.bin").write_bytes(b"\0one")
    commit = tree.snapshot("All of it")
    ours = controlled(source.ctl)
    patch = between(ours, source.base, commit, ("before",), most=2000)
    assert patch.files == ("a", "b", "long", "z.bin")
    assert patch.notes == (
        "before",
        f"left out of the patch for its size, but kept in commit {commit[:10]} of the run's ctl.git: b, long",
    )
    file = tmp_path / "changes.patch"
    file.write_text(patch.text, encoding="utf-8", errors="surrogateescape", newline="")
    git(copy, "apply", file)
    assert git(copy, "status", "--porcelain").split() == ["??", "a", "??", "z.bin"]


def test_a_file_that_git_could_not_compare_is_no_part_of_the_patch(repository, git, open_source, check_out):
    """Deleted or replaced, it is named; only moved, it is there. The rest of the patch is not lost with it."""
    for name in ("deleted", "replaced", "moved"):
        (repository / name).write_text(f"{name}\n" * 1000)
    git(repository, "add", "--all")
    git(repository, "commit", "--message=Large")
    source = open_source(repository)
    tree = check_out(source)
    (tree.path / "deleted").unlink()
    (tree.path / "replaced").write_text("small\n")
    (tree.path / "moved").rename(tree.path / "there")
    (tree.path / "README.md").write_text("edited\n")
    patch = between(controlled(source.ctl), source.base, tree.snapshot("All of it"), largest=5000)
    assert patch.files == ("README.md", "deleted", "moved", "replaced", "there")
    assert patch.notes[0].endswith("ctl.git: deleted, replaced")
    assert "+edited" in patch.text
    assert "rename from moved" in patch.text
    assert patch.text.count("diff --git") == 2
