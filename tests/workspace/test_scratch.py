"""Folders go away whatever is in them, and nothing outside them does."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from rlm_nb.workspace.scratch import abandoned, remove_abandoned, remove_tree, scratch
from tests.workspace.nobody import as_nobody


def nest(folder: Path, depth: int) -> None:
    """Folders in folders, deeper than any path can say."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("n", dir_fd=here)
        below = os.open("n", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o000, dir_fd=here))
    os.close(here)


def test_a_scratch_folder_is_its_owners_alone_and_gone_after_a_failure():
    """0700 while it lasts; the exception passes through."""
    with pytest.raises(RuntimeError, match="on purpose") as raised, scratch() as folder:
        raise RuntimeError(f"on purpose: {folder.name} {stat.S_IMODE(folder.stat().st_mode):o}")
    assert re.search(r"on purpose: rlm-\S+ 700", str(raised.value))
    assert not folder.exists()


@pytest.mark.skipif(shutil.which("lsattr") is None, reason="e2fsprogs is not installed")
def test_a_scratch_folder_spreads_what_is_made_in_it(tmp_path: Path) -> None:
    """It has the flag of a top directory where the file system knows that, and is made all the same elsewhere."""

    def flags(folder: Path) -> str:
        listed = subprocess.run(["lsattr", "-d", folder], capture_output=True, text=True, check=False)
        return listed.stdout.partition(" ")[0]

    has_flags = subprocess.run(["chattr", "+T", tmp_path], capture_output=True, check=False).returncode == 0
    with scratch() as folder:
        if folder.stat().st_dev == tmp_path.stat().st_dev:
            assert ("T" in flags(folder)) == has_flags


def test_three_thousand_nested_folders_go(tmp_path):
    """Neither the depth of Python's stack nor the length of a path is a limit."""
    (tmp_path / "deep").mkdir()
    nest(tmp_path / "deep", 3000)
    assert remove_tree(tmp_path / "deep")
    assert not (tmp_path / "deep").exists()


def test_folders_that_nobody_may_enter_go():
    """Mode 000, read-only folders and read-only files are no obstacle to their owner."""
    as_nobody(_remove_what_is_closed)


def _remove_what_is_closed() -> None:
    with scratch() as folder:
        for name in ("shut", "unwritable", "shut/inside"):
            (folder / name).mkdir()
            (folder / name / "file").touch(mode=0o400)
        (folder / "shut/inside").chmod(0)
        (folder / "shut").chmod(0)
        (folder / "unwritable").chmod(0o500)
    assert not folder.exists()


def test_nothing_behind_a_link_is_touched(tmp_path):
    """Links to folders and files outside are removed, not followed; so are sockets and FIFOs."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    (tmp_path / "precious").write_text("kept")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "folder").symlink_to(outside)
    (inside / "file").symlink_to(tmp_path / "precious")
    (inside / "dangling").symlink_to("nowhere")
    os.mkfifo(inside / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(inside / "s"))
    assert remove_tree(inside)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500
    assert (tmp_path / "precious").read_text() == "kept"

    (tmp_path / "link").symlink_to(outside)
    assert remove_tree(tmp_path / "link")
    assert outside.is_dir()
    assert remove_tree(tmp_path / "never was")


def test_what_the_system_does_not_let_go_of_is_told():
    """An immutable file stays, with the folder around it; everything else goes, and somebody is told."""
    said: list[str] = []
    with scratch(said.append) as folder:
        (folder / "goes").touch()
        (folder / "stays").touch()
        if subprocess.run(["chattr", "+i", folder / "stays"], capture_output=True).returncode:
            pytest.skip("only root, and not on every file system")
    try:
        assert [path.name for path in folder.iterdir()] == ["stays"]
        assert said == [
            f"the temporary folder {folder} could not be removed whole: it holds a mount point, or files that may not "
            "be removed (chattr +i)"
        ]
    finally:
        subprocess.run(["chattr", "-i", folder / "stays"], check=True)
        assert remove_tree(folder)


def test_files_that_come_and_go_meanwhile_do_no_harm(tmp_path):
    """Something still writes and deletes below while it is removed; when that ends, one more call finishes."""
    folder = tmp_path / "busy"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number}").mkdir()
        (folder / f"{number}/file").touch()
    stop = threading.Event()

    def bustle() -> None:
        while not stop.is_set():
            for number in range(200):
                try:
                    (folder / f"{number}").mkdir(parents=True, exist_ok=True)
                    (folder / f"{number}/file").touch()
                    (folder / f"{number}/file").unlink()
                except OSError:
                    continue

    writer = threading.Thread(target=bustle)
    writer.start()
    try:
        remove_tree(folder)
    finally:
        stop.set()
        writer.join()
    assert remove_tree(folder)


def test_folders_where_paths_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of sockets stand elsewhere when the temporary folder has a long path; they are found there, too."""
    code = "import tempfile; from rlm_nb.processes import mark; print(tempfile.mkdtemp(prefix=mark(), dir='/tmp'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert Path(done.stdout.strip()) in abandoned()
    remove_abandoned()
    assert not Path(done.stdout.strip()).exists()


def test_folders_of_processes_that_were_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a killed process is removed by the next one; those of the living, and others' folders, stay."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    code = "from rlm_nb.workspace.scratch import scratch\nwith scratch() as f:\n    print(f, flush=True); input()"
    others = [tmp_path / "rlm-notes", tmp_path / "rlm-1-2-x-y", tmp_path / f"rlm-{os.getpid()}-1-fffff-abc"]
    for other in others:
        other.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        with scratch() as own:
            remove_abandoned()
            assert folder.is_dir()
            process.kill()
            process.wait()
            remove_abandoned()
            assert not folder.exists()
            assert own.is_dir()
    assert all(other.is_dir() for other in others)
    for other in others:
        other.rmdir()
