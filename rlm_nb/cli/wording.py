"""How cells and their outputs are told in a few lines, beside what `notebook/wording.py` has words for."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from rlm_nb.notebook.wording import headline, printable
from rlm_nb.records import Answer, Output, Usage


def answer_headline(answer: Answer) -> str:
    """An answer in a line: the first line of a text, all of anything else."""
    return headline(answer.text if isinstance(answer.value, str) else json.dumps(answer.value, ensure_ascii=False))


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


def tokens(usage: Usage) -> str:
    """All tokens, read and written: `950`, `12.3k`, `1.2M`."""
    count = usage.prompt_tokens + usage.output_tokens
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


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
