"""Looking into a string and into the same text in a file gives the same, and it is what Python itself would give."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.context_access import (
    Context,
    SearchMatch,
    Seen,
    Text,
    context_around_match,
    context_chunks,
    context_head,
    context_search,
    context_slice,
    context_tail,
    listener,
)
from rlm_nb.errors import SearchTimeoutError

TEXT = "Erste Zeile: größer\nsecond line, error 12\n日本語 🎉 Error\n\nthe end; no newline"

Opened = Callable[[str | bytes], Context]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """`opened(text)`: a context of it, in a file."""
    contexts: list[Context] = []

    def write(text: str | bytes) -> Context:
        path = tmp_path / f"{len(contexts)}.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        contexts.append(Context.open(path))
        return contexts[-1]

    yield write
    for context in contexts:
        context.close()


@pytest.fixture(params=["string", "file"])
def text(request: pytest.FixtureRequest, opened: Opened) -> Text:
    """The same text in both forms."""
    return TEXT if request.param == "string" else opened(TEXT)


def test_both_ends(text: Text) -> None:
    """So many characters from the beginning or the end, or all there are."""
    assert context_head(text, 14) == "Erste Zeile: g"
    assert context_tail(text, 7) == "newline"
    assert context_head(text, 0) == context_tail(text, 0) == ""
    assert context_head(text) == context_head(text, 10_000) == context_tail(text, 10_000) == TEXT
    for function in (context_head, context_tail):
        with pytest.raises(ValueError, match="n must not be negative"):
            function(text, -1)
        with pytest.raises(TypeError, match="n must be a whole number, not float"):
            function(text, 1.5)  # type: ignore[arg-type]


def test_slices_that_are_out_of_range(text: Text) -> None:
    """Offsets before the beginning or beyond the end are drawn in; those the wrong way round are exchanged."""
    everywhere = range(-3, len(TEXT) + 4)
    for start in everywhere:
        for end in everywhere:
            low, high = sorted((max(0, start), max(0, end)))
            assert context_slice(text, start, end) == TEXT[low:high]
    with pytest.raises(TypeError, match="start must be a whole number, not NoneType"):
        context_slice(text, None, 4)  # type: ignore[arg-type]


def test_a_search_says_what_and_where(text: Text) -> None:
    """Text, offsets and line of each match; case does not matter unless it is asked for."""
    found = context_search(text, r"error|größ\w+")
    expected = [("größer", 1), ("error", 2), ("Error", 3)]
    assert [(match.text, match.line_number) for match in found] == expected
    assert all(TEXT[match.start : match.end] == match.text for match in found)
    assert [match.text for match in context_search(text, "Error", case_sensitive=True)] == ["Error"]
    assert context_around_match(text, found[1], before=6, after=3) == "line, error 12"
    assert context_around_match(text, found[0], 10**9, 10**9) == TEXT
    assert repr(found[1]) == "SearchMatch(line 2, 33:38, 'error')"


def test_how_many_matches(text: Text) -> None:
    """At most `max_hits`, which may be huge, but not nothing."""
    assert len(context_search(text, "e", max_hits=2)) == 2
    assert len(context_search(text, "e", max_hits=10**12)) == len(re.findall("(?i)e", TEXT))
    for few in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="max_hits must be a whole number from 1"):
            context_search(text, "e", max_hits=few)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not a regular expression: '\\('"):
        context_search(text, "(")
    with pytest.raises(TypeError, match="the context must be a string or a Context, not bytes"):
        context_search(b"e", "e")  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["", "x*", r"\b", "$", "(?m)^", "e*?", r"(?=e)", "(?m)$", r"\Z"])
def test_matches_without_width(text: Text, pattern: str) -> None:
    """They are found once each, where Python finds them."""
    found = [(match.start, match.end) for match in context_search(text, pattern, max_hits=1000, case_sensitive=True)]
    assert found == [match.span() for match in re.finditer(pattern, TEXT)]


def test_a_pattern_that_explodes(text: Text, opened: Opened) -> None:
    """The search is given up after its time, in a string and in a file."""
    slow = "ab" * 1500
    for context in (slow, opened(slow)):
        with pytest.raises(SearchTimeoutError, match=r"'\(\.\*a\)\{20\}x' takes longer than 0.2 s: make it simpler"):
            context_search(context, r"(.*a){20}x", timeout=0.2)
    assert context_search(text, r"(.*a){20}x", timeout=0.2) == []


@pytest.mark.parametrize(
    "pattern",
    [
        "a{999999999}",
        "a{1,99999999999999999999}",
        "(((a{1000}){1000}){1000})",
        "(?R)a",
        "(a(?1))",
        "(?P<x>a(?&x))",
        "(a" * 5000 + ")" * 5000,
        "(" * 4000 + "a" + ")" * 4000,
        "a" * 10_001,
        "(",
    ],
    ids=str.__len__,
)
def test_a_pattern_that_is_too_much(text: Text, pattern: str) -> None:
    """It is refused before it takes all memory, in a string and in a file."""
    with pytest.raises(ValueError, match=r"pattern|regular expression"):
        context_search(text, pattern)


@pytest.mark.parametrize("pattern", ["a{1000}", r"a\{999999999}", "(?s).{0,60000}", "[(?R)]", "(?:[a-z]{3}){200}"])
def test_a_pattern_that_only_looks_large(text: Text, pattern: str) -> None:
    """What stays within bounds is searched."""
    context_search(text, pattern)


@pytest.mark.parametrize("timeout", [-1, 0, float("nan"), float("inf"), "x", None, True])
def test_a_timeout_that_is_none(text: Text, timeout: Any) -> None:
    """It is refused, the same for a string and a file."""
    with pytest.raises((ValueError, TypeError), match=r"^timeout must be"):
        context_search(text, "a", timeout=timeout)


def test_chunks(text: Text) -> None:
    """Together they are the text, each with where it is, and an overlap where it is wanted."""
    for size in (1, 2, 7, len(TEXT), 10_000):
        pieces = list(context_chunks(text, size))
        assert "".join(piece for _, _, piece in pieces) == TEXT
        assert all(TEXT[start:end] == piece and len(piece) <= size for start, end, piece in pieces)
    overlapping = list(context_chunks(text, 20, overlap=5))
    assert [start for start, _, _ in overlapping] == list(range(0, len(TEXT) - 5, 15))
    assert overlapping[-1][1] == len(TEXT)
    assert list(context_chunks("", 5)) == []


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (-3, 0), (5, 5), (5, 6), (5, -1)])
def test_chunks_that_would_not_end(text: Text, size: int, overlap: int) -> None:
    """Sizes that lead nowhere are refused at once, not when the first piece is taken."""
    with pytest.raises(ValueError, match="must be at least"):
        context_chunks(text, size, overlap)


def test_a_listener_is_told_of_everything(text: Text) -> None:
    """Operation, offset and text of all that was given away."""
    seen: list[Seen] = []
    token = listener.set(seen.append)
    try:
        context_head(text, 5)
        found = context_search(text, "second")
        context_around_match(text, found[0], 2, 2)
        next(context_chunks(text, 9))
    finally:
        listener.reset(token)
    context_head(text, 5)
    assert [(each.operation, each.start, each.text) for each in seen] == [
        ("head", 0, "Erste"),
        ("search", 0, ""),
        ("match", 20, "second"),
        ("slice", 18, "r\nsecond l"),
        ("chunk", 0, "Erste Zei"),
    ]
    assert seen[1].detail == "second"
    assert all(each.context is text for each in seen)


def test_any_text_is_the_same_in_a_file(opened: Opened) -> None:
    """Random texts of all widths, with bytes that are no UTF-8: the functions agree with those on the string."""
    dice = random.Random(4)
    pieces = [
        b"a",
        b"\n",
        "é".encode(),
        "語".encode(),
        "🎉".encode(),
        b"\xff",
        b"\xc3",
        b"\x80",
        b"\xed\xa0\x80",
        b"x12 ",
    ]
    for _ in range(40):
        data = b"".join(dice.choices(pieces, k=dice.randrange(60)))
        as_string, as_file = data.decode(errors="backslashreplace"), opened(data)
        assert str(as_file) == as_string
        assert len(as_file) == len(as_string)
        assert list(as_file) == list(as_string)
        for _ in range(10):
            start, end = dice.randrange(-5, 80), dice.randrange(-5, 80)
            assert context_slice(as_file, start, end) == context_slice(as_string, start, end)
            assert as_file[start:end] == as_string[start:end]
            assert context_tail(as_file, abs(end)) == context_tail(as_string, abs(end))
        for pattern in (r"\w+", "a", r"[^\n]{2}", "x12", "xff", "(?i)É"):
            assert same(context_search(as_file, pattern, 99), context_search(as_string, pattern, 99))
        assert list(context_chunks(as_file, 7, 3)) == list(context_chunks(as_string, 7, 3))


def same(first: list[SearchMatch], second: list[SearchMatch]) -> bool:
    assert first == second
    return True
