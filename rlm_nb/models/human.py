"""A person in the place of the model, who types the cell."""

from __future__ import annotations

import codecs
import os
import re
import select
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Protocol, Self, TextIO

from pydantic import SecretStr

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import Config
from rlm_nb.errors import CancelledError, ModelError
from rlm_nb.records import Reply, Request, Usage

END = "."
"""The line that ends a reply."""

POLL = 0.1
"""Seconds between two looks at whether the call was cancelled."""


class Source(Protocol):
    """Something with a file descriptor to read from."""

    def fileno(self) -> int:
        """The descriptor."""
        ...


class HumanModel:
    """A person types each reply, or just the code of its cell, and ends it with a line of only `.`.

    What the agent would tell a model is shown on the terminal. Several agents that ask at once are served one after the
    other, the agent named each time. Input that ends (Ctrl-D) after some lines ends that reply; input that ends before
    the first line ends the run.

    Args:
        source: Where to read; standard input without it.
        screen: Where to show; standard error without it, as standard output belongs to the answer.
    """

    def __init__(self, source: Source | None = None, screen: TextIO | None = None) -> None:
        self._source = source
        self._screen = screen
        self._turn = threading.Lock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting = ""
        """What was read and belongs to the next line or the next reply."""

    @classmethod
    def from_config(cls, config: Config, secrets: Mapping[str, SecretStr]) -> Self:
        """Somebody at the terminal."""
        return cls()

    @property
    def name(self) -> str:
        """`human`."""
        return "human"

    def price(self, usage: Usage) -> int:
        """Nothing."""
        return 0

    def complete(self, request: Request, cancel: Cancellation, on_text: Callable[[str], None] | None = None) -> Reply:
        """Show the last message and wait for a reply to be typed; see `protocols.Model`.

        Raises:
            CancelledError: `cancel` was set, or there is nothing more to read.
        """
        while not self._turn.acquire(timeout=POLL):
            cancel.check()
        try:
            self._show(request)
            text = as_reply(self._read(cancel))
        finally:
            self._turn.release()
        if on_text is not None:
            on_text(text)
        return Reply(text, model=self.name)

    def _show(self, request: Request) -> None:
        screen = self._screen or sys.stderr
        what = f"iteration {request.turn}" if request.turn else "a question of a cell"
        print(f"\n--- {request.agent}, {what} ---\n{request.messages[-1].content}\n", file=screen)
        print(f"--- {request.agent}: your reply, or only its code; end it with a line of only {END!r} ---", file=screen)
        if request.turn == 1:
            print(
                "--- FINAL(answer) ends the work; help(edit_file), help(rlm_query), budget() are there ---", file=screen
            )
        screen.flush()

    def _read(self, cancel: Cancellation) -> str:
        """The lines up to the one that ends the reply."""
        lines: list[str] = []
        while True:
            line = self._read_line(cancel)
            if line is None and not lines:
                raise CancelledError("the input ended, so nobody is there to reply", usage=Usage())
            if line is None or line == END:
                return "\n".join(lines)
            lines.append(line)

    def _read_line(self, cancel: Cancellation) -> str | None:
        """The next line without its end, or `None` when the input ends before it begins."""
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


def as_reply(typed: str) -> str:
    """What was typed, in a fence unless it has one of its own."""
    if not typed.strip() or re.search(r"^ {0,3}(```|~~~)", typed, re.MULTILINE):
        return typed
    return f"```python\n{typed}\n```"
