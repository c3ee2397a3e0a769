"""What a run is made of: plain values, frozen, that travel between the parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["completed", "partial", "error"]
"""How an agent ended: with its own answer, stopped by a limit, or without any answer."""

CellStatus = Literal["ok", "error", "interrupted", "timeout", "died"]
"""How a cell ended. `timeout` was interrupted by us, `died` took its kernel along."""

BY_A_PERSON = "A person who is attached to the kernel interrupted the cell."
"""The error of such a cell; any other one that was interrupted was stopped together with its agent."""

StopReason = Literal["end", "max_tokens", "refusal"]
"""Why a model stopped writing, in the words of no provider in particular."""

Output = dict[str, Any]
"""One output of a cell, as nbformat 4.5 stores it (`output_type` and its fields)."""

JSON = Any
"""A value that `json` can write without loss."""


@dataclass(frozen=True)
class Task:
    """What an agent is asked to do, and where it stands in the tree.

    Args:
        prompt: The task in words.
        agent: The agent's path in the tree: `root`, `root.1`, `root.1.2`, ….
        depth: 0 for the root.
        context: A file whose text the agent finds in its REPL as `context`, or `None`.
    """

    prompt: str
    agent: str = "root"
    depth: int = 0
    context: Path | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens of one or more model calls. The four counts never overlap."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
        )

    @property
    def prompt_tokens(self) -> int:
        """Everything that was read: plain, from the cache, and written to it."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class Request:
    """One call of a model.

    Args:
        messages: The conversation so far, oldest first; the last one is the user's.
        system: The system prompt, the same from call to call; empty for none.
        max_tokens: The longest reply that may be paid for.
        agent: Who asks.
        turn: 1 for the agent's first iteration; 0 for an `llm_query`.
    """

    messages: tuple[Message, ...]
    system: str = ""
    max_tokens: int = 16384
    agent: str = "root"
    turn: int = 0


@dataclass(frozen=True)
class Reply:
    """What a model answered.

    Args:
        text: What it said.
        usage: The tokens that it took.
        stop_reason: Why it stopped.
        model: The model's id, as the service gives it.
        cost: Micro-dollars; 0 until the ledger has been asked.
        counted: Whether the service has said how many tokens it took; where it has not, `usage` is what they can have
            been, once the ledger has been asked.
    """

    text: str
    usage: Usage = Usage()
    stop_reason: StopReason = "end"
    model: str = ""
    cost: int = 0
    counted: bool = True


@dataclass(frozen=True)
class Kept:
    """A reply that is paid for, as it is put on record.

    Args:
        request: What was asked.
        reply: What came, with its cost.
        lease: The key of the reservation in the ledger that pays for it.
        finishing: Whether it is the agent's last turn.
    """

    request: Request
    reply: Reply
    lease: str = ""
    finishing: bool = False


@dataclass(frozen=True)
class Answer:
    """What `FINAL` was given.

    Args:
        value: The answer as JSON, or its text where JSON has no form for it.
        text: The answer as a person reads it: a string as it is, anything else as JSON or as Python prints it.
        type: The name of the Python type that it had in the kernel.
    """

    value: JSON
    text: str
    type: str = "str"

    @classmethod
    def of(cls, value: JSON) -> Answer:
        """The answer for a value that JSON can hold: a string as it is, anything else written as JSON."""
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
        return cls(value, text, type(value).__name__)


@dataclass(frozen=True)
class Access:
    """A part of a context that was looked at.

    Args:
        operation: `head`, `tail`, `slice`, `match` or `chunk`; or `search`, for a search itself, which has no text.
        source: The context: its file, or what else it is called.
        start: The offset of the first character.
        length: Characters.
        sha256: Of the text in UTF-8, in hexadecimal; empty for a search.
        detail: What was searched for.
    """

    operation: str
    source: str
    start: int
    length: int
    sha256: str
    detail: str = ""


