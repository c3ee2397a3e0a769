"""The cells of a reply: fenced Python, read line by line, and nothing that only looks like it.

Fences are CommonMark's (three or more backticks or tildes, closed by at least as many), with one addition: a fence
inside a Python string does not end the cell.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

from rlm_nb.records import StopReason

PYTHON = frozenset({"python", "py", "python3", "ipython", "ipython3", "repl"})
"""Info strings that make a fence a cell."""

INVENTED = frozenset({"output", "outputs", "stdout", "result", "results"})
"""Info strings, and words before a fence, that claim to be what a cell printed."""

_FENCE = re.compile(r"^ {0,3}(?P<marks>`{3,}|~{3,})(?P<info>[^`\n]*)$")
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
    without knowing what the cells before it really do.
    """
    if stop_reason == "refusal":
        return Cells((), "Your reply was a refusal, so nothing ran. If a part of the task can be done, do that part.")
    if not text.strip():
        return Cells((), "Your reply was empty. Reply with one ```python cell.")
    blocks = list(_blocks(text))
    wanted = [block for block in blocks if block.is_python or block.is_invented]
    if not any(block.is_python for block in blocks):
        wanted = [block for block in blocks if block.info == ""]
    code, fault = [], None
    for block in wanted:
        if block.is_invented:
            fault = (
                "Your reply made up the output of a cell, so what came after it did not run. Write a cell, stop, and "
                "read its real output in the next turn."
            )
            break
        if not block.closed and stop_reason == "max_tokens":
            fault = "Your reply was cut off in the middle of a cell, which did not run. Write shorter cells."
            break
        if block.code.strip():
            code.append(block.code)
    if not code and fault is None:
        fault = _nothing_to_run(text, blocks, stop_reason)
    return Cells(tuple(code), fault)


def _nothing_to_run(text: str, blocks: list[_Block], stop_reason: StopReason) -> str:
    if stop_reason == "max_tokens":
        return "Your reply was cut off before it came to a cell. Think more briefly, and write one ```python cell."
    if any(block.is_python or block.info == "" for block in blocks):
        return "Your cell was empty. Reply with one ```python cell that does something."
    if blocks:
        return f"Your reply has a {blocks[0].info!r} block but no ```python cell, so nothing ran."
    if "FINAL" in text:
        return (
            "FINAL counts only when a cell calls it. To finish, reply with a ```python cell that calls FINAL(answer)."
        )
    return "Your reply had no ```python cell, so nothing ran. To act, write one; to finish, call FINAL(answer) in one."


def _blocks(text: str) -> Iterator[_Block]:
    lines = text.splitlines()
    at, before = 0, ""
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        if opening is None:
            before = lines[at].strip() or before
            at += 1
            continue
        info = opening["info"].strip().strip("{}.").split(maxsplit=1)
        name = info[0].lower() if info else ""
        end = _closing_line(lines, at + 1, opening["marks"], name in PYTHON or name == "")
        closed = end < len(lines)
        yield _Block(name, "\n".join(lines[at + 1 : end]).strip("\n"), before, closed)
        at, before = end + 1, ""


def _closing_line(lines: list[str], start: int, marks: str, is_code: bool) -> int:
    """Where the fence closes; `len(lines)` if nowhere."""
    closing = re.compile(rf"^ {{0,3}}{re.escape(marks[0])}{{{len(marks)},}}\s*$")
    first = None
    for number in range(start, len(lines)):
        if not closing.match(lines[number]):
            continue
        if not is_code or not _inside_string("\n".join(lines[start:number])):
            return number
        first = number if first is None else first
    # The string never ended: then it was a fault in the code, and the first fence closed the cell.
    return len(lines) if first is None else first


def _inside_string(code: str) -> bool:
    """Whether the code stops in the middle of a triple-quoted string."""
    if code.lstrip().startswith("%%"):
        return False
    try:
        for _ in tokenize.generate_tokens(io.StringIO(code).readline):
            pass
    except tokenize.TokenError as error:
        # 3.11 says "EOF in multi-line string", 3.12 and later "unterminated triple-quoted string literal …".
        return "string" in str(error.args[0])
    except SyntaxError:
        return False
    return False
