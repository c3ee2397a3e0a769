"""Who hears what happens in a run."""

from __future__ import annotations

from rlm_nb.cancellation import Cancellation
from rlm_nb.protocols import Listener
from rlm_nb.records import Event, Replied


def ignore(event: Event) -> None:
    """A listener that does not care."""


class Audience:
    """Whoever listens to a run. What it raises reaches no agent's thread: it stops the run, and is kept for the end."""

    def __init__(self, listen: Listener, cancel: Cancellation) -> None:
        self._listen, self._cancel = listen, cancel
        self._error: Exception | None = None
        self.saw_a_turn = False

    def __call__(self, event: Event) -> None:
        """Pass the event on; never raises."""
        self.saw_a_turn |= isinstance(event, Replied)
        if self._error is not None:
            return
        try:
            self._listen(event)
        except Exception as error:  # noqa: BLE001 - whatever it is, `check` raises it
            self._error = error
            self._cancel.cancel(f"its listener failed: {error!r}")

    def check(self) -> None:
        """Raise what the listener raised, if it did."""
        if self._error is not None:
            raise self._error


def both(first: Listener, second: Listener) -> Listener:
    """A listener that tells two others, in this order."""

    def listen(event: Event) -> None:
        first(event)
        second(event)

    return listen