@dataclass(frozen=True)
class Subcall:
    """One question about one chunk, as a task asked it.

    Args:
        number: From 1, in the order in which they were answered.
        kind: `text`, `json`, `bool` or `choice`: what kind of answer was wanted.
        prompt: The question as the model got it.
        chunk: The text that it is about.
        basis: Where the chunk is from; its `source` is empty when no `context_*` function gave it.
        reply: What the model said; empty when it did not.
        error: What went wrong, or `None`.
        same_as: The number of the subcall whose answer was given again; `None` when the model was asked.
        usage, cost: What it took; cost in micro-dollars.
        started, ended: Seconds since the epoch.
        given: What the task's own call was given: `prompt`, `choices`, `schema`, unless `prompt` above is all; and,
            when an answer could not be used, why it was asked `again`.
    """

    number: int
    kind: str
    prompt: str
    chunk: str
    basis: Access
    reply: str = ""
    error: str | None = None
    same_as: int | None = None
    usage: Usage = Usage()
    cost: int = 0
    started: float = 0.0
    ended: float = 0.0
    given: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class BridgeCall:
    """One call that a cell made through the bridge, with what it was given: what a replay says again.

    Args:
        name: `rlm_query`, `llm_query`, `FINAL`, ….
        arguments: As the kernel sent them.
        answer: What went back, or `None` when it failed.
        error: `{"type", "message", "details"}` of the failure, or `None`; the details are what else the error carries.
        key: The call's idempotency key.
        started, ended: Seconds since the epoch.
    """

    name: str
    arguments: Mapping[str, JSON]
    answer: JSON
    error: Mapping[str, JSON] | None
    key: str
    started: float
    ended: float


@dataclass(frozen=True)
class CellResult:
    """One executed cell.

    Args:
        code: What was sent.
        status: How it ended.
        outputs: In nbformat's form, capped.
        execution_count: `None` when the kernel never counted it.
        started, ended: Seconds since the epoch.
        waited: Seconds that it spent waiting for sub-agents and model calls.
        error: The exception's last line, or what happened to the kernel.
        events: What happened to the kernel, in sentences made for the model to read.
        calls: What the cell asked of the controller.
        overflow: The file with the full text, when the outputs were capped.
        final: What `FINAL` was given, if it was called and the cell ended well.
        number: Which of the agent's cells it is, counted from 1; a new kernel does not begin anew.
        human: Whether a person wrote it: in the place of what the model had proposed, or attached to the kernel.
    """

    code: str
    status: CellStatus
    outputs: tuple[Output, ...] = ()
    execution_count: int | None = None
    started: float = 0.0
    ended: float = 0.0
    waited: float = 0.0
    error: str | None = None
    events: tuple[str, ...] = ()
    calls: tuple[BridgeCall, ...] = ()
    overflow: Path | None = None
    final: Answer | None = None
    number: int = 0
    human: bool = False

    @property
    def endless(self) -> str:
        """Why its `FINAL` was refused; empty when it was not, or not called."""
        refused = (call.error for call in self.calls if call.name == "FINAL" and call.error is not None)
        return str(next(refused, {}).get("message", ""))

    @property
    def may_go_on(self) -> bool:
        """Whether it was stopped with its agent, and is run again when that goes on."""
        return self.status == "interrupted" and self.error != BY_A_PERSON


