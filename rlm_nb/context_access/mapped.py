"""A long text in a file, read where it is looked at: memory-mapped bytes, and an index from characters to bytes."""

from __future__ import annotations

import mmap
import os
import stat
import threading
from bisect import bisect_right
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import regex

from rlm_nb.errors import ContextError

BLOCK = 32 * 1024
"""Bytes between two entries of the index: what is decoded, at most, to find one character."""

IN_MEMORY = 8 * 1024 * 1024
"""Bytes up to which a text is better had as a string: that can do everything, and takes no more than a few of these."""

STEP = 16 * 1024 * 1024
"""Bytes that are gone through before their pages are given back."""


EDGE = 4096
"""Bytes at both ends of a file that tell whether it has only grown."""


class _Mark(NamedTuple):
    """Where a block begins: its byte, its character, and how many lines end before it."""

    byte: int
    char: int
    lines: int


_BYTE, _CHAR = attrgetter("byte"), attrgetter("char")


class Context:
    """The text of a file, as `bytes.decode("utf-8", "backslashreplace")` gives it, without its being in memory.

    Offsets are those of that string: characters, not bytes; a byte that is not UTF-8 counts as the four characters of
    its escape (`\\xff`). Lines end with `\\n`. It has of a string what needs no copy of the whole: length, indices,
    slices, `in`, and iteration by character; `str(context)` is the whole. Any number of threads may read it, and any
    number of processes share one copy in the memory of the system.

    The index is built as far as somebody looks, in one pass over the file. A file may grow while it is open, as logs
    do: the text is what it held when it was opened. Any other change is noticed before it is read again; but where a
    part that is being read just then is cut off, the system ends the process.
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
            self._edges = self._read_edges()
            # An empty file cannot be mapped.
            self._bytes = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if self._size else b""
        except (OSError, ValueError) as error:
            self._file.close()
            raise ContextError(f"{path}: the context cannot be mapped: {error}") from error
        self._index = [_Mark(0, 0, 0)]
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
        return self._index[-1].char

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
        first, last = self._block_of(start), min(self._block_of(end - 1) + 1, len(self._index) - 1)
        at, base, _ = self._index[first]
        text = self._block(first) if last == first + 1 else self._decode(at, self._index[last].byte)
        return text[start - base : end - base]

    def window(self, start: int, size: int) -> tuple[int, str, bool]:
        """A stretch of about `size` bytes around and after the character `start`.

        Returns:
            The offset of its first character, at most a block before `start`; the text; whether it reaches the end.
        """
        self._index_until(char=start)
        at, char, _ = self._index[max(0, min(self._block_of(start), len(self._index) - 2))]
        end = self._cut(at + size)
        text = self._decode(at, end)
        self._release(at, end)
        return char, text, end == self._size

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
        at, char, _ = self._index[bisect_right(self._index, byte, key=_BYTE) - 1]
        return char + len(self._decode(at, byte))

    def byte_of(self, char: int) -> int:
        """The byte that a character of a sound part begins at."""
        self._index_until(char=char)
        at, base, _ = self._index[self._block_of(char)]
        return at + len(self.text(base, char).encode("utf-8", "surrogatepass"))

    def line_of(self, char: int) -> int:
        """The number of the line, from 1, that a character stands in."""
        self._index_until(char=char)
        _, base, lines = self._index[self._block_of(char)]
        return 1 + lines + self.text(base, char).count("\n")

    def _block_of(self, char: int) -> int:
        return bisect_right(self._index, char, key=_CHAR) - 1

    def _index_until(self, *, byte: int = 0, char: int = -1) -> None:
        """Build the index past a byte or a character, or to the end."""
        last = self._index[-1]
        if last.byte == self._size or (byte <= last.byte and char < last.char):
            return
        with self._growing:
            last = self._index[-1]
            since = last.byte
            while last.byte < self._size and (byte > last.byte or char >= last.char):
                end = self._cut(last.byte + BLOCK)
                piece = self._read(last.byte, end)
                last = _Mark(end, last.char + self._count(piece), last.lines + piece.count(b"\n"))
                # In one go: a task whose time is up ends between any two steps, and others go on with this index.
                self._index.append(last)
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
            text = self._decode(self._index[number].byte, self._index[number + 1].byte)
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
            state = self._look()
            if state == self._state:
                return
            has_only_grown = state[0] > self._state[0] and self._read_edges() == self._edges
        except ValueError:
            raise ContextError(f"{self.path}: the context was closed") from None
        if not has_only_grown:
            raise ContextError(f"{self.path}: the file was changed while it was in use as a context; open it again")
        self._state = state

    def _look(self) -> tuple[int, int]:
        state = os.fstat(self._file.fileno())
        return state.st_size, state.st_mtime_ns

    def _read_edges(self) -> tuple[bytes, bytes]:
        """The first bytes and the last ones: what stays as it is when something is added to a file."""
        file = self._file.fileno()
        return os.pread(file, min(EDGE, self._size), 0), os.pread(
            file, min(EDGE, self._size), max(0, self._size - EDGE)
        )

    def _release(self, start: int, end: int) -> None:
        if isinstance(self._bytes, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            first = start - start % mmap.PAGESIZE
            if end > first:
                self._bytes.madvise(mmap.MADV_DONTNEED, first, end - first)
