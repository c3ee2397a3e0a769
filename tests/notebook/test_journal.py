"""What is on disk between two saves of a notebook, and what a killed process can leave of it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rlm_nb.errors import RunFolderError
from rlm_nb.notebook.journal import Entries, Journal, journal_of, read_journal
from rlm_nb.records import BridgeCall, Kept, Message, Reply, Request, Usage


def kept(turn: int, text: str) -> Kept:
    request = Request((Message("user", f"to {turn}"),), turn=turn, max_tokens=7)
    return Kept(request, Reply(text, Usage(1, 2, 3, 4), "max_tokens", "m", 5, counted=False), "key", finishing=True)


def call(number: int) -> BridgeCall:
    return BridgeCall("budget", {"n": number}, {"b": 1, "a": "\udc80"}, None, "k", 1.0, 2.0)


def test_what_was_noted_is_read_back(tmp_path: Path) -> None:
    """Turns, asides and calls, whatever is in them, from many threads; all is gone once the notebook has it."""
    notebook = tmp_path / "root.ipynb"
    assert read_journal(notebook) == Entries()
    with Journal(notebook) as journal:
        journal.keep(kept(3, "three\n\udc80"), "it-002-code-1")
        journal.keep(kept(0, "aside"), "it-003-code-1")
        threads = [threading.Thread(target=journal.called, args=(call(n), "it-003-code-2")) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        entries = read_journal(notebook)
        assert entries.turns == (kept(3, "three\n\udc80"),)
        assert entries.asides == (("it-003-code-1", kept(0, "aside")),)
        assert sorted(one.arguments["n"] for _, one in entries.calls) == list(range(20))
        assert entries.calls[0][1].answer == {"b": 1, "a": "\udc80"}
    assert journal_of(notebook).exists()
    with Journal(notebook) as journal:
        journal.clear()
        assert read_journal(notebook) == Entries()
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_was_cut_off_counts_for_nothing(tmp_path: Path) -> None:
    """At whatever byte the process was killed: all that was whole is there."""
    notebook = tmp_path / "root.ipynb"
    with Journal(notebook) as journal:
        journal.keep(kept(1, "first"), "")
        journal.called(call(1), "it-001-code-1")
    data = journal_of(notebook).read_bytes()
    first = data.index(b"\n") + 1
    for end in range(len(data)):
        journal_of(notebook).write_bytes(data[:end])
        entries = read_journal(notebook)
        assert len(entries.turns) == (end >= first - 1)
        assert len(entries.calls) == (end >= len(data) - 1)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    """Nobody is to believe that a reply is on record when it is not, and no link is followed."""
    notebook = tmp_path / "root.ipynb"
    journal_of(notebook).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match="cannot be written"), Journal(notebook) as journal:
        journal.called(call(1), "it-001-code-1")
    assert not (tmp_path / "elsewhere").exists()
