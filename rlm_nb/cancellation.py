"""One signal that stops an agent and everything below it, and nothing above it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rlm_nb.errors import CancelledError


class Cancellation:
    """A flag with a reason and a deadline, handed down the tree of agents; whoever waits, waits on it.

    Args:
        deadline: `time.monotonic()` seconds after which it counts as cancelled, or `None`.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self._event = threading.Event()
        self._reason = ""
        self._lock = threading.Lock()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._serial = 0

    @property
    def reason(self) -> str:
        """Why it was cancelled, as the end of a sentence; empty while it was not."""
        return self._reason or ("the time limit of the run was reached" if self._overdue() else "")

    @property
    def timed_out(self) -> bool:
        """Whether it was the deadline, and nobody's wish, that cancelled it."""
        return not self._event.is_set() and self._overdue()

    def is_cancelled(self) -> bool:
        """Whether somebody cancelled, or the deadline has passed."""
        return self._event.is_set() or self._overdue()

    def cancel(self, reason: str) -> None:
        """Stop everything that listens; the first reason given is the one that is kept."""
        with self._lock:
            if self._event.is_set():
                return
            self._reason = reason
            self._event.set()
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            callback()

    def wait(self, seconds: float | None = None) -> bool:
        """Sleep until cancelled, at most `seconds`; returns whether it is cancelled."""
        left = self.seconds_left()
        limits = [limit for limit in (seconds, left) if limit is not None]
        return self._event.wait(min(limits) if limits else None) or self._overdue()

    def seconds_left(self) -> float | None:
        """Until the deadline, never below 0; `None` without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def check(self) -> None:
        """Do nothing, or raise `CancelledError`."""
        if self.is_cancelled():
            raise CancelledError(self.reason)

    @contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """While the block runs, call `callback` from the thread of whoever cancels; deadlines pass in silence."""
        with self._lock:
            self._serial += 1
            key = self._serial
            self._callbacks[key] = callback
            late = self._event.is_set()
        if late:
            callback()
        try:
            yield
        finally:
            with self._lock:
                self._callbacks.pop(key, None)

    @contextmanager
    def child(self, earlier: float = 0.0) -> Iterator[Cancellation]:
        """A signal of its own for something below: cancelled with this one, not the other way round.

        Args:
            earlier: How many seconds before this one's deadline the child's is.
        """
        below = Cancellation(None if self.deadline is None else self.deadline - earlier)
        with self.calling(lambda: below.cancel(self._reason)):
            yield below

    @contextmanager
    def grace(self, seconds: float) -> Iterator[Cancellation]:
        """A signal for what is still to be done when this one is set: cancelled that many seconds later."""
        left = self.seconds_left()
        above = Cancellation(None if left is None else time.monotonic() + left + seconds)

        def end() -> None:
            above.cancel(f"{self._reason}, and {seconds:g} s more were not enough")

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        try:
            with self.calling(timer.start):
                yield above
        finally:
            timer.cancel()

    def _overdue(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


@contextmanager
def within(cancel: Cancellation, seconds: float) -> Iterator[Cancellation]:
    """A signal that follows another one, and is set after so many seconds at the latest."""
    left = cancel.seconds_left()
    limited = Cancellation(time.monotonic() + (seconds if left is None else min(seconds, left)))
    with cancel.calling(lambda: limited.cancel(cancel.reason)):
        yield limited
