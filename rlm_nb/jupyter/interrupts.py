"""The interrupt of a notebook's kernel while a run goes on in its cell: it ends the run, and not the kernel."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupts:
    """Notices the interrupts of this kernel while its block runs, however many; as `cli.signals.Interruption`.

    In another thread than the main one, which is where interrupts go, it notices none.
    """

    ending = "Ending the run and keeping what there is."
    reason = "interrupted by the user"

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: object = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
