"""The folder of a run: made, described for other programs, and taken away again when the run never began."""

from __future__ import annotations

import errno
import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlm_nb.config import Config
from rlm_nb.errors import CancelledError, RunFolderError
from rlm_nb.processes import is_alive, this_process, world
from rlm_nb.records import JSON, AgentResult
from rlm_nb.workspace.apply import Home
from rlm_nb.workspace.scratch import remove_tree

VERSION = 1
"""Of the files run.json and result.json."""

LARGEST = 1 << 30
"""Bytes of a run.json; no answer is longer."""

MOST = 1e15
"""No number of a run.json comes near it: not the seconds since the epoch, nor dollars."""

ATTEMPTS = 100
"""Names that are tried for a run before we believe that something else is wrong."""


@contextmanager
def run_folder(config: Config, keep: Callable[[], bool]) -> Iterator[Path]:
    """A new folder for a run; it is taken away again when the block raises and there is nothing in it to keep.

    Raises:
        RunFolderError: It cannot be made.
    """
    made: list[Path] = []
    folder = None
    try:
        runs = config.runs.dir.absolute()
        made = _missing(runs)
        folder = make_in(runs, _names())
        if runs in made:
            # Runs are often kept inside the repository that they work on.
            (runs / ".gitignore").write_text("*\n", encoding="utf-8")
        (folder / "config.yaml").write_text(config.as_yaml(), encoding="utf-8")
    except OSError as error:
        _take_away(folder, made)
        raise RunFolderError(
            f"{config.runs.dir}: runs cannot be recorded here: {error.strerror}; see --runs-dir"
        ) from error
    try:
        yield folder
    except BaseException:
        if not keep():
            _take_away(folder, made)
        raise


def _names() -> Iterator[str]:
    for _ in range(ATTEMPTS):
        yield f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def make_in(runs: Path, names: Iterable[str]) -> Path:
    """A new folder in `runs`, called by the first of the names that no other run has. Raises `OSError`."""
    runs.mkdir(parents=True, exist_ok=True)
    for name in names:
        with suppress(FileExistsError):
            (runs / name).mkdir()
            return runs / name
    raise FileExistsError(errno.EEXIST, "every name that was tried is taken")


