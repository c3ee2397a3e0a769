"""What the panel shows of runs, read from their folders; nothing here changes anything."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlm_nb import control
from rlm_nb.cli.budget import facts
from rlm_nb.cli.list_runs import NOTEBOOKS, found
from rlm_nb.errors import LedgerError
from rlm_nb.ledger import BudgetFile
from rlm_nb.notebook.tree import Node, at_work, tree
from rlm_nb.run_folder import summary

MOST = 50
"""Runs of one folder that are shown: the latest, as their names say when they began."""

LIVE = "rlm-live-"
"""How the kernelspecs are called that lead into kernels of agents at work."""


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return any((folder / name).is_file() for name in NOTEBOOKS)


def runs(root: Path, folder: Path) -> list[dict[str, Any]]:
    """The runs that are in the folder or in its `runs`, or so in one above it, the latest first."""
    listed: dict[str, dict[str, Any]] = {}
    for place in _near(root, folder):
        with suppress(OSError):  # it is not there, or not ours to read
            names = sorted((entry.name for entry in place.iterdir() if entry.name[0] != "."), reverse=True)
            folders = [place / name for name in names if not (place / name).is_symlink()]
            for run in found([one for one in folders if is_run(one)][:MOST]):
                path = str(Path(run["folder"]).relative_to(root))
                listed[path] = {name: run.get(name) for name in ("id", "status", "started", "task", "cost", "kind")}
                listed[path]["run"] = path
    return sorted(listed.values(), key=lambda run: run["started"], reverse=True)


def _near(root: Path, folder: Path) -> Iterator[Path]:
    for place in (folder, *folder.parents):
        if place.is_relative_to(root):
            yield place
            if not (place / "runs").is_symlink():
                yield place / "runs"


def run(root: Path, folder: Path, live: Mapping[str, str]) -> dict[str, Any]:
    """How a run stands.

    Args:
        root: The server's root, which the paths of notebooks are relative to.
        folder: The run's.
        live: The kernelspecs that lead to its agents, by agent.

    Raises:
        RLMError: There is none, or nobody can tell.
    """
    told, found = summary(folder), _tree(folder, _state(folder))
    return {
        "run": str(folder.relative_to(root)),
        "id": told.id,
        "status": told.status,
        "task": told.task,
        "stop_reason": told.stop_reason,
        "tree": _as_json(at_work(found) if told.status == "running" else found, root, live),
        "budget": _budget(folder, told.started, told.ended),
        "waiting": control.waiting(folder) if told.status == "running" else [],
        "reachable": told.status == "running" and (folder / control.FOLDER).is_dir(),
    }


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when a notebook of the run does."""
    states = []
    for path in sorted(folder.glob("*.ipynb")):
        with suppress(FileNotFoundError):
            state = path.stat()
            states.append((path.name, state.st_mtime_ns, state.st_size))
    return tuple(states)


@lru_cache(maxsize=16)
def _tree(folder: Path, state: tuple[tuple[str, int, int], ...]) -> Node:
    return tree(folder)


def _as_json(node: Node, root: Path, live: Mapping[str, str]) -> dict[str, Any]:
    return {
        "agent": node.agent,
        "notebook": str(node.notebook.relative_to(root)) if node.notebook.exists() else None,
        "status": node.status,
        "task": node.task,
        "iterations": node.iterations,
        "cost": node.cost / 1e6,
        "seconds": node.seconds,
        "fault": node.fault,
        "kernel": live.get(node.agent),
        "children": [_as_json(child, root, live) for child in node.children],
    }


def _budget(folder: Path, started: float, ended: float) -> list[dict[str, Any]]:
    """What is spent of each kind that has a limit, and of the time."""
    try:
        told = facts(folder / "budget.json", BudgetFile.look(folder / "budget.json"), time.time())
    except LedgerError:
        return []
    bars = [
        {"kind": kind, "spent": told["spent"][kind], "reserved": told["reserved"][kind], "limit": limit}
        for kind, limit in told["limits"].items()
        if limit is not None and kind in told["spent"]
    ]
    if told["deadline"] is not None:
        now = min(ended or time.time(), told["deadline"])
        bars.append({"kind": "seconds", "spent": now - started, "reserved": 0, "limit": told["deadline"] - started})
    return bars


def live_kernels(specs: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, str]:
    """The kernelspecs that lead into this run's kernels, by the agents whose they are."""
    live = {}
    for name, described in specs.items():
        rlm = described["spec"].get("metadata", {}).get("rlm", {}) if name.startswith(LIVE) else {}
        if rlm and Path(str(rlm.get("run"))) == folder:
            live[str(rlm.get("agent"))] = name
    return live
