"""The people who are attached to one agent's kernel: whoever comes is let in, and what he runs takes its turn."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import zmq

from rlm_nb.errors import KernelError, RLMError
from rlm_nb.kernel import door
from rlm_nb.kernel.cell import Cell
from rlm_nb.kernel.messages import Message
from rlm_nb.kernel.relay import Asked, Relay

log = logging.getLogger(__name__)

MOST_WAITING = 1000
"""Cells that wait for their turn."""

Run = Callable[[Message], dict[str, Any]]
"""Runs the cell of a message, once it is its turn; returns the content of the answer, and raises `RLMError`."""


class People:
    """Costs nothing as long as nobody comes.

    Args:
        context: Makes sockets.
        run: Runs a cell.
        interrupt: Interrupts the cell that runs, whoever's that is.
    """

    def __init__(self, context: zmq.Context[Any], run: Run, interrupt: Callable[[], None]) -> None:
        self._context, self._run, self._interrupt = context, run, interrupt
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._relay: Relay | None = None
        self._connection: Mapping[str, Any] | None = None
        self._wanted: queue.Queue[Asked | None] = queue.Queue()
        self._closed = False

    def attach(self) -> Path:
        """Let somebody in; returns the connection file. Raises `KernelError`."""
        with self._lock:
            if self._closed:
                raise KernelError("the agent has ended")
            if self._relay is None:
                self._relay = self._stack.enter_context(Relay(self._context, self._take, self._interrupt))
                self._relay.connect(self._connection)
                worker = threading.Thread(target=self._work, args=[self._relay], name="rlm-people", daemon=True)
                worker.start()
                self._stack.callback(worker.join)
                self._stack.callback(self._stop_working)
            return self._relay.file

    def close(self) -> None:
        """Let go of everybody. What they run must be about to end."""
        with self._lock:
            self._closed = True
        self._stack.close()

    def connect(self, connection: Mapping[str, Any] | None) -> None:
        """The kernel is the one with this connection; `None`: there is none."""
        with self._lock:
            self._connection = connection
            if self._relay is not None:
                self._relay.connect(connection)

    def show(self, cell: Cell | None, message: Message) -> None:
        """What the kernel says, and the cell that it says it of. When a cell of theirs begins and ends, we say."""
        relay = self._relay
        if relay is not None and (cell is None or cell.asked is None or message["msg_type"] != "status"):
            relay.show(message)

    def tell(self, parent: Mapping[str, Any], text: str) -> None:
        """Say something about the cell that was sent with this header."""
        if self._relay is not None:
            self._relay.publish("stream", {"name": "stderr", "text": f"[{text}]\n"}, parent)

    def is_idle(self, parent: Mapping[str, Any]) -> None:
        """The agent's cell that was sent with this header has ended, although the kernel could not say so."""
        if self._relay is not None:
            self._relay.publish("status", {"execution_state": "idle"}, parent)

    def _take(self, asked: Asked) -> None:
        if self._wanted.qsize() < MOST_WAITING:
            self._wanted.put(asked)
        else:
            self._relay_answer(asked, {"status": "aborted"})

    def _relay_answer(self, asked: Asked, content: Mapping[str, Any]) -> None:
        if (relay := self._relay) is not None:
            relay.answer(asked, content)
            relay.publish("status", {"execution_state": "idle"}, asked.message["header"])

    def _work(self, relay: Relay) -> None:
        """Run cells one after the other, in a thread of their own."""
        while (asked := self._wanted.get()) is not None:
            relay.publish("status", {"execution_state": "busy"}, asked.message["header"])
            try:
                content = self._run(asked.message)
            except RLMError as error:
                self.tell(asked.message["header"], str(error))
                content = door.failed(type(error).__name__, str(error))
            except Exception as error:  # noqa: BLE001 - a client may say anything, and others wait for their turn
                log.warning("a cell of a person's was left out: %.200r", error)
                content = door.failed("NoCell", "this request cannot be passed on to the kernel")
            stops = content.get("status") == "error" and asked.message["content"].get("stop_on_error", True)
            # Before the answer: what is sent by somebody who has read it is to run.
            together = self._sent_with(asked) if stops else []
            self._relay_answer(asked, content)
            for one in together:
                self._relay_answer(one, {"status": "aborted"})

    def _sent_with(self, failed: Asked) -> list[Asked]:
        """What the same person sent together with a cell that failed, and is not run."""
        waiting, together = [], []
        with suppress(queue.Empty):
            while True:
                waiting.append(self._wanted.get_nowait())
        for one in waiting:
            if one is not None and one.sender == failed.sender:
                together.append(one)
            else:
                self._wanted.put(one)
        return together

    def _stop_working(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._wanted.get_nowait()
        self._wanted.put(None)
