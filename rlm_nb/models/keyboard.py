"""Lines that a person types, read by a thread that can be told to stop waiting."""

from __future__ import annotations

import codecs
import os
import select
import sys
from typing import Protocol

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import ModelError
from rlm_nb.records import Usage

POLL = 0.1
"""Seconds between two looks at whether the wait was cancelled."""

END = "."
"""The line that ends several."""


class Source(Protocol):
    """Something with a file descriptor to read from."""

    def fileno(self) -> int:
        """The descriptor."""
        ...


class Keyboard:
    """Reads line by line; one thread at a time.

    Args:
        source: Where to read; standard input without it.
    """

    def __init__(self, source: Source | None = None) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting = ""
        """What was read and belongs to a later line."""

    def lines(self, cancel: Cancellation) -> list[str] | None:
        """The lines up to one of only `.`, or to the end of the input; `None` when that comes before the first.

        Raises:
            CancelledError: `cancel` was set.
            ModelError: There is nothing to read from.
        """
        lines: list[str] = []
        while True:
            line = self.line(cancel)
            if line is None and not lines:
                return None
            if line is None or line == END:
                return lines
            lines.append(line)

    def line(self, cancel: Cancellation) -> str | None:
        """The next line without its end, or `None` when the input ends before it begins. Raises what `lines` does."""
        # Not sys.stdin.readline(): it would wait for ever, and keep lines in a buffer where select cannot see them.
        source = self._descriptor()
        while "\n" not in self._waiting:
            cancel.check()
            if not select.select([source], [], [], POLL)[0]:
                continue
            data = os.read(source, 65536)
            self._waiting += self._decoder.decode(data)
            if not data:
                line, self._waiting = self._waiting, ""
                return line or None
        line, _, self._waiting = self._waiting.partition("\n")
        return line.removesuffix("\r")

    def _descriptor(self) -> int:
        try:
            return (self._source or sys.stdin).fileno()
        except (
            AttributeError,
            OSError,
            ValueError,
        ):  # none, none with a descriptor (as in a notebook), or a closed one
            raise ModelError("nobody can reply: standard input cannot be read here", usage=Usage()) from None
