"""The kernel that a person works in as that of an agent: he runs its cells, and what came of them is kept.

What a cell put out is taken from where every front end takes it, the kernel's own iopub channel.
"""

from __future__ import annotations

import os
import queue
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import zmq
from ipykernel.connect import get_connection_file
from jupyter_client import BlockingKernelClient

from rlm_nb.bridge.client import let_answer
from rlm_nb.bridge.server import Call, Handler, details_of
from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import BridgeError, KernelError, RLMError
from rlm_nb.kernel import messages
from rlm_nb.kernel.cell import Cell
from rlm_nb.kernel.client import answer_of
from rlm_nb.kernel.outputs import CellOutputs, OutputReader, valid
from rlm_nb.kernel.session import MALFORMED
from rlm_nb.protocols import Kernel
from rlm_nb.records import JSON, BridgeCall, CellResult, CellStatus, Output
from rlm_nb.repl.functions import AGENT_FUNCTIONS, FUNCTIONS, YIELDING, Functions

PATIENCE = 5.0
"""Seconds that the kernel may take to say what it has put out."""

POLL = 0.1
"""Seconds between two looks at whether somebody who waits was cancelled."""

NOTHING = "There is no such cell: the user runs the cells of this kernel."

_ABSENT = object()


@dataclass
class _Ran:
    """A cell that was run in this kernel."""

    cell: Cell
    code: str = ""
    status: CellStatus = "ok"
    error: str | None = None
    ended: float = 0.0
    ours: bool = False
    is_known: threading.Event = field(default_factory=threading.Event)


