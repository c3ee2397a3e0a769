"""What the model is shown of a cell: bounded, without control characters, pictures by name."""

from __future__ import annotations

import re

from rlm_nb.records import CellResult, Output

# ECMA-48: control sequences such as colours; strings such as links and titles; all other escapes.
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_TEXTS = ("text/markdown", "text/plain")


def shown(result: CellResult, limit: int) -> str:
    """One cell's result in at most about `limit` characters of output, and what else there is to know."""
    parts = [shorten(full(result), limit, f"output({result.number})")]
    if result.overflow is not None:
        parts.append(f"[This was too much even for the notebook: output({result.number}) has all of it.]")
    parts += [f"[{event}]" for event in result.events]
    if result.error and result.status in ("interrupted", "timeout"):
        parts.append(f"[{result.error}]")
    if result.final is not None:
        parts.append("[FINAL was called.]")
    elif any(call.name == "FINAL" and call.error is None for call in result.calls):
        parts.append("[FINAL does not count, because its cell did not end well.]")
    return "\n".join(filter(None, parts)) or "[no output]"


def full(result: CellResult) -> str:
    """All that a cell has put out, as far as its result holds it."""
    return "\n".join(filter(None, map(_text, result.outputs)))


def shorten(text: str, limit: int, name: str) -> str:
    """Head and tail of a long text, around a note that says how much is missing and how to see it: `name[a:b]`."""
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    missing = f"{len(text) - head - tail:,} of {len(text):,} characters left out"
    note = f'[… {missing}: print({name}[{head}:{2 * head}]), or {name}.search("…"), to see more …]'
    return f"{text[:head]}\n{note}\n{text[-tail:]}"


def plain(text: str) -> str:
    """Text as a terminal would leave it: escapes gone, `\\r` and `\\b` carried out."""
    text = _ANSI.sub("", text).replace("\r\n", "\n")
    if "\r" in text or "\b" in text:
        text = "\n".join(map(_overwritten, text.split("\n")))
    return _CONTROL.sub("", text)


def _overwritten(line: str) -> str:
    """What is left of a line after its carriage returns (what came last stands) and backspaces."""
    kept: list[str] = []
    for character in next((part for part in reversed(line.split("\r")) if part), ""):
        if character != "\b":
            kept.append(character)
        elif kept:
            kept.pop()
    return "".join(kept)


def _text(output: Output) -> str:
    kind = output["output_type"]
    if kind == "stream":
        return plain(output["text"]).rstrip("\n")
    if kind == "error":
        return plain("\n".join(output["traceback"]) or f"{output['ename']}: {output['evalue']}")
    data = output["data"]
    text = next((data[name] for name in _TEXTS if name in data), "")
    others = [f"{name}, {_size(data[name])}" for name in data if name not in _TEXTS]
    note = f"[{'; '.join(others)}: kept in the notebook]" if others else ""
    return "\n".join(filter(None, [plain(text), note]))


def _size(value: object) -> str:
    size = len(value) if isinstance(value, str) else len(str(value))
    return f"{size / 1000:.0f} kB" if size >= 1000 else f"{size} bytes"
