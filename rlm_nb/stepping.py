"""A run that a person goes through step by step: what the model proposes is shown, and happens when he says so.

The run goes on in a thread of its own, and stops before each reply's cells run. Whoever holds the session is asked
then, in his own thread: `rlm-nb step` on a terminal, a magic in a notebook, or a program.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO, TypeVar

from pydantic import SecretStr

from rlm_nb.audience import ignore
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import Config
from rlm_nb.control import SAID, SKIPPED, as_changed
from rlm_nb.controller import Run, RunResult, open_run
from rlm_nb.errors import RLMError
from rlm_nb.home import Look
from rlm_nb.opening import Hands
from rlm_nb.protocols import Listener, Model
from rlm_nb.records import (
    Answer,
    Balance,
    CellResult,
    Decision,
    Event,
    Iterated,
    Iteration,
    Proposal,
)

POLL = 0.1
"""Seconds between two looks at whether somebody who waits was cancelled."""

T = TypeVar("T")

VARIABLES = "%whos"


@dataclass
class _Waiting:
    """A proposal, and the agent's thread that waits for what becomes of it."""

    proposal: Proposal
    look: Look
    decision: queue.Queue[Decision] = field(default_factory=queue.Queue)
    over: Cancellation = field(default_factory=Cancellation)


@dataclass
class _Answered:
    """The root's answer, and its thread that waits for what is said to it."""

    answer: Answer
    said: queue.Queue[str] = field(default_factory=queue.Queue)


