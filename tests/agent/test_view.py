"""What the model is shown of a cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlm_nb.agent.view import plain, shorten, shown
from rlm_nb.records import Answer, BridgeCall, CellResult, Output


def stream(text: str, name: str = "stdout") -> Output:
    return {"output_type": "stream", "name": name, "text": text}


def display(**data: Any) -> Output:
    named = {name.replace("_", "/", 1).replace("_", "+"): value for name, value in data.items()}
    return {"output_type": "display_data", "metadata": {}, "data": named}


def cell(*outputs: Output, **rest: Any) -> CellResult:
    return CellResult("code", **{"status": "ok", "outputs": outputs, **rest})


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[1;31mred\x1b[0m \x1b[38;2;1;2;3mtrue\x1b[m", "red true"),
        ("\x1b[2K\x1b[1Gline\x1b[?25l", "line"),
        ("see \x1b]8;;https://example.org\x1b\\here\x1b]8;;\x1b\\.", "see here."),
        ("\x1b]0;title\x07shown", "shown"),
        ("\x1bP1$r0m\x1b\\after \x1b_app\x1b\\that", "after that"),
        ("\x1b(Bset \x1b7saved\x1b8 \x1b=keypad \x1bc", "set saved keypad "),
        ("\x1b]unfinished", "unfinished"),
        ("end \x1b", "end "),
        ("\x00nul \x07bell \x9bC1 \x7fdel", "nul bell C1 del"),
        ("windows\r\nlines\r\n", "windows\nlines\n"),
        ("10%\r50%\r100%\ndone", "100%\ndone"),
        ("working\r", "working"),
        ("a\rb\n\rc\r\r", "b\nc"),
        ("abc\b\bX", "aX"),
        ("\b\bX", "X"),
        ("a_\b\bb", "b"),
    ],
    ids=repr,
)
def test_plain(raw: str, text: str) -> None:
    """Escapes are gone; carriage returns and backspaces are carried out, line by line."""
    assert plain(raw) == text


def test_plain_is_quick() -> None:
    """A megabyte of escapes that never end takes no longer than other text."""
    for raw in ("\x1b]" * 500_000, "\x1b[" * 500_000, "\x1b]" + "x" * 1_000_000, "\r" * 1_000_000, "\b" * 1_000_000):
        assert len(plain(raw)) <= 1_000_000


def test_shorten() -> None:
    """Head and tail stay, and the note between them counts what is missing."""
    text = "".join(f"line {number}\n" for number in range(1000))
    short = shorten(text, 300, "output(7)")
    assert short.startswith("line 0\nline 1\n")
    assert short.endswith("line 998\nline 999\n")
    assert f"[… {len(text) - 300:,} of {len(text):,} characters left out" in short
    assert 'print(output(7)[200:400]), or output(7).search("…"), to see more' in short
    assert short.startswith(text[:200])
    assert len(short) < 450
    assert shorten("x" * 300, 300, "it") == "x" * 300
    assert shorten("x" * 301, 300, "it") != "x" * 301


def test_all_outputs_share_the_limit() -> None:
    """Many outputs are not shown at the price of many limits."""
    seen = shown(cell(*[stream("x" * 500, name) for name in ("stdout", "stderr")] * 10), 1000)
    assert len(seen) < 1200


def test_streams_and_values() -> None:
    """What was printed and what the last line gave, one below the other."""
    result = {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": {"text/plain": "42"}}
    assert shown(cell(stream("out\n"), stream("err\n", "stderr"), result), 1000) == "out\nerr\n42"


def test_nothing() -> None:
    """A cell without output says so, rather than nothing."""
    assert shown(cell(), 1000) == "[no output]"
    assert shown(cell(stream("\n")), 1000) == "[no output]"


def test_pictures_are_named() -> None:
    """What a model cannot read is named with its size; the text that comes with it is shown."""
    seen = shown(cell(display(text_plain="<Figure size 640x480>", image_png="x" * 12_345)), 1000)
    assert seen == "<Figure size 640x480>\n[image/png, 12 kB: kept in the notebook]"
    frame = display(text_plain="   a\n0  1", text_html="<table>…</table>")
    assert shown(cell(frame), 1000) == "   a\n0  1\n[text/html, 16 bytes: kept in the notebook]"
    assert shown(cell(display(application_json={"a": 1})), 1000).startswith("[application/json, 8 bytes")


def test_markdown_is_read() -> None:
    """An object whose plain text is only its type is shown by its Markdown; LaTeX is named."""
    markdown = display(text_plain="<IPython.core.display.Markdown object>", text_markdown="**bold**")
    assert shown(cell(markdown), 1000) == "**bold**"
    latex = display(text_plain="<IPython.core.display.Latex object>", text_latex="$x$")
    assert shown(cell(latex), 1000).endswith("[text/latex, 3 bytes: kept in the notebook]")


def test_tracebacks() -> None:
    """The whole traceback, without colours; a long one keeps its last lines."""
    trace = ["\x1b[31mTraceback\x1b[0m (most recent call last)", *["frame"] * 1000, "ValueError: no"]
    error = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": trace}
    seen = shown(cell(stream("before\n"), error, status="error", error="ValueError: no"), 500)
    assert seen.startswith("before\nTraceback (most recent call last)\nframe\n")
    assert seen.endswith("frame\nValueError: no")
    bare = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
    assert shown(cell(bare, status="error"), 500) == "ValueError: no"


def test_what_happened_to_the_kernel() -> None:
    """Events and reasons come after the output, outside its limit."""
    late = cell(
        stream("x" * 900), status="timeout", error="The cell ran longer than 1 seconds.", events=("It is new.",)
    )
    assert shown(late, 300).endswith("\n[It is new.]\n[The cell ran longer than 1 seconds.]")
    died = cell(status="died", error="It died.", events=("It died. All is gone.",))
    assert shown(died, 300) == "[It died. All is gone.]"


def test_where_the_rest_is() -> None:
    """An output that was too large for the notebook is there all the same, and the model learns where."""
    assert shown(cell(stream("x"), overflow=Path("/runs/1/outputs/root-cell-3.txt"), number=3), 300) == (
        "x\n[This was too much even for the notebook: output(3) has all of it.]"
    )


def test_final() -> None:
    """Whether `FINAL` counted is said; what it was given is not repeated."""
    call = BridgeCall("FINAL", {}, None, None, "key", 0, 0)
    refused = BridgeCall("FINAL", {}, None, {"type": "BridgeError", "message": "too many"}, "key", 0, 0)
    assert shown(cell(calls=(call,), final=Answer.of(1)), 300) == "[FINAL was called.]"
    assert "does not count" in shown(cell(calls=(call,), status="error"), 300)
    assert shown(cell(calls=(refused,), status="error"), 300) == "[no output]"
