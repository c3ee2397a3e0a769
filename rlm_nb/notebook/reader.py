"""Reads a recorded notebook back: the same values that were recorded, or a sentence why not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
from nbformat.validator import iter_validate

from rlm_nb.errors import NotebookError
from rlm_nb.notebook.metadata import (
    VERSION,
    WAITING,
    Node,
    Recorded,
    read_iteration,
    read_notebook,
    read_result,
)
from rlm_nb.records import CellResult, Iteration


def read(path: Path) -> Recorded:
    """Everything that an agent's notebook holds; the run may still be going on.

    Equal to what was recorded, but for what notebooks have no form for: a lone surrogate has become its escape, a NaN
    its name, an output that is none a sentence. Outputs that came late are among their cell's.

    Raises:
        NotebookError: It is missing, damaged, not the record of an agent, or from a newer version.
    """
    notebook = _load(path)
    rlm = notebook["metadata"].get("rlm")
    if not isinstance(rlm, dict) or not isinstance(rlm.get("version"), int):
        raise NotebookError(f"{path}: is a notebook, but not one that rlm-nb recorded")
    if rlm["version"] > VERSION:
        raise NotebookError(f"{path}: was recorded by a newer version of rlm-nb (format {rlm['version']}); update it")
    try:
        return read_notebook(rlm, _iterations(rlm["agent"], notebook["cells"], path.parent))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotebookError(f"{path}: the record in this notebook is damaged: {error!r}") from error


def _iterations(agent: str, nodes: Iterable[Node], folder: Path) -> tuple[Iteration, ...]:
    begun: dict[int, dict[str, Any]] = {}
    cells: dict[int, list[CellResult]] = {}
    for node in nodes:
        rlm = node["metadata"].get("rlm", {})
        if "reply" in rlm:
            begun[rlm["number"]] = rlm
        elif node["cell_type"] == "code" and rlm.get("status", WAITING[0]) not in WAITING:
            cells.setdefault(rlm["number"], []).append(read_result(node, folder))
    return tuple(read_iteration(agent, rlm, cells.get(number, ())) for number, rlm in begun.items() if rlm["complete"])


def _load(path: Path) -> dict[str, Any]:
    """The notebook as plain values, its text joined, and found valid."""
    try:
        notebook = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotebookError(f"{path}: there is no such notebook") from None
    except OSError as error:
        raise NotebookError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise NotebookError(f"{path}: is damaged: {error}") from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("nbformat"), int):
        raise NotebookError(f"{path}: is not a notebook")
    if notebook["nbformat"] != 4:
        raise NotebookError(f"{path}: is a notebook, but not one that rlm-nb recorded")
    fault = next(iter_validate(notebook, version=4, version_minor=notebook.get("nbformat_minor", 0)), None)
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
