"""How values are told to a person: text that cannot move a terminal's cursor, money, tokens, time, code in a line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rlm_nb.records import Output, Usage

# Whole escape sequences first (CSI, OSC and its kin, anything else after ESC), so that none leaves its tail behind;
# then every control character but tab and newline; then what reorders text so that it reads as something else.
_UNPRINTABLE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    r"|[\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    """The text without escape sequences and control characters; tabs and newlines stay."""
    return _UNPRINTABLE.sub("", text.replace("\r\n", "\n"))


def headline(text: str) -> str:
    """The first line that says anything, on one line and harmless to a terminal."""
    lines = (" ".join(line.split()) for line in printable(text).splitlines())
    return next((line for line in lines if line), "")


def code_headline(code: str) -> str:
    """The first line of a cell that does something: no comment, and no import while there is more than imports."""
    lines = [line for line in map(str.strip, printable(code).splitlines()) if line and not line.startswith("#")]
    acts = [line for line in lines if not re.match(r"(import|from)\s", line)]
    return headline((acts or lines or [""])[0])


def head(text: str, lines: int = 8) -> list[str]:
    """The first lines, harmless to a terminal, and a word on how many there are besides."""
    every = printable(text).rstrip().splitlines()
    rest = len(every) - lines
    return every if rest <= 1 else [*every[:lines], f"… {rest} more lines"]


def outputs_text(outputs: Sequence[Output]) -> str:
    """What a cell printed, returned and raised, as text."""
    return "\n".join(text for output in outputs if (text := _output_text(output).rstrip()))


def money(micro_dollars: int) -> str:
    """US dollars: cents, and small sums to a hundredth of a cent."""
    dollars = micro_dollars / 1_000_000
    return f"${dollars:.4f}" if 0 < dollars < 0.1 else f"${dollars:,.2f}"


def tokens(usage: Usage) -> str:
    """All tokens, read and written: `950`, `12.3k`, `1.2M`."""
    count = usage.prompt_tokens + usage.output_tokens
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


def duration(seconds: float) -> str:
    """`12s`, `3m05s`, `1h02m`."""
    whole = int(max(0.0, seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def plural(count: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _output_text(output: Output) -> str:
    kind = output.get("output_type")
    if kind == "stream":
        return _joined(output.get("text", ""))
    if kind == "error":
        return f"{output.get('ename', 'error')}: {output.get('evalue', '')}"
    data = output.get("data", {})
    return _joined(data["text/plain"]) if "text/plain" in data else f"[{', '.join(sorted(data)) or 'no data'}]"


def _joined(text: str | list[str]) -> str:
    """Notebooks may keep a text as a list of lines."""
    return text if isinstance(text, str) else "".join(text)
