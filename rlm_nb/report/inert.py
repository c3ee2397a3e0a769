"""Makes text, Markdown and HTML of others into HTML that only shows: no script, no style, no address but our own pages.

What comes out of here is the only thing of others' that gets into a page. A page's Content-Security-Policy is the
second line: it lets nothing run, and nothing be loaded, even if something got through.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache, partial
from typing import Any

from bleach.html5lib_shim import Filter
from bleach.sanitizer import Cleaner
from markdown_it import MarkdownIt
from nbconvert.filters.ansi import ansi2html
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from rlm_nb.notebook.wording import printable

TAGS = frozenset(
    {"a", "abbr", "b", "blockquote", "br", "caption", "code", "col", "colgroup", "dd", "del", "details", "div", "dl"}
    | {"dt", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins", "kbd", "li", "mark", "ol", "p", "pre"}
    | {"q", "s", "samp", "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th"}
    | {"thead", "tr", "tt", "u", "ul", "var"}
)
"""The elements that stay; any other is shown as text, or its content alone is."""

NUMBERS = frozenset({"colspan", "rowspan", "start", "width", "height"})

DEEPEST = 300
"""Elements within each other that are still shown as such; nobody's table comes near it."""

HIGHLIGHT = re.compile(r"[a-z]{1,2}[a-z0-9]?|highlight")
"""The classes of highlighted code; no other class stays, so that nothing of others' looks like ours."""

PICTURE = re.compile(r"data:image/(png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]*")
"""Pictures that are in the page themselves. In an <img>, a script of an SVG does not run, and nothing is loaded."""

NOTEBOOK = re.compile(r"((?:root(?:\.[1-9][0-9]{0,8})*|task))\.ipynb(?:#cell-id=([A-Za-z0-9_-]{1,64}))?")

COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")

LEFT_OUT = {
    "application/javascript": "JavaScript",
    "application/vnd.jupyter.widget-view+json": "A widget",
    "application/pdf": "A PDF",
}
"""What an output can be that has no form here, and how it is called."""


def text(value: str) -> str:
    """Text with the colours of a terminal."""
    parts = (part if COLOUR.fullmatch(part) else printable(part) for part in COLOUR.split(value))
    return re.sub(r' style="[^"]*"', "", str(ansi2html("".join(parts))))


def code(source: str, language: str = "ipython3") -> str:
    """Highlighted source."""
    marked: str = highlight(printable(source), get_lexer_by_name(language, stripnl=False), HtmlFormatter())
    return marked


def markdown(source: str, pages: Collection[str]) -> str:
    """Markdown; HTML in it that may not stay is shown as text.

    Args:
        source: The Markdown.
        pages: The paths that links may lead to, relative to the page.
    """
    page = re.sub(
        r'(<t[hd]) style="text-align:(left|center|right)">', r'\1 align="\2">', _parser().render(printable(source))
    )
    return _cleaned(page, pages, strip=False)


def markup(source: str, pages: Collection[str]) -> str:
    """HTML without what may not stay."""
    source = re.sub(r"(?is)<(style|script|title)\b.*?(</\1\s*>|\Z)", "", printable(source))
    return _cleaned(source, pages, strip=True)


def output(data: Mapping[str, Any], pages: Collection[str]) -> str:
    """One output in the richest of its forms that can be shown."""
    for kind in ("image/png", "image/jpeg", "image/gif", "image/webp"):
        if isinstance(data.get(kind), str):
            return _picture(kind, data[kind])
    if isinstance(svg := data.get("image/svg+xml"), str):
        return _picture("image/svg+xml", base64.b64encode(svg.encode("utf-8", "replace")).decode())
    if isinstance(source := data.get("text/html"), str):
        return f'<div class="rich">{markup(source, pages)}</div>'
    if isinstance(source := data.get("text/markdown"), str):
        return f'<div class="rich">{markdown(source, pages)}</div>'
    for kind in ("text/latex", "text/plain"):
        if isinstance(data.get(kind), str):
            return f"<pre>{text(data[kind])}</pre>"
    for kind, value in data.items():
        if kind in LEFT_OUT:
            return f'<p class="note">{LEFT_OUT[kind]} was left out here.</p>'
        return f"<pre>{html.escape(printable(json.dumps(value, indent=1, ensure_ascii=False)))}</pre>"
    return ""


