"""What came between two saves of a notebook, a line each: so that a killed run asks nobody for the same thing twice.

A notebook is written whole, which is too much for each of a thousand answers. A line is added to this file instead, at
once; it is emptied when the notebook holds what is in it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlm_nb.errors import RunFolderError
from rlm_nb.notebook.metadata import read_call, read_reply, write_call
from rlm_nb.records import BridgeCall, Kept, Message, Request

DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)

LARGEST = 512 * 1024 * 1024
"""Bytes of the largest journal that is read: of one iteration, as much as of a notebook."""


@dataclass(frozen=True)
class Entries:
    """What a journal holds.

    Args:
        turns: Replies of the agent's own conversation.
        asides: Replies to an `llm_query`, each with the id of the cell that asked.
        calls: What cells were answered, each with the id of the cell.
    """

    turns: tuple[Kept, ...] = ()
    asides: tuple[tuple[str, Kept], ...] = ()
    calls: tuple[tuple[str, BridgeCall], ...] = ()


class Journal:
    """The journal of the notebook at `path`; the file is made when there is something to say. Any thread may write."""

    def __init__(self, path: Path) -> None:
        self.path = journal_of(path)
        self._file: int | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        if self.path.exists():  # that of an earlier process, which this one goes on from
            self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; an empty one goes."""
        if self._file is not None:
            empty = not os.fstat(self._file).st_size
            os.close(self._file)
            self._file = None
            if empty:
                self.path.unlink(missing_ok=True)

    def keep(self, kept: Kept, cell: str) -> None:
        """Note a reply.

        Args:
            kept: The reply.
            cell: The id of the cell that asked, for those of an `llm_query`.

        Raises:
            RunFolderError: The disk refused.
        """
        request, reply = kept.request, kept.reply
        self._write(
            {
                "cell": cell,
                "turn": request.turn,
                "message": request.messages[-1].content,
                "max_tokens": request.max_tokens,
                "reply": {**vars(reply), "usage": vars(reply.usage)},
                "lease": kept.lease,
                "finishing": kept.finishing,
            }
        )

    def called(self, call: BridgeCall, cell: str) -> None:
        """Note what the cell with this id was answered.

        Raises:
            RunFolderError: The disk refused.
        """
        self._write({"cell": cell, "call": write_call(call)})

    def clear(self) -> None:
        """All of it is in the notebook now."""
        if self._file is not None:
            os.ftruncate(self._file, 0)

    def _write(self, entry: Mapping[str, Any]) -> None:
        # As ASCII, lone surrogates survive.
        line = json.dumps(entry).encode("ascii") + b"\n"
        try:
            with self._lock:
                file = self._open() if self._file is None else self._file
                while line:
                    line = line[os.write(file, line) :]
        except OSError as error:
            raise RunFolderError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self.path, flags, 0o666)
        return self._file


def journal_of(notebook: Path) -> Path:
    """Where the journal of a notebook is: hidden, as it is nobody's to read."""
    return notebook.with_name(f".{notebook.stem}.journal")


def read_journal(notebook: Path) -> Entries:
    """What the journal of a notebook holds; a last line that is not whole was never finished, and counts for nothing.

    Raises:
        RunFolderError: It cannot be read.
    """
    path = journal_of(notebook)
    try:
        if not path.is_file() or path.is_symlink():
            return Entries()
        if path.stat().st_size > LARGEST:
            raise RunFolderError(f"{path}: is too large to be read")
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read: {error.strerror or error}") from error
    turns: list[Kept] = []
    asides: list[tuple[str, Kept]] = []
    calls: list[tuple[str, BridgeCall]] = []
    for line in filter(None, lines):
        try:
            entry = json.loads(line)
            if "call" in entry:
                calls.append((entry["cell"], read_call(entry["call"])))
            elif entry["turn"]:
                turns.append(_kept(entry))
            else:
                asides.append((entry["cell"], _kept(entry)))
        except DAMAGE:
            continue
    return Entries(tuple(turns), tuple(asides), tuple(calls))


def _kept(entry: Mapping[str, Any]) -> Kept:
    request = Request((Message("user", entry["message"]),), max_tokens=entry["max_tokens"], turn=entry["turn"])
    return Kept(request, read_reply(entry["reply"]), entry["lease"], entry["finishing"])