@dataclass(frozen=True)
class Iteration:
    """One turn of the loop: what the model was told, what it replied, what its cells did.

    Args:
        agent: Whose iteration it is.
        number: From 1.
        message: The user message that this turn added to the conversation.
        reply: What the model said.
        cells: The cells that ran, in order.
        note: What was wrong with the reply, when it was no use.
        started, ended: Seconds since the epoch.
        finishing: Whether it was the turn that is granted after a limit.
        code: The cells that a person had run instead of those of the reply, none included; `None` for the reply's own.
    """

    agent: str
    number: int
    message: str
    reply: Reply
    cells: tuple[CellResult, ...] = ()
    note: str | None = None
    started: float = 0.0
    ended: float = 0.0
    finishing: bool = False
    code: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Proposal:
    """What a model would have done next, before any of it is done: for a person to judge.

    Args:
        agent: Whose model it is.
        number: Of the iteration that it would be.
        message: What the model was told.
        reply: What it said.
        code: The cells of that.
        note: What is wrong with the reply, when it is no use.
    """

    agent: str
    number: int
    message: str
    reply: Reply
    code: tuple[str, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class Decision:
    """What a person decides about a proposal. Without anything, it is run as it is.

    Args:
        code: What is run in the place of the proposed cells; `()` for nothing.
        said: What the model is told about it.
        rewind: The iteration that the agent is to go back to, rather than do any of it.
        answer: What the agent ends with, rather than do any of it.
    """

    code: tuple[str, ...] | None = None
    said: str = ""
    rewind: int | None = None
    answer: Answer | None = None


AnswerSource = Literal["final", "finishing turn", "stored", "none"]
"""Where an answer came from: `FINAL` in time, the turn granted after a limit, the variable `answer`, or nowhere."""


@dataclass(frozen=True)
class Outcome:
    """How an agent's loop ended.

    Args:
        status: `completed`, `partial` or `error`.
        answer: Never `None`: when there is none, `answer.text` says so and `source` is `none`.
        source: Where the answer came from.
        stop_reason: One sentence: why it ended.
        stopped: Whether somebody stopped it, so that there is more to do, and no limit keeps it from being done.
    """

    status: Status
    answer: Answer
    source: AnswerSource
    stop_reason: str
    stopped: bool = False


@dataclass(frozen=True)
class Patch:
    """What an agent changed: a git patch against the state that it started from.

    Args:
        text: The patch, as `git apply` reads it (bytes that are not UTF-8 as surrogate escapes).
        files: The paths it touches, as POSIX paths relative to the worktree.
        base: The commit in the run's `ctl.git` that it started from.
        commit: The commit in `ctl.git` that holds the end state.
        notes: What had to be left out, and why.
        error: What kept the edits from being read at all, in a sentence; `text` is empty then, whatever was changed.
    """

    text: str = ""
    files: tuple[str, ...] = ()
    base: str = ""
    commit: str = ""
    notes: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class AgentResult:
    """What an agent leaves behind.

    Args:
        agent: Its path in the tree.
        outcome: How its loop ended.
        patch: What it changed.
        notebook: The recorded notebook.
        cost: Micro-dollars, its own calls only.
        total_cost: Micro-dollars, with everything below it.
        usage: Tokens of its own calls.
        iterations: How many turns it took.
        children: The sub-agents that it started, in order.
        started, ended: Seconds since the epoch.
        faults: What of it could not be recorded, and why, in sentences; empty as a rule.
        task: What it was asked.
    """

    agent: str
    outcome: Outcome
    patch: Patch
    notebook: Path
    cost: int = 0
    total_cost: int = 0
    usage: Usage = Usage()
    iterations: int = 0
    children: tuple[AgentResult, ...] = ()
    started: float = 0.0
    ended: float = 0.0
    faults: tuple[str, ...] = ()
    task: str = ""

    @property
    def status(self) -> Status:
        """`completed`, `partial` or `error`."""
        return self.outcome.status

    @property
    def answer(self) -> Answer:
        """The answer, or a sentence that there is none (see `outcome.source`)."""
        return self.outcome.answer


@dataclass(frozen=True)
class Balance:
    """What a ledger holds at one moment. Money in micro-dollars; `None` where there is no limit.

    `spent_*` is settled, `reserved_*` is promised to calls under way; `left_cost` is the limit less both.
    """

    spent_cost: int = 0
    reserved_cost: int = 0
    limit_cost: int | None = None
    spent: Usage = field(default_factory=Usage)
    calls: int = 0
    sandboxes: int = 0
    limit_sandboxes: int | None = None
    seconds_left: float | None = None

    @property
    def left_cost(self) -> int | None:
        """Micro-dollars that nobody has spent or reserved."""
        return None if self.limit_cost is None else max(0, self.limit_cost - self.spent_cost - self.reserved_cost)


# What happens while a run goes on, for whoever watches: the recorder, a live view, a log.


@dataclass(frozen=True)
class Event:
    """Something happened to an agent."""

    agent: str


@dataclass(frozen=True)
class Notice(Event):
    """Something a person should know, in one sentence."""

    text: str


@dataclass(frozen=True)
class AgentStarted(Event):
    """An agent exists; its kernel and worktree may still be on their way."""

    task: Task


@dataclass(frozen=True)
class Asked(Event):
    """The model was asked for iteration `number`."""

    number: int


@dataclass(frozen=True)
class Replied(Event):
    """The model replied; `code` holds the cells about to run."""

    number: int
    message: str
    reply: Reply
    code: tuple[str, ...] = ()
    finishing: bool = False
    edited: bool = False


@dataclass(frozen=True)
class CellStarted(Event):
    """Cell `index` (from 1) of iteration `number` was sent to the kernel."""

    number: int
    index: int
    code: str


@dataclass(frozen=True)
class CellOutput(Event):
    """The outputs of a cell so far, in dicts that nobody changes; also sent when a thread prints after its cell."""

    number: int
    index: int
    outputs: tuple[Output, ...] = ()


@dataclass(frozen=True)
class Attended(Event):
    """A person who is attached to the agent's kernel has run a cell in it, between two of the agent's."""

    cell: CellResult


@dataclass(frozen=True)
class Iterated(Event):
    """An iteration is complete."""

    iteration: Iteration


@dataclass(frozen=True)
class AgentEnded(Event):
    """An agent ended, its kernel and worktree are gone."""

    result: AgentResult


@dataclass(frozen=True)
class Charged(Event):
    """A model call was paid.

    Args:
        cost: Micro-dollars of all of this agent's own calls so far.
        usage: Tokens of all of them.
        balance: What the ledger holds now.
    """

    cost: int
    usage: Usage
    balance: Balance