class Here:
    """The kernel of this very process, whose cells a person runs. Use it in a `with`, from the cells of the kernel.

    Args:
        shell: Its `InteractiveShell`.
        limit: Bytes of a cell's outputs that are kept.
    """

    def __init__(self, shell: Any, limit: int) -> None:
        self._shell, self._limit = shell, limit
        self._cells: dict[str, _Ran] = {}
        self._lock = threading.Lock()
        self._reader = OutputReader()
        self._fed: queue.Queue[CellResult] = queue.Queue()
        self._handle: Handler | None = None
        self._count = 0
        self._outputs = Path()
        self._closing = False
        self._context = zmq.Context()
        self._client = BlockingKernelClient(context=self._context)
        self._thread = threading.Thread(target=self._read, name="rlm-here", daemon=True)

    def __enter__(self) -> Here:
        """Begin to listen."""
        if getattr(self._shell, "kernel", None) is None:
            raise KernelError("steps are taken in a notebook or in `jupyter console`; `rlm-nb step` does without one")
        self._client.load_connection_file(get_connection_file())
        self._client.start_channels(shell=False, iopub=True, stdin=False, hb=False, control=False)
        self._await_echo()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more; the variables stay."""
        self._closing = True
        self._thread.join()
        self._client.stop_channels()
        self._context.destroy(linger=0)

    @contextmanager
    def hands(self, hello: dict[str, JSON], handle: Handler, cancel: Cancellation) -> Iterator[Kernel]:
        """Be an agent's kernel while the block runs; see `opening.Hands`."""
        self._handle, self._cancel = handle, cancel
        self._outputs = Path(str(hello["objects"])).parents[1] / "outputs"
        before = self._furnish(hello)
        let_answer(self)
        try:
            yield self
        finally:
            let_answer(None)
            self._handle = None
            self._take_back(before)

    def mine(self) -> None:
        """The cell that runs now is a word to the agent, and none of its cells."""
        self._known(self._now()).ours = True

    def ran(self) -> list[CellResult]:
        """The cells that have run since the last time, but for those that are no cells of the agent."""
        with self._lock:
            identities = list(self._cells)
        results = []
        for identity in identities:
            ran = self._known(identity)
            if ran.ours:
                continue
            ran.is_known.wait(PATIENCE)
            with self._lock:
                del self._cells[identity]
                if ran.code:
                    results.append(self._result(ran))
        return results

    def feed(self, results: Sequence[CellResult]) -> None:
        """These are what came of the cells that the agent is about to run."""
        for result in results:
            self._fed.put(result)

    def execute(
        self, code: str, cancel: Cancellation, on_output: Callable[[Sequence[Output]], None] | None = None
    ) -> CellResult:
        """What came of a cell that was run; see `protocols.Kernel`."""
        with suppress(queue.Empty):
            while (fed := self._fed.get_nowait()).code != code:
                pass
            self._count += 1
            if on_output is not None:
                on_output(fed.outputs)
            return replace(fed, number=self._count)
        now = time.time()
        return CellResult(code, "interrupted", started=now, ended=now, error=NOTHING)

    def call(self, name: str, **arguments: JSON) -> JSON:
        """Answer what a cell asks, in the thread that asks; see `bridge.client.Caller`."""
        return self.call_until(Cancellation(), name, **arguments)

    def call_until(self, cancel: Cancellation, name: str, **arguments: JSON) -> JSON:
        """The same, until `cancel` is set, or the cell is interrupted."""
        cell, started = self._known(self._now()).cell, time.time()
        arguments = valid(arguments)
        answer, error = None, None
        try:
            if name == "FINAL":
                cell.final = answer_of(arguments)
                arguments = {"type": cell.final.type, "characters": len(cell.final.text)}
                return None
            answer = self._ask(Call(name, arguments, self._now(), uuid.uuid4().hex), cancel)
        except RLMError as failure:
            error = {"type": type(failure).__name__, "message": str(failure), "details": details_of(failure)}
            raise
        finally:
            kept = {**answer, "text": ""} if name == "output" and answer else valid(answer)
            cell.record(BridgeCall(name, arguments, kept, error, "", started, time.time()))
        return answer

    def _ask(self, call: Call, cancel: Cancellation) -> Any:
        """Ask from a thread of its own: an interrupt of the cell then stops what was asked for."""
        if self._handle is None:
            raise BridgeError(f"{call.name}: the agent that would answer has ended")
        answer: Future[JSON] = Future()
        with self._cancel.child() as asked, cancel.calling(lambda: asked.cancel(cancel.reason)):

            def work() -> None:
                assert self._handle is not None
                try:
                    answer.set_result(self._handle(call, asked))
                except BaseException as error:  # noqa: BLE001 - raised where it was asked for
                    answer.set_exception(error)

            threading.Thread(target=work, name="rlm-call", daemon=True).start()
            try:
                return answer.result()
            except KeyboardInterrupt:
                asked.cancel("the cell that asked was interrupted")
                with suppress(RLMError):
                    answer.result()
                raise

    def _furnish(self, hello: Mapping[str, JSON]) -> dict[str, Any]:
        """Give the kernel the agent's names; returns what stood under them."""
        place = (str(hello["objects"]), str(hello["worktree"]))
        functions = Functions(self, Path.cwd(), self._shell.user_ns, place)
        names = FUNCTIONS + (AGENT_FUNCTIONS if hello.get("subagents") else ())
        given: dict[str, Any] = {name: getattr(functions, name) for name in names}
        given |= {"TASK": hello["task"], "WORKDIR": Path.cwd(), "os": os, "subprocess": subprocess, "Path": Path}
        namespace = self._shell.user_ns
        given = {name: value for name, value in given.items() if name not in namespace or name not in YIELDING}
        before = {name: namespace.get(name, _ABSENT) for name in given}
        namespace.update(given)
        self._given = given
        return before

    def _take_back(self, before: Mapping[str, Any]) -> None:
        namespace = self._shell.user_ns
        for name, value in before.items():
            if namespace.get(name) is not self._given[name]:
                continue  # the person has made something of his own of it
            if value is not _ABSENT:
                namespace[name] = value
            elif callable(value := self._given[name]) and not isinstance(value, type):
                del namespace[name]  # modules and texts stay: cells of the person's may have come to use them

    def _await_echo(self) -> None:
        """Say that the kernel is busy, which is known, until we hear it ourselves: then nothing more is missed."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self._shell.kernel.send_response(self._shell.kernel.iopub_socket, "status", {"execution_state": "busy"})
            if self._client.iopub_channel.socket.poll(50):
                return
        raise KernelError("this kernel does not let its own outputs be heard")

    def _now(self) -> str:
        """The message in which the cell that runs was sent."""
        return str(self._shell.kernel.get_parent().get("header", {}).get("msg_id", ""))

    def _known(self, identity: str) -> _Ran:
        with self._lock:
            if identity not in self._cells:
                number = self._count + sum(not ran.ours for ran in self._cells.values()) + 1
                overflow = self._outputs / f"root-cell-{number}.txt"
                outputs = CellOutputs(self._limit, overflow, number)
                self._cells[identity] = _Ran(Cell(outputs, None))
                self._reader.begin(identity, outputs)
            return self._cells[identity]

    def _result(self, ran: _Ran) -> CellResult:
        cell = ran.cell
        return CellResult(
            code=valid(ran.code),
            status=ran.status,
            outputs=cell.outputs.snapshot(),
            execution_count=cell.outputs.execution_count,
            started=cell.started,
            ended=ran.ended or time.time(),
            waited=cell.waited(),
            error=ran.error,
            events=tuple(cell.events),
            calls=tuple(cell.calls),
            overflow=cell.outputs.overflow if cell.outputs.overflowed else None,
            final=cell.final if ran.status == "ok" else None,
        )

    def _read(self) -> None:
        """The thread that reads what this kernel puts out."""
        channel = self._client.iopub_channel
        while not self._closing:
            if channel.socket.poll(int(1000 * POLL)) and (message := messages.receive(channel)) is not None:
                self._take(message)

    def _take(self, message: messages.Message) -> None:
        identity, kind, content = messages.parent(message), message["msg_type"], message["content"]
        if kind == "execute_input":
            self._known(identity).code = str(content.get("code", ""))
        with self._lock:
            ran = self._cells.get(identity)
            if ran is None:
                return
            if kind == "error":
                ran.status = "interrupted" if content.get("ename") == "KeyboardInterrupt" else "error"
                ran.error = f"{content.get('ename')}: {content.get('evalue')}"[:2000]
            try:
                self._reader.feed(identity, message)
            except Exception:  # noqa: BLE001 - a cell may send anything
                ran.cell.note(MALFORMED)
            if ran.cell.outputs.idle:
                ran.ended = time.time()
                ran.is_known.set()
