"""Runs a task to its end, or to the end of its time, and keeps what it has found.

A task runs in a thread of its own while the caller's thread waits. When the time is up, the subcalls under way are
stopped, and `RuntimeLimitError` is raised wherever the task is, again and again for as long as it goes on: that ends
loops in pure Python. A loop that catches everything is ended by refusing each of its lines (`refusing.py`). What is
no Python (a long sleep, a C function) hears of its end when it returns. The caller waits for none of them. Only C code
that never lets other threads run could keep it waiting.
"""

from __future__ import annotations

import asyncio
import copy
import ctypes
import inspect
import queue
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any, Never, TypeVar

from rlm_nb.context_access import Text
from rlm_nb.errors import BudgetExceededError, CancelledError, RuntimeLimitError
from rlm_nb.records import Notice, Status, Subcall
from rlm_nb.tasks.guards import LOOK, Guards, Told, current
from rlm_nb.tasks.plain import text
from rlm_nb.tasks.refusing import Refusal
from rlm_nb.tasks.upward import upward

T = TypeVar("T")

GRACE = 1.0
"""Seconds after the end of its time that a task may take to notice, before its caller goes on without it."""

NOTICE = 0.1
"""Seconds in which a task that waits for a model hears of its end there, and may keep the answers that it has."""

TICK = 0.005
"""Seconds between two attempts to end a task."""

STUBBORN = 20
"""Attempts after which a task is taken for one that catches everything."""

SELDOM = 0.5
"""Seconds between two attempts, once ten times as many have had no effect."""

BURST = 0.2
"""Seconds for which no line of such a task is let run, at least."""

TaskFunction = Callable[[Any], Any]
"""A task: a function of a context. It may be a generator, whose values are findings, or asynchronous, or both."""


@dataclass(frozen=True)
class Ended:
    """How a task ended.

    Args:
        status: `completed`; `partial` when a limit, or somebody, stopped it; `error` when it raised.
        result: What it returned; else its findings so far, or `None`.
        error: One sentence, or `None`.
        raised: What it raised, when that was no limit.
        is_left: Whether the task's thread may still go on, since nothing could end it so far.
        untold: How many accesses (and answers given again) were not told, since there was no time for them.
    """

    status: Status
    result: Any
    error: str | None = None
    raised: BaseException | None = None
    is_left: bool = False
    untold: int = 0


def partial(findings: T) -> T:
    """Keep `findings` as what the task has so far, in place of what was kept before; returns them.

    A list or a dict may be kept once and filled later: `found = partial([])`. When a limit ends the task, or it raises,
    they are its result.

    Raises:
        RuntimeError: Outside of a task.
    """
    current().findings = findings
    return findings


def execute(function: TaskFunction, context: Text, guards: Guards, heard: queue.SimpleQueue[Told], on: _Hear) -> Ended:
    """Run a task; returns in bounded time, whatever it does.

    Args:
        function: The task.
        context: What it is about.
        guards: Its limits, whose listener puts into `heard`.
        heard: What the task tells.
        on: Called with each of that, in the caller's thread.
    """
    job = _Job(function, context, guards)
    job.start()
    try:
        while job.is_going_on() and not guards.cancel.is_cancelled():
            _hear(heard, on, 0.02)
        if job.is_going_on():
            job.stop(GRACE)
    finally:
        job.leave()
        guards.close()
        guards.settled(GRACE)
    untold = _tell_the_rest(heard, on, GRACE / 2)
    return replace(job.ended(), untold=untold)


def _tell_the_rest(heard: queue.SimpleQueue[Told], on: _Hear, seconds: float) -> int:
    """Each subcall that was made and each notice, else what there is time for; returns how much was left out."""
    deadline, untold = time.monotonic() + seconds, 0
    while not heard.empty():
        told = heard.get()
        is_due = isinstance(told, Notice) or (isinstance(told, Subcall) and told.same_as is None)
        if is_due or time.monotonic() < deadline:
            on(told)
        else:
            untold += 1
    return untold


_Hear = Callable[[Told], None]


def _hear(heard: queue.SimpleQueue[Told], on: _Hear, seconds: float) -> None:
    try:
        on(heard.get(timeout=seconds))
    except queue.Empty:
        return


async def _values(made: AsyncGenerator[T, Never], findings: list[T]) -> list[T]:
    async with aclosing(made):
        async for value in made:
            findings.append(value)
    return findings


