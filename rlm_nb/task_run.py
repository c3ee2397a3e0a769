"""Assembles what a bounded task needs, and runs it: the model that is asked, the ledger that pays, the notebook.

This is to `rlm_nb.tasks` what `controller.py` is to agents: tasks know the parts only through `protocols.py`.
"""

from __future__ import annotations

import inspect
import json
import queue
import textwrap
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import SecretStr

from rlm_nb.bridge.client import Caller, caller
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import Config, load, secrets
from rlm_nb.context_access import Context, Text
from rlm_nb.errors import ConfigError, LedgerError, RecursionDepthError, RunFolderError
from rlm_nb.ledger import BudgetFile, Limits, SharedBudget
from rlm_nb.models import get_model
from rlm_nb.models.metered import MeteredModel, price_for
from rlm_nb.notebook.task_record import TaskRecord
from rlm_nb.protocols import Listener, Model, Price
from rlm_nb.records import Access, Event, Notice, Reply, Request, StopReason, Subcall, Usage
from rlm_nb.run_folder import run_folder, whose, write_json
from rlm_nb.tasks.guards import AGENT, GuardConfig, Guards, Told, inside
from rlm_nb.tasks.plain import plain, text
from rlm_nb.tasks.runtime import Ended, TaskFunction, execute
from rlm_nb.workspace.scratch import scratch

Hear = Callable[[Told], None]
"""Whoever follows a task: told of each access, each subcall and each notice, in the thread that called `run_task`."""


SETTLING = 1.0
"""Seconds that calls under way are given to end when guards are closed."""


class TaskResult(dict[str, Any]):
    """How a task ended: a dict of plain values, and beside it, as attributes, what is no part of the answer.

    The dict has `status` (`completed`, `partial` or `error`), `result`, `error` (one sentence, unless it is completed)
    and `budget_summary`: `total_cost_usd`, `cost_budget_usd`, `cost_remaining_usd`, `total_calls`, `elapsed_seconds`.

    Attributes:
        subcalls: Every question and its answer; `subcall.basis` is where its chunk is from.
        folder: Where the run is recorded: `task.ipynb`, `audit.jsonl`, `result.json`; `None` when it is not.
        raised: What the task raised, when that was no limit.
        faults: What could not be recorded, a sentence each; the result is whole all the same.
    """

    subcalls: tuple[Subcall, ...] = ()
    folder: Path | None = None
    raised: BaseException | None = None
    faults: tuple[str, ...] = ()

    @property
    def chunks(self) -> tuple[Access, ...]:
        """The pieces of the context that the result rests on, each once, in the order of the questions about them."""
        return tuple(dict.fromkeys(call.basis for call in self.subcalls if call.error is None))


def run_task(
    function: TaskFunction,
    context: Text | Path,
    config: GuardConfig | None = None,
    *,
    settings: Config | None = None,
    keys: Mapping[str, SecretStr] | None = None,
    model: Model | None = None,
    listen: Hear | None = None,
    cancel: Cancellation | None = None,
    record: bool = True,
) -> TaskResult:
    """Run a task under its guards; returns within a second or so after its time is up, whatever it does.

    In a cell of an agent, the agent's model answers and the agent's budget pays, within the guards; no keys are needed
    there, and each subcall is recorded with the cell.

    Args:
        function: Takes the context and returns the result. A generator's values are findings, and its result unless it
            returns one; an `async` function is run to its end.
        context: A string, a `Context`, or a file to open as one.
        config: The limits; without it, those of the settings.
        settings: Everything else; without it, what `load_config()` gives.
        keys: The keys of the model's provider; without it, what `secrets()` gives.
        model: Answers instead of the one that is named.
        listen: Told of every access, every subcall, and what else a person should know.
        cancel: Stops the task when it is set; it is `partial` then.
        record: Whether a folder with a notebook is made for it in `runs.dir`.

    Raises:
        RLMError: What kept it from starting. Whatever happens later is in the result.
    """
    chosen = _chosen(config, settings, keys, model)
    record = record and not isinstance(chosen.model, _AgentsModel)  # there, each is recorded with the cell
    audit = None
    with ExitStack() as stack:
        if isinstance(context, Path):
            context = stack.enter_context(Context.open(context))
        folder = stack.enter_context(
            run_folder(chosen.settings, keep=lambda: audit is not None) if record else scratch()
        )
        heard: queue.SimpleQueue[Told] = queue.SimpleQueue()
        metered = chosen.metered(folder, heard.put, stack)
        names, parallel = {id(context): "context"}, chosen.settings.rlm.max_parallel
        guards = Guards(chosen.config, metered, heard.put, names, parallel)
        stack.enter_context(_linked(cancel, guards.cancel))
        subcalls: list[Subcall] = []
        if record:
            audit = stack.enter_context(_recorded(folder, function, _about(function, context, chosen)))

        def hear(told: Told) -> None:
            if isinstance(told, Subcall):
                subcalls.append(told)
            if audit is not None:
                audit.add(told)
            if listen is not None:
                listen(told)

        ended = execute(function, context, guards, heard, hear)
        result = _result(ended, _summary(chosen.config, metered, guards))
        if audit is not None:
            audit.finish(result, ended.untold)
    if audit is not None:
        result.faults = tuple(audit.faults)
    result.subcalls, result.raised = tuple(subcalls), ended.raised
    result.folder = folder if record else None
    return result


