"""One agent's kernel: cells in, results out, whatever the cells do.

A cell that runs too long is interrupted; one that does not heed the interrupt loses its kernel; a kernel that ends is
replaced. The caller always gets a `CellResult`, and the model is told what happened and what was lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlm_nb.bridge.server import Call, Handler, details_of
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import KernelSettings
from rlm_nb.errors import BridgeError, KernelDiedError, RLMError
from rlm_nb.kernel import door
from rlm_nb.kernel.cell import Cell, OnOutput, Request
from rlm_nb.kernel.launch import Launcher
from rlm_nb.kernel.messages import Message
from rlm_nb.kernel.outputs import CellOutputs, valid
from rlm_nb.kernel.people import People
from rlm_nb.kernel.session import Session
from rlm_nb.kernel.turns import Turns
from rlm_nb.records import JSON, Answer, BridgeCall, CellResult

GONE = "Its variables and imports are gone; the files in the worktree are as they were."

ANEW = "A new kernel was started for this cell."

NOT_YOURS = "FINAL is the agent's to call, not that of a person who is attached to its kernel"

STANDS_BACK = "the agent is to be stopped"

WAITING_CALLS = ("rlm_query", "llm_query")
"""Calls during which a cell's clock stands still."""


class KernelClient:
    """A kernel and its bridge, restarted when need be. Cells run one at a time, whoever asks for them.

    Args:
        launcher: Starts the processes.
        folder: The agent's own folder.
        workdir: Where the kernel starts. Cells run there, unless the greeting names another `workdir`.
        outputs: Tells the file that takes the full text of the cell with this number, when it is too long.
        settings: The limits.
        greeting: Tells what a kernel is told when it says hello; may take its time, while the kernel waits.
        handle: Answers the calls that cells make (`rlm_query`, `llm_query`, `budget`).
        cancel: What cancels every call.
        readable: What the kernel may read, beside what is the agent's own, the system's, and Python's.
        attended: Told of each cell that a person who is attached has run, before that person hears of its end.
    """

    def __init__(
        self,
        launcher: Launcher,
        folder: Path,
        workdir: Path,
        outputs: Callable[[int], Path],
        settings: KernelSettings,
        greeting: Callable[[], dict[str, JSON]],
        handle: Handler,
        cancel: Cancellation,
        readable: Sequence[Path] = (),
        attended: Callable[[CellResult], None] = lambda cell: None,
    ) -> None:
        self._readable, self._attended = tuple(readable), attended
        self._launcher, self._folder, self._workdir, self._outputs = launcher, folder, workdir, outputs
        self._settings, self._greeting, self._handle, self._cancel = settings, greeting, handle, cancel
        self._restarts = 0
        self._count = 0
        self._running: Cell | None = None
        self._session: Session | None = None
        self._turns = Turns()
        self._theirs: Cancellation | None = None  # ends what a person runs
        self._over = Cancellation()
        self._people = People(launcher.context, self._run_for, self._break_off)

    def __enter__(self) -> Self:
        self.begin()
        try:
            self.wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the kernel, if there is one, and let go of who is attached."""
        self._over.cancel("the agent has ended")
        session = self._session  # which who runs a cell may put away just now
        if self._theirs is not None and session is not None:
            session.process.kill()
        self._people.close()
        if self._session is not None:
            self._discard()

    def attach(self) -> Path:
        """Let a person in; returns the connection file for a client of Jupyter's. Any thread may ask.

        What is run there takes turns with the agent's cells, and is told to `attended`. It lasts as long as this
        client, whatever becomes of the kernel.

        Raises:
            KernelError: The agent has ended, or there is no place for the sockets.
        """
        return self._people.attach()

    def look(self, code: str, cancel: Cancellation) -> CellResult:
        """Run something that is none of the agent's cells, between two of them, such as a look at its variables.

        Raises:
            KernelDiedError: The kernel is gone and may not be restarted any more.
        """
        with self._turns.taken(cancel, self._hurry):
            result, _ = self._execute(code, cancel, None, counted=False)
            self._count -= 1
            return result

    def begin(self) -> None:
        """Start the kernel, and do not wait until it is ready; `close` must follow. Raises `KernelStartError`."""
        if self._session is None:
            self._session = self._start()

    def wait_until_ready(self) -> None:
        """Wait for the kernel that has begun.

        Raises:
            KernelStartError: It died, or `kernel.start_timeout` is over.
            CancelledError: The calls were cancelled.
        """
        assert self._session is not None
        self._session.wait_until_ready(self._cancel)
        self._people.connect(self._session.process.connection)

    def execute(
        self, code: str, cancel: Cancellation, on_output: OnOutput | None = None, *, endless: str = ""
    ) -> CellResult:
        """Run one cell to its end, whatever that is.

        Args:
            code: The cell.
            cancel: Interrupts the cell when it is set.
            on_output: Called with all outputs of this cell so far whenever they change, late ones included.
            endless: Why it cannot end the agent with `FINAL`; empty when it can.

        Raises:
            KernelDiedError: The kernel is gone and may not be restarted any more.
        """
        with self._turns.taken(cancel, self._hurry):
            return self._execute(code, cancel, on_output, endless=endless)[0]

    def _run_for(self, message: Message) -> dict[str, Any]:
        """Run what a person who is attached asks for, once it is his turn; returns what he is answered."""
        content = message["content"]
        code, options = content.get("code"), door.options(content)
        if not isinstance(code, str) or options is None:
            return door.failed("NoCell", "an execute_request has a text as its code, and options of Jupyter's kinds")
        if door.is_farewell(code):
            return door.FAREWELL
        asked = Request(message["header"], options)
        with self._cancel.child() as own, self._over.calling(lambda: own.cancel(self._over.reason)):
            with self._turns.taken(own, own.check):
                own.check()
                self._theirs = own
                try:
                    result, cell = self._execute(code, own, None, asked=asked, endless=NOT_YOURS)
                finally:
                    self._theirs = None
                reply = cell.reply
                if reply is None:
                    self._restarts -= 1  # what people do to its kernel is not held against the agent
                if code.strip():
                    self._attended(replace(result, human=True))
                else:
                    self._count -= 1
        for said in (*result.events, *([result.error] if result.error and reply is None else [])):
            self._people.tell(message["header"], said)
        return dict(reply) if reply is not None else door.failed("KernelDied", result.error or "the kernel ended")

    def _hurry(self) -> None:
        """The agent cannot wait for what a person runs."""
        if (theirs := self._theirs) is not None:
            theirs.cancel(STANDS_BACK)

    def _break_off(self) -> None:
        """A person wants the cell that runs interrupted, whoever's it is."""
        cell, session = self._running, self._session
        if cell is not None and session is not None:
            cell.broken_off = True
            session.process.interrupt()

    def _execute(
        self,
        code: str,
        cancel: Cancellation,
        on_output: OnOutput | None,
        *,
        counted: bool = True,
        asked: Request | None = None,
        endless: str = "",
    ) -> tuple[CellResult, Cell]:
        code = valid(code)  # a source cannot hold these characters either; in a literal, their escapes mean the same
        events = self._revive(cancel)
        assert self._session is not None
        self._count += 1
        overflow = self._outputs(self._count)
        cell = Cell(CellOutputs(self._settings.max_output_bytes, overflow, self._count), on_output, asked, endless)
        self._running = cell
        try:
            status, error = self._session.run(code, cell, cancel, self._settings, counted=counted)
        finally:
            self._running = None
        events += self._session.process.explain(error)
        if self._session.ended:
            how = self._session.process.how_it_ended()
            if status == "died":
                error = error or f"The kernel ended while this cell ran: {how}."
            events.append(f"{error} {GONE}")
        result = CellResult(
            code=code,
            status=status,
            outputs=self._session.snapshot(cell),
            execution_count=cell.outputs.execution_count,
            started=cell.started,
            ended=time.time(),
            waited=cell.waited(),
            error=error,
            events=(*events, *cell.events),
            calls=tuple(cell.calls),
            overflow=cell.outputs.overflow if cell.outputs.overflowed else None,
            final=cell.final if status == "ok" else None,
            number=self._count,
        )
        if asked is None and not cell.outputs.idle:
            self._people.is_idle(cell.header)
        if self._session.ended:
            self._discard()
        return result, cell

    def skip(self, number: int) -> None:
        """Let the next cell be the one after `number`: those up to it ran in an earlier process, or did not run."""
        self._count = number

    def forget(self) -> None:
        """End the kernel process, with its variables; the next cell starts another one."""
        if self._session is not None:
            self._discard()

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
            self._session = self._start()
            try:
                self._session.wait_until_ready(cancel)
            except BaseException:
                self._discard()
                raise
            self._people.connect(self._session.process.connection)
            events.append(ANEW)
        return events

    def _start(self) -> Session:
        return Session(
            self._launcher,
            self._folder,
            self._workdir,
            self._answer,
            self._cancel,
            self._settings,
            self._readable,
            self._people.show,
        )

    def _discard(self) -> None:
        assert self._session is not None
        self._people.connect(None)
        self._session.close()
        self._session = None

    def _answer(self, call: Call, cancel: Cancellation) -> JSON:
        """What the bridge asks when a cell calls: ours first, the controller's otherwise; all of it is recorded."""
        if call.name in ("hello", "ready"):
            return self._greeting() if call.name == "hello" else None
        cell = self._running
        if cell is None:
            raise BridgeError(f"{call.name} was called when no cell was running")
        cell.heard()
        started = time.time()
        arguments, answer, error = call.arguments, None, None
        try:
            if call.name == "FINAL":
                if cell.endless:
                    raise BridgeError(cell.endless)
                if self._session is None or not self._session.is_latest(call.cell):
                    raise BridgeError(
                        "FINAL was called by a thread of an earlier cell; call it in the cell that runs now"
                    )
                cell.final = answer_of(call.arguments)
                arguments = {"type": cell.final.type, "characters": len(cell.final.text)}
            elif call.name in WAITING_CALLS:
                with cell.standing_still():
                    answer = self._handle(call, cancel)
            else:
                answer = self._handle(call, cancel)
        except RLMError as failure:
            error = {"type": type(failure).__name__, "message": str(failure), "details": details_of(failure)}
            raise
        finally:
            record = _without_text(answer) if call.name == "output" else valid(answer)
            cell.record(BridgeCall(call.name, valid(arguments), record, error, call.key, started, time.time()))
        return answer


def _without_text(answer: JSON) -> JSON:
    """The answer to `output`, whose text is recorded already: with the cell that it is of."""
    return {name: value for name, value in answer.items() if name != "text"} if answer else answer


def answer_of(arguments: dict[str, Any]) -> Answer:
    """What a cell gave to `FINAL`."""
    kind = valid(str(arguments.get("type", "")))
    if isinstance(text := arguments.get("text"), str):
        return Answer(valid(text), valid(text), kind)
    answer = Answer.of(valid(arguments.get("value")))
    return Answer(answer.value, answer.text, kind)
