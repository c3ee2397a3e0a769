"""Markdown that shows text of others as it is, wherever a notebook is read: JupyterLab, VS Code, GitHub, nbviewer."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from rlm_nb.notebook import wording
from rlm_nb.notebook.metadata import Node
from rlm_nb.notebook.wording import printable

SHOWN = 20_000
"""Characters of a text that are shown; the metadata holds all of it."""

BRIEFLY = 4_000
"""The same for one text of many."""


_FORMULA, _SIGNS = re.compile(r"\\[(\[]"), re.compile(r"[\\`*_\[\]<>|$~&#!]")


def markdown(name: str, parts: Iterable[str], tags: list[str], rlm: dict[str, Any]) -> Node:
    """A cell of prose; empty parts are left out."""
    return {
        "cell_type": "markdown",
        "id": name,
        "metadata": {"editable": False, "tags": tags, "rlm": rlm},
        "source": "\n\n".join(part for part in parts if part),
    }


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    formula = text.count("$") > 1 or _FORMULA.search(text)
    text = _SIGNS.sub(r"\\\g<0>", text)
    # MathJax looks at the page, where these backslashes are gone; behind an element, its signs begin no formula.
    return text.replace(r"\$", "&#36;<span></span>").replace(r"\\", "&#92;<span></span>") if formula else text


def in_html(text: str) -> str:
    """The same for text inside an HTML element, where Markdown does not reach."""
    return html.escape(text).replace("\\", "&#92;<span></span>").replace("$", "&#36;<span></span>")


def folded(summary: str, text: str) -> str:
    """A text behind a line that opens it with a click; the line is plain text, the text Markdown.

    It is an element of HTML, because that folds wherever notebooks are read. `jupyter.source_hidden` does in JupyterLab
    only.
    """
    return f"<details>\n<summary>{in_html(line(summary))}</summary>\n\n{text}\n\n</details>"


def table(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    """Markdown in rows; the columns are their titles, with a colon in front for what is set to the right."""
    titles = " | ".join(column.removeprefix(":") for column in columns)
    rule = "|".join("--:" if column.startswith(":") else "---" for column in columns)
    return "\n".join([f"| {titles} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)])


def facts(about: Mapping[str, Any]) -> str:
    """Names and values side by side, as they are."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in about.items()
    }
    return table([(escaped(line(name)), escaped(line(text))) for name, text in texts.items()], ("", ""))


def fenced(text: str, most: int = SHOWN) -> str:
    """A block that shows `text` as it is, whatever fences it has of its own."""
    text = cut(printable(text), most)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def brief(title: str, text: str) -> str:
    """A title and a text: on one line where that is enough, else its beginning, which unfolds the rest."""
    shown = wording.cut(line(text[: 2 * BRIEFLY]), 100)
    if shown == printable(text).strip():
        return f"{title}: {escaped(shown)}"
    return folded(f"{title}: {shown}", fenced(text, BRIEFLY))


def quoted(text: str) -> str:
    """A block quote that shows `text` as it is."""
    return "\n".join(f"> {escaped(one)}" for one in printable(text).splitlines())


def link(name: str, path: str) -> str:
    """A link; what follows `#` in its path stays what it is."""
    before, mark, cell = path.partition("#")
    return f"[{escaped(line(name))}]({quote(before, errors='surrogateescape')}{mark}{cell})"


def line(text: str) -> str:
    """The text on one line."""
    return " ".join(printable(text).split())


def cut(text: str, most: int = SHOWN) -> str:
    """As much of the text as is shown."""
    return text if len(text) <= most else f"{text[:most]}\n\n… and {len(text) - most:,} characters more"
