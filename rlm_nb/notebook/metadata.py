"""What a notebook's metadata holds: each record beside its way back, so that what is written can be read."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rlm_nb.records import JSON, Answer, BridgeCall, CellResult, Iteration, Outcome, Patch, Reply, Status, Task, Usage

VERSION = 1
"""Raised when an older reader would misunderstand what is written."""

Node = dict[str, Any]
"""A cell as nbformat 4.5 stores it."""

State = Literal["running", "unfinished"] | Status
"""`running` as far as the file knows (a killed run says so for ever); `unfinished` when it ended without a result."""


WAITING = ("pending", "running", "skipped")
"""What the status of a cell says while, or because, it has no result."""


@dataclass(frozen=True)
class Child:
    """A sub-agent, as its parent's notebook names it.

    Args:
        agent: Its path in the tree.
        task: The first line of its task.
        cell: The id of the cell that started it.
        notebook: Where its notebook is, relative to this one; `None` when it never got one.
        state: How it stands, or ended.
        cost: Micro-dollars, with everything below it.
        children: Its own sub-agents, known once it has ended.
        own_cost: Micro-dollars, its own calls only.
        iterations: How many turns it took.
        read, written: Tokens of its own calls.
        started, ended: Seconds since the epoch; 0 until it has ended.
    """

    agent: str
    task: str = ""
    cell: str | None = None
    notebook: str | None = None
    state: State = "running"
    cost: int = 0
    children: tuple[Child, ...] = ()
    own_cost: int = 0
    iterations: int = 0
    read: int = 0
    written: int = 0
    started: float = 0.0
    ended: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a notebook says of its agent as a whole.

    Args:
        task: What it was asked.
        system: Its system prompt.
        about: Model, repository, versions, isolation, …: what its maker wanted kept.
        parent: A link to the cell that started it, or `None`.
        state: How it stands.
        turn: The latest iteration that the model was asked for; 0 before the first.
        cost: Micro-dollars, its own calls only.
        total_cost: Micro-dollars, with everything below it; 0 until it has ended.
        usage: Tokens of its own calls.
        subagents: Those it started itself, in order.
        notices: What a person should know, in order.
        start: What it began with: `base`, the commit of the run's `ctl.git`, and what else a worktree is made from.
        settings: The settings in force.
        outcome: How it ended; `None` when it did not.
        patch: What it changed, without the text, which is kept elsewhere.
        started, ended: Seconds since the epoch; `ended` is 0 until it has.
    """

    task: Task
    system: str = ""
    about: Mapping[str, JSON] = field(default_factory=dict)
    parent: str | None = None
    state: State = "running"
    turn: int = 0
    cost: int = 0
    total_cost: int = 0
    usage: Usage = field(default_factory=Usage)
    subagents: tuple[Child, ...] = ()
    notices: tuple[str, ...] = ()
    start: Mapping[str, JSON] = field(default_factory=dict)
    settings: Mapping[str, JSON] = field(default_factory=dict)
    outcome: Outcome | None = None
    patch: Patch = field(default_factory=Patch)
    started: float = 0.0
    ended: float = 0.0

    @property
    def children(self) -> tuple[str, ...]:
        """The agent paths of `subagents`."""
        return tuple(child.agent for child in self.subagents)


@dataclass(frozen=True, kw_only=True)
class Recorded(Head):
    """A whole notebook, read back.

    Args:
        iterations: The complete ones, in order.
        begun: The one that was cut short: its reply is there, not all of its cells have run.
        asides: What people who were attached to the kernel ran there; cells are numbered in the order in which all ran.
    """

    iterations: tuple[Iteration, ...] = ()
    begun: Iteration | None = None
    asides: tuple[CellResult, ...] = ()