def init_guards(
    config: GuardConfig | None = None,
    *,
    settings: Config | None = None,
    keys: Mapping[str, SecretStr] | None = None,
    model: Model | None = None,
    listen: Hear | None = None,
) -> PromptGuards:
    """Put this thread under guards, for subcalls at a prompt or in a script; `run_task` does it for each task itself.

    They hold until they are closed, others take their place, or the process ends. The limit of time is looked at
    whenever something is looked into or asked; nothing is recorded. Arguments and exceptions are those of `run_task`.
    """
    chosen = _chosen(config, settings, keys, model)
    with ExitStack() as stack:
        tell = listen or (lambda told: None)
        metered = chosen.metered(stack.enter_context(scratch()), tell, stack)
        guards = PromptGuards(chosen.config, metered, tell, stack.pop_all())
    guards.enter()
    return guards


class PromptGuards(Guards):
    """Guards outside of a task, which `init_guards` makes; close them, or use them in a `with`."""

    is_of_a_task = False

    def __init__(self, config: GuardConfig, metered: MeteredModel, tell: Hear, stack: ExitStack) -> None:
        super().__init__(config, metered, tell)
        self._metered = metered
        self._let_go = weakref.finalize(self, stack.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ask nobody any more, and put nothing in their place."""
        super().close()
        self.settled(SETTLING)
        self.leave()
        self._let_go()

    def summary(self) -> dict[str, Any]:
        """What was spent so far, as the `budget_summary` of a task's result."""
        return _summary(self.config, self._metered, self)


@dataclass(frozen=True)
class _Chosen:
    """Whom a task asks, by which settings, and at what price."""

    config: GuardConfig
    settings: Config
    model: Model
    price: Price

    def metered(self, folder: Path, tell: Callable[[Notice], None], stack: ExitStack) -> MeteredModel:
        """The model, paid from a new budget in `folder`, which rests once the stack is closed."""
        ledger = _ledger(self.config, self.settings, folder, tell)
        stack.callback(_rest, ledger)
        limit = self.config.max_tokens_per_subcall
        return MeteredModel(self.model, ledger, self.price, AGENT, limit, _only_notices(tell))


def _chosen(
    config: GuardConfig | None,
    settings: Config | None,
    keys: Mapping[str, SecretStr] | None,
    model: Model | None,
) -> _Chosen:
    if inside():
        raise RecursionDepthError("depth of tasks", 1, 1)
    if not isinstance(config, GuardConfig | None):
        raise ConfigError(f"the limits of a task are a GuardConfig, not {type(config).__name__}")
    if model is None and (agent := caller()):
        model, settings = _AgentsModel(agent), settings or Config()
        config = replace(config or GuardConfig(), model=None)
    settings = settings or load()
    config = config or GuardConfig.of(settings)
    if config.model and config.model != settings.model.name:
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"name": config.model})})
    model = model or get_model(settings, secrets() if keys is None else keys)
    return _Chosen(config, settings, model, price_for(model, settings.budget))


