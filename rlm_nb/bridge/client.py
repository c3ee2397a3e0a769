"""The kernel's end of the bridge: every call on a connection of its own."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from rlm_nb import errors
from rlm_nb.bridge import messages
from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import BridgeError, RLMError

if TYPE_CHECKING:  # a kernel's first cell waits for every import
    from rlm_nb.records import JSON

VARIABLE = "RLM_BRIDGE_FD"
"""The environment variable that names the inherited file descriptor."""


class Caller(Protocol):
    """Whoever has calls answered: the bridge, or a record."""

    def call(self, name: str, **arguments: JSON) -> JSON:
        """Ask, wait, and give back the answer, or raise what it is instead."""
        ...

    def call_until(self, cancel: Cancellation, name: str, **arguments: JSON) -> JSON:
        """The same, until `cancel` is set: then it raises `CancelledError`."""
        ...


_caller: Caller | None = None


def caller() -> Caller | None:
    """Who answers the calls of this process; `None` outside of an agent's kernel."""
    return _caller


def let_answer(whoever: Caller | None) -> None:
    """From here on, the calls of this process are theirs to answer."""
    global _caller
    _caller = whoever


class Client:
    """Asks the controller, from any thread of the kernel.

    Args:
        wire: The inherited socket on which connections are asked for.
        cell: Tells the id of the cell that is being executed.
    """

    def __init__(self, wire: socket.socket, cell: Callable[[], str]) -> None:
        self._wire = wire
        self._cell = cell
        self._lock = threading.Lock()
        self._asked = False  # for a connection that nobody has taken yet

    @classmethod
    def inherited(cls, cell: Callable[[], str]) -> Client | None:
        """The client for the descriptor that this process was started with; `None` if it was started by hand."""
        number = os.environ.pop(VARIABLE, None)
        if number is None:
            return None
        os.set_inheritable(int(number), False)
        return cls(socket.socket(fileno=int(number)), cell)

    def call(self, name: str, **arguments: JSON) -> JSON:
        """Ask, wait, and give back the answer.

        An interrupt while it waits closes the connection, which tells the controller to stop what it does for us.

        Raises:
            RLMError: What went wrong on the other side, as the same class that was raised there.
            BridgeError: The controller does not answer this kernel (any more), the arguments cannot be sent, or this
                process has no file descriptors left for it.
        """
        return self.call_until(Cancellation(), name, **arguments)

    def call_until(self, cancel: Cancellation, name: str, **arguments: JSON) -> JSON:
        """The same, until `cancel` is set: that closes the connection, too, and is raised as `CancelledError`."""
        try:
            with self._connection() as connection, cancel.calling(partial(_hang_up, connection)):
                message = {"call": name, "arguments": arguments, "cell": self._cell(), "key": uuid.uuid4().hex}
                messages.send(connection, message)
                reply = messages.receive(connection, cancel.seconds_left())
        except (OSError, EOFError) as error:
            cancel.check()
            raise BridgeError(f"{name}: the controller does not answer this kernel any more ({error})") from None
        if "error" in reply:
            raise as_raised(reply["error"])
        return reply["answer"]

    @contextmanager
    def _connection(self) -> Iterator[socket.socket]:
        with self._connect() as connection:
            try:
                yield connection
            finally:
                _hang_up(connection)

    def _connect(self) -> socket.socket:
        with self._lock:
            # Connections are all alike: if an interrupt falls between asking and receiving, the next call takes this
            # one instead of asking for another.
            if not self._asked:
                self._wire.sendall(b"?")
                self._asked = True
            data, descriptors, flags, _ = socket.recv_fds(self._wire, 1, 1)
            self._asked = False
        if not data:
            raise EOFError("it hung up")
        if not descriptors and flags & socket.MSG_CTRUNC:
            raise BridgeError(messages.without_descriptors())
        if not descriptors:
            raise EOFError("it has no connection to give")
        os.set_inheritable(descriptors[0], False)
        return socket.socket(fileno=descriptors[0])


def _hang_up(connection: socket.socket) -> None:
    # Closing is not enough to tell the other side when a process forked meanwhile holds a copy.
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def as_raised(error: Mapping[str, JSON]) -> RLMError:
    """The error as the other side raised it, from what was sent of it or recorded."""
    kind = getattr(errors, error["type"], BridgeError)
    raised: RLMError = kind.__new__(kind, error["message"])
    raised.args = (error["message"],)
    details = error.get("details", {})
    if "usage" in details:
        from rlm_nb.records import Usage  # seldom needed

        details = {**details, "usage": Usage(**details["usage"])}
    raised.__dict__.update(details)
    return raised
