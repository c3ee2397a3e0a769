"""Reads a recorded notebook back: the same values that were recorded, or a sentence why not."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from rlm_nb.errors import NotebookError
from rlm_nb.lean import nbformat
from rlm_nb.notebook.metadata import (
    VERSION,
    WAITING,
    Node,
    Recorded,
    read_iteration,
    read_notebook,
    read_result,
)
from rlm_nb.records import CellResult, Iteration, Status

LARGEST = 512 * 1024 * 1024
"""Bytes of the largest notebook that is read; what we record stays far below it."""

MOST = 1e15
"""No number of a record comes near it: not the seconds since the epoch, nor micro-dollars."""

DAMAGE = (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)
"""What a file raises that holds anything but what was recorded, or that in a nesting that nobody records."""


@dataclass(frozen=True)
class RecordedTask:
    """What the notebook of a bounded task says of it as a whole.

    Args:
        name: The task's.
        status: How it ended; `running` as far as the file knows.
        calls: How often the model was asked.
        cost: Micro-dollars.
        started, ended: Seconds since the epoch; `ended` is 0 while it is running.
    """

    name: str
    status: Status | Literal["running"]
    calls: int
    cost: int
    started: float
    ended: float


def read(path: Path) -> Recorded:
    """Everything that an agent's notebook holds; the run may still be going on.

    Equal to what was recorded, but for what notebooks have no form for: a lone surrogate has become its escape, a NaN
    its name, an output that is none a sentence. Outputs that came late are among their cell's.

    Raises:
        NotebookError: It is missing, damaged, not the record of an agent, or from a newer version.
    """
    rlm, cells = _record(path)
    if rlm.get("kind") == "task":
        raise NotebookError(f"{path}: is the record of a task, not of an agent")
    with _naming_faults(path):
        iterations, begun = _iterations(rlm["agent"], cells, path.parent)
        return _checked(read_notebook(rlm, iterations, begun, _asides(cells, path.parent)), _types())


def read_task(path: Path) -> RecordedTask:
    """How a task went, from its notebook; it may still be going on.

    Raises:
        NotebookError: It is missing, damaged, not the record of a task, or from a newer version.
    """
    rlm, cells = _record(path)
    with _naming_faults(path):
        asked = [cell["metadata"]["rlm"] for cell in cells if "prompt" in cell["metadata"].get("rlm", {})]
        paid = [call for call in asked if call["same_as"] is None]
        calls, cost = len(paid), sum(call["cost"] for call in paid)
        if "result" in rlm:  # it counts calls without an answer, too
            summary = rlm["result"]["budget_summary"]
            calls, cost = summary["total_calls"], round(summary["total_cost_usd"] * 1e6)
        task = RecordedTask(rlm["task"], rlm["status"], calls, cost, rlm["started"], rlm.get("ended", 0.0))
        return _checked(task, _task_types())


def _record(path: Path) -> tuple[dict[str, Any], list[Node]]:
    """What the notebook's metadata says, and its cells."""
    notebook = load(path)
    return notebook["metadata"]["rlm"], notebook["cells"]


def load(path: Path, largest: int = LARGEST) -> dict[str, Any]:
    """A notebook that rlm-nb recorded, of an agent or a task, as plain values in nbformat's form, and valid.

    Raises:
        NotebookError: As `read`; or it has more than `largest` bytes.
    """
    data = _bytes(path, largest)
    try:
        notebook = _notebook(path, data)
        rlm = notebook["metadata"].get("rlm")
        if not isinstance(rlm, dict) or not isinstance(rlm.get("version"), int):
            raise NotebookError(f"{path}: is a notebook, but not one that rlm-nb recorded")
        if rlm["version"] > VERSION:
            raise NotebookError(f"{path}: was recorded by a newer version of rlm-nb; update it")
    except DAMAGE as error:
        raise NotebookError(f"{path}: is damaged: {error}") from error
    return notebook


