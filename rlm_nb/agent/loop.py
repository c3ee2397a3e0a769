"""The loop of one agent: ask the model, run its cells, yield the iteration, until `FINAL` or a limit."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass

from rlm_nb.agent import reply as replies
from rlm_nb.agent import view
from rlm_nb.agent.prompts import Prompts
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import RLMSettings
from rlm_nb.errors import (
    BudgetExceededError,
    CancelledError,
    KernelError,
    ModelError,
    ModelUnavailableError,
    RLMError,
)
from rlm_nb.protocols import Asker, Kernel, Listener
from rlm_nb.records import (
    Answer,
    Asked,
    CellOutput,
    CellResult,
    CellStarted,
    Iterated,
    Iteration,
    Message,
    Outcome,
    Replied,
    Reply,
    Request,
    Status,
    Task,
)

NOT_RUN = "[Your last cells did not all run.]"

PAUSE = 0.5
"""Seconds before a reply that broke off is asked for again; twice as long the second time, and so on."""

RESCUE = 5.0
"""Seconds that reading the variable `answer` may take after everything else has ended."""


@dataclass
class Agent:
    """One agent's conversation with its model, and what came of it.

    Args:
        task: What it is asked to do.
        model: Answers, and pays.
        kernel: Runs cells.
        prompts: What it says to the model.
        settings: The limits.
        listen: Told of everything that happens.
        max_tokens: The longest reply.
    """

    task: Task
    model: Asker
    kernel: Kernel
    prompts: Prompts
    settings: RLMSettings
    listen: Listener
    max_tokens: int

    def __post_init__(self) -> None:
        self._history: tuple[Message, ...] = ()
        self._next = self.prompts.opening()
        self._number = 0
        self._useless = 0
        self._given: Answer | None = None
        self.completed = 0

    def iterate(self, soft: Cancellation, hard: Cancellation) -> Generator[Iteration, None, Outcome]:
        """Work on the task; yields each iteration once it is complete, returns how it ended.

        Args:
            soft: When its deadline passes, the agent is granted one last turn.
            hard: When this is set, or its deadline passes, everything stops.

        Raises:
            RLMError: What kept even the first iteration from happening.
        """
        try:
            while self._number < self.settings.max_iterations:
                soft.check()
                iteration = yield from self._turn(soft)
                if self._given is not None:
                    return Outcome("completed", self._given, "final", "The agent called FINAL.")
                if self._useless >= self.settings.max_failures:
                    return self._rescued(f"The model gave {self._useless} useless replies in a row.", status="error")
                self._next = self.prompts.after(iteration, self._number, view.shown)
            why = f"The limit of {self.settings.max_iterations} iterations was reached."
        except CancelledError as error:
            if not soft.timed_out:
                return self._rescued(f"The run was stopped: {soft.reason or hard.reason or error}.")
            why = "The time limit of the run was reached."
        except RLMError as error:
            if not self.completed:
                raise
            if not isinstance(error, BudgetExceededError):
                return self._broken(error)
            why = f"The budget ended: {error}."
        return (yield from self._finish(why, hard))

    def _turn(self, cancel: Cancellation, *, finishing: bool = False) -> Generator[Iteration, None, Iteration]:
        """One iteration: the model's reply, then its cells."""
        started, message = time.time(), self._next
        self.listen(Asked(self.task.agent, self._number + 1))
        reply = self._ask(message, cancel, finishing=finishing)
        self._number += 1
        self._next = NOT_RUN
        parsed = replies.cells(reply.text, reply.stop_reason)
        self.listen(Replied(self.task.agent, self._number, message, reply, parsed.code))
        ran: list[CellResult] = []
        for index, code in enumerate(parsed.code, start=1):
            ran.append(self._run(index, code, cancel))
            if ran[-1].status != "ok" or ran[-1].final is not None:
                break
        self._given = ran[-1].final if ran else None
        self._useless = 0 if ran else self._useless + 1
        self.completed += 1
        iteration = Iteration(
            self.task.agent, self._number, message, reply, tuple(ran), parsed.fault, started, time.time()
        )
        self.listen(Iterated(self.task.agent, iteration))
        yield iteration
        return iteration

    def _ask(self, message: str, cancel: Cancellation, *, finishing: bool) -> Reply:
        """Ask with the whole history, which only ever grows: what got a reply is sent again byte for byte."""
        messages = (*self._history, Message("user", message))
        request = Request(messages, self.prompts.system(), self.max_tokens, self.task.agent, self._number + 1)
        reply = self._answered(request, cancel, finishing=finishing)
        # A service refuses an empty turn; this one stands for it.
        self._history = (*messages, Message("assistant", reply.text.rstrip() or "(no text)"))
        return reply

    def _answered(self, request: Request, cancel: Cancellation, *, finishing: bool) -> Reply:
        """Ask, and ask again where a connection broke in the middle of a reply; each time is paid for."""
        for attempt in range(1, self.settings.max_failures):
            try:
                return self.model.complete(request, cancel, finishing=finishing)
            except ModelUnavailableError as error:
                if error.usage is not None:  # the provider has retried already, and nothing was charged
                    raise
                cancel.wait(PAUSE * attempt)
        return self.model.complete(request, cancel, finishing=finishing)

    def _run(self, index: int, code: str, cancel: Cancellation) -> CellResult:
        agent, number = self.task.agent, self._number
        self.listen(CellStarted(agent, number, index, code))
        return self.kernel.execute(
            code, cancel, lambda outputs: self.listen(CellOutput(agent, number, index, tuple(outputs)))
        )

    def _finish(self, why: str, hard: Cancellation) -> Generator[Iteration, None, Outcome]:
        """A limit was reached: one last turn, with the kernel, to give what there is."""
        self._next = self.prompts.last_turn(self._next, why)
        with suppress(RLMError):
            yield from self._turn(hard, finishing=True)
        if self._given is not None:
            return Outcome("partial", self._given, "finishing turn", why)
        return self._rescued(why)

    def _broken(self, error: RLMError) -> Outcome:
        """Something ended for good what had begun well."""
        said = str(error).rstrip(".")
        if self._given is not None:  # what failed came after it
            return Outcome("partial", self._given, "final", f"The agent called FINAL, but the run broke off: {said}.")
        if isinstance(error, KernelError):
            return self._without(f"There is no kernel: {said}.", "error")
        what = "The model gave no reply" if isinstance(error, ModelError) else "The run cannot go on"
        return self._rescued(f"{what}: {said}.", status="error")

    def _rescued(self, why: str, status: Status = "partial") -> Outcome:
        """The last answer that the model stored in the variable `answer`, if there is one."""
        with suppress(RLMError):
            result = self.kernel.execute(
                "if globals().get('answer') is not None: FINAL_VAR('answer')", Cancellation(time.monotonic() + RESCUE)
            )
            if result.final is not None:
                return Outcome("partial", result.final, "stored", f"{why} The answer is the variable `answer`.")
        return self._without(why, status)

    def _without(self, why: str, status: Status) -> Outcome:
        return Outcome(status, Answer.of(f"No answer was reached. {why}"), "none", why)
