"""The controller's side of `rlm_query` and `llm_query`, single and batched: depth, order, failures."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import RLMSettings
from rlm_nb.errors import BridgeError, ModelError, RecursionDepthError, RLMError, SubAgentError
from rlm_nb.protocols import Asker
from rlm_nb.records import JSON, AgentResult, Kept, Message, Reply, Request, Task, Usage

log = logging.getLogger(__name__)

MAX_BATCH = 1000
"""Tasks or prompts of one call."""

ROOM = 48 << 20
"""Bytes of JSON that the results of one call may take; the bridge takes a little more."""

Spawn = Callable[[Task, Cancellation], AgentResult]
"""Runs one agent to its end, and raises what kept it from starting."""

T = TypeVar("T")


class Queries:
    """Answers what one agent's cells ask of sub-agents and models.

    Args:
        task: The agent that asks; its depth is what counts, whatever its kernel says.
        settings: The limits.
        prepare: Called once a batch, with what cancels it, for what then runs each of its sub-agents.
        model: Answers plain model calls, and pays for them.
        max_tokens: The longest reply to a plain call.
    """

    def __init__(
        self, task: Task, settings: RLMSettings, prepare: Callable[[Cancellation], Spawn], model: Asker, max_tokens: int
    ) -> None:
        self._task, self._settings, self._prepare, self._model = task, settings, prepare, model
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self._pool = threading.Semaphore(settings.max_parallel)
        self._started = 0
        self._begun: dict[int, str] = {}
        self._replies: list[Kept] = []
        self._ended: dict[int, AgentResult] = {}

    @property
    def children(self) -> list[AgentResult]:
        """The sub-agents that ran, in the order in which they were asked for."""
        with self._lock:
            return [self._ended[number] for number in sorted(self._ended)]

    def take_over(self, started: int, ended: Mapping[int, AgentResult]) -> None:
        """Go on from what there is of an earlier process.

        Args:
            started: The highest number of a sub-agent so far.
            ended: The results of those that the agent has heard of, by their numbers.
        """
        with self._lock:
            self._started = started
            self._ended.update(ended)

    @contextmanager
    def again(self, agents: Mapping[int, str], replies: Sequence[Kept]) -> Iterator[None]:
        """While the block runs, a cell runs again that was broken off: what was begun for it is not begun anew.

        Args:
            agents: The sub-agents that it had started and not heard of: their tasks by their numbers.
            replies: What models had answered it.
        """
        with self._lock:
            self._begun, self._replies = dict(agents), list(replies)
        try:
            yield
        finally:
            with self._lock:
                self._begun, self._replies = {}, []

    def rlm(self, arguments: dict[str, JSON], cancel: Cancellation) -> list[JSON]:
        """Run a sub-agent for each of the tasks; their results in order.

        Raises:
            RecursionDepthError: This agent may have no sub-agents.
            SubAgentError: A single sub-agent ended without an answer.
        """
        prompts = _texts(arguments, "tasks")
        if self._task.depth >= self._settings.max_depth:
            raise RecursionDepthError("depth of sub-agents", self._task.depth, self._settings.max_depth)
        with self._lock:
            numbers = [self._number(prompt) for prompt in prompts]
        spawn = self._prepare(cancel)

        def run(numbered: tuple[int, str]) -> dict[str, JSON]:
            number, prompt = numbered
            path = f"{self._task.agent}.{number}"
            result = spawn(replace(self._task, prompt=prompt, agent=path, depth=self._task.depth + 1), cancel)
            with self._lock:
                self._ended[number] = result
            return _of_result(result)

        return self._each(list(zip(numbers, prompts, strict=True)), run, cancel, single=bool(arguments.get("single")))

    def _number(self, prompt: str) -> int:
        """The number of the sub-agent with this task: one that was begun for this very cell, or the next one."""
        for number, task in self._begun.items():
            if task == prompt:
                del self._begun[number]
                return number
        self._started += 1
        return self._started

    def llm(self, arguments: dict[str, JSON], cancel: Cancellation) -> list[JSON]:
        """Ask the model each of the prompts, for `max_tokens` at most if that is given; its replies in order.

        Raises:
            RLMError: What kept a single call from being answered.
        """
        prompts = _texts(arguments, "prompts")
        longest = arguments.get("max_tokens", self._max_tokens)
        if type(longest) is not int or longest < 1:
            raise BridgeError("max_tokens must be a whole number above 0")

        def ask(prompt: str) -> dict[str, JSON]:
            request = Request(
                (Message("user", prompt),), max_tokens=min(longest, self._max_tokens), agent=self._task.agent
            )
            if (reply := self._reply(prompt)) is not None:
                return _of_reply(reply)
            return _of_reply(self._model.complete(request, cancel))

        return self._each(prompts, ask, cancel, single=bool(arguments.get("single")))

    def _reply(self, prompt: str) -> Reply | None:
        """What a model answered to this prompt when the cell ran before."""
        with self._lock:
            for kept in self._replies:
                if kept.request.messages[-1].content == prompt:
                    self._replies.remove(kept)
                    return kept.reply
        return None

    def _each(
        self, items: Sequence[T], work: Callable[[T], dict[str, JSON]], cancel: Cancellation, *, single: bool
    ) -> list[JSON]:
        """Work on every item, at most `max_parallel` at a time for this agent; failures stand in their places."""

        def guarded(item: T) -> dict[str, JSON]:
            with self._pool:
                cancel.check()
                return work(item)

        with ThreadPoolExecutor(min(len(items), self._settings.max_parallel), thread_name_prefix="rlm-agent") as pool:
            futures = [pool.submit(guarded, item) for item in items]
            results: list[dict[str, Any]] = []
            for future in futures:
                try:
                    results.append(future.result())
                except RLMError as error:
                    if single:
                        raise
                    results.append(_failed(f"{type(error).__name__}: {error}"))
                except Exception as error:
                    if single:
                        raise
                    # A surprise is no reason to lose the answers of its siblings, which are paid for.
                    log.exception("the controller failed at one of a batch")
                    results.append(_failed(f"the controller failed: {type(error).__name__}"))
        results = _fitting(results)
        if single and (why := results[0].get("error")) is not None:
            # What has a usage is a reply: of no use, and paid for.
            usage = results[0].get("usage")
            raise SubAgentError(why) if usage is None else ModelError(why, usage=Usage(**usage))
        return results


def _texts(arguments: dict[str, JSON], name: str) -> list[str]:
    values = arguments.get(name)
    if not isinstance(values, list) or not values or not all(isinstance(v, str) and v.strip() for v in values):
        raise BridgeError(f"{name} must be a list of texts")
    if len(values) > MAX_BATCH:
        raise BridgeError(f"{len(values):,} {name} are too many for one call: {MAX_BATCH:,} is the most")
    return values


def _failed(why: str) -> dict[str, JSON]:
    return {"error": why, "status": "error"}


def _fitting(results: Sequence[dict[str, Any]], room: int = ROOM) -> list[JSON]:
    """The results with as much as the bridge can carry: small ones before large ones, answers before patches."""
    fitting = [result | {"patch": None} if result.get("patch") else result for result in results]
    sizes = [_size(result) for result in fitting]
    for at in sorted(range(len(results)), key=sizes.__getitem__):
        if sizes[at] <= room:
            room -= sizes[at]
        else:
            agent = fitting[at].get("agent", "it")
            why = f"{agent}: its answer of {sizes[at]:,} bytes is too large for the way here: ask for less"
            kept = fitting[at].keys() - {"text", "value"}
            fitting[at] = {name: fitting[at][name] for name in kept} | _failed(why)
    patched = {at: _size(result["patch"]) for at, result in enumerate(results) if result.get("patch")}
    for at in sorted(patched, key=patched.__getitem__):
        if patched[at] <= room:
            fitting[at]["patch"] = results[at]["patch"]
            room -= patched[at]
    return fitting


def _size(value: JSON) -> int:
    """Bytes of its JSON as the bridge writes it."""
    return len(json.dumps(value))


def _said(text: str, value: JSON) -> dict[str, JSON]:
    """An answer; its value only where that is another one than its text, which may be long."""
    return {"text": text} if value == text else {"text": text, "value": value}


def _of_result(result: AgentResult) -> dict[str, Any]:
    failed = result.outcome.source == "none"
    return {
        **_said(result.answer.text, result.answer.value),
        "status": result.status,
        "error": f"{result.agent}: {result.outcome.stop_reason}" if failed else None,
        "cost": result.total_cost,
        "patch": None if result.patch.error else result.patch.text,
        "files": list(result.patch.files),
        "notes": list(result.patch.notes),
        "base": result.patch.base,
        "commit": result.patch.commit,
        "notebook": result.notebook.name,
        "agent": result.agent,
    }


def _of_reply(reply: Reply) -> dict[str, Any]:
    cut = reply.stop_reason == "max_tokens"
    error = "the model refused" if reply.stop_reason == "refusal" else None if reply.text else "the reply was empty"
    status = "error" if error else "partial" if cut else "completed"
    return {
        **_said(reply.text, reply.text),
        "status": status,
        "error": error,
        "cost": reply.cost,
        "usage": vars(reply.usage),
    }
