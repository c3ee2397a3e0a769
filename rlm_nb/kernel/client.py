"""One agent's kernel: cells in, results out, whatever the cells do.

A cell that runs too long is interrupted; one that does not heed the interrupt loses its kernel; a kernel that ends is
replaced. The caller always gets a `CellResult`, and the model is told what happened and what was lost.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from types import TracebackType
from typing import Any, Self

import zmq

from rlm_nb.bridge.server import Call, Handler, Server
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import KernelSettings
from rlm_nb.errors import BridgeError, KernelDiedError, RLMError
from rlm_nb.kernel.launch import Launcher
from rlm_nb.kernel.outputs import CellOutputs, OutputReader, valid
from rlm_nb.records import JSON, Answer, BridgeCall, CellResult, CellStatus, Output

log = logging.getLogger(__name__)

OnOutput = Callable[[Sequence[Output]], None]

IDLE_GRACE = 2.0
"""Seconds that the last output may come after the reply; with a message that was too large it never comes."""

DRAIN = 0.2
"""Seconds of silence after which a dead kernel has nothing more to say."""

GONE = "Its variables and imports are gone; the files in the worktree are as they were."

LOST = "Some output of this cell was lost: a single piece of it was too large to take."

WAITING_CALLS = ("rlm_query", "llm_query")
"""Calls during which a cell's clock stands still."""


class KernelClient:
    """A kernel and its bridge, restarted when need be. Cells run one at a time.

    Args:
        launcher: Starts the processes.
        folder: The agent's own folder.
        workdir: Where cells run.
        outputs: Tells the file that takes the full text of the cell with this number, when it is too long.
        settings: The limits.
        greeting: What a kernel is told when it says hello.
        handle: Answers the calls that cells make (`rlm_query`, `llm_query`, `budget`).
        cancel: What cancels every call.
    """

    def __init__(
        self,
        launcher: Launcher,
        folder: Path,
        workdir: Path,
        outputs: Callable[[int], Path],
        settings: KernelSettings,
        greeting: dict[str, JSON],
        handle: Handler,
        cancel: Cancellation,
    ) -> None:
        self._launcher, self._folder, self._workdir, self._outputs = launcher, folder, workdir, outputs
        self._settings, self._greeting, self._handle, self._cancel = settings, greeting, handle, cancel
        self._restarts = 0
        self._count = 0
        self._running: _Cell | None = None
        self._session: _Session | None = None

    def __enter__(self) -> Self:
        self._session = self._start(self._cancel)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def execute(self, code: str, cancel: Cancellation, on_output: OnOutput | None = None) -> CellResult:
        """Run one cell to its end, whatever that is.

        Args:
            code: The cell.
            cancel: Interrupts the cell when it is set.
            on_output: Called with all outputs of this cell so far whenever they change, late ones included.

        Raises:
            KernelDiedError: The kernel is gone and may not be restarted any more.
        """
        events = self._revive(cancel)
        assert self._session is not None
        self._count += 1
        cell = _Cell(CellOutputs(self._settings.max_output_bytes, self._outputs(self._count)), on_output)
        self._running = cell
        try:
            status, error = self._session.run(code, cell, cancel, self._settings)
        finally:
            self._running = None
        if self._session.ended:
            how = self._session.process.how_it_ended()
            if status == "died":
                error = f"The kernel ended while this cell ran: {how}."
            events.append(f"{error} {GONE}")
        result = CellResult(
            code=code,
            status=status,
            outputs=self._session.snapshot(cell),
            execution_count=cell.outputs.cell.get("execution_count"),
            started=cell.started,
            ended=time.time(),
            waited=cell.waited(),
            error=error,
            events=(*events, *cell.events),
            calls=tuple(cell.calls),
            overflow=cell.outputs.overflow if cell.outputs.overflowed else None,
            final=cell.final if status == "ok" else None,
        )
        if self._session.ended:
            self._discard()
        return result

    def _revive(self, cancel: Cancellation) -> list[str]:
        """See to it that there is a kernel; what the model must know of it."""
        events = []
        if self._session is not None and (self._session.ended or self._session.process.exit_code() is not None):
            events.append(f"The kernel ended between two cells: {self._session.process.how_it_ended()}. {GONE}")
            self._discard()
        if self._session is None:
            if self._restarts >= self._settings.max_restarts:
                raise KernelDiedError(f"the kernel ended {self._restarts + 1} times; it is not restarted any more")
            self._restarts += 1
            self._session = self._start(cancel)
            events.append("A new kernel was started for this cell.")
        return events

    def _start(self, cancel: Cancellation) -> _Session:
        return _Session(
            self._launcher,
            self._folder,
            self._workdir,
            self._answer,
            self._cancel,
            cancel,
            self._settings.start_timeout,
        )

    def _discard(self) -> None:
        assert self._session is not None
        self._session.close()
        self._session = None

    def _answer(self, call: Call, cancel: Cancellation) -> JSON:
        """What the bridge asks when a cell calls: ours first, the controller's otherwise; all of it is recorded."""
        if call.name == "hello":
            return self._greeting
        cell = self._running
        if cell is None:
            raise BridgeError(f"{call.name} was called when no cell was running")
        started = time.time()
        arguments, answer, error = call.arguments, None, None
        try:
            if call.name == "FINAL":
                cell.final = _answer_of(call.arguments)
                arguments = {"type": cell.final.type, "characters": len(cell.final.text)}
            elif call.name in WAITING_CALLS:
                with cell.standing_still():
                    answer = self._handle(call, cancel)
            else:
                answer = self._handle(call, cancel)
        except RLMError as failure:
            error = {"type": type(failure).__name__, "message": str(failure)}
            raise
        finally:
            cell.calls.append(
                BridgeCall(call.name, valid(arguments), valid(answer), error, call.key, started, time.time())
            )
        return answer