class _Job:
    """A task in its thread."""

    def __init__(self, function: TaskFunction, context: Text, guards: Guards) -> None:
        self._function, self._context, self._guards = function, context, guards
        self._is_async = False
        self._ended: Ended | None = None
        self._why: BudgetExceededError | CancelledError | None = None
        self._done = threading.Event()
        self._ending = threading.Lock()
        # A copy, so that what the task sets in it stays with the task.
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="rlm-task", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_going_on(self) -> bool:
        return not self._done.is_set() and self._thread.is_alive()

    def stop(self, seconds: float) -> None:
        """Raise in the task until it ends, at most so long."""
        deadline = time.monotonic() + seconds
        if self._why is None:
            cancel = self._guards.cancel
            self._why = self._guards.out_of_time() if cancel.timed_out else CancelledError(cancel.reason)
        self._done.wait(GRACE / 2 if self._is_async else NOTICE)  # it looks by itself, if it can
        attempts, pause = 0, TICK
        while self.is_going_on() and time.monotonic() < deadline:
            attempts += 1
            if attempts % STUBBORN:
                self._raise_in_it(self._out_of_time())
                self._done.wait(pause)
            else:
                self._refuse_each_line(BURST)
            if attempts > 10 * STUBBORN:
                pause = SELDOM

    def leave(self) -> None:
        """Go on without it; something else goes on trying to end it."""
        if self.is_going_on():
            threading.Thread(target=self.stop, args=(float("inf"),), name="rlm-task-end", daemon=True).start()

    def ended(self) -> Ended:
        """How it ended; that it was stopped, if it did not get so far as to tell."""
        return self._ended or self._stopped(self._why or self._guards.out_of_time())

    def _run(self) -> None:
        # What is sent to end the task may arrive a moment after its end, at any of these lines: each is in a `try`.
        # Not `suppress`, which is no code of ours, and might be refused.
        try:
            try:
                self._ended = self._to_its_end()
            finally:
                self._over()
        except BaseException:  # noqa: BLE001 - it came in the wake of the task's end
            self._over()

    def _over(self) -> None:
        """Say that it is over, whatever is still on its way."""
        try:
            while not self._done.is_set():
                with self._ending:
                    self._done.set()
            for _ in range(3):  # the last one may still be on its way: Python delivers it in a loop
                pass
        except RuntimeLimitError:
            self._over()

    def _to_its_end(self) -> Ended:
        self._guards.enter()
        try:
            return Ended("completed", self._value())
        except (BudgetExceededError, CancelledError) as error:
            return self._stopped(error)
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a task, too, is its own affair
            return Ended("error", self._findings(), f"{type(error).__name__}: {text(error)}", error)

    def _value(self) -> Any:
        made = self._function(self._context)
        if inspect.iscoroutine(made):
            self._is_async = True
            return asyncio.run(self._until_stopped(made))
        if inspect.isasyncgen(made):
            self._is_async = True
            return asyncio.run(self._until_stopped(_values(made, partial([]))))
        if not inspect.isgenerator(made):
            return made
        findings = partial([])
        while True:
            try:
                findings.append(next(made))
            except StopIteration as end:
                return findings if end.value is None else end.value

    async def _until_stopped(self, made: Coroutine[Any, Any, T]) -> T:
        """Cancel an asynchronous task in its own way: an error out of nowhere may keep its event loop from closing."""
        task = asyncio.ensure_future(made)
        while not (await asyncio.wait([task], timeout=LOOK))[0]:
            if self._guards.cancel.is_cancelled():
                task.cancel()
                await asyncio.wait([task], timeout=GRACE / 4)
                self._guards.check()
        return task.result()

    def _stopped(self, error: Exception) -> Ended:
        return Ended("partial", self._findings(), str(self._why or error), is_left=self.is_going_on())

    def _findings(self) -> Any:
        """A copy: a task that was left may still add to them."""
        for _ in range(5):
            try:
                return copy.deepcopy(self._guards.findings)
            except RuntimeError:  # it grew while it was copied
                continue
            except Exception:  # noqa: BLE001 - whatever its parts do when they are copied
                break
        return self._guards.findings

    def _refuse_each_line(self, seconds: float) -> None:
        """Let no line of the task run any more, for so long at least."""
        assert self._thread.ident is not None
        refusal = Refusal(self._thread.ident, self._out_of_time(), __file__, self._done)
        if sys.version_info >= (3, 12):
            refusal.last(seconds)
        else:
            self._raise_in_it(self._out_of_time(refusal.begin))
            self._done.wait(seconds)

    def _raise_in_it(self, error: type[RuntimeLimitError]) -> None:
        assert self._thread.ident is not None
        with self._ending:
            if not self._done.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread.ident), ctypes.py_object(error))

    def _out_of_time(self, then: Callable[[], None] = lambda: None) -> type[RuntimeLimitError]:
        """What is raised in the task: a class, of which Python makes the exception by itself, in the task's thread.

        Args:
            then: Called there when it does.
        """
        error = self._guards.out_of_time()

        class OutOfTime(RuntimeLimitError):
            def __init__(self) -> None:
                super().__init__(error.what, error.used, error.limit)
                then()

        OutOfTime.__name__ = OutOfTime.__qualname__ = RuntimeLimitError.__name__
        return OutOfTime


__getattr__ = upward(__name__, "TaskBuilder", "run_task")
