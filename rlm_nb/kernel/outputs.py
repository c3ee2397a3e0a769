"""Messages of the iopub channel become outputs of cells: merged, capped, and made valid."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionComplete
from nbformat import NotebookNode

from rlm_nb.records import Output

MAX_OUTPUTS = 500
"""Outputs of one cell that the notebook keeps."""

MAX_OVERFLOW = 100_000_000
"""Bytes of one cell's output that the file beside the notebook keeps."""

_INVALID = re.compile("[\x00\ud800-\udfff]")


class CellOutputs:
    """What one cell has put out so far.

    Args:
        limit: Bytes of text that are kept here: the first half from the head, the rest from the tail.
        overflow: The file that gets everything once the limit is passed.
    """

    def __init__(self, limit: int, overflow: Path) -> None:
        self.cell = NotebookNode(cell_type="code", metadata={}, execution_count=None, source="", outputs=[])
        self.overflow = overflow
        self.idle = False
        self._limit = limit
        self._room = limit // 2  # bytes that may still be kept whole
        self._streams: dict[int, _Stream] = {}
        self._written = 0

    @property
    def overflowed(self) -> bool:
        """Whether the file holds more than the outputs do."""
        return self._written > 0

    def add_stream(self, name: str, text: str) -> None:
        """Text on stdout or stderr: joined to the last output if that is the same stream."""
        outputs = self.cell.outputs
        last = outputs[-1] if outputs else None
        if last is None or last["output_type"] != "stream" or last["name"] != name:
            if len(outputs) >= MAX_OUTPUTS:
                self._spill(text)
                return
            last = NotebookNode(output_type="stream", name=name, text="")
            outputs.append(last)
            self._streams[id(last)] = _Stream(self._limit // 2)
        stream = self._streams[id(last)]
        kept, rest = text[: self._room], text[self._room :]
        self._room -= len(kept)
        stream.head.append(kept)
        if rest:
            if not stream.omitted and not stream.tail:
                self._spill("".join(stream.head[:-1]) + kept)
            self._spill(rest)
            stream.push(rest)

    def keep(self, output: NotebookNode) -> NotebookNode:
        """A picture, a table, a traceback: kept if there is room, else named in its place."""
        size = len(json.dumps(output))
        if len(self.cell.outputs) > MAX_OUTPUTS or (size > 2000 and size > self._room + self._limit // 2):
            self._spill(json.dumps(output) + "\n")
            kinds = ", ".join(output.get("data", {})) or output["output_type"]
            return NotebookNode(
                output_type="display_data",
                metadata={},
                data={"text/plain": f"[{size:,} bytes ({kinds}) left out here, kept in {self.overflow.name}]"},
            )
        self._room = max(0, self._room - size)
        return output

    def snapshot(self) -> tuple[Output, ...]:
        """The outputs as nbformat stores them."""
        return tuple(self._plain(output) for output in self.cell.outputs)

    def _plain(self, output: NotebookNode) -> Output:
        stream = self._streams.get(id(output))
        if stream is None:
            plain: Output = valid(output)
            return plain
        return {"output_type": "stream", "name": output["name"], "text": valid(stream.text(self.overflow.name))}

    def _spill(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")[: max(0, MAX_OVERFLOW - self._written)]
        if data:
            self.overflow.parent.mkdir(parents=True, exist_ok=True)
            with self.overflow.open("ab") as file:
                file.write(data)
            self._written += len(data)


class _Stream:
    """Head and tail of a text that may be long."""

    def __init__(self, tail: int) -> None:
        self.head: list[str] = []
        self.tail: deque[str] = deque()
        self.omitted = 0
        self._limit = tail
        self._length = 0

    def push(self, text: str) -> None:
        """Append to the tail, dropping what is older than the limit."""
        self.tail.append(text)
        self._length += len(text)
        while self._length > self._limit:
            oldest = self.tail.popleft()
            excess = min(len(oldest), self._length - self._limit)
            self.omitted += excess
            self._length -= excess
            if excess < len(oldest):
                self.tail.appendleft(oldest[excess:])

    def text(self, file: str) -> str:
        self.head = ["".join(self.head)]
        gap = f"\n[… {self.omitted:,} characters left out here, kept in {file} …]\n" if self.omitted else ""
        return self.head[0] + gap + "".join(self.tail)


class OutputReader(NotebookClient):  # type: ignore[misc]
    """nbclient's handling of messages (display ids, `clear_output`, widgets), without its loop."""

    def __init__(self) -> None:
        # Not nbformat's new_notebook, which validates it: compiling the schema would be the half of a kernel's start.
        super().__init__(NotebookNode(metadata=NotebookNode(), cells=[]), record_timing=False)
        self.clear_before_next_output = False
        self._cells: dict[int, CellOutputs] = {}

    def begin(self, outputs: CellOutputs) -> int:
        """A new cell; returns its number, which `feed` wants."""
        self.nb.cells.append(outputs.cell)
        number = len(self.nb.cells) - 1
        self._cells[number] = outputs
        return number

    def forget(self, number: int) -> None:
        """No message of this cell will be fed any more."""
        del self._cells[number]
        self.clear_display_id_mapping(number)
        self.nb.cells[number] = NotebookNode(outputs=[])  # the numbers of the others stay

    def feed(self, number: int, message: dict[str, Any]) -> set[int]:
        """Take one message of this cell into account; returns the cells whose outputs it may have changed."""
        outputs = self._cells[number]
        if message["msg_type"] == "stream" and not self.output_hook_stack[message["parent_header"].get("msg_id")]:
            self._clear_if_due(outputs, number)
            outputs.add_stream(message["content"]["name"], message["content"]["text"])
            return {number}
        try:
            self.process_message(message, outputs.cell, number)
        except CellExecutionComplete:
            outputs.idle = True
        if message["msg_type"] in ("status", "execute_input"):
            return set()
        display = (message["content"].get("transient") or {}).get("display_id")
        return {number, *self._display_id_map.get(display, {})}

    def output(
        self, outs: list[NotebookNode], msg: dict[str, Any], display_id: str | None, cell_index: int
    ) -> NotebookNode | None:
        """nbclient's own, then our cap on what it appended."""
        before = len(outs)
        made: NotebookNode | None = super().output(outs, msg, display_id, cell_index)
        if made is not None and len(outs) > before:
            kept = self._cells[cell_index].keep(outs[-1])
            if len(outs) > MAX_OUTPUTS + 1:
                outs.pop()  # named once; the rest is in the file
            else:
                outs[-1] = kept
        return made

    def _clear_if_due(self, outputs: CellOutputs, number: int) -> None:
        if self.clear_before_next_output:
            outputs.cell.outputs[:] = []
            self.clear_display_id_mapping(number)
            self.clear_before_next_output = False


def valid(value: Any) -> Any:
    """The same value with plain dicts, and text in it that UTF-8 can hold: NULs and lone surrogates become visible."""
    if isinstance(value, str):
        return _INVALID.sub(lambda match: f"\\u{ord(match[0]):04x}", value)
    if isinstance(value, dict):
        return {valid(key): valid(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [valid(item) for item in value]
    return value
