"""The controller's end of the bridge: one server for each kernel process.

The descriptor is the identity: who holds the other end is this agent's kernel, whatever it says about itself.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rlm_nb.bridge import messages
from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import BridgeError, RLMError
from rlm_nb.records import JSON, Usage

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 64
"""Connections of one kernel at a time; the next one waits until one of them ends."""

MAX_KEYS = 10_000
"""Calls of one kernel whose keys are remembered, so that none is answered twice."""

FRAME_TIMEOUT = 30.0
"""Seconds that a message may take once its first byte has come."""

SILENCE_TIMEOUT = 5.0
"""Seconds that a connection may be held without a first byte, once there is none left for the next call."""

MAX_LABEL = 200
"""Characters of what a call says about itself: its name, its cell and its key."""


@dataclass(frozen=True)
class Call:
    """What a kernel asks. `cell` is what it says about itself: good for a label, never for a decision."""

    name: str
    arguments: dict[str, JSON]
    cell: str
    key: str


Handler = Callable[[Call, Cancellation], JSON]
"""Answers a call, or raises; `cancel` is set when the caller no longer waits."""


class Server:
    """Answers one kernel until it is closed.

    Args:
        handle: Called in a thread of its own for each call.
        cancel: What cancels every call; each call gets a child of it.
        frame_timeout: Seconds that a message may take.
        silence_timeout: Seconds that a connection is kept for a caller who says nothing while others wait for one.
    """

    def __init__(
        self,
        handle: Handler,
        cancel: Cancellation,
        frame_timeout: float = FRAME_TIMEOUT,
        silence_timeout: float = SILENCE_TIMEOUT,
    ) -> None:
        self._handle = handle
        self._cancel = cancel
        self._frame_timeout, self._silence_timeout = frame_timeout, silence_timeout
        self._wire, self.kernel_end = socket.socketpair()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._finished: list[socket.socket] = []
        self._to_watch: list[tuple[socket.socket, Cancellation]] = []
        self._open: dict[socket.socket, threading.Thread | None] = {}  # with the worker, once there is a call
        self._silent: dict[socket.socket, float] = {}  # those without a first byte, with when they were handed out
        self._keys: dict[str, None] = {}  # in the order in which they came
        self._closing = False
        self._stopped = Cancellation()
        self._thread = threading.Thread(target=self._serve, name="rlm-bridge", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel what is under way, wait for it, and hang up."""
        self._closing = True
        self._stopped.cancel("the kernel ended")
        self._notify()
        self._thread.join()
        for connection, worker in self._open.items():
            with suppress(OSError):  # it has hung up already
                connection.shutdown(socket.SHUT_RDWR)  # a worker may wait for a caller who says and hears nothing
            if worker is not None:
                worker.join()
        for connection in [self._wire, self.kernel_end, self._wake, self._woken, *self._open]:
            connection.close()
        self._selector.close()

    def _serve(self) -> None:
        """Hand out connections, start a worker for each call, and notice callers who hang up."""
        self._selector.register(self._wire, selectors.EVENT_READ, self._hand_out)
        self._selector.register(self._woken, selectors.EVENT_READ, lambda: self._woken.recv(4096))
        listening = True
        while not self._closing:
            for key, _ in self._selector.select(self._seconds_of_silence()):
                key.data()
            self._settle()
            self._hang_up_on_the_silent()
            room = len(self._open) < MAX_IN_FLIGHT and self._wire.fileno() >= 0
            if room != listening:
                listening = room
                if room:
                    self._selector.register(self._wire, selectors.EVENT_READ, self._hand_out)
                elif self._wire.fileno() >= 0:
                    self._selector.unregister(self._wire)

    def _hand_out(self) -> None:
        try:
            asked = self._wire.recv(1)
        except OSError:
            asked = b""
        if not asked:  # the kernel is gone
            self._selector.unregister(self._wire)
            self._wire.close()
            self._stopped.cancel("the kernel ended")
            return
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:  # we have no descriptors left: this call fails, the next one may not
            log.warning("a kernel got no connection: %s", error)
            with suppress(OSError):
                self._wire.send(b"!", socket.MSG_DONTWAIT)
            return
        with theirs:
            try:
                socket.send_fds(self._wire, [b"!"], [theirs.fileno()], socket.MSG_DONTWAIT)
            except OSError:
                ours.close()
                return
        self._open[ours] = None
        self._silent[ours] = time.monotonic()
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._begin(ours))

    def _seconds_of_silence(self) -> float | None:
        """How long the longest silent connection may still be silent; `None` while nobody waits for one."""
        if len(self._open) < MAX_IN_FLIGHT or not self._silent:
            # A call that was interrupted before it took its connection leaves it to the next one, however late.
            return None
        return max(0.0, next(iter(self._silent.values())) + self._silence_timeout - time.monotonic())

    def _hang_up_on_the_silent(self) -> None:
        while self._seconds_of_silence() == 0.0:
            connection = next(iter(self._silent))
            del self._silent[connection], self._open[connection]
            self._selector.unregister(connection)
            connection.close()

    def _begin(self, connection: socket.socket) -> None:
        """The first byte of a call is there, or the caller has left."""
        self._selector.unregister(connection)
        del self._silent[connection]
        worker = threading.Thread(target=self._work, args=(connection,), name="rlm-call", daemon=True)
        try:
            worker.start()
        except RuntimeError as error:  # no threads left
            log.warning("a kernel's call was dropped: %s", error)
            self._finished.append(connection)
        else:
            self._open[connection] = worker

    def _work(self, connection: socket.socket) -> None:
        try:
            with suppress(OSError):  # the caller has left, or never finished its sentence: there is nobody to tell
                self._answer(connection)
        finally:
            with self._lock:
                self._finished.append(connection)
            self._notify()

    def _answer(self, connection: socket.socket) -> None:
        try:
            call = self._read(connection)
        except EOFError:
            return
        except BridgeError as error:
            reply = _failure(error)
        else:
            reply = self._reply(call, connection)
        connection.settimeout(None)
        try:
            messages.send(connection, reply)
        except BridgeError as error:
            messages.send(connection, _failure(error))

    def _reply(self, call: Call, connection: socket.socket) -> dict[str, JSON]:
        with self._cancel.child() as cancel, self._stopped.calling(lambda: cancel.cancel("the kernel ended")):
            with self._lock:
                self._to_watch.append((connection, cancel))
            self._notify()
            try:
                return {"answer": self._handle(call, cancel)}
            except RLMError as error:
                return _failure(error)
            except Exception as error:
                log.exception("the controller failed to answer %s", call.name)
                # A kernel is told no more than the kind: the text may hold what is not for it.
                return _failure(BridgeError(f"the controller failed: {type(error).__name__}"))

    def _read(self, connection: socket.socket) -> Call:
        message = messages.receive(connection, self._frame_timeout)
        fields = {"call": str, "arguments": dict, "cell": str, "key": str}
        if not isinstance(message, dict) or any(not isinstance(message.get(k), t) for k, t in fields.items()):
            raise BridgeError("a call must have the fields call, arguments, cell and key")
        if any(len(message[name]) > MAX_LABEL for name in ("call", "cell", "key")):
            raise BridgeError(f"call, cell and key have at most {MAX_LABEL} characters")
        with self._lock:
            if message["key"] in self._keys:
                raise BridgeError("this call was made before")
            self._keys[message["key"]] = None
            if len(self._keys) > MAX_KEYS:
                del self._keys[next(iter(self._keys))]
        return Call(message["call"], message["arguments"], message["cell"], message["key"])

    def _settle(self) -> None:
        """Watch the connections of calls that have begun, close those that are done."""
        with self._lock:
            finished, self._finished = self._finished, []
            begun, self._to_watch = self._to_watch, []
        for connection, cancel in begun:
            if connection not in finished:
                self._selector.register(connection, selectors.EVENT_READ, self._hung_up(connection, cancel))
        for connection in finished:
            if connection in self._selector.get_map():
                self._selector.unregister(connection)
            if (worker := self._open.pop(connection)) is not None:
                worker.join()  # it said so with its last breath
            connection.close()

    def _hung_up(self, connection: socket.socket, cancel: Cancellation) -> Callable[[], None]:
        # A caller that waits has nothing to say: whatever arrives now is the end of the file, or a fault.
        def leave() -> None:
            self._selector.unregister(connection)
            cancel.cancel("the cell that asked no longer waits")

        return leave

    def _notify(self) -> None:
        with suppress(OSError):  # full: it is awake already; closed: nobody is left to wake
            self._wake.send(b".")


def details_of(error: RLMError) -> dict[str, JSON]:
    """What an error carries beside its message, as far as it is plain."""
    plain: dict[str, JSON] = {n: value for n, value in vars(error).items() if isinstance(value, str | int | float)}
    usage = getattr(error, "usage", None)
    return plain | ({"usage": vars(usage)} if isinstance(usage, Usage) else {})


def _failure(error: RLMError) -> dict[str, JSON]:
    return {"error": {"type": type(error).__name__, "message": str(error), "details": details_of(error)}}
