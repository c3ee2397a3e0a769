"""Assembles the parts, and runs one agent, root or child, the same way.

It knows every part, and `opening.py` gives each agent its worktree and its kernel. Keys, the ledger, depth and limits
live here; a kernel can only ask.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from pydantic import SecretStr

from rlm_nb import live_specs
from rlm_nb.agent.loop import Agent
from rlm_nb.agent.past import Past, Rewound
from rlm_nb.agent.prompts import Prompts
from rlm_nb.audience import Audience, both, ignore
from rlm_nb.budgeting import open_ledger
from rlm_nb.cancellation import Cancellation, within
from rlm_nb.config import Config
from rlm_nb.control import Control
from rlm_nb.errors import CancelledError, RLMError, RunFolderError
from rlm_nb.home import Home, Look
from rlm_nb.kernel.launch import Launcher
from rlm_nb.ledger import BudgetFile, SharedBudget
from rlm_nb.models import get_model
from rlm_nb.models.metered import MeteredModel, price_for
from rlm_nb.notebook.recorder import Recorder
from rlm_nb.opening import Hands, Opening
from rlm_nb.protocols import Listener, Model, Price
from rlm_nb.pruning import rewind
from rlm_nb.recalling import Recalled, recall, result_of
from rlm_nb.records import (
    AgentEnded,
    AgentResult,
    AgentStarted,
    Answer,
    Balance,
    Decision,
    Iteration,
    Notice,
    Outcome,
    Proposal,
    Task,
)
from rlm_nb.run_folder import run_folder, write, write_state
from rlm_nb.surroundings import about, facts, help_texts, readable, status
from rlm_nb.workspace.scratch import remove_abandoned
from rlm_nb.workspace.source import Source
from rlm_nb.workspace.worktree import BRINGING_HOME

# As the documentation of `logging` has it for libraries: warnings are for who asks for them, not for stderr.
logging.getLogger("rlm_nb").addHandler(logging.NullHandler())

FINISHING = 60.0
"""Seconds before the end of the time that an agent is granted its last turn; a tenth of the time if that is less."""

Reviewer = Callable[[Look, Proposal, Cancellation], Decision]
"""Decides about what an agent's model proposes; is given what looks into the agent's kernel meanwhile."""

Further = Callable[[Answer, Cancellation], str | None]
"""Waits for what a person says to the root's answer: it goes on with that. `None` ends the run."""


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind.

    Args:
        id: The run's name, and that of its folder.
        folder: Where everything about it is.
        root: The root agent's result, with those of all others below it.
        balance: What the ledger holds in the end.
        patch_file: The root's edits as a patch; `None` when it changed nothing.
        repository: What the run worked on: an absolute path, or a URL.
        checkout: The folder that its edits can be applied to; `None` when it worked on a bare repository or a URL.
        faults: What of the run could not be kept, and why, in sentences; empty as a rule.
    """

    id: str
    folder: Path
    root: AgentResult
    balance: Balance
    patch_file: Path | None
    repository: str = ""
    checkout: Path | None = None
    faults: tuple[str, ...] = ()


def run(
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
) -> RunResult:
    """Run an agent on a repository, with the sub-agents that it asks for, to its end.

    Args:
        prompt: The task in words.
        source: A repository, a folder or a URL. It is only ever read.
        config: The settings.
        secrets: The keys of the model's provider, by variable name.
        branch: Start from this branch or tag, rather than from the state of the checkout.
        commit: Start from this commit.
        context: A text file that the agent finds in its REPL as `context`; or a text in memory (`io.StringIO`), which
            is kept in the run's folder.
        listen: Told of everything that happens, from the agents' threads. What it raises stops the run, and is raised
            here once everything is closed.
        cancel: Stops the run when it is set; there is a result all the same.
        model: Answers instead of the one that the settings name.

    Raises:
        RLMError: What kept the run from starting; it leaves nothing behind. Once the root has taken a turn, whatever
            is raised leaves the notebooks, and a `run.json` that says how it ended.
    """
    with open_run(
        prompt,
        source,
        config,
        secrets=secrets,
        branch=branch,
        commit=commit,
        context=context,
        listen=listen,
        cancel=cancel,
        model=model,
    ) as opened:
        for _ in opened.iterations():
            pass
    return opened.result


@contextmanager
def open_run(
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
    review: Reviewer | None = None,
    hands: Hands | None = None,
    further: Further | None = None,
) -> Iterator[Run]:
    """The same as `run`, for callers who want to see each iteration of the root as it comes: `run.iterations()`.

    Arguments and exceptions are those of `run`. A run that the block leaves before its end is stopped there. `review`
    decides about each reply of every agent before any of its cells runs; `hands` run those of the root. `further`
    makes a conversation of it.
    """
    with ExitStack() as stack:
        # First of all: what kernels are forked from takes a third of a second to get warm, and an SDK longer to import.
        launcher = stack.enter_context(Launcher(warm=config.kernel.start != "cold", isolation=config.isolation))
        model = model or get_model(config, secrets or {})
        price = price_for(model, config.budget)
        if isinstance(context, Path):
            context = readable(context)
        cancel = stack.enter_context(within(cancel or Cancellation(), config.rlm.global_timeout))
        audience = Audience(listen, cancel)
        remove_abandoned()
        live_specs.remove_abandoned()
        folder = stack.enter_context(run_folder(config, keep=lambda: audience.saw_a_turn))
        stack.callback(audience.check)
        if context is not None and not isinstance(context, Path):
            write(folder / "context.txt", context.read())
            context = folder / "context.txt"
        ledger = open_ledger(config, folder, audience)
        origin = stack.enter_context(
            Source.open(
                str(source),
                folder,
                branch=branch,
                commit=commit,
                runs_dir=config.runs.dir.absolute(),
                settings=config.workspace,
                cancel=cancel,
            )
        )
        for text in (*origin.notices, launcher.confinement().notice):
            audience(Notice("root", text))
        yield stack.enter_context(
            Run(
                task=Task(prompt, context=context),
                folder=folder,
                config=config,
                source=origin,
                model=model,
                price=price,
                ledger=ledger,
                launcher=launcher,
                listen=audience,
                cancel=cancel,
                review=review,
                hands=hands,
                further=further,
            )
        )


@dataclass(frozen=True)
class Continuation:
    """How a run goes on from its record.

    Args:
        notice: What a person is told of it, in one sentence: when it was broken off, and how.
        said: What a person says to agents, by their paths in the tree.
        again: Whether cells that were stopped with the run are run again.
    """

    notice: str
    said: Mapping[str, str] = field(default_factory=dict)
    again: bool = True


@dataclass
class Run:
    """One run while it goes on: what all of its agents share.

    Args:
        continuing: For a run that goes on from its record, what is to be known of that.
        review: Decides about each reply of every agent before its cells run, in the agent's thread.
        hands: Run the root's cells in a kernel that is not ours, on the user's own files; sub-agents live as ever.
        further: Is told of the root's answer, and tells what a person says to it.
    """

    task: Task
    folder: Path
    config: Config
    source: Source
    model: Model
    price: Price
    ledger: BudgetFile | SharedBudget
    launcher: Launcher
    listen: Listener
    cancel: Cancellation
    continuing: Continuation | None = None
    review: Reviewer | None = None
    hands: Hands | None = None
    further: Further | None = None

    def __post_init__(self) -> None:
        self.started = time.time()
        self._result: RunResult | None = None
        self._about = about(self.folder.name, self.model.name, self.source, self.launcher.confinement())
        self._settings = self.config.model_dump(mode="json")
        self._iterations = self._run_root()
        self._stack = ExitStack()
        self._control = Control(self.folder, self.cancel)
        self._opening = Opening(
            folder=self.folder,
            config=self.config,
            source=self.source,
            launcher=self.launcher,
            ledger=self.ledger,
            price=self.price,
            control=self._control,
            listen=self.listen,
            spawn=self._spawn,
            hands=self.hands,
        )

    def __enter__(self) -> Self:
        self.write_state()
        # At once: whoever does not wait for the end of a run that he stopped finds that he stopped it.
        stop = self.cancel.calling(lambda: self._write_stopped(CancelledError(self.cancel.reason), ended=False))
        self._stack.enter_context(stop)
        self._stack.enter_context(self._control)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what still goes on, and say so in run.json."""
        self._iterations.close()
        self._stack.close()
        if self._result is None:
            self._write_stopped(error or CancelledError("it was left before its end"))

    def _write_stopped(self, error: BaseException, *, ended: bool = True) -> None:
        with suppress(RLMError):  # what keeps the file from being written is on its way up already
            self.write_state(error=error, ended=ended)

    @property
    def result(self) -> RunResult:
        """What the run leaves behind; there once `iterations()` is exhausted."""
        if self._result is None:
            raise RunFolderError(f"the run {self.folder.name} has not ended")
        return self._result

    def iterations(self) -> Generator[Iteration, None, None]:
        """Run the root agent; yields each of its iterations once it is recorded. The same generator each time."""
        return self._iterations

    def _run_root(self) -> Generator[Iteration, None, None]:
        root = yield from self.agent(self.task, self.source.base, self.cancel, None, self.listen)
        faults = [*root.faults, *([root.patch.error] if root.patch.error else ())]
        patch_file = None
        if root.patch.text:
            with _noting(faults):
                write(self.folder / "changes.patch", root.patch.text)
                patch_file = self.folder / "changes.patch"
        balance = Balance(spent_cost=root.total_cost)
        with _noting(faults):
            balance = self.ledger.balance()
        with _noting(faults):
            self.write_state(root)
        self._result = RunResult(
            id=self.folder.name,
            folder=self.folder,
            root=root,
            balance=balance,
            patch_file=patch_file,
            repository=self.source.origin,
            checkout=self.source.top,
            faults=tuple(dict.fromkeys(faults)),
        )

    def agent(
        self, task: Task, base: str, cancel: Cancellation, parent: str | None, above: Listener
    ) -> Generator[Iteration, None, AgentResult]:
        """Run one agent: lease → worktree → kernel → recorder → loop; everything is closed in the end.

        Args:
            task: What it is asked to do, and where it stands in the tree.
            base: The commit that its worktree starts from.
            cancel: Stops it; its deadline is when it must have ended.
            parent: The notebook cell that asked for it, as a link.
            above: Who is told that it starts and ends: the parent's recorder and whoever watches the run.

        Raises:
            RLMError: What kept it from existing, or the root from its first iteration.
        """
        started = time.time()
        result: AgentResult | None = None
        notebook = self.folder / f"{task.agent}.ipynb"
        going_on = self.continuing
        past = recall(notebook, again=going_on.again) if going_on is not None and notebook.exists() else None
        said = going_on.said.get(task.agent) if going_on is not None else None
        if past is not None and past.needs_nothing and not said:
            above(AgentStarted(task.agent, task))
            result = result_of(past, self.source.patch(past.recorded.patch).text)
            above(AgentEnded(task.agent, result))
            return result
        try:
            with ExitStack() as stack:
                begun = stack.enter_context(self._slot(task.agent))
                stack.callback(self.ledger.release_agent, task.agent)
                prompts = Prompts(
                    task,
                    self.config.rlm,
                    help_texts(task, self.config.rlm.max_depth),
                    facts(task, self.source, by_hand=self.hands is not None),
                    lambda: status(self.ledger.balance()),
                    past.recorded.system if past else "",
                )
                spent = self.ledger.spent_of(task.agent)
                base = past.base if past else base
                if past is not None and self.continuing is not None:
                    record = Recorder.resume(
                        notebook, cost=spent.cost, usage=spent.usage, notice=self.continuing.notice
                    )
                else:
                    begin = {"start": {**self.source.as_json(), "base": base}, "settings": self._settings}
                    record = Recorder.open(
                        notebook, task=task, system=prompts.system(), about=self._about, parent=parent, **begin
                    )
                recorder = stack.enter_context(record)
                tell = both(recorder.listen, self.listen)
                max_tokens = self.config.model.max_tokens
                before = (spent.cost, spent.usage)
                model = MeteredModel(
                    self.model, self.ledger, self.price, task.agent, max_tokens, tell, recorder.keep, before
                )
                above(AgentStarted(task.agent, task))
                hard = stack.enter_context(self._control.stoppable(task.agent, cancel))
                soft = stack.enter_context(hard.child(earlier=self._finishing()))
                asides = past.untold if past else []
                open_ = partial(self._opening.open, task, base, model, recorder, begun, past, asides)
                home = stack.enter_context(Home(open_, soft))
                before_now = self._before(past, home) if past else None
                review = None if self.review is None else partial(self._control.reviewing(self.review), home.look)
                further = None if task.depth or self.further is None else self._further
                agent = Agent(
                    task,
                    model,
                    home,
                    prompts,
                    self.config.rlm,
                    tell,
                    max_tokens,
                    before_now,
                    review,
                    further,
                    lambda: tuple(asides),
                )
                try:
                    outcome = yield from agent.iterate(soft, hard)
                except RLMError as error:
                    if not task.depth:
                        raise  # the run never began: it leaves nothing behind
                    why = f"It could not begin: {error}"
                    outcome = Outcome("error", Answer.of(f"No answer was reached. {why}"), "none", why)
                home.rest()
                with hard.grace(BRINGING_HOME) as late:
                    patch = home.patch(late)
                result = AgentResult(
                    agent=task.agent,
                    outcome=outcome,
                    patch=patch,
                    notebook=notebook,
                    cost=model.cost,
                    total_cost=model.cost + sum(child.total_cost for child in home.children()),
                    usage=model.usage,
                    iterations=agent.completed,
                    children=tuple(home.children()),
                    started=past.recorded.started if past else started,
                    ended=time.time(),
                    task=task.prompt,
                )
                recorder.finish(result)
        except Rewound as back:
            self.continuing = Continuation(rewind(self.folder, task.agent, back.iteration))
            return (yield from self.agent(task, base, cancel, parent, above))
        except RLMError as error:
            if result is None:
                raise
            # There is an answer, and it is paid for: what cannot be recorded costs no more than its record.
            result = replace(result, faults=(str(error),))
        above(AgentEnded(task.agent, result))
        return result

    def write_state(
        self, root: AgentResult | None = None, error: BaseException | None = None, *, ended: bool = True
    ) -> None:
        """run.json, and at the end result.json: what other programs read.

        Args:
            root: The root's result, once there is one.
            error: What broke the run off, so that there will be none.
            ended: Whether everything of it has ended by now.
        """
        facts = {
            "task": self.task.prompt,
            "repository": self.source.origin,
            "checkout": None if self.source.top is None else str(self.source.top),
            "commit": self.source.head,
            "base": self.source.base,
            "start": self.source.as_json(),
            "context": None if self.task.context is None else str(self.task.context),
            "model": self.model.name,
            "started": self.started,
        }
        write_state(self.folder, facts, root, error, self.ledger.balance().spent_cost if error else 0, ended=ended)

    def _spawn(self, base: str, recorder: Recorder, task: Task, cancel: Cancellation) -> AgentResult:
        """Run a sub-agent to its end, in the thread that asks."""
        running = self.agent(task, base, cancel, recorder.here(), both(recorder.listen, self.listen))
        while True:
            try:
                next(running)
            except StopIteration as end:
                result: AgentResult = end.value
                return result

    def _slot(self, agent: str) -> AbstractContextManager[Callable[[], None]]:
        """Its place among the agents that there may be; one that had begun before has it already."""
        if self.continuing is not None and self.ledger.spent_of(agent).sandboxes:
            return nullcontext(lambda: None)
        return self.ledger.reserve_sandbox(agent)

    def _before(self, past: Recalled, home: Home) -> Past:
        said = self.continuing.said.get(past.recorded.task.agent, "") if self.continuing else ""
        return Past(past.iterations, past.begun, home.differing, said)

    def _further(self, answer: Answer, cancel: Cancellation) -> str | None:
        """What a person says to the root's answer. Until then no call of it is to come, and none is kept for it."""
        assert self.further is not None
        self.ledger.release_agent("root")
        return self.further(answer, cancel)

    def _finishing(self) -> float:
        return min(FINISHING, self.config.rlm.global_timeout / 10)


@contextmanager
def _noting(faults: list[str]) -> Iterator[None]:
    """What keeps the block from being done is noted, and keeps nothing else from being done."""
    try:
        yield
    except RLMError as error:
        faults.append(str(error))