def _missing(folder: Path) -> list[Path]:
    """The folders on the way to `folder` that do not exist yet, deepest first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _take_away(folder: Path | None, made: list[Path]) -> None:
    if folder is not None:
        remove_tree(folder)
    for path in made:
        others = [entry for entry in path.iterdir() if entry.name != ".gitignore"] if path.is_dir() else [path]
        if others:
            return
        remove_tree(path)


def whose() -> dict[str, JSON]:
    """Which process a run belongs to, for its run.json: its number, its start, and whom the number was given by."""
    pid, started = this_process()
    return {"pid": pid, "pid_started": started, "pid_world": world()}


def goes_on(folder: Path) -> bool:
    """Whether a run has not ended, as far as anybody here can know.

    Raises:
        RunFolderError: The folder is not that of a run, or has no run.json that one could tell it from.
    """
    with _state(folder) as state:
        # Whoever may remove a run must not take another program's folder for one.
        if (
            not (folder / "config.yaml").is_file()
            or state["id"] != folder.name
            or not state["version"]
            or not isinstance(state["status"], str)
        ):
            raise KeyError("id")
        begun = state["pid_world"], state["pid"], state["pid_started"]
    if state["status"] == "completed" or "ended" in state:
        return False
    # In another container: who knows.
    return begun[0] != world() or is_alive(*begun[1:])


@dataclass(frozen=True)
class State:
    """What a run.json says of a run that is to go on.

    Args:
        task: What it was asked to do.
        context: The file with its context, or `None`.
        start: What it works on; see `workspace.source.Source.reopen`.
        status: `running`, which a killed run says for ever, or how it ended.
        how: The same for a person: how it ended, or that it was killed.
    """

    task: str
    context: Path | None
    start: Mapping[str, JSON]
    status: str
    how: str


def state_of(folder: Path) -> State:
    """What a run was to do, and how it stands.

    Raises:
        RunFolderError: The folder has no run.json that says it.
    """
    with _state(folder) as state:
        if state.get("kind") == "task":
            raise RunFolderError(f"{folder} is the run of a task, which cannot go on: run it again")
        if "start" not in state:
            raise RunFolderError(f"{folder}: this run was recorded by an older version, which did not say how to go on")
        how = "it was killed" if state["status"] == "running" else str(state.get("stop_reason", state["status"]))
        context = None if state["context"] is None else Path(state["context"])
        return State(str(state["task"]), context, state["start"], str(state["status"]), how.rstrip("."))


@dataclass(frozen=True)
class Summary:
    """What the run.json of a run says of it, for people who look for one.

    Args:
        id: The run's name.
        kind: What ran.
        task: What was asked, or the name of the bounded task.
        status: `completed`, `partial`, `error`; `running`, or `killed` when nobody is left to end it.
        started, ended: Seconds since the epoch; `ended` is 0 when nobody knows.
        cost: US dollars, of everything; `None` when nobody knows.
        agents: How many took part; 0 when nobody knows.
        stop_reason: Why it ended, in a sentence.
        model, repository, commit: What it worked with; empty for a bounded task.
        answer: The answer, as `FINAL` was given it; `None` when there is none.
    """

    id: str
    kind: Literal["run", "task"]
    task: str
    status: str
    started: float
    ended: float
    cost: float | None
    agents: int
    stop_reason: str
    model: str
    repository: str
    commit: str
    answer: JSON


def summary(folder: Path) -> Summary:
    """What there is to say about a run at a glance, whether it has ended or not.

    Raises:
        RunFolderError: The folder has no run.json that says it.
    """
    with _state(folder) as state:
        status = str(state["status"])
        running = status == "running" and "ended" not in state
        if running and state["pid_world"] == world() and not is_alive(state["pid"], state["pid_started"]):
            status = "killed"
        kind: Literal["run", "task"] = "task" if state.get("kind") == "task" else "run"
        cost = state.get("total_cost")
        if kind == "task" and not running:
            cost = _task_cost(folder)
        return Summary(
            id=folder.absolute().name,
            kind=kind,
            task=str(state["task"]),
            status=status,
            started=_number(state["started"]),
            ended=_number(state.get("ended", 0)),
            cost=None if cost is None else _number(cost),
            agents=1 + _below(state["children"]) if "children" in state else 0,
            stop_reason=str(state.get("stop_reason") or ""),
            model=str(state.get("model") or ""),
            repository=str(state.get("repository") or ""),
            commit=str(state.get("commit") or ""),
            answer=state.get("answer"),
        )


def _task_cost(folder: Path) -> float | None:
    """What the result of a bounded task says that it cost."""
    with suppress(RunFolderError), _state(folder, "result.json") as result:
        return _number(result["budget_summary"]["total_cost_usd"])
    return None


def _number(value: JSON) -> float:
    if type(value) not in (int, float) or not abs(value) < MOST:  # NaN is not either
        raise ValueError("a number is none")
    return float(value)


def _below(children: JSON) -> int:
    return sum(1 + _below(child["children"]) for child in children)


def where_edits_belong(folder: Path) -> Home:
    """What a run worked on.

    Raises:
        RunFolderError: The folder has no run.json that says it.
    """
    with _state(folder) as state:
        if state.get("kind") == "task":
            raise RunFolderError(f"{folder} is the run of a task, which changes no files")
        checkout = state["checkout"]
        return Home(
            str(state["repository"]),
            None if checkout is None else Path(checkout),
            str(state["commit"]),
            str(state["task"]),
        )


@contextmanager
def _state(folder: Path, name: str = "run.json") -> Iterator[dict[str, Any]]:
    """What the run.json of a run says, or another file; what the block does not find in it is said to be missing."""
    path = folder / name
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:  # opening a pipe would wait for whoever writes into it
            raise RunFolderError(f"{path} is not there, or is no file")
        # Paths may hold bytes that are not UTF-8; they are written as they are.
        yield json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunFolderError(f"{path} is not the record of a run") from error


def write_state(
    folder: Path,
    facts: Mapping[str, JSON],
    root: AgentResult | None,
    error: BaseException | None,
    spent: int,
    *,
    ended: bool,
) -> None:
    """Write run.json, and at the end result.json.

    Args:
        folder: The run's folder.
        facts: What is to be known of the run, however it stands.
        root: The root's result, once there is one.
        error: What broke the run off, so that there will be none.
        spent: Micro-dollars, where it was broken off.
        ended: Whether everything of it has ended by now.

    Raises:
        RunFolderError: They cannot be written.
    """
    state = {"version": VERSION, "id": folder.name, **facts, "status": "running", **whose()}
    if root is not None:
        result = as_json(root)
        state |= {name: result[name] for name in ("status", "ended", "answer", "stop_reason")}
        state |= {name: result[name] for name in ("cost", "total_cost", "children")}
        write_json(folder / "result.json", result)
    elif error is not None:
        stopped = isinstance(error, CancelledError) or not isinstance(error, Exception)
        state |= {"status": "partial" if stopped else "error", **({"ended": time.time()} if ended else {})}
        state |= {"stop_reason": str(error) or type(error).__name__, "total_cost": spent / 1e6}
    write_json(folder / "run.json", state)


def as_json(result: AgentResult) -> dict[str, Any]:
    """An agent and all below it, as result.json holds them; money in US dollars."""
    return {
        "agent": result.agent,
        "task": result.task,
        "status": result.status,
        "answer": result.answer.value,
        "answer_source": result.outcome.source,
        "stop_reason": result.outcome.stop_reason,
        "notebook": result.notebook.name,
        "cost": result.cost / 1e6,
        "total_cost": result.total_cost / 1e6,
        "usage": vars(result.usage),
        "iterations": result.iterations,
        "files": list(result.patch.files),
        "faults": [*([result.patch.error] if result.patch.error else ()), *result.faults],
        "commit": result.patch.commit,
        "started": result.started,
        "ended": result.ended,
        "children": [as_json(child) for child in result.children],
    }


def write_json(path: Path, value: JSON) -> None:
    """Write a file of JSON whole. Raises `RunFolderError`."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write(path: Path, text: str) -> None:
    """Beside, then in its place: whoever reads finds the old file or the new one. Raises `RunFolderError`."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.unlink(missing_ok=True)  # whatever stands there: opening a pipe would wait for its reader
        with beside.open("xb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):  # a folder of somebody else's stays
            beside.unlink(missing_ok=True)
        raise RunFolderError(f"{path}: cannot be written: {error.strerror}") from error