class Session:
    """One run, step by step. Use it in a `with`, or iterate over it; either way it is over in the end.

        for iteration in rlm_nb.session("Find the slowest test", "path/to/repository", config):
            print(iteration.number, [cell.status for cell in iteration.cells])

    Everything else is for whoever wants to do more than watch:

        with rlm_nb.session("Find the slowest test", "path/to/repository", config) as session:
            while proposal := session.propose():
                print(proposal.reply.text)
                session.execute()  # or edit(…) and then execute(); message(…), skip(), rewind(…), finish(…)

    Only the root is stopped before its cells run, unless `sub_agents` says otherwise. One thread may use a session.

    Args:
        open_: Opens the run; is given what it tells its listener, its signal and its reviewer.
        listen: Told of everything that happens, from the agents' threads.
        cancel: Stops the run when it is set.
        sub_agents: Whether the sub-agents' cells wait, too.
        conversation: Whether the run goes on when the root has answered, until it is left or finished: `answered` is
            the answer then, and `say` goes on.
    """

    def __init__(
        self,
        open_: Callable[..., object],
        listen: Listener,
        cancel: Cancellation,
        *,
        sub_agents: bool = False,
        conversation: bool = False,
    ) -> None:
        self._open, self._listen, self._cancel = open_, listen, cancel
        self._conversation = conversation
        self._happened: queue.Queue[_Waiting | _Answered | Iteration | None] = queue.Queue()
        self._waiting: _Waiting | None = None
        self._answered: _Answered | None = None
        self._code: tuple[str, ...] | None = None
        self._iterations: list[Iteration] = []
        self._run: Run | None = None
        self._begun = threading.Event()
        # No pool: a program that ends waits for those first, and only then is it known to end; see `_told`.
        self._thread = threading.Thread(target=self._fulfil, name="rlm-session")
        self._running: Future[RunResult] | None = None
        self._ended = False
        self._alone, self._everybody, self._to_next = False, sub_agents, False
        self._followed, self._known = {"root"}, {"root"}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Begin, unless it has begun."""
        if self._running is None:
            self._running = Future()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what still goes on, and keep what there is."""
        self._cancel.cancel("the session was left")
        if self._running is not None:
            self._thread.join()

    def __iter__(self) -> Iterator[Iteration]:
        """Let everything run that is proposed, and give each iteration of the root once it is complete."""
        with self:
            while True:
                yield from self._taken()
                if self.propose() is None:
                    break
                self.execute()
            yield from self._taken()

    def propose(self) -> Proposal | None:
        """What the model would do next, as soon as it has said it; `None` when the run has ended, or the root answered.

        The same proposal until something is decided about it.

        Raises:
            RLMError: What kept the run from starting.
        """
        while not self._is_at_rest() and (self._waiting is None or self._is_over(self._waiting)):
            self._waiting = None  # whatever was proposed to a run that is being stopped is not asked about any more
            self._take()
        return None if self._waiting is None else self._shown(self._waiting)

    @contextmanager
    def while_it_waits(self, cancel: Cancellation) -> Iterator[Cancellation]:
        """A signal that is set with this one, and when what was proposed last is decided about by somebody else."""
        with cancel.child() as still, ExitStack() as stack:
            if (waiting := self._waiting) is not None:
                stack.enter_context(waiting.over.calling(lambda: still.cancel(waiting.over.reason)))
            yield still

    def edit(self, *code: str) -> Proposal:
        """Put these cells in the place of the proposed ones; the model is told so when they have run.

        Raises:
            RLMError: The run has ended.
        """
        self._wanted()
        self._code = code
        return self._shown(self._wanted())

    def execute(self) -> Iteration | None:
        """Let the cells run, and wait for the end of the iteration.

        Returns:
            The iteration; `None` when a sub-agent proposes something first, or the run has ended meanwhile.

        Raises:
            RLMError: The run has ended.
        """
        self._wanted()
        return self._decide(self._as_edited())

    def message(self, text: str) -> Iteration | None:
        """Run nothing of it, and answer the model with this text. Returns and raises what `execute` does."""
        return self._decide(Decision((), said=SAID.format(text=text)))

    def skip(self) -> Iteration | None:
        """Run nothing of it, and tell the model so. Returns and raises what `execute` does."""
        return self._decide(Decision((), said=SKIPPED))

    def rewind(self, number: int) -> None:
        """Undo what the agent that proposes did after this iteration of it; 0 for all.

        Its kernel and its files are built anew from the recorded cells, and the model is asked again. What was paid
        stays paid; what is undone stays in the folder `undone` of the run.

        Raises:
            RLMError: The run has ended, or there is no such iteration.
        """
        waiting = self._wanted()
        if not 0 <= number < waiting.proposal.number:
            raise RLMError(f"{waiting.proposal.agent} has {waiting.proposal.number - 1} iterations to go back to")
        self._settle(waiting, Decision(rewind=number))
        if waiting.proposal.agent == "root":
            self._iterations = [one for one in self._iterations if one.number <= number]

    def finish(self, answer: str | None = None) -> RunResult:
        """End the run: with this answer, if the root proposes something, else with the best that it has so far.

        Raises:
            RLMError: What kept the run from starting.
        """
        if answer is not None and self.propose() is not None and self._wanted().proposal.agent == "root":
            self._settle(self._wanted(), Decision((), said="The user gave the answer.", answer=Answer.of(answer)))
        else:
            self._cancel.cancel("the user ended it")
        return self.result

    def go_on(self) -> None:
        """Ask about nothing any more: the run goes on alone."""
        waiting = self._wanted()
        self._alone = True
        self._settle(waiting, self._as_edited())

    def to_next_sub_agent(self) -> None:
        """Ask about nothing until a sub-agent that is new proposes something; from then on, about what it does."""
        waiting = self._wanted()
        self._to_next = True
        self._settle(waiting, self._as_edited())

    @property
    def answered(self) -> Answer | None:
        """The root's answer, while a conversation waits for what is said to it."""
        while self._answered is not None and not self._happened.empty():
            self._note(self._happened.get())  # its time may be up meanwhile
        return None if self._answered is None or self._ended else self._answered.answer

    def say(self, text: str) -> None:
        """Go on with a conversation whose root has answered. Raises `RLMError` when it does not wait for that."""
        if self.answered is None or self._answered is None:
            raise RLMError("the agent does not wait for a word")
        answered, self._answered = self._answered, None
        answered.said.put(text)

    @property
    def has_begun(self) -> bool:
        """Whether there is a run, which may have ended."""
        return self._run is not None

    def look(self, code: str = VARIABLES) -> CellResult:
        """Run something in the kernel of the agent that proposes, which is no cell of its: to see its variables.

        Raises:
            RLMError: The run has ended, or there is no kernel.
        """
        return self._wanted().look(code, self._cancel)

    @property
    def balance(self) -> Balance:
        """What is spent and what is left."""
        return self.run.ledger.balance()

    @property
    def run(self) -> Run:
        """The run. Raises `RLMError` when it could not start."""
        self.__enter__()
        self._begun.wait()
        if self._run is None:
            assert self._running is not None
            self._running.result()
            raise RLMError("the run did not start")
        return self._run

    @property
    def result(self) -> RunResult:
        """What the run leaves behind, once it has ended; waits for that. Raises what kept it from starting."""
        self.__enter__()
        assert self._running is not None
        return self._running.result()

    def _fulfil(self) -> None:
        assert self._running is not None
        try:
            self._running.set_result(self._go())
        except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
            self._running.set_exception(error)

    def _go(self) -> RunResult:
        """The run, in its thread."""
        try:
            further = {"further": self._further} if self._conversation else {}
            with self._open(listen=self._hear, cancel=self._cancel, review=self._review, **further) as run:  # type: ignore[attr-defined]
                self._run = run
                self._begun.set()
                for _ in run.iterations():
                    pass
            result: RunResult = run.result
            return result
        finally:
            self._begun.set()
            self._happened.put(None)

    def _hear(self, event: Event) -> None:
        self._listen(event)
        if isinstance(event, Iterated):
            self._happened.put(event.iteration)

    def _review(self, look: Look, proposal: Proposal, cancel: Cancellation) -> Decision:
        """Wait for a decision, in the agent's thread."""
        if not self._stops_at(proposal):
            return Decision()
        waiting = _Waiting(proposal, look)
        self._happened.put(waiting)
        with cancel.calling(lambda: waiting.over.cancel(cancel.reason)):
            return self._told(waiting.decision, cancel)

    def _further(self, answer: Answer, cancel: Cancellation) -> str:
        """Wait for what is said to an answer, in the root's thread."""
        answered = _Answered(answer)
        self._happened.put(answered)
        return self._told(answered.said, cancel)

    def _told(self, what: queue.Queue[T], cancel: Cancellation) -> T:
        """Wait until a person has said it. Raises `CancelledError`."""
        while True:
            with suppress(queue.Empty):
                return what.get(timeout=POLL)
            if not threading.main_thread().is_alive():  # the program ends, and waits for this thread
                self._cancel.cancel("the program that asks ended")
            cancel.check()

    def _is_at_rest(self) -> bool:
        return self._ended or self._answered is not None

    def _stops_at(self, proposal: Proposal) -> bool:
        with self._lock:
            is_new = proposal.agent not in self._known
            self._known.add(proposal.agent)
            if self._to_next and is_new:
                self._to_next = False
                self._followed.add(proposal.agent)
            if self._alone or self._to_next:
                return False
            return self._everybody or proposal.agent in self._followed

    def _is_over(self, waiting: _Waiting) -> bool:
        return self._cancel.is_cancelled() or waiting.over.is_cancelled()

    def _take(self) -> None:
        """Wait for the next thing that happens."""
        self.__enter__()
        self._note(self._happened.get())
        if self._ended:
            assert self._running is not None
            self._running.result()  # raises what kept the run from starting

    def _taken(self) -> Iterator[Iteration]:
        while self._iterations:
            yield self._iterations.pop(0)

    def _wanted(self) -> _Waiting:
        if self.propose() is None or self._waiting is None:
            raise RLMError("the run has ended: there is nothing to decide about")
        return self._waiting

    def _shown(self, waiting: _Waiting) -> Proposal:
        return waiting.proposal if self._code is None else replace(waiting.proposal, code=self._code)

    def _as_edited(self) -> Decision:
        if self._code is None:
            return Decision()
        return Decision(self._code, said=as_changed(self._code))

    def _settle(self, waiting: _Waiting, decision: Decision) -> None:
        self._waiting, self._code = None, None
        waiting.decision.put(decision)

    def _decide(self, decision: Decision) -> Iteration | None:
        waiting = self._wanted()
        agent, number = waiting.proposal.agent, waiting.proposal.number
        self._settle(waiting, decision)
        while self._waiting is None and not self._is_at_rest():
            happened = self._happened.get()
            self._note(happened)
            if isinstance(happened, Iteration) and (happened.agent, happened.number) == (agent, number):
                return happened
        return None

    def _note(self, happened: _Waiting | _Answered | Iteration | None) -> None:
        if happened is None:
            self._ended = True
        elif isinstance(happened, _Answered):
            self._answered = happened
        elif isinstance(happened, _Waiting):
            self._waiting = happened
        elif happened.agent == "root":
            self._iterations.append(happened)


def session(
    prompt: str,
    source: str | Path,
    config: Config,
    *,
    secrets: Mapping[str, SecretStr] | None = None,
    branch: str | None = None,
    commit: str | None = None,
    context: Path | TextIO | None = None,
    listen: Listener = ignore,
    cancel: Cancellation | None = None,
    model: Model | None = None,
    sub_agents: bool = False,
    hands: Hands | None = None,
    conversation: bool = False,
) -> Session:
    """A run that is gone through step by step; arguments are those of `open_run`, and the others of `Session`.

    It begins when it is entered, iterated over, or first asked for anything.
    """

    def open_(**more: object) -> object:
        return open_run(
            prompt,
            source,
            config,
            secrets=secrets,
            branch=branch,
            commit=commit,
            context=context,
            model=model,
            hands=hands,
            **more,  # type: ignore[arg-type]
        )

    return Session(open_, listen, cancel or Cancellation(), sub_agents=sub_agents, conversation=conversation)
