"""A disk that is full, or may not be written, costs what has no room; everything else is as it was, and said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from rlm_nb.errors import RLMError, RunFolderError
from rlm_nb.workspace.apply import Home
from rlm_nb.workspace.scratch import scratch
from rlm_nb.workspace.source import Source
from tests.workspace import witness
from tests.workspace.nobody import as_nobody
from tests.workspace.test_apply import Run, run_on

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("story", ["apply_to_a_full_disk", "keep_on_a_full_disk", "open_on_a_full_disk"])
def test_a_full_disk(tmp_path: Path, story: str) -> None:
    """While edits are applied or kept, and when a run is to begin: told in the functions of that name below."""
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=4m,nr_inodes=2000 none {small}"
    script = f"{mount} && exec {sys.executable} -m tests.workspace.test_full_disk {story} {tmp_path}"
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], cwd=ROOT, capture_output=True, text=True)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no file systems of our own on this system")
    assert done.returncode == 0, done.stderr


def apply_to_a_full_disk(folder: Path) -> None:
    """No file of the checkout is changed, and nothing is left there."""
    top = _project(folder / "small")
    with run_on(top, folder / "run") as (run, tree):
        (tree.path / "one").write_text("changed\n")
        (tree.path / "new").write_bytes(os.urandom(900_000))
    _fill(folder / "small", 500_000)
    before = witness.modes_and_bytes(top)
    with pytest.raises(RunFolderError, match="cannot be written: No space left on device"):
        run.apply()
    assert witness.modes_and_bytes(top) == before


def keep_on_a_full_disk(folder: Path) -> None:
    """What had room is kept by the agent's ref, and whoever asks for the rest is told."""
    top = _project(folder / "project")
    (folder / "small/run").mkdir()
    (folder / "agent").mkdir()
    with Source.open(str(top), folder / "small/run") as source, source.checkout("root", folder / "agent") as tree:
        (tree.path / "one").write_text("kept\n")
        kept = tree.snapshot("in time")
        _fill(folder / "small", 1000)
        (tree.path / "one").write_bytes(os.urandom(500_000))
        with pytest.raises(RLMError, match="Out of diskspace"):
            tree.snapshot("too late")
        assert source.ctl.joinpath("refs/rlm/root").read_text().strip() == kept


def open_on_a_full_disk(folder: Path) -> None:
    """A sentence, and nothing is left of the run's repository."""
    top = _project(folder / "project")
    run = folder / "small/run"
    run.mkdir()
    _fill(folder / "small", 0)
    with pytest.raises(RLMError, match="No space left"):
        with Source.open(str(top), run):
            pass
    assert list(run.iterdir()) == []


def _project(top: Path) -> Path:
    top = top / "top"
    top.mkdir(parents=True)
    (top / "one").write_text("one\n")
    return top


def _fill(folder: Path, but: int) -> None:
    """Leave only so many bytes."""
    with (folder / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(folder / "ballast", max(0, (folder / "ballast").stat().st_size - but))


def test_a_read_only_folder() -> None:
    """It can be worked on; that its edits cannot be applied is said, and a copy of them stays in the run."""
    as_nobody(_apply_where_nothing_may_be_written)


def _apply_where_nothing_may_be_written() -> None:
    with scratch() as folder:
        top = _project(folder)
        (top / "sub").mkdir()
        (top / "sub/two").write_text("two\n")
        closed = [top / "one", top / "sub/two", top / "sub", top]
        for path in closed:
            path.chmod(0o555 if path.is_dir() else 0o444)
        (folder / "run").mkdir()
        with run_on(top, folder / "run") as (run, tree):
            (tree.path / "one").chmod(0o644)
            (tree.path / "one").write_text("changed\n")
            (tree.path / "sub/two").unlink()
        before = witness.everything(top)
        with pytest.raises(RunFolderError, match="cannot be written: Permission denied"):
            run.apply()
        assert witness.everything(top) == before
        copy = shutil.copytree(top, folder / "copy")
        for path in (copy, copy / "sub"):
            path.chmod(0o755)
        assert Run(run.folder, Home(str(copy), copy)).apply() == ["one", "sub/two"]


if __name__ == "__main__":
    os.environ["HOME"] = tempfile.gettempdir()
    globals()[sys.argv[1]](Path(sys.argv[2]))
