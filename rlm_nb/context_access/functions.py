"""The ways into a long text: each gives a bounded piece of it, and can be told of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

from rlm_nb.context_access import searching
from rlm_nb.context_access.mapped import Context

Text = str | Context
"""What can be looked into."""

TIMEOUT = 10.0
"""Seconds of the processor that a pattern may take for each 16 million characters."""


@dataclass(frozen=True)
class Seen:
    """Something that one of the functions below gave away: what a listener is told.

    Args:
        operation: The function, without `context_`; `match` for each match of a search.
        context: Where it was looked.
        start: The offset of its first character.
        text: The characters; empty for a search itself.
        detail: The pattern of a search.
    """

    operation: str
    context: Text
    start: int
    text: str
    detail: str = ""


listener: ContextVar[Callable[[Seen], None] | None] = ContextVar("rlm_nb_context_listener", default=None)
"""Who is told of every access in this thread or task; nobody, unless somebody sets it."""


@dataclass(frozen=True)
class SearchMatch:
    """A match.

    Args:
        text: What was found.
        start, end: Its offsets, in characters.
        line_number: The line that it begins in, from 1.
    """

    text: str = field(repr=False)
    start: int
    end: int
    line_number: int

    def __repr__(self) -> str:
        shown = self.text if len(self.text) <= 50 else f"{self.text[:50]}…"
        return f"SearchMatch(line {self.line_number}, {self.start}:{self.end}, {shown!r})"


def context_head(context: Text, n: int = 1000) -> str:
    """The first `n` characters, or all there are. Raises `ValueError` for a negative `n`."""
    _check(context, n=n)
    return _told("head", context, 0, context[:n] if isinstance(context, str) else context.head(n))


def context_tail(context: Text, n: int = 1000) -> str:
    """The last `n` characters, or all there are. Raises `ValueError` for a negative `n`."""
    _check(context, n=n)
    text = context[max(0, len(context) - n) :] if isinstance(context, str) else context.tail(n)
    # To know the offset of a file's tail, all of it would have to be read: counted from the end, it is known.
    start = len(context) - len(text) if isinstance(context, str) else -len(text)
    return _told("tail", context, start, text)


def context_slice(context: Text, start: int, end: int) -> str:
    """The characters from `start` up to, not including, `end`.

    A `start` below 0 counts as 0 and an `end` beyond the end as the end, so that `match.start - 200` is always fine; if
    they are the wrong way round, they are exchanged.

    Raises:
        TypeError: An offset is no whole number.
    """
    _check(context, start=start, end=end)
    low, high = sorted((max(0, start), max(0, end)))
    text = context[low:high] if isinstance(context, str) else context.text(low, high)
    return _told("slice", context, low, text)


def context_search(
    context: Text, pattern: str, max_hits: int = 10, case_sensitive: bool = False, *, timeout: float = TIMEOUT
) -> list[SearchMatch]:
    """The first matches of a regular expression, at most `max_hits`, in their order.

    Args:
        context: A string, or a `Context`. In a file of more than 16 MiB, a match, with what it looks at around it, may
            have 65,536 characters.
        pattern: In the syntax of `re`, and what the package `regex` adds to it.
        max_hits: How many are wanted, at most.
        case_sensitive: Whether `a` and `A` differ.
        timeout: Seconds of the processor that the search may take for each 16 million characters.

    Raises:
        TypeError: An argument is of another type.
        ValueError: `pattern` is no regular expression, calls itself, has more than 10,000 characters, or repeats more
            than 200,000 parts in all; `max_hits` is below 1; or `timeout` is not above 0 and finite.
        SearchTimeoutError: It takes too long.
        ContextError: The file has changed, or a match in it is too long.
    """
    _check(context)
    if not isinstance(pattern, str):
        raise TypeError(f"the pattern must be a string, not {type(pattern).__name__}")
    if isinstance(max_hits, bool) or not isinstance(max_hits, int) or max_hits < 1:
        raise ValueError(f"max_hits must be a whole number from 1, not {max_hits!r}")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds, not {type(timeout).__name__}")
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be above 0 and finite, not {timeout!r}")
    found: list[SearchMatch] = []
    lines = _LineCounter(context)
    for span in searching.matches(context, pattern, case_sensitive=case_sensitive, timeout=timeout):
        found.append(SearchMatch(span.text, span.start, span.end, lines.line_of(span.start)))
        if len(found) >= max_hits:
            break
    if tell := listener.get():
        tell(Seen("search", context, 0, "", pattern))
        for match in found:
            tell(Seen("match", context, match.start, match.text, pattern))
    return found


def context_around_match(context: Text, match: SearchMatch, before: int = 200, after: int = 200) -> str:
    """A match, with so many characters before and after it as there are. Raises `ValueError` for negative numbers."""
    _check(context, before=before, after=after)
    if before < 0 or after < 0:
        raise ValueError("before and after must not be negative")
    return context_slice(context, match.start - before, match.end + after)


def context_chunks(context: Text, chunk_size: int = 2000, overlap: int = 0) -> Iterator[tuple[int, int, str]]:
    """The whole text in pieces: start, end and text of each, read when it is taken.

    Args:
        context: A string, or a `Context`.
        chunk_size: Characters of a piece; the last one may have fewer.
        overlap: Characters that a piece shares with the one before.

    Raises:
        ValueError: `chunk_size` is below 1, or `overlap` not below `chunk_size`.
    """
    _check(context, chunk_size=chunk_size, overlap=overlap)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    if not 0 <= overlap < chunk_size:
        raise ValueError(f"overlap must be at least 0 and below chunk_size, {chunk_size}, not {overlap}")
    return _chunks(context, chunk_size, overlap)


def _chunks(context: Text, size: int, overlap: int) -> Iterator[tuple[int, int, str]]:
    start, following = 0, _piece(context, 0, size)
    while text := following:
        end = start + len(text)
        # One character beyond tells whether there is more: no index of a whole file is needed to begin.
        is_last = not _piece(context, end, end + 1)
        yield start, end, _told("chunk", context, start, text)
        if is_last:
            return
        start = end - overlap
        following = _piece(context, start, start + size)


def _piece(context: Text, start: int, end: int) -> str:
    return context[start:end] if isinstance(context, str) else context.text(start, end)


def _told(operation: str, context: Text, start: int, text: str) -> str:
    if tell := listener.get():
        tell(Seen(operation, context, start, text))
    return text


def _check(context: Text, **numbers: int) -> None:
    if not isinstance(context, str | Context):
        raise TypeError(f"the context must be a string or a Context, not {type(context).__name__}")
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name} must be a whole number, not {type(number).__name__}")
        if name == "n" and number < 0:
            raise ValueError(f"n must not be negative, but is {number}")


class _LineCounter:
    """Line numbers of offsets that only grow."""

    def __init__(self, context: Text) -> None:
        self._context, self._at, self._line = context, 0, 1

    def line_of(self, offset: int) -> int:
        if isinstance(self._context, Context):
            return self._context.line_of(offset)
        self._line += self._context.count("\n", self._at, offset)
        self._at = offset
        return self._line
