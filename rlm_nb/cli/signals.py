"""Ctrl-C and its kin while a run goes on: the first one asks for its end, a second one does not ask."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import psutil

from rlm_nb import live_specs
from rlm_nb.workspace.scratch import remove_all

# `timeout` and some shells' wrappers send a signal to a process and once more to its group: that is one wish, not two.
ECHO = 0.3

ROUNDS = 5
"""How often what is left is removed, when the program ends at once while its threads go on."""


class Interruption:
    """Notices SIGINT, SIGTERM and SIGHUP in the main thread while its block runs.

    The first one is only remembered in `signal`, for the main thread to act upon. A second one kills every process
    below this one, removes its temporary folders and ends it at once, whatever it is doing.
    """

    ending = "Ending the run and keeping what there is; do that again to end it at once."

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """What a shell reports for a process that the signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 0 if self.signal is None else 128 + self.signal

    @property
    def reason(self) -> str:
        """Why the run is to end, as the end of a sentence."""
        return (
            "interrupted by the user"
            if self.signal == signal.SIGINT
            else f"stopped by {signal.Signals(self.signal or 0).name}"
        )

    def __enter__(self) -> Interruption:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup, and background jobs of a plain shell
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = signal.Signals(number), now
        elif now - self._since > ECHO:
            self._end_at_once()

    def _end_at_once(self) -> None:
        _kill_descendants()
        for _ in range(ROUNDS):
            found = remove_all()
            live_specs.remove_all()
            _kill_descendants()  # an agent that lost its kernel may just have started another, in a folder made anew
            if not found:
                break
        if os.isatty(2):
            os.write(2, b"\x1b[?25h\n")  # the live view hides the cursor
        os._exit(self.exit_code)


@contextmanager
def unwinding() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, by an exception: what is half done is undone on the way out."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) != signal.SIG_IGN]
    before = [(number, signal.signal(number, leave)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _kill_descendants() -> None:
    """Kill every process below this one, and what shares a process group with them."""
    me, group = psutil.Process(), os.getpgrp()
    for process in me.children(recursive=True):
        try:
            theirs = os.getpgid(process.pid)
            if theirs != group:
                os.killpg(theirs, signal.SIGKILL)
            process.kill()
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue  # ended by itself, or with its group a moment ago
