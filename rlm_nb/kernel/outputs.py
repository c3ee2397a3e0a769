"""Messages of the iopub channel become outputs of cells: merged, capped, and made valid."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rlm_nb.records import Output

MAX_OUTPUTS = 500
"""Outputs of one cell that the notebook keeps."""

MAX_OVERFLOW = 100_000_000
"""Bytes of one cell's output that the file beside the notebook keeps."""

MAX_DEPTH = 100
"""Lists and dicts inside one another: what is kept can be walked, copied and written without a second thought."""

SMALL = 2000
"""Bytes of an output that is still kept when larger ones are not: most tracebacks and results."""

_INVALID = re.compile("[\x00\ud800-\udfff]")


class CellOutputs:
    """What one cell has put out so far.

    Args:
        limit: Bytes that are kept here, as the notebook writes them: one half from the head, the other for the tails of
            streams. Single outputs that are small may pass it, up to twice as much in all.
        overflow: The file that gets everything, from the first output on and in order, once the limit is passed.
        number: Which of the agent's cells it is: what `output(number)` in its REPL goes by.
    """

    def __init__(self, limit: int, overflow: Path, number: int) -> None:
        self.overflow = overflow
        self._number = number
        self._lost = ""  # why the file ends early, or is not there
        self.execution_count: int | None = None
        self.idle = False
        self._limit = limit
        self._written = 0  # to the file, for good
        self._clearing = False
        self._empty()

    @property
    def overflowed(self) -> bool:
        """Whether the file holds more than the outputs do."""
        return self._written > 0

    @property
    def _where(self) -> str:
        """Where to find what is left out."""
        if self._lost and not self.overflowed:
            return f"the full text could not be written to {self.overflow.name}: {self._lost}"
        place = f"see output({self._number}), or the file {self.overflow.name}"
        return f"{place}, which could not be written to its end: {self._lost}" if self._lost else place

    def add_stream(self, name: str, text: str) -> None:
        """Text on stdout or stderr: joined to the last output if that is the same stream."""
        self._clear_if_due()
        stream = self._kept[-1] if self._kept else None
        if not isinstance(stream, _Stream) or stream.name != name:
            if len(self._kept) >= MAX_OUTPUTS:
                self._spill(text)
                return
            stream = _Stream(name)
            self._kept.append(stream)
        was_whole, fitted = stream.is_whole, 0
        if was_whole:
            fitted = sum(self._fill(stream, text))
        if rest := text[fitted:]:
            self._spill(text if self.overflowed else rest)
            self._push(stream, rest)
        elif self.overflowed:
            self._spill(text)

    def add(self, output: Output, display_id: str | None = None) -> None:
        """A picture, a table, a result, a traceback: kept if there is room, else named in its place.

        Raises:
            ValueError: It is nested too deeply.
        """
        self._clear_if_due()
        # Beyond the limit one is named for all that follow, and a traceback may still say why the cell ended.
        beyond = len(self._kept) - MAX_OUTPUTS
        if beyond > 1 or (beyond == 1 and output["output_type"] != "error"):
            self._spill(_words(output, whole=True))
            return
        single = _Single()
        kept = self._place(single, output, full=beyond == 0 and output["output_type"] != "error")
        if kept and self.overflowed:
            self._spill(_words(output))
        self._kept.append(single)
        if display_id is not None:
            self._displays.setdefault(display_id, []).append(single)

    def update(self, display_id: str, output: Output) -> bool:
        """Put the data of `output` where this display stands, as far as there is room; returns whether it does."""
        shown = self._displays.get(display_id, [])
        for single in shown:
            self._place(single, {**single.output, "data": output["data"], "metadata": output["metadata"]})
        return bool(shown)

    def clear(self, *, wait: bool) -> None:
        """Forget the outputs, which gives back their room: now, or when the next one comes."""
        self._clearing = wait
        if not wait:
            self._empty()

    def snapshot(self) -> tuple[Output, ...]:
        """The outputs as nbformat stores them, in dicts that nobody changes."""
        return tuple(kept.output if isinstance(kept, _Single) else kept.output(self._where) for kept in self._kept)

    def _empty(self) -> None:
        self._kept: list[_Stream | _Single] = []
        self._displays: dict[str, list[_Single]] = {}
        self._whole = 0  # bytes that are kept whole
        self._tails: deque[tuple[_Stream, int]] = deque()  # one for each piece in any tail, with its bytes
        self._tails_size = 0

    def _clear_if_due(self) -> None:
        if self._clearing:
            self.clear(wait=False)

    def _fill(self, stream: _Stream, text: str) -> Iterator[int]:
        """Add to the head what fits; yields the characters of each piece."""
        for piece in self._pieces(text):
            if self._whole + (size := _size(piece)) > self._limit // 2:
                return
            self._whole += size
            stream.head.append(piece)
            yield len(piece)

    def _push(self, stream: _Stream, text: str) -> None:
        """Add to the tail; what is too old for it, in whichever stream it stands, is left out."""
        room = self._limit // 2
        stream.omitted += max(0, len(text) - room)  # no character takes less than a byte
        for piece in self._pieces(text[-room:]):
            stream.tail.append(piece)
            self._tails.append((stream, _size(piece)))
            self._tails_size += self._tails[-1][1]
        while self._tails_size > room:
            oldest, size = self._tails.popleft()
            oldest.omitted += len(oldest.tail.popleft())
            self._tails_size -= size

    def _pieces(self, text: str) -> Iterator[str]:
        length = max(1, self._limit // 64)
        return (text[at : at + length] for at in range(0, len(text), length))

    def _place(self, single: _Single, output: Output, *, full: bool = False) -> bool:
        """Keep an output if there is room, else name it and leave the rest to the file; returns whether it is kept."""
        written = json.dumps(output)
        room = self._limit * (2 if len(written) <= SMALL else 1) - self._whole + single.size
        # As ASCII a text is at most three times as long as in the notebook, and this is soon known.
        size = _size(output) if len(written) <= 3 * room else len(written)
        left_out = full or size > room
        if left_out:
            self._spill(_words(output, whole=True))
            kinds = valid(", ".join(output.get("data", {})) or output["output_type"])[:100]
            note = f"[{len(written):,} bytes ({kinds}) left out here: {self._where}]"
            output, size = {"output_type": "display_data", "metadata": {}, "data": {"text/plain": note}}, 0
        self._whole += size - single.size
        single.output, single.size = valid(output), size
        return not left_out

    def _spill(self, text: str) -> None:
        """Write to the file, which begins with all that was kept until then; where that fails, `_where` says so."""
        if self._lost:
            return
        if not self.overflowed:
            text = (
                "".join("".join(kept.head) if isinstance(kept, _Stream) else _words(kept.output) for kept in self._kept)
                + text
            )
        if (left := MAX_OVERFLOW - self._written) > 0:
            data = text[:left].encode("utf-8", "backslashreplace")[:left]
            try:
                self.overflow.parent.mkdir(parents=True, exist_ok=True)
                with self.overflow.open("ab") as file:
                    file.write(data)
            except OSError as error:
                self._lost = error.strerror or str(error)
            else:
                self._written += len(data)


class _Stream:
    """Head and tail of a text that may be long."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.head: list[str] = []
        self.tail: deque[str] = deque()
        self.omitted = 0

    @property
    def is_whole(self) -> bool:
        return not self.tail and not self.omitted

    def output(self, where: str) -> Output:
        self.head = ["".join(self.head)]
        gap = f"\n[… {self.omitted:,} characters left out here: {where} …]\n" if self.omitted else ""
        return {"output_type": "stream", "name": self.name, "text": valid(self.head[0] + gap + "".join(self.tail))}


class _Single:
    """An output that is kept whole or not at all."""

    def __init__(self) -> None:
        self.output: Output = {}
        self.size = 0


class OutputReader:
    """The outputs of all cells of one kernel, from its messages.

    Not nbclient's handling of them: it keeps what it is sent, however much, and finds displays by their places, which
    move when outputs are capped. Messages of widgets are left out: a notebook keeps the text that stands for them.
    """

    def __init__(self) -> None:
        self._cells: dict[str, CellOutputs] = {}

    def begin(self, cell: str, outputs: CellOutputs) -> None:
        """From now on, messages may belong to the cell that was sent with this message id."""
        self._cells[cell] = outputs

    def forget(self, cell: str) -> None:
        """No message of this cell will be fed any more."""
        del self._cells[cell]

    def feed(self, cell: str, message: dict[str, Any]) -> set[str]:
        """Take one message of this cell into account; returns the cells whose outputs it may have changed.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It has not the form that its kind has; nothing was changed.
        """
        outputs, kind, content = self._cells[cell], message["msg_type"], message["content"]
        if kind == "status":
            outputs.idle = outputs.idle or content["execution_state"] == "idle"
        elif kind == "execute_input":
            outputs.execution_count = _count(content["execution_count"])
        elif kind == "clear_output":
            outputs.clear(wait=bool(content.get("wait")))
            return {cell}
        elif kind == "stream":
            name, text = content["name"], content["text"]
            if name not in ("stdout", "stderr") or not isinstance(text, str):
                raise ValueError(f"no text on stdout or stderr: {name!r:.100}")
            outputs.add_stream(name, text)
            return {cell}
        elif kind == "error":
            lines = [_text(line) for line in content["traceback"]]
            outputs.add(
                {
                    "output_type": kind,
                    "ename": _text(content["ename"]),
                    "evalue": _text(content["evalue"]),
                    "traceback": lines,
                }
            )
            return {cell}
        elif kind in ("display_data", "execute_result", "update_display_data"):
            return self._display(cell, kind, content)
        return set()

    def _display(self, cell: str, kind: str, content: dict[str, Any]) -> set[str]:
        """Show something, and show it too wherever its display stands already."""
        data = {name: item if _is_json(name) else _text(item) for name, item in content["data"].items()}
        output: Output = {"output_type": "display_data", "data": data, "metadata": dict(content.get("metadata") or {})}
        if kind == "execute_result":
            output |= {"output_type": kind, "execution_count": _count(content["execution_count"])}
        display_id = (content.get("transient") or {}).get("display_id")
        if not isinstance(display_id, str):
            display_id = None
        changed = set()
        if display_id is not None:
            changed = {name for name, outputs in self._cells.items() if outputs.update(display_id, output)}
        if kind != "update_display_data":
            self._cells[cell].add(output, display_id)
            changed.add(cell)
        return changed


def valid(value: Any) -> Any:
    """The same value with plain dicts, and text in it that UTF-8 can hold: NULs and lone surrogates become visible."""
    if isinstance(value, str):
        return _INVALID.sub(lambda match: f"\\u{ord(match[0]):04x}", value)
    if isinstance(value, dict):
        return {valid(key): valid(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [valid(item) for item in value]
    return value


def _size(value: Any, depth: int = 5) -> int:
    """Bytes that a value takes in a notebook's file, where each item, and each line of a text, stands on its own line.

    Raises:
        ValueError: It is nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"an output is nested too deeply: {MAX_DEPTH} lists or dicts inside one another are the most")
    line = depth + 4  # spaces, quotes, a comma and the end
    if isinstance(value, str):
        breaks = len(f"{value}.".splitlines()) - 1
        return len(json.dumps(valid(value), ensure_ascii=False).encode()) - 2 + line * breaks
    if isinstance(value, dict):
        return line + sum(line + len(json.dumps(key)) + _size(item, depth + 1) for key, item in value.items())
    if isinstance(value, list):
        return line + sum(line + _size(item, depth + 1) for item in value)
    return len(json.dumps(value))


def _words(output: Output, *, whole: bool = False) -> str:
    """An output as text, on lines of its own; with `whole`, followed by its other forms as JSON."""
    if "traceback" in output:
        return "\n".join([*output["traceback"], ""])
    data = dict(output["data"])
    parts = [data.pop("text/plain")] if "text/plain" in data else []
    if whole and data:
        parts.append(json.dumps(data))
    return "\n".join([*parts, ""])


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None  # True is an int, too


def _text(value: Any) -> str:
    """A text, or the pieces of one; anything else raises `TypeError`."""
    return value if isinstance(value, str) else "".join(value)


def _is_json(kind: str) -> bool:
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
