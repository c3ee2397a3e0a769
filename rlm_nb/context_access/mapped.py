"""A long text in a file, read where it is looked at: memory-mapped bytes, and an index from characters to bytes."""

from __future__ import annotations

import mmap
import os
import stat
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import regex

from rlm_nb.errors import ContextError

BLOCK = 32 * 1024
"""Bytes between two entries of the index: what is decoded, at most, to find one character."""

IN_MEMORY = 8 * 1024 * 1024
"""Bytes up to which a text is better had as a string: that can do everything, and takes no more than a few of these."""

STEP = 16 * 1024 * 1024
"""Bytes that are gone through before their pages are given back."""


class Context:
    """The text of a file, as `bytes.decode("utf-8", "backslashreplace")` gives it, without its being in memory.

    Offsets are those of that string: characters, not bytes; a byte that is not UTF-8 counts as the four characters of
    its escape (`\\xff`). Lines end with `\\n`. It has of a string what needs no copy of the whole: length, indices,
    slices, `in`, and iteration by character; `str(context)` is the whole. Any number of threads may read it, and any
    number of processes share one copy in the memory of the system.

    The index is built as far as somebody looks, in one pass over the file. A file that changes while it is open is
    noticed before it is read again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise ContextError(f"{path}: the context cannot be read: it is no regular file")
            self._file = path.open("rb")
        except OSError as error:
            raise ContextError(f"{path}: the context cannot be read: {error.strerror}") from error
        try:
            self._state = self._look()
            self._size = self._state[0]
            # An empty file cannot be mapped.
            self._bytes = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if self._size else b""
        except (OSError, ValueError) as error:
            self._file.close()
            raise ContextError(f"{path}: the context cannot be mapped: {error}") from error
        # Where each block begins: its byte, its character, and how many lines end before it.
        self._at, self._chars, self._lines = array("Q", [0]), array("Q", [0]), array("Q", [0])
        self._recent = -1, ""
        self._flawed = False
        self._growing = threading.Lock()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """The text of a regular file; close it, or use it in a `with`.

        Raises:
            ContextError: The file cannot be read, or is none.
        """
        return cls(Path(path).absolute())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> str | Context:
        """The text of a file: a string, if it has no more than `IN_MEMORY` bytes; else a context, which stays open.

        Raises:
            ContextError: The file cannot be read, or is none.
        """
        context = cls.open(path)
        if context.size > IN_MEMORY:
            return context
        with context:
            return str(context)

    @property
    def source(self) -> str:
        """Where it is from."""
        return str(self.path)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def close(self) -> None:
        """Let go of the file."""
        if isinstance(self._bytes, mmap.mmap):
            self._bytes.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Context({self.source!r}, {self._size:,} bytes)"

    def __len__(self) -> int:
        self._index_until(byte=self._size)
        return self._chars[-1]

    def __str__(self) -> str:
        return self._decode(0, self._size)

    def __iter__(self) -> Iterator[str]:
        for base in range(0, self._size, STEP):
            yield from self._decode(self._cut(base), self._cut(base + STEP))

    def __contains__(self, text: object) -> bool:
        if not isinstance(text, str):
            raise TypeError(f"a context holds text, not {type(text).__name__}")
        from rlm_nb.context_access.searching import occurrences

        return text == "" or next(occurrences(self, text), None) is not None

    def __getitem__(self, key: int | slice) -> str:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self.text(start, stop)
            whole = range(start, stop, step)
            if not whole:
                return ""
            low, high = min(whole[0], whole[-1]), max(whole[0], whole[-1])
            return self.text(low, high + 1)[:: 1 if step > 0 else -1][:: abs(step)]
        place = key + len(self) if key < 0 else key
        if not place >= 0 or not (character := self.text(place, place + 1)):
            raise IndexError("index out of the context")
        return character

    def head(self, count: int) -> str:
        """The first characters; needs no index."""
        return self._decode(0, self._cut(4 * count))[:count]  # no character has more bytes

    def tail(self, count: int) -> str:
        """The last characters; needs no index."""
        return self._decode(self._cut(self._size - 4 * count), self._size)[-count:] if count else ""

    def text(self, start: int, end: int) -> str:
        """The characters from `start` to `end`, 0 ≤ start; what is beyond the end is not there."""
        if end <= start:
            return ""
        self._index_until(char=end)
        first, last = bisect_right(self._chars, start) - 1, bisect_right(self._chars, end - 1)
        base, last = self._chars[first], min(last, len(self._at) - 1)
        text = self._block(first) if last == first + 1 else self._decode(self._at[first], self._at[last])
        return text[start - base : end - base]

    def window(self, start: int, size: int) -> tuple[int, str, bool]:
        """A stretch of about `size` bytes around and after the character `start`.

        Returns:
            The offset of its first character, at most a block before `start`; the text; whether it reaches the end.
        """
        self._index_until(char=start)
        first = max(0, min(bisect_right(self._chars, start) - 1, len(self._chars) - 2))
        end = self._cut(self._at[first] + size)
        text = self._decode(self._at[first], end)
        self._release(self._at[first], end)
        return self._chars[first], text, end == self._size

    def find_bytes(self, needle: bytes, start: int, end: int) -> int:
        """The place of `needle` among the bytes from `start` to `end`, or -1."""
        self._check()
        found = self._bytes.find(needle, start, end)
        if found < 0:
            self._release(start, end)
        return found

    def search_bytes(self, pattern: regex.Pattern[bytes], start: int, end: int, timeout: float) -> int | None:
        """Where `pattern` first matches among the bytes from `start` to `end`. Raises `TimeoutError`."""
        self._check()
        # The bytes are nobody's to change: other threads may go on meanwhile.
        found = pattern.search(self._bytes, start, end, concurrent=True, timeout=timeout)
        self._release(start, end if found is None else found.start())
        return None if found is None else found.start()

    def is_sound(self, end: int) -> bool:
        """Whether everything before the byte `end` is UTF-8, so that a text and its bytes are found at the same places.

        What is found in a sound part counts for the whole block around it.
        """
        self._index_until(byte=end)
        return not self._flawed

    def char_of(self, byte: int) -> int:
        """The character that begins at a byte of a sound part."""
        self._index_until(byte=byte)
        block = bisect_right(self._at, byte) - 1
        return self._chars[block] + len(self._decode(self._at[block], byte))

    def byte_of(self, char: int) -> int:
        """The byte that a character of a sound part begins at."""
        self._index_until(char=char)
        block = bisect_right(self._chars, char) - 1
        return self._at[block] + len(self.text(self._chars[block], char).encode("utf-8", "surrogatepass"))

    def line_of(self, char: int) -> int:
        """The number of the line, from 1, that a character stands in."""
        self._index_until(char=char)
        block = bisect_right(self._chars, char) - 1
        return 1 + self._lines[block] + self.text(self._chars[block], char).count("\n")

    def _index_until(self, *, byte: int = 0, char: int = -1) -> None:
        """Build the index past a byte or a character, or to the end."""
        if self._at[-1] == self._size or (byte <= self._at[-1] and char < self._chars[-1]):
            return
        with self._growing:
            since = self._at[-1]
            while self._at[-1] < self._size and (byte > self._at[-1] or char >= self._chars[-1]):
                at = self._at[-1]
                end = self._cut(at + BLOCK)
                piece = self._read(at, end)
                self._lines.append(self._lines[-1] + piece.count(b"\n"))
                self._chars.append(self._chars[-1] + self._count(piece))
                self._at.append(end)  # last: whoever sees it finds the other two
                if end - since >= STEP:
                    self._release(since, end)
                    since = end

    def _count(self, piece: bytes) -> int:
        if piece.isascii():
            return len(piece)
        try:
            return len(piece.decode())
        except UnicodeDecodeError:
            self._flawed = True
            return len(piece.decode(errors="backslashreplace"))

    def _cut(self, byte: int) -> int:
        """The beginning of the character that `byte` is in, so that two parts decode as the whole does."""
        if byte <= 0 or byte >= self._size:
            return max(0, min(byte, self._size))
        self._check()
        for back in range(min(4, byte + 1)):
            if self._bytes[byte - back] & 0xC0 != 0x80:
                return byte - back
        return byte  # more of them than a character can have: each stands for itself

    def _block(self, number: int) -> str:
        """A block's text; whoever looks at many places looks at each block more than once."""
        at, text = self._recent
        if at != number:
            text = self._decode(self._at[number], self._at[number + 1])
            self._recent = number, text
        else:
            self._check()
        return text

    def _decode(self, start: int, end: int) -> str:
        return self._read(start, end).decode(errors="backslashreplace")

    def _read(self, start: int, end: int) -> bytes:
        self._check()
        return self._bytes[start:end]

    def _check(self) -> None:
        """Touching a page that the file has no more would end the process; offsets into another text would be wrong."""
        try:
            same = self._look() == self._state
        except ValueError:
            raise ContextError(f"{self.path}: the context was closed") from None
        if not same:
            raise ContextError(f"{self.path}: the file was changed while it was in use as a context; open it again")

    def _look(self) -> tuple[int, int]:
        state = os.fstat(self._file.fileno())
        return state.st_size, state.st_mtime_ns

    def _release(self, start: int, end: int) -> None:
        if isinstance(self._bytes, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            first = start - start % mmap.PAGESIZE
            if end > first:
                self._bytes.madvise(mmap.MADV_DONTNEED, first, end - first)
