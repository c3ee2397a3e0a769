"""The loop of one agent: ask the model, run its cells, yield the iteration, until `FINAL` or a limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from rlm_nb.agent import reply as replies
from rlm_nb.agent import view
from rlm_nb.agent.past import Past, Rewound
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
    Decision,
    Iterated,
    Iteration,
    Message,
    Outcome,
    Proposal,
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
        past: What it has done already, when it goes on from there.
        review: Decides about each reply before any of its cells runs; waits for that no longer than until it is
            cancelled.
        asides: Everything that people who are attached to the kernel have run there so far.
        further: Told of the answer; waits for what the person says to it, which the agent goes on with, or `None`.
    """

    task: Task
    model: Asker
    kernel: Kernel
    prompts: Prompts
    settings: RLMSettings
    listen: Listener
    max_tokens: int
    past: Past | None = None
    review: Callable[[Proposal, Cancellation], Decision] | None = None
    further: Callable[[Answer, Cancellation], str | None] | None = None
    asides: Callable[[], Sequence[CellResult]] = tuple

    def __post_init__(self) -> None:
        self._history: tuple[Message, ...] = ()
        self._next = self.prompts.opening()
        self._number = 0
        self._useless = 0
        self._given: Answer | None = None
        self._last_resort: Answer | None = None
        self._greeting = self.past
        self._told = 0  # of the asides
        self.completed = 0
        if self.past is not None:
            self._take_over(self.past)

    def iterate(self, soft: Cancellation, hard: Cancellation) -> Generator[Iteration, None, Outcome]:
        """Work on the task; yields each iteration once it is complete, returns how it ended.

        Args:
            soft: When its deadline passes, the agent is granted one last turn.
            hard: When this is set, or its deadline passes, everything stops.

        Raises:
            RLMError: What kept even the first iteration from happening.
            Rewound: A person wants to go back.
        """
        try:
            if self.past is not None and self._given is not None:
                self.past.differing()  # it is done, and still to leave its files
            if self.past is not None and self.past.begun is not None:
                yield from self._rest_of(self.past.begun, soft)
            while self._given is None and self._number < self.settings.max_iterations:
                soft.check()
                iteration = yield from self._turn(soft)
                if self._useless >= self.settings.max_failures:
                    return self._rescued(f"The model gave {self._useless} useless replies in a row.", status="error")
                self._prepare_for_next(iteration)
                if self._given is not None and (said := self._asked_further(self._given, soft)) is not None:
                    self._given = None
                    self._prepare_for_next(iteration)
                    self._next = self.prompts.resumed(self._next, None, said)
            if self._given is not None:
                return Outcome("completed", self._given, "final", "The agent called FINAL.")
            why = f"The limit of {self.settings.max_iterations} iterations was reached."
        except CancelledError as error:
            if not soft.timed_out:
                return self._rescued(f"The run was stopped: {soft.reason or hard.reason or error}.", stopped=True)
            why = "The time limit of the run was reached."
        except RLMError as error:
            if not self.completed:
                raise
            if not isinstance(error, BudgetExceededError):
                return self._broken(error)
            why = f"The budget ended: {error}."
        return (yield from self._finish(why, hard))

    def _asked_further(self, answer: Answer, cancel: Cancellation) -> str | None:
        """What a person says to an answer; there is nothing more to say once everything is stopped."""
        if self.further is None:
            return None
        with suppress(CancelledError):
            return self.further(answer, cancel)
        return None

    def _take_over(self, past: Past) -> None:
        """Stand where the agent stood: every message is the one that was sent, byte for byte."""
        for iteration in past.iterations:
            self._history += _exchange(iteration.message, iteration.reply)
            self._number = iteration.number
            self._given = iteration.cells[-1].final if iteration.cells else None
            if iteration.finishing:
                self._hold_back()
        self.completed = len(past.iterations)
        if past.said:
            self._given = None
        if past.iterations:
            self._prepare_for_next(past.iterations[-1])

    def _rest_of(self, begun: Iteration, cancel: Cancellation) -> Generator[Iteration, None, None]:
        """Run the cells that have not run of a reply that is there already."""
        iteration = yield from self._turn(cancel, begun=begun)
        if begun.finishing:
            self._hold_back()
        self._prepare_for_next(iteration)

    def _hold_back(self) -> None:
        """What was given in a turn that was to be the last, and is not, counts if nothing better comes."""
        self._last_resort, self._given = self._given, None

    def _prepare_for_next(self, iteration: Iteration) -> None:
        if self._given is None:
            self._next = self.prompts.after(iteration, self._number, view.shown)

    def _turn(
        self, cancel: Cancellation, *, begun: Iteration | None = None, finishing: bool = False
    ) -> Generator[Iteration, None, Iteration]:
        """One iteration: the model's reply, then its cells; what was `begun` has its reply, and some of its cells."""
        started = time.time()
        if begun is None:
            asides = self.asides()
            message = self._message(asides[self._told :])
            self.listen(Asked(self.task.agent, self._number + 1))
            reply = self._ask(message, cancel, finishing=finishing)
            self._told = len(asides)
        else:
            message, reply, finishing = begun.message, begun.reply, begun.finishing
            started = begun.started or started
            self._history += _exchange(message, reply)
        self._number += 1
        self._next = NOT_RUN
        parsed = replies.cells(reply.text, reply.stop_reason)
        decision = Decision(begun.code) if begun else self._decided(message, reply, parsed, cancel)
        edited = decision.code is not None
        cells = parsed.code if decision.code is None else decision.code
        note = decision.said or parsed.fault
        self.listen(Replied(self.task.agent, self._number, message, reply, cells, finishing, edited))
        ran: list[CellResult] = list(begun.cells) if begun else []
        for index, code in enumerate(cells[len(ran) :], start=len(ran) + 1):
            ran.append(replace(self._run(index, code, cancel), human=edited and code not in parsed.code))
            if ran[-1].status != "ok" or ran[-1].final is not None:
                break
        self._given = decision.answer or (ran[-1].final if ran else None)
        self._useless = 0 if ran or edited else self._useless + 1
        self.completed += 1
        iteration = Iteration(
            self.task.agent,
            self._number,
            message,
            reply,
            tuple(ran),
            note,
            started,
            time.time(),
            finishing,
            decision.code,
        )
        self.listen(Iterated(self.task.agent, iteration))
        yield iteration
        return iteration

    def _decided(self, message: str, reply: Reply, parsed: replies.Cells, cancel: Cancellation) -> Decision:
        """What becomes of a reply, where somebody judges it."""
        if self.review is None:
            return Decision()
        proposal = Proposal(self.task.agent, self._number, message, reply, parsed.code, parsed.fault)
        decision = self.review(proposal, cancel)
        if decision.rewind is not None:
            raise Rewound(decision.rewind)
        return decision

    def _message(self, asides: Sequence[CellResult]) -> str:
        """What the model is told next; once the agent goes on from its past, that it does."""
        past, self._greeting = self._greeting, None
        message = self._next
        if past is not None and (past.iterations or past.begun or past.said):
            differing = past.differing() if past.iterations or past.begun else None
            message = self.prompts.resumed(message, differing, past.said)
        return self.prompts.attended(message, asides, view.shown) if asides else message

    def _ask(self, message: str, cancel: Cancellation, *, finishing: bool) -> Reply:
        """Ask with the whole history, which only ever grows: what got a reply is sent again byte for byte."""
        messages = (*self._history, Message("user", message))
        request = Request(messages, self.prompts.system(), self.max_tokens, self.task.agent, self._number + 1)
        reply = self._answered(request, cancel, finishing=finishing)
        self._history += _exchange(message, reply)
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

    def _rescued(self, why: str, status: Status = "partial", *, stopped: bool = False) -> Outcome:
        """The answer of a last turn before this one, else what the model stored in the variable `answer`, if it did."""
        if self._last_resort is not None:
            return Outcome("partial", self._last_resort, "finishing turn", why, stopped)
        with suppress(RLMError):
            result = self.kernel.execute(
                "if globals().get('answer') is not None: FINAL_VAR('answer')", Cancellation(time.monotonic() + RESCUE)
            )
            if result.final is not None:
                why = f"{why} The answer is the variable `answer`."
                return Outcome("partial", result.final, "stored", why, stopped)
        return self._without(why, status, stopped=stopped)

    def _without(self, why: str, status: Status, *, stopped: bool = False) -> Outcome:
        return Outcome(status, Answer.of(f"No answer was reached. {why}"), "none", why, stopped)


def _exchange(message: str, reply: Reply) -> tuple[Message, Message]:
    """What the history keeps of a turn. A service refuses an empty one; three words stand for it."""
    return Message("user", message), Message("assistant", reply.text.rstrip() or "(no text)")
