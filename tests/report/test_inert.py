"""What becomes of text, Markdown and HTML of others; tests/browser shows what a browser makes of it."""

from __future__ import annotations

import contextlib
import time

import pytest

from rlm_nb.report import inert

PAGES = frozenset({"index.html", "root.html", "root.1.html", "outputs/root-cell-1.txt"})
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("[up](root.ipynb#cell-id=it-006-code-1)", '<a href="root.html#it-006-code-1">up</a>'),
        ("[down](root.1.ipynb)", '<a href="root.1.html">down</a>'),
        ("[all of it](outputs/root-cell-1.txt)", '<a href="outputs/root-cell-1.txt">all of it</a>'),
        ("[gone](root.2.ipynb)", "<a>gone</a> ‹root.2.ipynb›"),
        ("[out](../../secret.txt)", "<a>out</a> ‹../../secret.txt›"),
        ("[web](https://example.org/?q=1)", "<a>web</a> ‹https://example.org/?q=1›"),
        ("[js](javascript:alert(1))", "<p><a>js</a></p>"),
        ("![chart](https://example.org/x.png)", "[picture chart https://example.org/x.png]"),
        (f"![chart](data:image/png;base64,{PIXEL})", f'<img src="data:image/png;base64,{PIXEL}" alt="chart">'),
        ("<script>x</script>", "&lt;script&gt;x&lt;/script&gt;"),
        ("<b onclick=x class=fault id=head style=x>b</b>", "<b>b</b>"),
        ("$x$ and \\(y\\)", "$x$ and (y)"),
    ],
)
def test_links_pictures_and_elements(source: str, shown: str) -> None:
    """Links lead to pages of the same report only; what is elsewhere is named, what would act is text."""
    assert shown in inert.markdown(source, PAGES)


def test_our_own_cells_look_as_they_should() -> None:
    """Folds fold, tables keep their sides, code is coloured."""
    page = inert.markdown("<details>\n<summary>S</summary>\n\n```python\nimport x\n```\n\n</details>", PAGES)
    assert page.startswith("<details>\n<summary>S</summary>\n")
    assert '<span class="kn">import</span>' in page
    assert '<td align="right">1</td>' in inert.markdown("| a |\n|--:|\n| 1 |", PAGES)


def test_an_output_is_shown_in_its_richest_form() -> None:
    """A picture, a table without its style, text in colours; what is neither is named."""
    frame = "<style scoped>b {}</style><table border=1 class=dataframe><tr><td>1</td></tr></table>"
    assert inert.output({"text/html": frame, "text/plain": "1"}, PAGES) == (
        '<div class="rich"><table><tbody><tr><td>1</td></tr></tbody></table></div>'
    )
    assert inert.output({"image/png": PIXEL, "text/html": "x"}, PAGES).endswith(f'base64,{PIXEL}">')
    assert "damaged" in inert.output({"image/png": "x'"}, PAGES)
    assert inert.output({"image/svg+xml": "<svg/>"}, PAGES).startswith('<img alt="" src="data:image/svg+xml;base64,')
    assert "JavaScript was left out" in inert.output({"application/javascript": "x"}, PAGES)
    assert (
        inert.output({"application/json": {"a": "<b>"}}, PAGES)
        == "<pre>{\n &quot;a&quot;: &quot;&lt;b&gt;&quot;\n}</pre>"
    )
    assert inert.output({}, PAGES) == ""


def test_text_has_colours_and_no_commands() -> None:
    """Colours of a terminal stay; other sequences, and what turns text around, go."""
    assert inert.text("\x1b[31mred\x1b[0m <b>") == '<span class="ansi-red-fg">red</span> &lt;b&gt;'
    assert inert.text("\x1b[38;5;200mpink\x1b[0m") == "<span>pink</span>"
    assert inert.text("a\x1b]8;;http://x\x07b\x1b[2Jc\u202ed\re") == "abcd\ne"


@pytest.mark.parametrize("source", ["[" * 50_000, "<b>" * 50_000, "<ul><li>" * 50_000, "> " * 20_000, "*a_" * 20_000])
def test_nothing_takes_for_ever(source: str) -> None:
    """What is nested so deeply that a parser would take minutes is shown as text."""
    began = time.process_time()
    with contextlib.suppress(RecursionError):
        inert.markdown(source, PAGES)
    assert time.process_time() - began < 10


def test_a_long_table_is_no_deep_one() -> None:
    """Rows that follow each other are not within each other."""
    rows = "".join(f"<tr><td>{number}<td>x" for number in range(1000))
    page = inert.output({"text/html": f"<table>{rows}</table>"}, PAGES)
    assert page.count("<td>") == 2000