class _AgentsModel:
    """The model of the agent in whose kernel this is, asked through the bridge."""

    name = "the agent's model"

    def __init__(self, agent: Caller) -> None:
        self._agent = agent

    def price(self, usage: Usage) -> int:
        """Micro-dollars for `usage`, as the controller counts them."""
        cost: int = self._agent.call("price", **vars(usage))
        return cost

    def complete(self, request: Request, cancel: Cancellation, on_text: Callable[[str], None] | None = None) -> Reply:
        """Ask once; see `protocols.Model`."""
        prompt = "\n\n".join([request.system, *(message.content for message in request.messages)])
        asked = {"prompts": [prompt], "single": True, "max_tokens": request.max_tokens}
        (answer,) = self._agent.call_until(cancel, "llm_query", **asked)
        stop_reason: StopReason = "end" if answer["status"] == "completed" else "max_tokens"
        return Reply(answer["text"], Usage(**answer["usage"]), stop_reason)


class TaskBuilder:
    """The same as `run_task`, limit by limit: `TaskBuilder(task).with_cost_budget(0.25).run(text)`.

    Args:
        function: The task.
    """

    def __init__(self, function: TaskFunction) -> None:
        self._function = function
        self._limits: dict[str, Any] = {}

    def with_cost_budget(self, max_cost: float) -> Self:
        """At most so many US dollars."""
        return self._with(max_cost=max_cost)

    def with_runtime_limit(self, seconds: float) -> Self:
        """At most so many seconds."""
        return self._with(max_runtime_seconds=seconds)

    def with_token_limit(self, max_tokens: int) -> Self:
        """At most so many tokens a subcall."""
        return self._with(max_tokens_per_subcall=max_tokens)

    def with_model(self, model: str) -> Self:
        """The model of this name."""
        return self._with(model=model)

    def run(self, context: Text | Path, **options: Any) -> TaskResult:
        """Run the task; the options, the result and what is raised are those of `run_task`."""
        settings = options.pop("settings", None) or (Config() if caller() else load())
        limits = replace(GuardConfig.of(settings), **self._limits)
        return run_task(self._function, context, limits, settings=settings, **options)

    def _with(self, **limit: Any) -> Self:
        self._limits |= limit
        return self


def as_json(result: Mapping[str, Any]) -> str:
    """A result as JSON; what has no form there as its text."""
    return json.dumps(_form(result), indent=2, ensure_ascii=False)


def _form(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain(part) for name, part in result.items()}


def _result(ended: Ended, summary: dict[str, Any]) -> TaskResult:
    result = TaskResult(status=ended.status, result=ended.result)
    if ended.error is not None:
        result["error"] = ended.error
    result["budget_summary"] = summary
    return result


def _summary(config: GuardConfig, metered: MeteredModel, guards: Guards) -> dict[str, Any]:
    budget = _micro_dollars(config)
    return {
        "total_cost_usd": metered.cost / 1e6,
        "cost_budget_usd": config.max_cost,
        "cost_remaining_usd": None if budget is None else max(0, budget - metered.cost) / 1e6,
        "total_calls": metered.calls,
        "elapsed_seconds": round(guards.elapsed(), 2),
    }


def _ledger(
    config: GuardConfig, settings: Config, folder: Path, tell: Callable[[Notice], None]
) -> BudgetFile | SharedBudget:
    """The task's own budget; where the settings name a purse, within what is in that."""
    limits = Limits(cost=_micro_dollars(config), deadline=time.time() + config.max_runtime_seconds)
    own = BudgetFile.create(folder / "budget.json", limits)
    if settings.budget.file is None:
        return own
    both, holds = SharedBudget.open(own, settings.budget.file, Limits.of(settings.budget), folder.name)
    tell(Notice(AGENT, holds))
    return both


def _rest(ledger: BudgetFile | SharedBudget) -> None:
    with suppress(LedgerError):  # what was spent is written down already, and may be gone with its folder
        ledger.release_agent(AGENT)


def _only_notices(tell: Callable[[Notice], None]) -> Listener:
    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            tell(event)

    return listen


