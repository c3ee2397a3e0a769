"""A person in the place of the model, who types the cell."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Self, TextIO

from pydantic import SecretStr

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import Config
from rlm_nb.errors import CancelledError
from rlm_nb.models.keyboard import END, POLL, Keyboard, Source
from rlm_nb.records import Reply, Request, Usage


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
        self._keyboard = Keyboard(source)
        self._screen = screen
        self._turn = threading.Lock()

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
        lines = self._keyboard.lines(cancel)
        if lines is None:
            raise CancelledError("the input ended, so nobody is there to reply", usage=Usage())
        return "\n".join(lines)


def as_reply(typed: str) -> str:
    """What was typed, in a fence unless it has one of its own."""
    if not typed.strip() or re.search(r"^ {0,3}(```|~~~)", typed, re.MULTILINE):
        return typed
    return f"```python\n{typed}\n```"
