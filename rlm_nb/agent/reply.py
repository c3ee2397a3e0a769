"""The cells of a reply: fenced Python, read line by line, and nothing that only looks like it.

Fences are CommonMark's (three or more backticks or tildes, closed by at least as many), with one addition: a fence
inside a Python string does not end the cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rlm_nb.records import StopReason

PYTHON = frozenset({"python", "py", "python3", "ipython", "ipython3", "repl"})
"""Info strings that make a fence a cell."""

INVENTED = frozenset({"output", "outputs", "stdout", "result", "results"})
"""Info strings, and words before a fence, that claim to be what a cell printed."""

MAX_CELLS = 50
"""Cells of one reply that run: what they put out must fit into the next message."""

_MADE_UP = (
    "Your reply made up the output of a cell, so what came after it did not run. Write a cell, stop, and read its real "
    "output in the next turn."
)

_FENCE = re.compile(r"^ {0,3}(?P<marks>`{3,}|~{3,})(?P<info>[^`\n]*)$")
_QUOTE = re.compile(r"""#|(?P<triple>\"{3}|'{3})|"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?""")
_TO_THE_END = {quotes: re.compile(rf"(?:[^\\]|\\.)*?{quotes}") for quotes in ('"""', "'''")}
_CLAIM = re.compile(r"^\W*(?:the |expected |actual |cell )?(?:" + "|".join(sorted(INVENTED)) + r")\W*$", re.IGNORECASE)


@dataclass(frozen=True)
class Cells:
    """What a reply asks to run.

    Args:
        code: The cells, in order.
        fault: What is wrong with the reply, in a sentence for the model; `None` when nothing is.
    """

    code: tuple[str, ...]
    fault: str | None = None


@dataclass(frozen=True)
class _Block:
    info: str
    code: str
    before: str  # the last line of prose above the fence
    closed: bool

    @property
    def is_python(self) -> bool:
        return self.info in PYTHON

    @property
    def is_invented(self) -> bool:
        return self.info in INVENTED or (self.info in ("", "text", "console") and bool(_CLAIM.match(self.before)))


def cells(text: str, stop_reason: StopReason = "end") -> Cells:
    """Take the cells out of a reply.

    Bare fences count when no fence names Python. What follows an invented output does not count: it was written
    without knowing what the cells before it really do. One that stands before the first cell is a quotation.
    """
    if stop_reason == "refusal":
        return Cells((), "Your reply was a refusal, so nothing ran. If a part of the task can be done, do that part.")
    if not text.strip():
        return Cells((), "Your reply was empty. Reply with one ```python cell.")
    blocks = list(_blocks(text.replace("\r\n", "\n").split("\n")))
    named = any(block.is_python for block in blocks)
    code: list[str] = []
    fault = None
    for block in blocks:
        if block.is_invented:
            if code:
                fault = _MADE_UP
                break
        elif not (block.is_python if named else block.info == ""):
            continue
        elif not block.closed and stop_reason == "max_tokens":
            fault = "Your reply was cut off in the middle of a cell, which did not run. Write shorter cells."
            break
        elif len(code) == MAX_CELLS:
            fault = f"Only the first {MAX_CELLS} cells of your reply ran: that is the most. Write one cell at a time."
            break
        elif block.code.strip():
            code.append(block.code)
    if not code and fault is None:
        fault = _nothing_to_run(text, blocks, stop_reason)
    return Cells(tuple(code), fault)


def _nothing_to_run(text: str, blocks: list[_Block], stop_reason: StopReason) -> str:
    if stop_reason == "max_tokens":
        return "Your reply was cut off before it came to a cell. Think more briefly, and write one ```python cell."
    if any(block.is_invented for block in blocks) and not any(block.is_python for block in blocks):
        return _MADE_UP
    if any(block.is_python or block.info == "" for block in blocks):
        return "Your cell was empty. Reply with one ```python cell that does something."
    if blocks:
        return f"Your reply has a {blocks[0].info!r} block but no ```python cell, so nothing ran."
    if "FINAL" in text:
        return (
            "FINAL counts only when a cell calls it. To finish, reply with a ```python cell that calls FINAL(answer)."
        )
    return "Your reply had no ```python cell, so nothing ran. To act, write one; to finish, call FINAL(answer) in one."


def _blocks(lines: list[str]) -> Iterator[_Block]:
    at, before, may_be_string = 0, "", True
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        if opening is None:
            before = lines[at].strip() or before
            at += 1
            continue
        info = opening["info"].strip().strip("{}.").split(maxsplit=1)
        name = info[0].lower() if info else ""
        is_code = may_be_string and (name in PYTHON or name == "")
        end, within = _closing_line(lines, at + 1, opening["marks"], is_code)
        if end == len(lines) and within:
            # The string never ended: then it was a fault in the code, and the first fence closed the cell.
            end, may_be_string = within, False  # once is enough: each such search goes to the end of the reply
        yield _Block(name, "\n".join(lines[at + 1 : end]).strip("\n"), before, end < len(lines))
        at, before = end + 1, ""


def _closing_line(lines: list[str], start: int, marks: str, is_code: bool) -> tuple[int, int]:
    """Where the fence closes, `len(lines)` if nowhere; and the first fence that stands in a string, 0 for none."""
    closing = re.compile(rf"^ {{0,3}}{re.escape(marks[0])}{{{len(marks)},}}\s*$")
    is_code = is_code and not "".join(lines[start : start + 1]).lstrip().startswith("%%")
    within, quotes = 0, ""
    for number in range(start, len(lines)):
        if closing.match(lines[number]):
            if not quotes:
                return number, within
            within = within or number
        if is_code:
            quotes = _open_quotes(lines[number], quotes)
    return len(lines), within


def _open_quotes(line: str, quotes: str) -> str:
    """The quotes of the triple-quoted string that is open at the end of the line, given those at its beginning."""
    at = 0
    while True:
        if quotes:
            end = _TO_THE_END[quotes].match(line, at)
            if end is None:
                return quotes
            at = end.end()
        found = _QUOTE.search(line, at)
        if found is None or found[0] == "#":
            return ""
        at, quotes = found.end(), found["triple"] or ""