def _micro_dollars(config: GuardConfig) -> int | None:
    return None if config.max_cost is None else round(config.max_cost * 1e6)


def _about(function: TaskFunction, context: Text, chosen: _Chosen) -> dict[str, Any]:
    inner = _unwrapped(function)
    about = {
        **{name: text(value) for name, value in _given(function).items()},
        "function": f"{getattr(inner, '__module__', '')}:{_name(function)}",
        "context": context.source if isinstance(context, Context) else f"a string of {len(context):,} characters",
        "model": chosen.model.name,
    }
    limits = asdict(chosen.config)
    del limits["model"]
    return {**about, **limits}


def _unwrapped(function: TaskFunction) -> TaskFunction:
    """The function itself, where some of its arguments were given beforehand."""
    while isinstance(function, partial):
        function = function.func
    return function


def _given(function: TaskFunction) -> dict[str, Any]:
    return {**_given(function.func), **function.keywords} if isinstance(function, partial) else {}


def _name(function: TaskFunction) -> str:
    inner = _unwrapped(function)
    name = getattr(inner, "__name__", None)
    return name if isinstance(name, str) and name else type(inner).__name__


def _code(function: TaskFunction) -> str:
    try:
        return textwrap.dedent(inspect.getsource(_unwrapped(function))).rstrip()
    except (OSError, TypeError):
        return ""  # it was typed at a prompt, or is no plain function


@contextmanager
def _linked(above: Cancellation | None, below: Cancellation) -> Iterator[None]:
    """While the block runs, what stops `above` stops `below`."""
    if above is None:
        yield
        return
    with above.calling(lambda: below.cancel(above.reason)):
        yield


class _Audit:
    """Writes down what a task tells: as lines of JSON, and as a notebook. What cannot be written is a fault."""

    def __init__(self, folder: Path, record: TaskRecord, file: FileIO, state: dict[str, Any]) -> None:
        self._folder, self._record, self._file, self._state = folder, record, file, state
        self.faults: list[str] = []
        self.is_finished = False

    def add(self, told: Told) -> None:
        match told:
            case Access():
                self._line({"access": vars(told)})  # nothing is nested: there may be hundreds of thousands
            case Subcall():
                self._line({"subcall": asdict(told)})
            case Notice(text=text):
                self._line({"notice": text})
        self._record.add(told)

    def finish(self, result: TaskResult, untold: int) -> None:
        """Write how it ended, as far as it can be written."""
        self.is_finished = True
        if untold:
            self._line({"left_out": untold})
        form = _form(result)
        self._state |= {"status": form["status"], "ended": time.time()}
        writes: list[Callable[[], None]] = [
            partial(self._record.finish, form),
            partial(write_json, self._folder / "result.json", form),
            partial(write_json, self._folder / "run.json", self._state),
        ]
        for write in writes:
            try:
                write()
            except RunFolderError as error:
                self.faults.append(str(error))

    def _line(self, line: dict[str, Any]) -> None:
        if self.faults:
            return
        text = json.dumps({"time": time.time(), **line}, ensure_ascii=False) + "\n"
        rest = memoryview(text.encode("utf-8", "backslashreplace"))
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.faults.append(f"{self._folder / 'audit.jsonl'}: cannot be written: {error.strerror}")


@contextmanager
def _recorded(folder: Path, function: TaskFunction, about: Mapping[str, Any]) -> Iterator[_Audit]:
    state = {"version": 1, "kind": "task", "id": folder.name, "task": _name(function), "status": "running"}
    state |= {**whose(), "started": time.time()}
    write_json(folder / "run.json", state)
    audit = None
    try:
        with (
            TaskRecord.open(folder / "task.ipynb", name=_name(function), code=_code(function), about=about) as record,
            # Each line at once, so that whatever kills the process leaves it.
            (folder / "audit.jsonl").open("ab", buffering=0) as file,
        ):
            audit = _Audit(folder, record, file, state)
            yield audit
    except RunFolderError as error:
        if audit is None or not audit.is_finished:
            raise
        if str(error) not in audit.faults:
            audit.faults.append(str(error))
