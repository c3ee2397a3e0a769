"""Finds patterns in a text, whether it is in memory or in a file, within a time limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import regex

from rlm_nb.context_access.mapped import Context
from rlm_nb.context_access.prefilter import byte_pattern
from rlm_nb.errors import ContextError, SearchTimeoutError

SPAN = 64 * 1024
"""Characters that a match in a file of more than one window may have, together with what it looks at around it."""

WINDOW = 16 * 1024 * 1024
"""Bytes of a file that are decoded at a time."""

SMALL = 1024 * 1024
"""The same, where a pattern is known to be rare; with characters of four bytes still several times `SPAN`."""

STRIDE = 64 * 1024 * 1024
"""Bytes that are passed over at a time."""

LONGEST = 10_000
"""Characters of a pattern."""

LARGEST = 200_000
"""Parts of a pattern, those that are repeated as often as they may be: what it takes to compile it."""

Skip = Callable[[int], int | None]
"""The first character, from this one on, at which a match may begin; `None` when there is none any more."""


class Span(NamedTuple):
    """A match: its text, and where it is."""

    start: int
    end: int
    text: str


def compiled(pattern: str, *, case_sensitive: bool) -> regex.Pattern[str]:
    """A pattern in the syntax of `re`, and what the package `regex` adds to it. Raises `ValueError`."""
    _check_size(pattern)
    try:
        made: regex.Pattern[str] = regex.compile(pattern, 0 if case_sensitive else regex.IGNORECASE)
    except regex.error as error:
        raise ValueError(f"not a regular expression: {pattern!r}: {error}") from None
    except (RecursionError, MemoryError, OverflowError):
        raise ValueError(f"the pattern is too large, or nested too deeply: {pattern[:100]!r}") from None
    if made.flags & regex.REVERSE:
        raise ValueError("a pattern that searches backwards, (?r), has no place here: matches are given from the start")
    return made


_TOKEN = regex.compile(
    r"\\. | \[\^?\]?(?:\\.|[^\]\\])*+\] | (?P<recursion>\(\?(?:R|[+-]?\d+|&\w+|P>\w+)\))"
    r"| (?P<opens>\() | (?P<closes>\)) | \{(?P<least>\d*),?(?P<most>\d*)\} | .",
    regex.DOTALL | regex.VERBOSE,
)


def _check_size(pattern: str) -> None:
    """Compiling repeats what is repeated, and recursion has no bound: refuse what would take all memory."""
    if len(pattern) > LONGEST:
        raise ValueError(f"a pattern of {len(pattern):,} characters: {LONGEST:,} are the most")
    sizes, atom = [0], 0
    for token in _TOKEN.finditer(pattern):
        if token["recursion"]:
            raise ValueError(f"a pattern that calls itself, {token[0]}, has no place here")
        if token["opens"]:
            sizes.append(0)
            continue
        times = token["most"] or token["least"]
        if times:
            # Far more digits than a number here may have need not be read.
            sizes[-1] += atom * (int(times[:9]) - 1)
            atom *= int(times[:9])
        else:
            atom = max(1, sizes.pop()) if token["closes"] and len(sizes) > 1 else 1
            sizes[-1] += atom
        if sizes[-1] > LARGEST:
            raise ValueError(f"the pattern repeats too much: {pattern[:100]!r}; in all, {LARGEST:,} parts are the most")


def is_literal(pattern: str) -> bool:
    """Whether a pattern means just its own characters."""
    return bool(pattern) and not _SPECIAL & set(pattern)


_SPECIAL = frozenset(r"\.^$*+?{}[]|()")


def matches(context: str | Context, pattern: str, *, case_sensitive: bool, timeout: float) -> Iterator[Span]:
    """The matches that `finditer` gives, in their order.

    Args:
        context: What is searched.
        pattern: A regular expression.
        case_sensitive: Whether `a` and `A` differ.
        timeout: Seconds that each stretch of `WINDOW` may take.

    Raises:
        ValueError: It is no regular expression.
        SearchTimeoutError: It takes too long.
        ContextError: A match is too long to be found in a file piece by piece.
    """
    made = compiled(pattern, case_sensitive=case_sensitive)
    if isinstance(context, str):
        patience = timeout * max(1.0, len(context) / WINDOW)
        return (Span(found.start(), found.end(), found[0]) for found in _in_time(made, context, 0, patience))
    if case_sensitive and is_literal(pattern):
        return occurrences(context, pattern, timeout)
    skip = _skipping(context, pattern, case_sensitive=case_sensitive, timeout=timeout)
    return _in_windows(context, made, skip, timeout)


def occurrences(context: Context, text: str, timeout: float = 60.0) -> Iterator[Span]:
    """Where a plain text stands in a file, found among its bytes as long as those are UTF-8."""
    needle = text.encode("utf-8", "surrogatepass")
    at = 0
    while at < context.size:
        end = min(at + STRIDE, context.size)
        reach = min(end + len(needle) - 1, context.size)
        if not context.is_sound(reach):
            # What looks like the escape of a byte may be one: only the decoded text tells.
            made = compiled(regex.escape(text), case_sensitive=True)
            yield from _in_windows(context, made, _nothing, timeout, context.char_of(at))
            return
        while (found := context.find_bytes(needle, at, reach)) >= 0:
            start = context.char_of(found)
            yield Span(start, start + len(text), text)
            at = found + len(needle)
        at = max(at, end)


def _in_windows(context: Context, made: regex.Pattern[str], skip: Skip, timeout: float, at: int = 0) -> Iterator[Span]:
    """Search one stretch of text after the other; each begins early enough for what stands before a match.

    What begins in the last `SPAN` characters of a stretch is left to the next, which sees what follows.
    """
    size = WINDOW
    while (begin := skip(at)) is not None:
        # Where there is much to be found, larger stretches have less to decode twice.
        size = min(2 * size, WINDOW) if begin - at < SPAN else SMALL
        base, text, is_last = context.window(max(0, begin - SPAN), size)
        limit = len(text) + 1 if is_last else len(text) - SPAN
        at = base + limit
        for found in _in_time(made, text, begin - base, timeout):
            start, end = found.span()
            if start >= limit:
                break
            if end - start > SPAN and not (is_last and base == 0):
                raise ContextError(
                    f"the pattern {made.pattern!r} has a match of {end - start:,} characters at {base + start:,}; in a "
                    f"file of this size {SPAN:,} are the most: bound it"
                )
            at = max(at, base + end)
            yield Span(base + start, base + end, found[0])
        if is_last:
            return


def _nothing(at: int) -> int | None:
    return at


def _skipping(context: Context, pattern: str, *, case_sensitive: bool, timeout: float) -> Skip:
    """What passes over the parts of a large file that have no match."""
    made = byte_pattern(pattern, case_sensitive=case_sensitive) if context.size > WINDOW else None
    if made is None:
        return _nothing
    reach = 4 * SPAN  # bytes that a match may have

    def skip(at: int) -> int | None:
        nonlocal made
        if made is None:
            return at
        byte = context.byte_of(at)
        while byte < context.size:
            end = min(byte + STRIDE, context.size)
            if not context.is_sound(end):
                return at
            try:
                found = context.search_bytes(made, byte, end, timeout)
            except (TimeoutError, MemoryError):
                made = None  # the pattern itself, on a smaller stretch, may do better
                return at
            if found is not None:
                return max(at, context.char_of(found))
            byte = end if end == context.size else end - reach
        return None

    return skip


def _in_time(made: regex.Pattern[str], text: str, at: int, seconds: float) -> Iterator[regex.Match[str]]:
    """`finditer` from `at` on. Its seconds are those of the processor, all threads of this process together."""
    found = made.finditer(text, at, timeout=seconds)
    while True:
        try:
            match = next(found, None)
        except TimeoutError:
            raise SearchTimeoutError(made.pattern, seconds) from None
        if match is None:
            return
        yield match
