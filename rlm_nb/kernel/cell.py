"""What is known of one cell beside its outputs: its calls, its answer, and how long it waited."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rlm_nb.kernel.outputs import CellOutputs
from rlm_nb.records import JSON, Answer, BridgeCall, Output

OnOutput = Callable[[Sequence[Output]], None]

MAX_CALLS, MAX_RECORDED = 2000, 16_000_000
"""Calls of one cell, and characters of them, that its record keeps."""

UNRECORDED = "This cell asked so much of its controller that not all of it is recorded."


@dataclass(frozen=True)
class Request:
    """How a person who is attached asked for a cell.

    Args:
        header: That of his message; what the kernel says of the cell names it.
        options: What the kernel is told beside the code.
    """

    header: Mapping[str, Any]
    options: Mapping[str, JSON]


@dataclass
class Cell:
    """What is known of a cell while it runs, and while its threads may still print.

    Args:
        outputs: What it has put out.
        on_output: Told of that.
        asked: How a person asked for it; `None` for a cell of the agent's.
        endless: Why it cannot end the agent; empty when it can.
    """

    outputs: CellOutputs
    on_output: OnOutput | None
    asked: Request | None = None
    endless: str = ""
    header: Mapping[str, Any] = field(default_factory=dict)
    reply: Mapping[str, Any] | None = None
    broken_off: bool = False
    started: float = field(default_factory=time.time)
    final: Answer | None = None
    calls: list[BridgeCall] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _recorded: int = 0
    _waiting: int = 0
    _since: float = 0.0
    _waited: float = 0.0
    _heard: float = field(default_factory=time.monotonic)

    def record(self, call: BridgeCall) -> None:
        """Keep a call, as long as the notebook can bear it."""
        size = len(json.dumps([call.arguments, call.answer]))
        with self._lock:
            if self._recorded + size <= MAX_RECORDED and len(self.calls) < MAX_CALLS:
                self.calls.append(call)
                self._recorded += size
                return
        self.note(UNRECORDED)

    def note(self, event: str) -> None:
        """Tell the model a sentence, once: what happens a thousand times is no news the second time."""
        with self._lock:
            if event not in self.events:
                self.events.append(event)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """The cell's clock stands still while at least one call is inside this block."""
        with self._lock:
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                if not self._waiting:
                    self._waited += time.monotonic() - self._since
            self.heard()

    def heard(self) -> None:
        """It has printed or called something just now."""
        self._heard = time.monotonic()

    def quiet(self) -> float:
        """Seconds since it printed or called something; none while it waits for an answer."""
        with self._lock:
            return 0.0 if self._waiting else time.monotonic() - self._heard

    def waited(self) -> float:
        """Seconds for which the clock stood still."""
        with self._lock:
            return self._waited + (time.monotonic() - self._since if self._waiting else 0.0)
