"""One kernel process, its bridge and its outputs: from the first cell to the end of the process."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import zmq

from rlm_nb.bridge.server import Call, Handler, Server
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import KernelSettings
from rlm_nb.errors import KernelStartError, RLMError
from rlm_nb.kernel import messages
from rlm_nb.kernel.cell import Cell
from rlm_nb.kernel.launch import Launcher
from rlm_nb.kernel.limits import Limits
from rlm_nb.kernel.outputs import OutputReader, valid
from rlm_nb.records import BY_A_PERSON, JSON, CellStatus, Output

log = logging.getLogger(__name__)

IDLE_GRACE = 2.0
"""Seconds that the last output may come after the reply; with a message that was too large it never comes."""

DRAIN = 0.2
"""Seconds of silence after which a dead kernel has nothing more to say."""

REMEMBERED = 32
"""Cells whose threads may still print: a run of thousands of cells must not keep the outputs of all of them."""

BURST = 1000
"""Messages after which whoever listens is told, although there are more."""

MALFORMED = "A malformed output of this cell was left out."

NO_REPLY = "The kernel answered with something that is no reply, so it was killed."

LOST = "Some output of this cell was lost: a single piece of it was too large to take."


class Session:
    """One kernel process with its bridge and the thread that reads its outputs."""

    def __init__(
        self,
        launcher: Launcher,
        folder: Path,
        workdir: Path,
        answer: Handler,
        calls_cancel: Cancellation,
        settings: KernelSettings,
        readable: Sequence[Path] = (),
        show: Callable[[Cell | None, messages.Message], None] = lambda cell, message: None,
    ) -> None:
        self.ended, self._show = False, show
        self._settings = settings
        self._said_ready = threading.Event()
        self._refusal: RLMError | None = None  # what we answered to a kernel that said hello
        self._answer = answer
        self._reader = OutputReader()
        self._cells: dict[str, Cell] = {}  # by the message that each was sent in
        self._latest = ""
        self._changed = threading.Condition()
        self._last_message = time.monotonic()
        self._closing = self._welcome = False
        self._thread = threading.Thread(target=self._read, name="rlm-iopub", daemon=True)
        with ExitStack() as stack:
            bridge = stack.enter_context(Server(self._greet, calls_cancel))
            with bridge.kernel_end as wire:
                self.process = launcher.start(folder, workdir, wire.fileno(), Limits.of(settings, folder), readable)
            stack.callback(self.process.close)
            self._bell, self._rung = stack.enter_context(_pair())
            self._stack = stack.pop_all()

    def wait_until_ready(self, cancel: Cancellation) -> None:
        """Wait until cells can be sent, no longer than `kernel.start_timeout`; the first call does that.

        Raises:
            KernelStartError: The kernel died, or the time is up.
            CancelledError: `cancel` was set.
        """
        if self._thread.ident is None:
            try:
                self.process.wait_until_ready(self._said_ready, self._settings.start_timeout, cancel)
            except KernelStartError as error:
                if self._refusal is None:
                    raise
                raise KernelStartError(f"the kernel was not let start: {self._refusal}") from error
            self._thread.start()
            self._stack.callback(self._stop_reading)

    def close(self) -> None:
        """End the kernel, its bridge and the reader."""
        self._stack.close()

    def snapshot(self, cell: Cell) -> tuple[Output, ...]:
        """The outputs of `cell` so far."""
        with self._changed:
            return cell.outputs.snapshot()

    def is_latest(self, cell: str) -> bool:
        """Whether the cell that was sent last is the one with this message id."""
        with self._changed:
            return cell == self._latest

    def run(
        self, code: str, cell: Cell, cancel: Cancellation, settings: KernelSettings, *, counted: bool = True
    ) -> tuple[CellStatus, str | None]:
        """Send the cell, and climb the ladder until it has ended; one that is not `counted` leaves no trace in `In`."""
        client = self.process.client
        self.process.begin_cell()
        with self._changed:
            # Under the lock: no output can be read before we know whose it is.
            identity = _send(client, code, cell, counted=counted)
            self._reader.begin(identity, cell.outputs)
            self._cells[identity] = cell
            self._latest = identity
            self._forget_old_cells()
        with _wakeup(cancel) as woken:
            reply, why = self._wait(
                identity, cell, cancel, woken, settings.cell_timeout, silence=settings.inactivity_timeout
            )
            if reply is None and not self.ended:
                self.process.interrupt()
                reply, _ = self._wait(identity, cell, None, woken, settings.interrupt_grace, ticking=True)
                if reply is None and not self.ended:
                    self.process.kill()
                    self.ended = True
                    why += " It did not heed the interrupt, so its kernel was killed."
        stopped: CellStatus = _stopped(cancel) if why else "died"
        if reply is not None and reply.get("status") not in ("ok", "error", "aborted"):
            # Only a cell that forges its own reply comes here: what it is still doing nobody knows.
            self.process.kill()
            self.ended = True
            why = f"{why} {NO_REPLY}".lstrip()
        if self.ended:
            self._drain()
            return stopped, why or None
        assert reply is not None
        cell.reply = reply
        self._wait_idle(cell)
        if why:
            return stopped, why
        if cell.broken_off and reply.get("ename") == "KeyboardInterrupt":
            return "interrupted", BY_A_PERSON
        if reply["status"] == "ok":
            return "ok", None
        return "error", valid(f"{reply.get('ename', 'Error')}: {reply.get('evalue', '')}"[:2000])

    def _forget_old_cells(self) -> None:
        while len(self._cells) > REMEMBERED:
            oldest = next(iter(self._cells))
            del self._cells[oldest]
            self._reader.forget(oldest)

    def _wait(
        self,
        identity: str,
        cell: Cell,
        cancel: Cancellation | None,
        woken: socket.socket,
        limit: float,
        *,
        silence: float | None = None,
        ticking: bool = False,
    ) -> tuple[dict[str, Any] | None, str]:
        """Wait for the reply; returns its content, or `None` with the reason (empty when the kernel ended)."""
        client = self.process.client
        poller = zmq.Poller()
        poller.register(client.shell_channel.socket, zmq.POLLIN)
        poller.register(self.process.exit_fd, zmq.POLLIN)
        if cancel is not None:
            poller.register(woken, zmq.POLLIN)
        began, waited = time.monotonic(), cell.waited()
        while True:
            still = 0.0 if ticking else cell.waited() - waited
            left = limit - (time.monotonic() - began - still)
            if cancel is not None and cancel.is_cancelled():
                return None, f"The cell was interrupted: {cancel.reason}."
            if left <= 0:
                return None, f"The cell ran longer than {limit:g} seconds and was interrupted."
            if silence is not None:
                if (quiet := cell.quiet()) >= silence:
                    why = f"The cell neither printed nor called anything for {silence:g} seconds and was interrupted."
                    return None, why
                left = min(left, silence - quiet)
            if cancel is not None and (deadline := cancel.seconds_left()) is not None:
                left = min(left, deadline)
            # The clock may stop or start meanwhile, so look again now and then.
            ready = dict(poller.poll(int(1000 * min(left, 1.0)) + 1))
            if client.shell_channel.socket in ready:
                reply = messages.receive(client.shell_channel)
                if reply is not None and messages.parent(reply) == identity:
                    return reply["content"], ""
            elif self.process.exit_code() is not None:
                self.ended = True
                return None, ""

    def _wait_idle(self, cell: Cell) -> None:
        """The reply has come: wait for the last output, which travels on a channel of its own."""
        with self._changed:
            while not self._changed.wait_for(lambda: cell.outputs.idle, IDLE_GRACE):
                if time.monotonic() > self._last_message + IDLE_GRACE:
                    break
            if cell.outputs.idle:
                return
            cell.note(LOST)
            self._welcome = False
            self._bell.send(b"!")
            # What the next cell puts out must find us listening.
            self._changed.wait_for(lambda: self._welcome, IDLE_GRACE)

    def _drain(self) -> None:
        """The kernel is dead: take what it had still sent."""
        end = time.monotonic() + 10 * DRAIN
        while time.monotonic() < min(end, self._last_message + DRAIN):
            time.sleep(DRAIN / 4)

    def _read(self) -> None:
        """The thread that reads outputs, from the first cell to the end of the kernel."""
        iopub = self.process.client.iopub_channel
        poller = zmq.Poller()
        poller.register(iopub.socket, zmq.POLLIN)
        poller.register(self._rung, zmq.POLLIN)
        while not self._closing:
            if iopub.socket in dict(poller.poll()):
                self._read_burst(iopub)
            elif not self._closing:
                self._rung.recv(1)
                self._listen_again(iopub.socket)

    def _listen_again(self, iopub: zmq.Socket[bytes]) -> None:
        """ZeroMQ cuts off a peer that sends too large a message, and does not come back by itself."""
        endpoint = iopub.get_string(zmq.LAST_ENDPOINT)
        with suppress(zmq.ZMQError):  # it has forgotten the endpoint already
            iopub.disconnect(endpoint)
        iopub.connect(endpoint)

    def _read_burst(self, iopub: Any) -> None:
        """Take what is there as a whole before anybody is told."""
        changed: dict[str, Cell] = {}
        for _ in range(BURST):
            if self._closing or not iopub.socket.poll(0):
                break
            self._last_message = time.monotonic()
            message = messages.receive(iopub)
            if message is not None:
                self._take(message, changed)
                if message["msg_type"] == "status":
                    break
        self._tell(changed)

    def _take(self, message: dict[str, Any], changed: dict[str, Cell]) -> None:
        with self._changed:
            if message["msg_type"] == "iopub_welcome":
                self._welcome = True
                self._changed.notify_all()
            identity = messages.parent(message)
            cell = self._cells.get(identity)
            self._show(cell, message)
            if cell is None:
                return
            if message["msg_type"] != "status":
                cell.heard()
            try:
                for touched in self._reader.feed(identity, message):
                    changed[touched] = self._cells[touched]
            except Exception as error:  # noqa: BLE001 - a kernel runs code that nobody knows: it may send anything
                log.warning("a malformed message of a kernel was left out: %.200r", error)
                cell.note(MALFORMED)
            if cell.outputs.idle:
                self._changed.notify_all()

    def _tell(self, changed: dict[str, Cell]) -> None:
        for cell in changed.values():
            if cell.on_output is not None:
                cell.on_output(self.snapshot(cell))

    def _stop_reading(self) -> None:
        self._closing = True
        self._bell.send(b".")
        self._thread.join()

    def _greet(self, call: Call, cancel: Cancellation) -> JSON:
        if call.name == "ready":
            self._said_ready.set()
        try:
            return self._answer(call, cancel)
        except RLMError as error:
            if call.name == "hello":
                self._refusal = error
            raise


def _send(client: Any, code: str, cell: Cell, *, counted: bool) -> str:
    """Send a cell; returns the id of the message. One that a person asked for goes under the id that he gave it."""
    content = {"code": code, "silent": False, "store_history": counted, "user_expressions": {}, "stop_on_error": True}
    header = None
    if cell.asked is not None:
        content |= cell.asked.options
        header = dict(cell.asked.header)
    message = client.session.msg("execute_request", {**content, "allow_stdin": False}, header=header)
    cell.header = message["header"]
    client.shell_channel.send(message)
    return str(cell.header["msg_id"])


@contextmanager
def _wakeup(cancel: Cancellation) -> Iterator[socket.socket]:
    """A socket that becomes readable when somebody cancels: a poll on it ends at once."""
    with _pair() as (ours, theirs), cancel.calling(theirs.close):
        yield ours


@contextmanager
def _pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def _stopped(cancel: Cancellation) -> CellStatus:
    return "interrupted" if cancel.is_cancelled() and not cancel.timed_out else "timeout"
