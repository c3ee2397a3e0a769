"""The file itself: whole at any moment, whoever is killed, forked or in the way."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlm_nb.errors import LedgerError
from rlm_nb.ledger.storage import Storage


def names(path: Path) -> set[str]:
    return {file.name.removeprefix(path.name) for file in path.parent.iterdir()}


def test_texts_of_any_length_replace_each_other(path: Path) -> None:
    """A shorter text leaves nothing of a longer one, and at rest there is nothing beside the file and its lock."""
    storage = Storage(path)
    for length in (5, 9000, 3, 0, 5000, 1):
        with storage.locked():
            storage.write(b"x" * length)
        assert storage.look() == b"x" * length
    assert names(path) == {"", ".lock", ".new"}
    storage.rest()
    assert names(path) == {"", ".lock"}


@pytest.mark.parametrize("killed", ["between the names", "before the names changed", "without a spare"])
def test_what_a_killed_process_leaves_of_the_names(path: Path, killed: str) -> None:
    """Whichever of the file's names are left over, and whatever they name, the next text is written well."""
    storage = Storage(path)
    for text in (b"one", b"two"):
        with storage.locked():
            storage.write(text)
    spare, former = path.with_name(f"{path.name}.new"), path.with_name(f"{path.name}.old")
    if killed == "between the names":
        os.link(path, former)
        spare.replace(path)
    elif killed == "before the names changed":
        os.link(path, former)
    else:
        spare.unlink()
    before = path.read_bytes()
    assert before in (b"one", b"two")
    for text in (b"three", b"four"):
        with storage.locked():
            storage.write(text)
            assert storage.read() == text
    assert names(path) == {"", ".lock", ".new"}


def test_threads_and_processes_take_turns(path: Path) -> None:
    """Of what four processes of four threads each count up, nothing is lost."""
    storage = Storage(path)
    with storage.locked():
        storage.write(b"0")
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_count, args=(path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert storage.look() == b"400"


def _count(path: Path) -> None:
    storage = Storage(path)

    def once(_: int) -> None:
        with storage.locked():
            storage.write(str(int(storage.read()) + 1).encode())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(once, range(100)))


def test_a_fork_in_the_middle_of_a_change(path: Path) -> None:
    """A process that is forked while a thread holds the lock waits for that thread, and not for ever."""
    storage = Storage(path)
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with storage.locked():
            storage.write(b"from the thread")
            inside.set()
            go_on.wait(10)

    def child() -> None:
        with storage.locked():
            storage.write(storage.read() + b", and from the child")

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    go_on.set()
    thread.join()
    process.join(20)
    assert process.exitcode == 0
    assert storage.look() == b"from the thread, and from the child"


def test_no_folder(path: Path) -> None:
    """Where nothing can be written, the error names the file; looking for what is not there makes nothing."""
    storage = Storage(path / "deeper" / "budget.json")
    with pytest.raises(LedgerError, match=r"deeper/budget\.json: cannot be locked"), storage.locked():
        pytest.fail("locked")
    with pytest.raises(LedgerError, match="there is no budget file"):
        Storage(path).look()
    assert names(path) == set()


def test_a_copy_is_a_file_of_its_own(path: Path) -> None:
    """What somebody copies or restores is whole, and changes of the one do not reach the other."""
    storage = Storage(path)
    for number in range(3):
        with storage.locked():
            storage.write(json.dumps({"number": number}).encode())
    copy = shutil.copy(path, path.with_name("copy.json"))
    with storage.locked():
        storage.write(b"{}")
    assert json.loads(Path(copy).read_text()) == {"number": 2}
    shutil.move(copy, path)
    with storage.locked():
        assert json.loads(storage.read()) == {"number": 2}
        storage.write(b"[]")
    assert path.read_bytes() == b"[]"
