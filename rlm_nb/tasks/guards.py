"""What a task may spend, and the one way from it to a model: past the guards, which halt rather than warn."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import MOST_DOLLARS, MOST_TOKENS, Config
from rlm_nb.context_access import Context, Seen, Text, listener
from rlm_nb.errors import (
    CancelledError,
    ConfigError,
    ModelError,
    RecursionDepthError,
    RLMError,
    RuntimeLimitError,
    TokenLimitError,
)
from rlm_nb.protocols import Asker
from rlm_nb.records import JSON, Access, Message, Notice, Reply, Request, Subcall
from rlm_nb.tasks.upward import upward

AGENT = "task"
"""Whose calls they are, in the ledger and for scripted models."""

LOOK = 0.02
"""Seconds between two looks of a task that waits for a model: what ends a task reaches it only between two of them."""

SHORT_REPLY = 256
"""Tokens that a reply must at least be allowed, or a quarter of the limit if that is less."""

Told = Access | Subcall | Notice
"""What a task's listener hears of."""


@dataclass(frozen=True)
class GuardConfig:
    """What one run of a task may take. Subcalls cannot be nested: their depth is 1.

    Args:
        max_cost: US dollars, in all; `None` for no limit.
        max_tokens_per_subcall: Tokens of one question, its chunk and its answer together, as far as they can be
            estimated before it is asked.
        max_runtime_seconds: From the start of the task to its end.
        model: The model's name; `None` for the one that the settings name.

    Raises:
        ConfigError: A limit is no positive number, or that of tokens no whole one.
    """

    max_cost: float | None = 0.50
    max_tokens_per_subcall: int = 4000
    max_runtime_seconds: float = 60.0
    model: str | None = None

    def __post_init__(self) -> None:
        most = {"max_cost": MOST_DOLLARS, "max_tokens_per_subcall": MOST_TOKENS, "max_runtime_seconds": math.inf}
        for name, end in most.items():
            value = getattr(self, name)
            if value is None and name == "max_cost":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < end):
                raise ConfigError(f"GuardConfig: {name} must be a number above 0 and below {end:g}, not {value!r}")
        if not isinstance(self.max_tokens_per_subcall, int):
            given = self.max_tokens_per_subcall
            raise ConfigError(f"GuardConfig: max_tokens_per_subcall must be a whole number, not {given!r}")

    @classmethod
    def of(cls, settings: Config) -> GuardConfig:
        """The limits that the section `tasks` of the settings gives."""
        tasks = settings.tasks
        return cls(tasks.max_cost, tasks.max_tokens_per_subcall, tasks.max_runtime, settings.model.name)


_current: ContextVar[Guards | None] = ContextVar("rlm_nb_guards", default=None)
_answering: ContextVar[bool] = ContextVar("rlm_nb_answering", default=False)


def current() -> Guards:
    """The guards of the task that this code belongs to. Raises `RuntimeError` outside of tasks."""
    guards = _current.get()
    if guards is None:
        raise RuntimeError(
            "this works inside of a task only: run it with run_task(function, context), or call init_guards() before. "
            "A thread that a task starts is outside of it; semantic_subcall_batched asks about many chunks at once"
        )
    return guards


def inside() -> bool:
    """Whether this code belongs to a task."""
    guards = _current.get()
    return guards is not None and guards.is_of_a_task