@contextmanager
def _naming_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise NotebookError(f"{path}: the record in this notebook is damaged: {where}: {fault['msg']}") from error
    except DAMAGE as error:
        raise NotebookError(f"{path}: the record in this notebook is damaged: {error!r}") from error


def read_cells(path: Path) -> list[Node]:
    """The cells of an agent's notebook as they stand in it. Raises `NotebookError`."""
    cells: list[Node] = _notebook(path, _bytes(path))["cells"]
    return cells


def _iterations(agent: str, nodes: Iterable[Node], folder: Path) -> tuple[tuple[Iteration, ...], Iteration | None]:
    """The complete ones, and the last one where that is not complete."""
    begun: dict[int, dict[str, Any]] = {}
    cells: dict[int, list[CellResult]] = {}
    for node in nodes:
        rlm = node["metadata"].get("rlm", {})
        if rlm.get("aside"):
            continue
        if "reply" in rlm:
            begun[rlm["number"]] = rlm
        elif node["cell_type"] == "code" and rlm.get("status", WAITING[0]) not in WAITING:
            cells.setdefault(rlm["number"], []).append(read_result(node, folder))
    read = [(rlm["complete"], read_iteration(agent, rlm, cells.get(number, ()))) for number, rlm in begun.items()]
    unfinished = read[-1][1] if read and not read[-1][0] else None
    return tuple(iteration for complete, iteration in read if complete), unfinished


def _asides(nodes: Iterable[Node], folder: Path) -> tuple[CellResult, ...]:
    """What people ran who were attached, in order."""
    theirs = [node for node in nodes if node["metadata"].get("rlm", {}).get("aside") and node["cell_type"] == "code"]
    return tuple(sorted((read_result(node, folder) for node in theirs), key=lambda cell: cell.number))


R = TypeVar("R", Recorded, RecordedTask)


def _checked(recorded: R, types: TypeAdapter[R]) -> R:
    """The record with every value of the type that it should have. Raises `ValueError` if that cannot be."""
    checked: R = types.validate_python(asdict(recorded))
    for name, number in vars(checked).items():
        if isinstance(number, int | float) and not abs(number) < MOST:  # NaN is not either
            raise ValueError(f"{name} is beyond reason")
    return checked


@cache
def _types() -> TypeAdapter[Recorded]:
    return TypeAdapter(Recorded)


@cache
def _task_types() -> TypeAdapter[RecordedTask]:
    return TypeAdapter(RecordedTask)


def _bytes(path: Path, largest: int = LARGEST) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise NotebookError(f"{path}: is no file")  # reading a pipe would wait for whoever writes into it
        if status.st_size > largest:
            raise NotebookError(f"{path}: is too large to be read: {status.st_size:,} bytes")
        return path.read_bytes()
    except FileNotFoundError:
        raise NotebookError(f"{path}: there is no such notebook") from None
    except OSError as error:
        raise NotebookError(f"{path}: cannot be read: {error.strerror or error}") from error


def _notebook(path: Path, data: bytes) -> dict[str, Any]:
    """The notebook as plain values, its text joined, and found valid."""
    notebook = json.loads(data)
    if not isinstance(notebook, dict) or not isinstance(notebook.get("nbformat"), int):
        raise NotebookError(f"{path}: is not a notebook")
    if notebook["nbformat"] != 4:
        raise NotebookError(f"{path}: is a notebook, but not one that rlm-nb recorded")
    fault = next(
        nbformat.validator.iter_validate(notebook, version=4, version_minor=notebook.get("nbformat_minor", 0)), None
    )
    if fault is not None:
        raise NotebookError(f"{path}: is damaged: {fault.message[:200]}")
    joined: dict[str, Any] = _plain(nbformat.v4.to_notebook(notebook))
    return joined


def _plain(value: Any) -> Any:
    """nbformat's nodes as the dictionaries that they were made from."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
