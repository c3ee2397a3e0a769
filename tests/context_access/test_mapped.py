"""A text in a file behaves as the string would, but for its memory; a file that changes is noticed."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import regex

from rlm_nb.context_access import Context, context_search, context_slice
from rlm_nb.errors import ContextError

LINES = [
    "2026-01-01 INFO worker {0} took {0} ms\n",
    "größer als naïve — 日本語 {0} 🎉 the End\n",
    "K is the Kelvin sign, ſ the long s: warning {0}\n",
]


def lines(count: int) -> str:
    return "".join(LINES[number % 3].format(number) for number in range(count))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More than one window of mixed text, with a few lines that are there once."""
    path = tmp_path_factory.mktemp("large") / "large.txt"
    half = lines(220_000)
    rare = f"needle-4711 and größte Sorge\n{'y' * 3000}END\nNEEDLE\n"
    path.write_text(half + rare + half + "needle-12 last ſtop", "utf-8")
    assert path.stat().st_size > 18 * 1024 * 1024
    return path


PATTERNS = [
    "needle",
    r"needle-\d+",
    r"\bneedle\b",
    "größte",
    "GRÖẞTE|größte",
    "stop$",
    r"(?s)y{2990,}END.NEED",
    r"END$",
    r"(?m)^NEEDLE$",
    r"(?<=NEE)DLE",
    r"needle(?!-4)",
    r"n[^a-z]{2,}x|n[e]+dle-\d{2,4} ",
    r"(?P<letter>y)(?P=letter){3000}",
    r"worker 65(?=999)\d+",
    r"[日-語]+ 21999[0-9]",
    r"[^\x00-\x7f]+ 1234 ",
    r"(?i)\bKELVIN SIGN, .{10,20}: warning 10\b",
    r"(?:needle|END)\n|\Alast",
    "last .top",
    r"\d+ ms\n\w+ als naïve — \S+ 65998",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("case_sensitive", [True, False])
def test_a_search_in_stretches_finds_what_one_in_memory_does(large: Path, pattern: str, case_sensitive: bool) -> None:
    """Patterns of many kinds, in a file that is searched piece by piece, partly among its bytes."""
    text = large.read_text("utf-8")
    with Context.open(large) as context:
        found = context_search(context, pattern, max_hits=50, case_sensitive=case_sensitive)
    made = regex.compile(pattern, 0 if case_sensitive else regex.IGNORECASE)
    expected = [match.span() for match, _ in zip(made.finditer(text), range(50), strict=False)]
    assert [(match.start, match.end) for match in found] == expected
    assert all(text[match.start : match.end] == match.text for match in found)
    for match in found[:3]:
        assert match.line_number == text.count("\n", 0, match.start) + 1


def test_all_matches_of_a_frequent_pattern(large: Path) -> None:
    """None is lost or found twice where two stretches meet."""
    text = large.read_text("utf-8")
    with Context.open(large) as context:
        for pattern in (r"\d*0 ms", "00 ms"):
            found = context_search(context, pattern, max_hits=10**9, case_sensitive=True)
            assert [match.start for match in found] == [match.start() for match in regex.finditer(pattern, text)]
            assert "worker" in context
            assert "Worker" not in context


def test_a_file_that_is_not_all_utf8(large: Path, tmp_path: Path) -> None:
    """A byte that is none becomes its escape, in the middle of a large file too, and offsets go on from there."""
    path = tmp_path / "flawed.txt"
    data = large.read_bytes()
    at = len(data) * 3 // 4
    path.write_bytes(data[:at] + b"\xff xff needle" + data[at:])
    text = path.read_bytes().decode(errors="backslashreplace")
    with Context.open(path) as context:
        for pattern in ("needle", r"xff", r"needle-\d+"):
            found = context_search(context, pattern, max_hits=99, case_sensitive=True)
            assert [match.start for match in found] == [match.start() for match in regex.finditer(pattern, text)]
        assert context_slice(context, len(text) - 9, len(text)) == text[-9:]
        assert len(context) == len(text)


def test_a_match_that_is_too_long_is_refused(large: Path) -> None:
    """A pattern that would take half of a large file says so, rather than give less than it should."""
    with Context.open(large) as context, pytest.raises(ContextError, match=r"has a match of .* are the most: bound it"):
        context_search(context, r"(?s)worker.*END")


def test_any_place_of_a_large_file(large: Path) -> None:
    """Slices and single characters anywhere are those of the string."""
    text = large.read_text("utf-8")
    dice = random.Random(1)
    with Context.open(large) as context:
        for _ in range(300):
            start = dice.randrange(len(text))
            assert context_slice(context, start, start + 300) == text[start : start + 300]
            assert context[start] == text[start]
            assert context[start - len(text)] == text[start]
        assert context[-20::3] == text[-20::3]
        assert context[40:10:-7] == text[40:10:-7]
        for beyond in (len(text), -len(text) - 1):
            with pytest.raises(IndexError):
                context[beyond]


def test_little_of_it_is_in_memory(large: Path) -> None:
    """What was gone through is given back: the process has not grown by the file."""
    process = psutil.Process()
    with Context.open(large) as context:
        len(context)
        context_search(context, "needle", case_sensitive=True)
        before = process.memory_info().rss
        for _ in range(3):
            assert len(context_search(context, "needle", case_sensitive=True)) == 2
        assert process.memory_info().rss - before < large.stat().st_size / 2


def test_a_file_that_changes(tmp_path: Path) -> None:
    """It is noticed before the next look; a shorter one does not end the process."""
    path = tmp_path / "notes.txt"
    path.write_text("a" * 100_000)
    with Context.open(path) as context:
        assert context_slice(context, 5, 8) == "aaa"
        os.truncate(path, 10)
        with pytest.raises(ContextError, match=r"notes.txt: the file was changed while it was in use"):
            context_slice(context, 90_000, 90_010)


def test_a_file_that_grows(tmp_path: Path) -> None:
    """A log that somebody writes on: the text is what was there; one that is written anew is another text."""
    path = tmp_path / "server.log"
    for before in ("", "one\ntwo\n", "a line\n" * 200_000):
        path.write_text(before)
        with Context.open(path) as context:
            for _ in range(3):
                with path.open("a") as log:
                    log.write("three\n")
                assert (len(context), str(context)) == (len(before), before)
                assert context_search(context, "three") == []
        for other in ("another\n" * 300_000, f"x{before}") if before else ():
            path.write_text(before)
            with Context.open(path) as context:
                path.write_text(other)
                with pytest.raises(ContextError, match="was changed while it was in use"):
                    context_slice(context, 0, 3)


def test_what_is_no_file(tmp_path: Path) -> None:
    """A missing file, a folder, a pipe and a closed context are named; an empty file is an empty text."""
    os.mkfifo(tmp_path / "pipe")
    keep = os.open(tmp_path / "pipe", os.O_RDWR)  # so that opening it does not wait
    try:
        for name in ("missing", ".", "pipe"):
            with pytest.raises(ContextError, match=r"the context cannot be (read|mapped)"):
                Context.open(tmp_path / name)
    finally:
        os.close(keep)
    (tmp_path / "empty").touch()
    with Context.open(tmp_path / "empty") as context:
        assert (len(context), str(context), context[1:5], context_search(context, "x")) == (0, "", "", [])
        assert repr(context) == f"Context('{tmp_path}/empty', 0 bytes)"
    with pytest.raises(ContextError, match="was closed"):
        str(context)


def test_what_ends_a_task_leaves_the_index_whole(tmp_path: Path) -> None:
    """An error between any two lines of what builds the index, and the next to look sees the text as it is."""
    (tmp_path / "text").write_text(text := lines(4000), "utf-8")

    class EndedError(Exception):
        pass

    for count in range(1, 30):
        left = count

        def ends(frame: Any, event: str, _: Any) -> Any:
            nonlocal left
            if frame.f_code.co_name != "_index_until":
                return ends if event == "call" else None
            left -= event == "line"
            if left == 0:
                raise EndedError
            return ends

        with Context.open(tmp_path / "text") as context:
            before = sys.gettrace()
            sys.settrace(ends)
            try:
                with pytest.raises(EndedError):
                    len(context)
            finally:
                sys.settrace(before)
            assert context_search(context, "worker 3999 ", 1)[0].line_number == 4000
            assert (len(context), context[90_000:90_100]) == (len(text), text[90_000:90_100])