def _picture(kind: str, encoded: str) -> str:
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except ValueError:
        return '<p class="note">A damaged picture was left out here.</p>'
    return f'<img alt="" src="data:{kind};base64,{base64.b64encode(data).decode()}">'


@cache
def _parser() -> MarkdownIt:
    # The links are judged later, together with those of HTML.
    parser = MarkdownIt("gfm-like", {"linkify": False, "highlight": _fence})
    parser.validateLink = lambda url: True  # type: ignore[method-assign]
    return parser


def _fence(source: str, language: str, _attributes: str) -> str:
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return ""
    marked: str = highlight(source, lexer, HtmlFormatter(nowrap=True))
    return marked


def _cleaned(source: str, pages: Collection[str], *, strip: bool) -> str:
    if _depth(source) > DEEPEST:
        return f'<p class="note">Nested too deeply to be shown; as it was written:</p><pre>{html.escape(source)}</pre>'
    # Every protocol passes this stage; `_Links` takes all that is not one of our pages.
    cleaner = Cleaner(TAGS, _may_stay, _EVERY, strip, strip_comments=True, filters=[partial(_Links, pages=pages)])
    cleaned: str = cleaner.clean(source)
    return cleaned


def _depth(source: str) -> int:
    """How deeply the elements are nested, at most. It takes time in proportion to the text; a parser, to its square."""
    depth = deepest = 0
    for closing, name in re.findall(r"<(/?)([A-Za-z][A-Za-z0-9]*)", source):
        if name.lower() not in _ENDED_BY_THE_NEXT:
            depth = max(0, depth - 1) if closing else depth + 1
            deepest = max(deepest, depth)
    return deepest


_ENDED_BY_THE_NEXT = frozenset({"br", "col", "dd", "dt", "hr", "img", "input", "li", "link", "meta", "option", "p"}) | {
    *("tbody", "td", "tfoot", "th", "thead", "tr", "wbr")
}
"""Elements that need no end."""

_EVERY = frozenset({"http", "https", "mailto", "data"})


def _may_stay(tag: str, name: str, value: str) -> bool:
    if name in ("href", "src"):
        return (tag, name) in (("a", "href"), ("img", "src"))
    if name == "class":
        return tag == "span" and HIGHLIGHT.fullmatch(value) is not None
    if name in NUMBERS:
        return re.fullmatch("[0-9]{1,5}", value) is not None
    if name == "align":
        return value in ("left", "center", "right")
    return name in ("alt", "title", "open")


class _Links(Filter):  # type: ignore[misc]
    """Links to our own pages lead there; of all others, and of pictures that are elsewhere, the address is told."""

    def __init__(self, source: Any, pages: Collection[str]) -> None:
        super().__init__(source)
        self._pages = pages

    def __iter__(self) -> Iterator[dict[str, Any]]:
        told = ""
        for token in super().__iter__():
            named = token.get("name")
            starts = token["type"] in ("StartTag", "EmptyTag")
            if starts and named == "img":
                source = token["data"].get((None, "src"), "")
                if not PICTURE.fullmatch(source):
                    alt = token["data"].get((None, "alt"), "")
                    yield _said(f"[picture {alt} {source[:200]}]".replace("  ", " "))
                    continue
            elif starts and named == "a":
                wanted = token["data"].pop((None, "href"), "")
                if (ours := self._ours(wanted)) is not None:
                    token["data"][(None, "href")] = ours
                else:
                    told = wanted
            yield token
            if token["type"] == "EndTag" and named == "a" and told:
                yield _said(f" ‹{told[:500]}›")
                told = ""

    def _ours(self, wanted: str) -> str | None:
        if found := NOTEBOOK.fullmatch(wanted):
            page = f"{found[1]}.html"
            return f"{page}#{found[2]}" if found[2] else page if page in self._pages else None
        return wanted if wanted in self._pages else None


def _said(text: str) -> dict[str, Any]:
    return {"type": "Characters", "data": text}