class Guards:
    """The limits of one run of a task, and what it has got so far.

    Args:
        config: The limits.
        asker: Who answers, and pays.
        tell: Hears of every access and every subcall; called from the task's threads.
        names: What contexts that are strings are called, by their `id`.
        parallel: Subcalls of a batch that are under way at the same time.
    """

    is_of_a_task = True
    """Whether they hold for a task, in which no other one may begin."""

    def __init__(
        self,
        config: GuardConfig,
        asker: Asker,
        tell: Callable[[Told], None],
        names: dict[int, str] | None = None,
        parallel: int = 8,
    ) -> None:
        self.config = config
        self.started = time.monotonic()
        self.cancel = Cancellation(self.started + config.max_runtime_seconds)
        self.findings: Any = None
        self._asker, self._tell, self._names = asker, tell, names or {}
        self._seen: dict[str, Access] = {}
        self._answers: dict[tuple[str, str], Future[tuple[int, Reply]]] = {}
        self._calls = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(parallel, "rlm-subcall")

    def enter(self) -> None:
        """From here on, this thread (or asynchronous task) is under these guards."""
        _current.set(self)
        listener.set(self.saw)

    def leave(self) -> None:
        """From here on, it is under none, if it was under these."""
        if _current.get() is self:
            _current.set(None)
            listener.set(None)

    def close(self) -> None:
        """Ask nobody any more; calls under way are stopped, and what comes late is not told."""
        self.cancel.cancel("the task ended")
        self._tell = _nobody
        self._pool.shutdown(wait=False, cancel_futures=True)

    def settled(self, seconds: float) -> bool:
        """Wait for calls under way to end, at most so long; whether they did."""
        deadline = time.monotonic() + seconds
        with self._lock:
            pending = list(self._answers.values())
        for answer in pending:
            while not answer.done() and time.monotonic() < deadline:
                time.sleep(LOOK)
        return all(answer.done() for answer in pending)

    def elapsed(self) -> float:
        """Seconds since the task began."""
        return time.monotonic() - self.started

    def out_of_time(self) -> RuntimeLimitError:
        """The error of a task that takes too long."""
        return RuntimeLimitError("seconds of a task", round(self.elapsed(), 2), self.config.max_runtime_seconds)

    def check(self) -> None:
        """Do nothing, or raise `RuntimeLimitError`, or `CancelledError` when somebody stopped the task."""
        if self.cancel.timed_out:
            raise self.out_of_time()
        self.cancel.check()

    def saw(self, seen: Seen) -> None:
        """Note what a `context_*` function gave away."""
        digest = _sha256(seen.text) if seen.operation != "search" else ""
        access = Access(seen.operation, self._source(seen.context), seen.start, len(seen.text), digest, seen.detail)
        if digest:
            self._seen.setdefault(digest, access)
        self._tell(access)
        self.check()

    def ask(self, prompt: str, chunk: str, kind: str, given: Mapping[str, JSON] | None = None) -> str:
        """What the model says to a question about a chunk; the same question is asked once. `given` is for the record.

        Raises:
            BudgetExceededError: A limit is reached, or a subcall asks for a subcall.
            ModelError: There is no reply, or the model refuses.
            CancelledError: Somebody stopped the task.
        """
        return self.ask_all([(prompt, chunk)], kind, given)[0]()

    def ask_all(
        self, questions: list[tuple[str, str]], kind: str, given: Mapping[str, JSON] | None = None
    ) -> list[Callable[[], str]]:
        """Begin to ask each of the questions; each function waits for its answer, and raises what `ask` would."""
        if _answering.get():
            raise RecursionDepthError("depth of subcalls", 1, 1)
        self.check()
        calls = [Subcall(0, kind, prompt, chunk, self._basis(chunk), given=given or {}) for prompt, chunk in questions]
        return [partial(self._wait, *self._begin(call.prompt, call.chunk), call) for call in calls]

    def _begin(self, prompt: str, chunk: str) -> tuple[Future[tuple[int, Reply]], bool]:
        """The answer under way, and whether it was asked for before."""
        request = self._request(prompt, chunk)
        key = _sha256(prompt), _sha256(chunk)
        with self._lock:
            known = self._answers.get(key)
            if known and not (known.done() and (known.cancelled() or known.exception())):
                return known, True  # what failed may be asked again
            answer = self._pool.submit(copy_context().run, self._complete, request)
            self._answers[key] = answer
        return answer, False

    def _complete(self, request: Request) -> tuple[int, Reply]:
        _answering.set(True)
        # In a thread of its own: what ends a task in the middle of its Python reaches no code that handles money.
        reply = self._asker.complete(request, self.cancel)
        with self._lock:
            self._calls += 1
            return self._calls, reply

    def _wait(self, answer: Future[tuple[int, Reply]], known: bool, call: Subcall) -> str:
        call = replace(call, started=time.time())
        try:
            number, reply = self._result(answer)
            text = _usable(reply, self.config.max_tokens_per_subcall)
        except RLMError as error:
            self._tell(replace(call, error=f"{type(error).__name__}: {error}", ended=time.time()))
            raise
        told = replace(call, number=number, reply=text, ended=time.time())
        if known:
            self._tell(replace(told, same_as=number))
        else:
            self._tell(replace(told, usage=reply.usage, cost=reply.cost))
        return text

    def _result(self, answer: Future[tuple[int, Reply]]) -> tuple[int, Reply]:
        while True:
            try:
                # At the end, what is there is had at once: a batch of many may keep its answers.
                return answer.result(0 if self.cancel.is_cancelled() else LOOK)
            except StillRunning:
                if self.cancel.is_cancelled() and not answer.done():
                    self.check()
            except CancelledError:
                self.check()  # it was the time, most often
                raise

    def _request(self, prompt: str, chunk: str) -> Request:
        limit = self.config.max_tokens_per_subcall
        content = f"{prompt}\n\nThe text:\n\n{chunk}" if chunk else prompt
        asked = estimated_tokens(SYSTEM) + estimated_tokens(content)
        if asked + min(SHORT_REPLY, limit // 4) > limit:
            raise TokenLimitError("tokens of a subcall (ask about a smaller chunk)", asked, limit)
        return Request((Message("user", content),), SYSTEM, limit - asked, AGENT)

    def _basis(self, chunk: str) -> Access:
        digest = _sha256(chunk)
        return self._seen.get(digest) or Access("", "", 0, len(chunk), digest)

    def _source(self, context: Text) -> str:
        if isinstance(context, Context):
            return context.source
        return self._names.get(id(context), f"a string of {len(context):,} characters")


SYSTEM = (
    "You are asked about one piece of a longer text. Answer from that piece alone, briefly and exactly. If it does not "
    "hold the answer, say so."
)


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has: one for four characters of ASCII, one for each other character."""
    other = 0 if text.isascii() else sum(character > "\x7f" for character in text)
    return math.ceil((len(text) - other) / 4) + other


def _usable(reply: Reply, limit: int) -> str:
    if reply.stop_reason == "refusal":
        raise ModelError("the model refused to answer a subcall", usage=reply.usage)
    if reply.stop_reason == "max_tokens":
        used = reply.usage.prompt_tokens + reply.usage.output_tokens
        raise TokenLimitError("tokens of a subcall (its answer was cut off)", used, limit)
    if not reply.text.strip():
        raise ModelError("the model's answer to a subcall is empty", usage=reply.usage)
    return reply.text.strip()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _nobody(told: Told) -> None:
    """Hears nothing."""


__getattr__ = upward(__name__, "init_guards")