def _answer_of(arguments: dict[str, Any]) -> Answer:
    kind = valid(str(arguments.get("type", "")))
    if isinstance(text := arguments.get("text"), str):
        return Answer(valid(text), valid(text), kind)
    answer = Answer.of(valid(arguments.get("value")))
    return Answer(answer.value, answer.text, kind)


@dataclass
class _Cell:
    """What is known of a cell while it runs, and while its threads may still print."""

    outputs: CellOutputs
    on_output: OnOutput | None
    started: float = field(default_factory=time.time)
    final: Answer | None = None
    calls: list[BridgeCall] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _waiting: int = 0
    _since: float = 0.0
    _waited: float = 0.0

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

    def waited(self) -> float:
        """Seconds for which the clock stood still."""
        with self._lock:
            return self._waited + (time.monotonic() - self._since if self._waiting else 0.0)


class _Session:
    """One kernel process with its bridge and the thread that reads its outputs."""

    def __init__(
        self,
        launcher: Launcher,
        folder: Path,
        workdir: Path,
        answer: Handler,
        calls_cancel: Cancellation,
        start_cancel: Cancellation,
        timeout: float,
    ) -> None:
        self.ended = False
        self._said_hello = threading.Event()
        self._answer = answer
        self._bridge = Server(self._greet, calls_cancel)
        self._reader = OutputReader()
        self._cells: dict[str, tuple[int, _Cell]] = {}
        self._changed = threading.Condition()
        self._last_message = time.monotonic()
        self._closing = False
        self._cut_off = self._welcome = False
        self._thread = threading.Thread(target=self._read, name="rlm-iopub", daemon=True)
        self._bridge.__enter__()
        try:
            with self._bridge.kernel_end as wire:
                self.process = launcher.start(folder, workdir, wire.fileno())
            try:
                self.process.wait_until_ready(self._said_hello, timeout, start_cancel)
            except BaseException:
                self.process.close()
                raise
        except BaseException:
            self._bridge.__exit__(None, None, None)
            raise
        self._thread.start()

    def close(self) -> None:
        """End the kernel, its bridge and the reader."""
        self._closing = True
        self._thread.join()
        self.process.close()
        self._bridge.__exit__(None, None, None)

    def snapshot(self, cell: _Cell) -> tuple[Output, ...]:
        """The outputs of `cell` so far."""
        with self._changed:
            return cell.outputs.snapshot()

    def run(
        self, code: str, cell: _Cell, cancel: Cancellation, settings: KernelSettings
    ) -> tuple[CellStatus, str | None]:
        """Send the cell, and climb the ladder until it has ended."""
        client = self.process.client
        with self._changed:
            # Under the lock: no output can be read before we know whose it is.
            identity = client.execute(code, allow_stdin=False, stop_on_error=True)
            self._cells[identity] = (self._reader.begin(cell.outputs), cell)
        with _wakeup(cancel) as woken:
            reply, why = self._wait(identity, cell, cancel, woken, settings.cell_timeout)
            if reply is None and not self.ended:
                self.process.interrupt()
                reply, _ = self._wait(identity, cell, None, woken, settings.interrupt_grace, ticking=True)
                if reply is None and not self.ended:
                    self.ended = True
                    why += " It did not heed the interrupt, so its kernel was killed."
        if self.ended:
            self._drain()
            return ("died" if not why else _stopped(cancel), why or None)
        assert reply is not None
        self._wait_idle(cell)
        content = reply["content"]
        if why:
            return _stopped(cancel), why
        if content["status"] == "ok":
            return "ok", None
        return "error", valid(f"{content.get('ename', 'Error')}: {content.get('evalue', '')}"[:2000])

    def _wait(
        self,
        identity: str,
        cell: _Cell,
        cancel: Cancellation | None,
        woken: socket.socket,
        limit: float,
        *,
        ticking: bool = False,
    ) -> tuple[dict[str, Any] | None, str]:
        """Wait for the reply; returns it, or `None` with the reason (empty when the kernel ended)."""
        client = self.process.client
        poller = zmq.Poller()
        poller.register(client.shell_channel.socket, zmq.POLLIN)
        if self.process.exit_fd is not None:
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
            longest = 0.1 if self.process.exit_fd is None else 1.0
            if cancel is not None and (deadline := cancel.seconds_left()) is not None:
                longest = min(longest, deadline + 0.001)
            ready = dict(poller.poll(int(1000 * min(left, longest)) + 1))
            if client.shell_channel.socket in ready:
                with suppress(Empty):
                    reply: dict[str, Any] = client.shell_channel.get_msg(timeout=0)
                    if reply["parent_header"].get("msg_id") == identity:
                        return reply, ""
            elif self.process.exit_code() is not None:
                self.ended = True
                return None, ""

    def _wait_idle(self, cell: _Cell) -> None:
        """The reply has come: wait for the last output, which travels on a channel of its own."""
        with self._changed:
            if self._changed.wait_for(lambda: cell.outputs.idle, IDLE_GRACE):
                return
            cell.events.append(LOST)
            self._welcome = False
            self._cut_off = True
            # What the next cell puts out must find us listening.
            self._changed.wait_for(lambda: self._welcome, IDLE_GRACE)

    def _drain(self) -> None:
        """The kernel is dead or must die: take what it had still sent."""
        end = time.monotonic() + 10 * DRAIN
        while time.monotonic() < min(end, self._last_message + DRAIN):
            time.sleep(DRAIN / 4)

    def _read(self) -> None:
        """The thread that reads outputs, from the first cell to the end of the kernel."""
        iopub = self.process.client.iopub_channel
        while not self._closing:
            if self._cut_off:
                self._listen_again(iopub.socket)
            if iopub.socket.poll(50):
                self._read_burst(iopub)

    def _listen_again(self, iopub: zmq.Socket[bytes]) -> None:
        """ZeroMQ cuts off a peer that sends too large a message, and does not come back by itself."""
        endpoint = iopub.get_string(zmq.LAST_ENDPOINT)
        with suppress(zmq.ZMQError):  # it has forgotten the endpoint already
            iopub.disconnect(endpoint)
        iopub.connect(endpoint)
        self._cut_off = False

    def _read_burst(self, iopub: Any) -> None:
        """Take what is there as a whole before anybody is told."""
        changed: dict[int, _Cell] = {}
        while not self._closing and iopub.socket.poll(0) and len(changed) < 100:
            try:
                message = iopub.get_msg(timeout=0)
            except (Empty, ValueError) as error:
                # Whoever can connect to the socket can send what is no message of this kernel's.
                log.warning("an unreadable message of a kernel was left out: %s", error)
                continue
            self._last_message = time.monotonic()
            self._take(message, changed)
            if message["msg_type"] == "status":
                break
        self._tell(changed)

    def _take(self, message: dict[str, Any], changed: dict[int, _Cell]) -> None:
        with self._changed:
            if message["msg_type"] == "iopub_welcome":
                self._welcome = True
                self._changed.notify_all()
            known = self._cells.get(message["parent_header"].get("msg_id", ""))
            if known is None:
                return
            number, cell = known
            try:
                self._reader.feed(number, message)
            except Exception as error:  # noqa: BLE001 - a kernel runs code that nobody knows: it may send anything
                log.warning("a malformed message of a kernel was left out: %r", error)
                cell.events.append("A malformed output of this cell was left out.")
            if message["msg_type"] not in ("status", "execute_input"):
                changed[number] = cell
            if cell.outputs.idle:
                self._changed.notify_all()

    def _tell(self, changed: dict[int, _Cell]) -> None:
        for cell in changed.values():
            if cell.on_output is not None:
                cell.on_output(self.snapshot(cell))

    def _greet(self, call: Call, cancel: Cancellation) -> JSON:
        if call.name == "hello":
            self._said_hello.set()
        return self._answer(call, cancel)


@contextmanager
def _wakeup(cancel: Cancellation) -> Iterator[socket.socket]:
    """A socket that becomes readable when somebody cancels: a poll on it ends at once."""
    ours, theirs = socket.socketpair()
    with ours, theirs, cancel.calling(lambda: theirs.close()):
        yield ours


def _stopped(cancel: Cancellation) -> CellStatus:
    return "interrupted" if cancel.is_cancelled() and not cancel.timed_out else "timeout"