def write_notebook(head: Head) -> dict[str, Any]:
    """The notebook's own metadata."""
    rlm = {
        "version": VERSION,
        "agent": head.task.agent,
        "depth": head.task.depth,
        "task": head.task.prompt,
        "context": None if head.task.context is None else str(head.task.context),
        "system": head.system,
        "about": dict(head.about),
        "parent": head.parent,
        "status": head.state,
        "turn": head.turn,
        "cost": head.cost,
        "total_cost": head.total_cost,
        "usage": dict(vars(head.usage)),
        "children": [_write_child(child) for child in head.subagents],
        "notices": list(head.notices),
        "start": dict(head.start),
        "settings": _pack(dict(head.settings)),  # which is written with every save
        "outcome": None if head.outcome is None else _write_outcome(head.outcome),
        "patch": {
            "files": list(head.patch.files),
            "base": head.patch.base,
            "commit": head.patch.commit,
            "notes": list(head.patch.notes),
        },
        "started": head.started,
        "ended": head.ended,
    }
    return {**front_end(), "rlm": rlm}


def front_end() -> dict[str, Any]:
    """What JupyterLab and its kin want to know of a notebook."""
    # The kernel that ran the cells can only be started by a controller, which gives it a worktree and a bridge. Named
    # here is the one that every Jupyter has, so that opening a record asks nobody to choose a kernel. Both entries are
    # as ipykernel gives them: a front end that compares them with its kernel's finds nothing to change.
    return {
        "kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"},
        "language_info": {
            "name": "python",
            "version": platform.python_version(),
            "mimetype": "text/x-python",
            "codemirror_mode": {"name": "ipython", "version": 3},
            "pygments_lexer": "ipython3",
            "nbconvert_exporter": "python",
            "file_extension": ".py",
        },
    }


def read_notebook(
    rlm: Mapping[str, Any],
    iterations: tuple[Iteration, ...],
    begun: Iteration | None = None,
    asides: tuple[CellResult, ...] = (),
) -> Recorded:
    """The way back from `write_notebook`."""
    context = rlm["context"]
    return Recorded(
        task=Task(rlm["task"], rlm["agent"], rlm["depth"], None if context is None else Path(context)),
        system=rlm["system"],
        about=rlm["about"],
        parent=rlm["parent"],
        state=rlm["status"],
        turn=rlm["turn"],
        cost=rlm["cost"],
        total_cost=rlm["total_cost"],
        usage=Usage(**rlm["usage"]),
        subagents=tuple(_read_child(child) for child in rlm["children"]),
        notices=tuple(rlm["notices"]),
        start=rlm.get("start", {}),
        settings=json.loads(rlm.get("settings", "{}")),
        outcome=None if rlm["outcome"] is None else _read_outcome(rlm["outcome"]),
        patch=Patch(
            files=tuple(rlm["patch"]["files"]),
            base=rlm["patch"]["base"],
            commit=rlm["patch"]["commit"],
            notes=tuple(rlm["patch"]["notes"]),
        ),
        started=rlm["started"],
        ended=rlm["ended"],
        iterations=iterations,
        begun=begun,
        asides=asides,
    )


def write_iteration(iteration: Iteration, *, complete: bool) -> dict[str, Any]:
    """An iteration without its cells; `complete` once they have all run."""
    return {
        "number": iteration.number,
        "message": iteration.message,
        "reply": iteration.reply.text,
        "usage": dict(vars(iteration.reply.usage)),
        "stop_reason": iteration.reply.stop_reason,
        "model": iteration.reply.model,
        "cost": iteration.reply.cost,
        "counted": iteration.reply.counted,
        "note": iteration.note,
        "started": iteration.started,
        "ended": iteration.ended,
        "finishing": iteration.finishing,
        "code": None if iteration.code is None else list(iteration.code),
        "complete": complete,
    }


def read_iteration(agent: str, rlm: Mapping[str, Any], cells: Sequence[CellResult]) -> Iteration:
    """The way back from `write_iteration`."""
    return Iteration(
        agent,
        rlm["number"],
        rlm["message"],
        read_reply({**rlm, "text": rlm["reply"]}),
        tuple(cells),
        rlm["note"],
        rlm["started"],
        rlm["ended"],
        rlm.get("finishing", False),
        None if rlm.get("code") is None else tuple(rlm["code"]),
    )


def read_reply(rlm: Mapping[str, Any]) -> Reply:
    """The way back from a reply as a mapping."""
    usage, counted = Usage(**rlm["usage"]), rlm.get("counted", True)
    return Reply(rlm["text"], usage, rlm["stop_reason"], rlm["model"], rlm["cost"], counted)


