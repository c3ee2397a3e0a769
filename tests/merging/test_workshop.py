"""Edits are made ready by oneself; what one that was killed has left half done is put back by the next."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_nb.merging.placing import Places
from rlm_nb.merging.workshop import workshop
from tests.workspace import witness

FORK = multiprocessing.get_context("fork")


class Killed(dict[bytes, Path]):
    """Lists files to put in their places; behind as many as `after`, the process is killed."""

    after = 0

    def items(self) -> Iterator[tuple[bytes, Path]]:  # type: ignore[override]
        for number, item in enumerate(super().items()):
            if number == self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A folder with files, links and folders."""
    top = tmp_path / "top"
    for name in ("one", "goes/away", "closed/two", "d/e/three"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(f"old {name}")
    (top / "closed").chmod(0o700)
    (top / "link").symlink_to("one")
    return top


def half_done(top: Path, after: int) -> Path:
    """What a process leaves that is killed while it applies edits to `top`: so many files are in their places."""

    def work() -> None:
        with workshop(top, top) as folder:
            places, coming = Places(top, folder), Killed()
            coming.after = after
            for number, name in enumerate(("goes", "one", "new/er/file", "link", "d/e/three")):
                (folder / f"{number}").write_text(f"new {name}")
                coming[name.encode()] = folder / f"{number}"
            for name in (b"goes/away", b"closed/two", *coming):
                places.look(name)
            places.put([b"goes/away", b"closed/two"], coming)

    process = FORK.Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (left,) = top.glob(".rlm-nb-*")
    return left


@pytest.mark.parametrize("after", range(6))
def test_a_kill_in_the_middle(top: Path, after: int) -> None:
    """Whenever it comes, the next who applies edits finds everything as it was, folders and their modes included."""
    before = witness.modes_and_bytes(top)
    half_done(top, after)
    assert witness.modes_and_bytes(top) != before
    with workshop(top, top):
        pass
    assert witness.modes_and_bytes(top) == before


def test_what_was_done_since_the_kill_stays(top: Path) -> None:
    """What somebody has written since is kept, and so is what stood there before; all else is put back, and said."""
    left = half_done(top, 3)
    (top / "one").write_text("mine, and longer")
    with pytest.raises(OSError, match=rf"could not be put back: {top}/one \(somebody else .* is in {left}/aside; take"):
        with workshop(top, top):
            pass
    assert (top / "one").read_text() == "mine, and longer"
    assert (top / "goes/away").read_text() == "old goes/away"
    assert not (top / "new").exists()
    assert [file.read_text() for file in (left / "aside").iterdir()] == ["old one"]
    (top / "one").write_text("old one")  # restored by hand
    with workshop(top, top):
        pass
    assert not left.exists()


def test_a_journal_that_somebody_else_has_written(top: Path, tmp_path: Path) -> None:
    """It leads nowhere else: neither by its paths nor through a link, nor is anything removed that it does not know."""
    (tmp_path / "outside").mkdir()
    left = half_done(top, 1)
    good = (left / "journal").read_text()
    for line in (
        ["moved", "../outside/file", 1],
        ["moved", "/etc/file", 1],
        ["moved", "a/.git/config", 1],
        ["moved", "one", "../1"],
        ["else", "one"],
        "line",
    ):
        (left / "journal").write_text(f"{json.dumps(line)}\n")
        with pytest.raises(OSError, match="it does not tell what is to be put back"):
            Places(top, left).put_back()
    (left / "journal").write_text(good + '["moved", "one", 7')  # killed as it wrote
    (top / "closed").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match=r"closed/two \(Not a directory\)"):
        Places(top, left).put_back()
    assert not list((tmp_path / "outside").iterdir())


def test_one_after_the_other(top: Path) -> None:
    """Whoever comes second waits until the first has ended, however that was."""
    done = threading.Event()

    def second() -> None:
        with workshop(top, top):
            done.set()

    thread = threading.Thread(target=second)
    with workshop(top, top) as folder:
        thread.start()
        assert not done.wait(0.3)
        assert folder.is_dir()
    thread.join(10)
    assert done.is_set()
    opened = os.open(top, os.O_RDONLY)  # a lock ends with what holds it
    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(opened)
