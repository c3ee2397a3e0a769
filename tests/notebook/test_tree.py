"""A run's notebooks as a tree, whatever state they are in."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nbformat
import pytest
from rich.console import Console

from rlm_nb.errors import NotebookError
from rlm_nb.notebook.task_record import TaskRecord
from rlm_nb.notebook.tree import as_rich, as_text, tree
from rlm_nb.records import (
    Access,
    AgentEnded,
    AgentResult,
    AgentStarted,
    Answer,
    CellResult,
    CellStarted,
    Iterated,
    Outcome,
    Patch,
    Replied,
    Reply,
    Subcall,
    Task,
)
from tests.notebook.scenes import iteration, opened


def agent(folder: Path, name: str = "root", children: int = 0, depth: int = 1) -> AgentResult:
    """Records an agent that starts `children` sub-agents, which do the same as long as `depth` allows."""
    path = folder / f"{name}.ipynb"
    task = Task(f"\nTask of {name}\nin two lines", name, name.count("."))
    results: list[AgentResult] = []
    parent = name.rpartition(".")[0]
    with opened(path, task, f"{parent}.ipynb#cell-id=it-001-code-1" if parent else None) as recorder:
        recorder.listen(Replied(name, 1, "Go on.", Reply("Look."), ("rlm_query_batched(tasks)",)))
        recorder.listen(CellStarted(name, 1, 1, "rlm_query_batched(tasks)"))
        for number in range(1, children + 1 if depth else 1):
            child = f"{name}.{number}"
            recorder.listen(AgentStarted(child, Task(f"Task of {child}", child, name.count(".") + 1)))
            results.append(agent(folder, child, children, depth - 1))
            recorder.listen(AgentEnded(child, results[-1]))
        cell = CellResult("rlm_query_batched(tasks)", "ok", overflow=folder / "outputs" / f"{name}.txt")
        recorder.listen(Iterated(name, iteration(1, cell, agent=name)))
        outcome = Outcome("completed", Answer.of("42"), "final", "FINAL was called")
        result = AgentResult(name, outcome, Patch(), path, 1500, 4500, children=tuple(results), ended=time.time())
        recorder.finish(result)
    return result


def test_a_run_is_a_tree_in_order(tmp_path: Path) -> None:
    """Every agent stands below its parent, the tenth after the ninth, with what one asks first."""
    agent(tmp_path, children=10)
    root = tree(tmp_path)
    assert [child.agent for child in root.children] == [f"root.{number}" for number in range(1, 11)]
    assert (root.status, root.iterations, root.cost, root.task) == ("completed", 1, 1500, "Task of root")
    assert root.children[1].notebook == tmp_path / "root.2.ipynb"
    lines = as_text(root).splitlines()
    assert re.fullmatch(r"root · completed · 1 iteration · \$0\.0015 · .* · Task of root · .*root\.ipynb", lines[0])
    assert lines[1].startswith("├── root.1 · completed")
    assert lines[10].startswith("└── root.10 · completed")


def test_every_link_of_a_recorded_tree_leads_somewhere(tmp_path: Path) -> None:
    """Links go up, down and to outputs, and those that name a cell name one that exists."""
    (tmp_path / "outputs").mkdir()
    agent(tmp_path, children=2, depth=2)
    links = 0
    for path in tmp_path.glob("*.ipynb"):
        (tmp_path / "outputs" / f"{path.stem}.txt").touch()
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                for target in re.findall(r"\]\(([^)]*)\)", cell.source):
                    file, _, name = unquote(target).partition("#cell-id=")
                    there = path.parent / file
                    assert there.exists(), target
                    if name:
                        assert name in [each.id for each in nbformat.read(there, as_version=4).cells], target
                    links += 1
    assert links == 7 + 6 + 6 + 4  # outputs, up, children, and the root's grandchildren


def test_a_run_that_was_killed_is_a_tree_as_well(tmp_path: Path) -> None:
    """What has no end is unfinished; what is damaged or missing is named; the rest is shown."""
    with opened(tmp_path / "root.ipynb") as recorder:
        recorder.listen(AgentStarted("root.1", Task("a", "root.1", 1)))
        recorder.listen(AgentStarted("root.2", Task("b", "root.2", 1)))
        assert tree(tmp_path).status == "unfinished"
    (tmp_path / "root.2.ipynb").write_text("{")
    agent(tmp_path, "root.3.1")
    (tmp_path / "root.2-Copy1.ipynb").write_text("mine")
    (tmp_path / "root.notes.ipynb").write_text("mine")
    root = tree(tmp_path)
    assert root.status == "unfinished"
    missing, damaged, lost = root.children
    assert (missing.status, missing.fault) == ("damaged", "there is no such notebook")
    assert damaged.fault is not None
    assert "is damaged: Expecting" in damaged.fault
    assert (lost.agent, lost.children[0].status) == ("root.3", "completed")
    assert "root.2 · damaged · is damaged" in as_text(root)


def task(folder: Path) -> Path:
    """Records a task that asked twice, one of them for the second time; it goes on."""
    path = folder / "task.ipynb"
    asked = Subcall(1, "text", "What is it?", "x", Access("", "", 0, 1, ""), "fine", cost=1500)
    with TaskRecord.open(path, name="look", code="def look(text): ...", about={"model": "m"}) as record:
        record.add(asked)
        record.add(replace(asked, same_as=1, cost=0))
    return path


def test_a_task_is_a_tree_of_one(tmp_path: Path) -> None:
    """With its calls and what they cost, whether it has ended or was killed."""
    path = task(tmp_path)
    assert as_text(tree(tmp_path)).startswith("task · unfinished · 1 call · $0.0015 · ")
    notebook = json.loads(path.read_text("utf-8"))
    summary = {"total_calls": 2, "total_cost_usd": 0.25}
    started = notebook["metadata"]["rlm"]["started"]
    ended = {"status": "partial", "ended": started + 65, "result": {"budget_summary": summary}}
    notebook["metadata"]["rlm"] |= ended
    path.write_text(json.dumps(notebook), "utf-8")
    assert as_text(tree(tmp_path)) == f"task · partial · 2 calls · $0.25 · 1m05s · look · {path}"
    Console(file=io.StringIO()).print(as_rich(tree(tmp_path)))


def test_a_task_whose_notebook_is_damaged(tmp_path: Path) -> None:
    """Whatever stands in it in the place of something else, it is named; links are not followed, pipes not opened."""
    path = task(tmp_path)
    notebook = json.loads(path.read_text("utf-8"))
    odd: list[Any] = [None, True, -1, 10**30, float("nan"), "x" * 50, [], {}, [{}], {"a": 1}]
    for container, key in places({"metadata": notebook["metadata"]["rlm"], "cells": notebook["cells"][2:3]}):
        kept = container[key]
        for value in odd:
            container[key] = value
            path.write_text(json.dumps(notebook), "utf-8")
            Console(file=io.StringIO()).print(as_rich(tree(tmp_path)))
            assert as_text(tree(tmp_path)).startswith("task · ")
        container[key] = kept
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert as_text(tree(tmp_path)) == f"task · damaged · is a link, which is not followed · {path}"
    path.unlink()
    os.mkfifo(path)
    assert as_text(tree(tmp_path)) == f"task · damaged · is no file · {path}"


def test_a_folder_without_a_run_is_said(tmp_path: Path) -> None:
    """An empty folder, and none."""
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(NotebookError, match="there is no run here"):
            tree(folder)


def test_a_terminal_gets_links_and_no_orders(tmp_path: Path) -> None:
    """Names open the notebooks; escape sequences and markup in a task are text."""
    with opened(tmp_path / "root.ipynb", Task("\x1b[2J[red]boo[/red]")):
        pass
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    console.print(as_rich(tree(tmp_path)))
    assert isinstance(console.file, io.StringIO)
    page = console.file.getvalue()
    assert f"{(tmp_path / 'root.ipynb').as_uri()}" in page
    assert " · [red]boo[/red]" in page
    assert "\x1b[2J" not in page


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place below a value that something else can be put into: a container, and a key or an index."""
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(item, dict | list):
            yield from places(item)