def write_result(cell: CellResult, folder: Path) -> dict[str, Any]:
    """What nbformat has no field for in an executed cell; paths become relative to the notebook's `folder`."""
    return {
        "status": cell.status,
        "started": cell.started,
        "ended": cell.ended,
        "waited": cell.waited,
        "error": cell.error,
        "events": list(cell.events),
        "calls": [write_call(call) for call in cell.calls],
        "overflow": None if cell.overflow is None else relative(cell.overflow, folder),
        "final": None if cell.final is None else _write_answer(cell.final),
        "count": cell.number,
        "human": cell.human,
    }


def read_result(node: Mapping[str, Any], folder: Path) -> CellResult:
    """The way back from `write_result`, given the whole cell."""
    rlm = node["metadata"]["rlm"]
    return CellResult(
        code=node["source"],
        status=rlm["status"],
        outputs=tuple(node["outputs"]),
        execution_count=node["execution_count"],
        started=rlm["started"],
        ended=rlm["ended"],
        waited=rlm["waited"],
        error=rlm["error"],
        events=tuple(rlm["events"]),
        calls=tuple(read_call(call) for call in rlm["calls"]),
        overflow=None if rlm["overflow"] is None else folder / rlm["overflow"],
        final=None if rlm["final"] is None else _read_answer(rlm["final"]),
        number=rlm.get("count", 0),
        human=rlm.get("human", False),
    )


def write_execution(cell: CellResult) -> dict[str, str]:
    """`metadata.execution` as nbclient and JupyterLab write it, for their timing displays."""
    if not cell.ended:
        return {}
    started, ended = (
        datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        for seconds in (cell.started, cell.ended)
    )
    return {
        "iopub.status.busy": started,
        "iopub.execute_input": started,
        "shell.execute_reply": ended,
        "iopub.status.idle": ended,
    }


def relative(path: Path, folder: Path) -> str:
    """`path` as seen from `folder`, with forward slashes."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _write_outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "status": outcome.status,
        "answer": _write_answer(outcome.answer),
        "source": outcome.source,
        "stop_reason": outcome.stop_reason,
        "stopped": outcome.stopped,
    }


def _read_outcome(rlm: Mapping[str, Any]) -> Outcome:
    answer = _read_answer(rlm["answer"])
    return Outcome(rlm["status"], answer, rlm["source"], rlm["stop_reason"], rlm.get("stopped", False))


def _write_answer(answer: Answer) -> dict[str, Any]:
    return {
        "value": _pack(answer.value),
        # Mostly the value itself, which may be megabytes: once is enough.
        "text": None if answer.text == Answer.of(answer.value).text else answer.text,
        "type": answer.type,
    }


def _read_answer(rlm: Mapping[str, Any]) -> Answer:
    value = json.loads(rlm["value"])
    return Answer(value, Answer.of(value).text if rlm["text"] is None else rlm["text"], rlm["type"])


def write_call(call: BridgeCall) -> dict[str, Any]:
    """What a cell asked, and what it was answered."""
    return {
        "name": call.name,
        "arguments": _pack(dict(call.arguments)),
        "answer": _pack(call.answer),
        "error": None if call.error is None else dict(call.error),
        "key": call.key,
        "started": call.started,
        "ended": call.ended,
    }


def read_call(rlm: Mapping[str, Any]) -> BridgeCall:
    """The way back from `write_call`."""
    arguments, answer = json.loads(rlm["arguments"]), json.loads(rlm["answer"])
    return BridgeCall(rlm["name"], arguments, answer, rlm["error"], rlm["key"], rlm["started"], rlm["ended"])


def _write_child(child: Child) -> dict[str, Any]:
    return {**vars(child), "children": [_write_child(one) for one in child.children]}


def _read_child(rlm: Mapping[str, Any]) -> Child:
    return Child(**{**rlm, "children": tuple(_read_child(child) for child in rlm["children"])})


def _pack(value: JSON) -> str:
    """A value as JSON inside a string: nbformat sorts the keys of every object, and a replay must not notice.

    NaN and lone surrogates, neither of which a notebook can hold, survive in here as well.
    """
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")
