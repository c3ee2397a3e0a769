"""All that the cells of one agent have put out, as the text that its model is shown a part of."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rlm_nb.agent import view
from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import BridgeError
from rlm_nb.protocols import Kernel
from rlm_nb.records import JSON, CellResult, Output

PIECE = 4 << 20
"""Bytes of text that are handed out at a time: as JSON they are a few times as many."""


@dataclass(frozen=True)
class _Place:
    """Where a text stands: in a file of its own, or in ours from here on."""

    file: Path | None
    start: int
    length: int


class Transcript:
    """Keeps texts on disk, in a file without a name that is gone with this process.

    Args:
        limit: Characters beyond which an output counts as long.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._end = 0
        self._places: dict[int, _Place] = {}
        self._long = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def keep(self, cell: CellResult) -> None:
        """Keep what a cell has put out. On a full disk it is not there afterwards, and that is all."""
        text = view.full(cell)
        with self._lock, suppress(OSError):
            if cell.overflow is not None:
                self._places[cell.number] = _Place(cell.overflow, 0, cell.overflow.stat().st_size)
            else:
                data = text.encode("utf-8", "backslashreplace")
                self._places[cell.number] = _Place(None, self._end, _write(self._file.fileno(), data, self._end))
                self._end += len(data)
            if cell.overflow is not None or len(text) > self._limit:
                self._long = cell.number

    def piece(self, arguments: dict[str, JSON]) -> dict[str, JSON]:
        """What a kernel is answered that asks for the output of a cell.

        Args:
            arguments: `cell`, from 1, or from -1 backwards, or `None` for the last long one; `at`, where the piece
                begins, 0 or the `next` of the piece before.

        Returns:
            `cell`, `text` and `next`, `None` for the last piece; or `missing`, a sentence that says why there is none.

        Raises:
            BridgeError: These are no arguments, or the file cannot be read.
        """
        cell, at = arguments.get("cell"), arguments.get("at")
        if not isinstance(cell, int | None) or not isinstance(at, int) or at < 0:
            raise BridgeError("cell must be a number or None, and at a number that is not negative")
        with self._lock:
            if not self._places:
                return {"missing": "no cell has ended yet"}
            if cell is None and not self._long:
                return {
                    "missing": f"no output so far is longer than {self._limit:,} characters; output(-1) is the last"
                }
            last = max(self._places)
            number = self._long if cell is None else cell if cell >= 0 else last + 1 + cell
            if (place := self._places.get(number)) is None:
                return {"missing": f"no output of a cell {cell} is kept; the last cell that ended is number {last}"}
            data = self._read(place, at)
        end = len(data) if at + len(data) == place.length else _whole(data)
        following = at + end if at + end < place.length else None
        text = data[:end].decode("utf-8", "replace")
        if place.file is not None:
            text = view.plain(text)
        return {"cell": number, "text": text if following else text.rstrip("\n"), "next": following}

    def _read(self, place: _Place, at: int) -> bytes:
        count = max(0, min(PIECE, place.length - at))
        try:
            if place.file is None:
                return os.pread(self._file.fileno(), count, place.start + at)
            with place.file.open("rb") as file:
                file.seek(at)
                return file.read(count)
        except OSError as error:
            raise BridgeError(f"the output cannot be read: {error.strerror}") from None


class RecordingKernel:
    """A kernel whose outputs are kept."""

    def __init__(self, kernel: Kernel, transcript: Transcript) -> None:
        self._kernel, self._transcript = kernel, transcript

    def execute(
        self, code: str, cancel: Cancellation, on_output: Callable[[Sequence[Output]], None] | None = None
    ) -> CellResult:
        """Run a cell, and keep what it has put out by its end."""
        result = self._kernel.execute(code, cancel, on_output)
        self._transcript.keep(result)
        return result


def _write(file: int, data: bytes, at: int) -> int:
    """Write all of it; returns how much that is."""
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], at + written)
    return written


def _whole(data: bytes) -> int:
    """How much of the data ends with a line; or with a character, where there is no end of a line."""
    if end := data.rfind(b"\n") + 1:
        return end
    end = len(data) - 1
    while end > 1 and data[end] & 0xC0 == 0x80:
        end -= 1
    return max(1, end)
