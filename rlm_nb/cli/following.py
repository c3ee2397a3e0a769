"""Runs agents in a thread, and shows them in the one that calls: on a terminal, or in a notebook."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from signal import Signals
from types import TracebackType
from typing import Protocol, TypeVar

from rlm_nb.cancellation import Cancellation
from rlm_nb.records import Event

T = TypeVar("T")

FRAME = 0.125
"""Seconds between two looks at what the agents do."""


def followed(begin: Callable[..., T], view: Follower, interruption: Asking) -> T:
    """Run in a thread of its own, and show it in this one, which is the one that signals reach.

    Args:
        begin: Runs; is given its listener and what stops it, as `listen` and `cancel`.
        view: Shows it.
        interruption: Tells whether it is to end.
    """
    cancel = Cancellation()
    with ThreadPoolExecutor(1, "rlm-run") as thread, view:
        running = thread.submit(begin, listen=view, cancel=cancel)
        try:
            while wait([running], FRAME).not_done:
                if interruption.signal and not cancel.is_cancelled():
                    view.say(interruption.ending)
                    cancel.cancel(interruption.reason)
                view.paint()
        except BaseException:
            cancel.cancel("its view failed")  # or the executor would wait for a run that nobody follows
            raise
    return running.result()


class Follower(Protocol):
    """What shows a run while it goes on; it is entered before, and is its listener."""

    def __enter__(self) -> object:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show the last of it."""
        ...

    def __call__(self, event: Event) -> None:
        """Take an event; from any thread."""
        ...

    def say(self, text: str) -> None:
        """Show a sentence of our own; from any thread."""
        ...

    def paint(self) -> None:
        """Show what happened since the last time."""
        ...


class Asking(Protocol):
    """What tells whether a person asks for the end of a run."""

    @property
    def signal(self) -> Signals | None:
        """The signal that came, if one did."""
        ...

    @property
    def reason(self) -> str:
        """Why the run is to end, as the end of a sentence."""
        ...

    @property
    def ending(self) -> str:
        """What the person is told then."""
        ...