def test_any_value_may_be_any_other(tmp_path: Path) -> None:
    """Whatever a notebook on disk holds in the place of a value, there is a tree, and it can be shown."""
    agent(tmp_path, children=1)
    path = tmp_path / "root.ipynb"
    notebook = json.loads(path.read_text("utf-8"))
    nested: Any = []
    for _ in range(300):
        nested = [nested]
    odd = [None, 10**400, float("nan"), "\x1b[2J\ud800", [], ["root"], nested]
    tried = 0
    for container, key in places({"metadata": notebook["metadata"]["rlm"], "cells": notebook["cells"][1:2]}):
        kept = container[key]
        for value in odd:
            container[key] = value
            path.write_text(json.dumps(notebook), "utf-8")
            root = tree(tmp_path)
            Console(file=io.StringIO()).print(as_rich(root))
            assert as_text(root)
            tried += 1
        container[key] = kept
    assert tried > 300


def test_a_run_is_no_way_out_of_its_folder(tmp_path: Path) -> None:
    """Links are not followed, nor names that lead elsewhere or round in circles."""
    agent(tmp_path, children=1, depth=1)
    path = tmp_path / "root.ipynb"
    notebook = json.loads(path.read_text("utf-8"))
    (known,) = notebook["metadata"]["rlm"]["children"]
    names = ["root", "../root", "root.1", "root.1.1", "root.0", "root.x", "root.٣", "root.2", "root.2"]
    notebook["metadata"]["rlm"]["children"] = [{**copy.copy(known), "agent": name} for name in names]
    path.write_text(json.dumps(notebook), "utf-8")
    (tmp_path / "elsewhere").mkdir()
    agent(tmp_path / "elsewhere")
    (tmp_path / "root.3.ipynb").symlink_to(tmp_path / "elsewhere" / "root.ipynb")
    (tmp_path / "root.4.ipynb").symlink_to("root.4.ipynb")
    root = tree(tmp_path)
    assert [(child.agent, child.status) for child in root.children] == [
        ("root.1", "completed"), ("root.2", "damaged"), ("root.3", "damaged"), ("root.4", "damaged"),
    ]  # fmt: skip
    assert "root.3 · damaged · is a link, which is not followed" in as_text(root)
    Console(file=io.StringIO()).print(as_rich(root))


def test_what_is_no_notebook_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe, a file of many gigabytes, one that is nested without end."""
    agent(tmp_path)
    os.mkfifo(tmp_path / "root.1.ipynb")
    with (tmp_path / "root.2.ipynb").open("wb") as large:
        large.truncate(10**10)
    (tmp_path / "root.3.ipynb").write_text("[" * 100_000)
    faults = [str(child.fault) for child in tree(tmp_path).children]
    assert faults[0] == "is no file"
    assert faults[1] == "is too large to be read: 10,000,000,000 bytes"
    assert faults[2].startswith("is damaged: ")
