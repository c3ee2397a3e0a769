"""A kernel runs one cell at a time: its agent, and the people who are attached to it, take turns."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rlm_nb.cancellation import Cancellation


class Turns:
    """A line, in the order in which they came."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._line: deque[object] = deque()

    @contextmanager
    def taken(self, cancel: Cancellation, hurry: Callable[[], None]) -> Iterator[None]:
        """Wait until it is our turn, which it is until the block ends.

        Args:
            cancel: When this is set while we wait, there is no time to be lost.
            hurry: Called then, once; it makes room, or raises what ends the waiting.
        """
        own = object()
        with self._changed:
            self._line.append(own)
        try:
            if self._line[0] is not own:
                self._wait(own, cancel, hurry)
            yield
        finally:
            with self._changed:
                self._line.remove(own)
                self._changed.notify_all()

    def _wait(self, own: object, cancel: Cancellation, hurry: Callable[[], None]) -> None:
        with cancel.calling(self._wake):
            with self._changed:
                while self._line[0] is not own and not cancel.is_cancelled():
                    self._changed.wait(cancel.seconds_left())
                if self._line[0] is own:
                    return
        hurry()
        with self._changed:
            while self._line[0] is not own:
                self._changed.wait()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
