"""Writes the pages of a run: one for each notebook, and a first one that leads to them and tells the whole."""

from __future__ import annotations

import base64
import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlm_nb.errors import NotebookError, RunFolderError
from rlm_nb.lean import nbformat
from rlm_nb.notebook.metadata import Recorded
from rlm_nb.notebook.reader import load, read
from rlm_nb.notebook.timeline import drawn
from rlm_nb.notebook.tree import Node, everyone, tree
from rlm_nb.notebook.wording import duration, first_line, headline, money, plural, printable
from rlm_nb.records import Answer
from rlm_nb.report import inert
from rlm_nb.report.exporter import PageExporter
from rlm_nb.run_folder import Summary, summary, write

OURS = '<meta name="generator" content="rlm-nb report">'
"""What every page says, and by what a folder is known that holds a report already."""

LARGEST = 64 * 1024 * 1024
"""Bytes of the largest notebook that becomes a page, and of the largest file that is copied; browsers choke on more."""

PATCH = 1024 * 1024
"""Characters of a patch that are shown."""

READING = 60.0
"""Seconds after which no further notebook is read for the timeline."""


@dataclass(frozen=True)
class Report:
    """What was written.

    Args:
        index: The first page.
        pages: All of them, the first one included.
        faults: What could not be shown, and why, in sentences.
    """

    index: Path
    pages: tuple[Path, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class _Agent:
    """An agent of the run: its place in the tree, and what its notebook holds when that can be read."""

    node: Node
    recorded: Recorded | None
    page: str | None


def report(run_folder: Path, into: Path) -> Report:
    """Write a run as static pages, which need nothing but themselves.

    Args:
        run_folder: The run, of an agent or of a bounded task; it may be going on.
        into: The folder for the pages: one that is empty, does not exist yet, or holds a report already.

    Raises:
        RunFolderError: They cannot be written; or there is no run.
        NotebookError: There is no run.
    """
    if into.parent == run_folder and into.is_symlink():  # whoever wrote into the run's folder may have put it there
        raise RunFolderError(f"{into}: is a link, which is not followed; name another folder with -o")
    _prepare(into)
    faults: list[str] = []
    try:
        run: Summary | None = summary(run_folder)
    except RunFolderError as error:
        run = None
        faults.append(str(error))
    if (run is not None and run.kind == "task") or (run_folder / "task.ipynb").exists():
        pages, shown = _task(run_folder, into, faults)
    else:
        pages, shown = _agents(run_folder, into, faults)
    if run is not None:
        shown = {**_told(run), **shown}
    page = PageExporter().page("overview", **{**_nothing(run_folder), **shown}, faults=faults)
    write(into / "index.html", page)
    return Report(into / "index.html", (into / "index.html", *pages), tuple(faults))


def _prepare(into: Path) -> None:
    """Make the folder, or be sure that nothing but a report is in it."""
    try:
        into.mkdir(parents=True, exist_ok=True)
        if any(into.iterdir()):
            head = _file(into / "index.html", [])
            if head is None or OURS.encode() not in head[:4096]:
                raise RunFolderError(f"{into}: is not empty, and not a report; name another folder with -o")
    except OSError as error:
        raise RunFolderError(f"{into}: pages cannot be written here: {error.strerror}") from error


def _agents(run_folder: Path, into: Path, faults: list[str]) -> tuple[list[Path], dict[str, Any]]:
    """The pages of a tree of agents, and what the first page says about them."""
    root = tree(run_folder)
    agents = [_read(node) for node in everyone(root)]
    faults += [f"{agent.node.notebook}: {agent.node.fault}" for agent in agents if agent.node.fault]
    copied = _copied(run_folder / "outputs", into / "outputs", faults)
    names = ["index.html", *(agent.page for agent in agents if agent.page), *copied]
    exporter = PageExporter(pages=names)
    pages = []
    for agent in agents:
        if agent.page and (page := _page(exporter, agent.node.notebook, into / agent.page, faults)):
            pages.append(page)
    picture, why = drawn(run_folder, "svg", READING)
    shown: dict[str, Any] = {
        "timeline": {"picture": base64.b64encode(picture).decode(), "why": why},
        "agents": [_row(agent) for agent in agents],
        "most": max([1, *(agent.node.cost for agent in agents)]),
        "depths": list(_depths(agents)),
        "patch": _patch(run_folder / "changes.patch", faults),
    }
    recorded = agents[0].recorded
    if recorded is not None and recorded.outcome is not None:
        outcome = recorded.outcome
        titles = {"completed": "Answer", "partial": "Partial answer"}
        shown["answer"] = {
            "title": "No answer" if outcome.source == "none" else titles.get(outcome.status, "Answer"),
            "why": outcome.stop_reason,
            "body": "" if outcome.source == "none" else _answer(outcome.answer, names),
        }
    return pages, shown


def _task(run_folder: Path, into: Path, faults: list[str]) -> tuple[list[Path], dict[str, Any]]:
    """The page of a bounded task, and what the first page says about it."""
    exporter = PageExporter(pages=["index.html", "task.html"])
    notebook = run_folder / "task.ipynb"
    page = _page(exporter, notebook, into / "task.html", faults)
    shown: dict[str, Any] = {"page": page.name if page else ""}
    try:
        result = load(notebook, LARGEST)["metadata"]["rlm"].get("result") if page else None
    except NotebookError:  # named a moment ago
        result = None
    if isinstance(result, dict):
        answer = Answer.of(result.get("result"))
        shown["answer"] = {"title": "Result", "why": result.get("error") or "", "body": _answer(answer, ())}
    return [page] if page else [], shown


def _page(exporter: PageExporter, notebook: Path, page: Path, faults: list[str]) -> Path | None:
    """A notebook's page, or one fault more."""
    try:
        if notebook.is_symlink():
            raise NotebookError(f"{notebook}: is a link, which is not followed")
        node = nbformat.from_dict(load(notebook, LARGEST))
    except NotebookError as error:
        faults.append(first_line(str(error), 300))
        return None
    try:
        body, _ = exporter.from_notebook_node(node, {"metadata": {"name": notebook.stem}})
    except RecursionError:
        faults.append(f"{notebook}: what is in it is nested too deeply to be shown")
        return None
    write(page, body)
    return page


def _read(node: Node) -> _Agent:
    if node.fault is not None:
        return _Agent(node, None, None)
    try:
        return _Agent(node, read(node.notebook), f"{node.agent}.html")
    except NotebookError:  # it was whole a moment ago
        return _Agent(node, None, None)


def _row(agent: _Agent) -> dict[str, Any]:
    node, recorded = agent.node, agent.recorded
    return {
        "name": node.agent,
        "depth": node.agent.count("."),
        "page": agent.page,
        "status": node.status,
        "task": node.fault or node.task,
        "iterations": node.iterations,
        "time": duration(node.seconds) if recorded else "",
        "read": f"{recorded.usage.prompt_tokens:,}" if recorded else "",
        "written": f"{recorded.usage.output_tokens:,}" if recorded else "",
        "cost": money(node.cost) if recorded else "",
        "micros": node.cost,
    }


def _depths(agents: Sequence[_Agent]) -> Iterator[tuple[str, ...]]:
    """What each level of the tree took: depth, agents, iterations, tokens read and written, cost."""
    for depth in sorted({agent.node.agent.count(".") for agent in agents}):
        here = [agent for agent in agents if agent.node.agent.count(".") == depth]
        usages = [agent.recorded.usage for agent in here if agent.recorded]
        read, written = sum(usage.prompt_tokens for usage in usages), sum(usage.output_tokens for usage in usages)
        turns, cost = sum(agent.node.iterations for agent in here), sum(agent.node.cost for agent in here)
        yield f"{depth}", f"{len(here)}", f"{turns}", f"{read:,}", f"{written:,}", money(cost)


def _answer(answer: Answer, pages: Sequence[str]) -> str:
    """A string is Markdown, as in the notebook; anything else is shown as it is."""
    if isinstance(answer.value, str):
        return inert.markdown(answer.text, pages)
    return inert.code(answer.text, "json")


def _told(run: Summary) -> dict[str, Any]:
    """What run.json says, for the first page."""
    facts = [duration(run.ended - run.started)] if run.ended else []
    facts += [money(round(run.cost * 1e6))] if run.cost is not None else []
    facts += [plural(run.agents, "agent")] if run.agents else []
    about = {
        "task": run.task,
        "repository": run.repository,
        "commit": run.commit,
        "model": run.model,
        "ended": run.stop_reason,
    }
    named = [(name, printable(value)) for name, value in about.items() if value]
    return {"run": {**vars(run), "task": headline(run.task), "facts": facts, "about": named}}


def _nothing(run_folder: Path) -> dict[str, Any]:
    """The first page of a run of which nothing is known."""
    name = run_folder.absolute().name
    run = {"id": name, "task": f"Run {name}", "status": "damaged", "facts": (), "about": ()}
    return {"run": run, "timeline": None, "agents": (), "depths": (), "patch": None, "answer": None, "page": ""}


def _patch(path: Path, faults: list[str]) -> dict[str, Any] | None:
    """The edits, file for file, coloured; `None` without any."""
    data = _file(path, faults)
    if not data:
        return None
    text = data.decode("utf-8", "replace")
    more = "" if len(text) <= PATCH else f"… and {len(text) - PATCH:,} characters more in changes.patch."
    pieces = re.split(r"^(?=diff --git )", text[:PATCH], flags=re.MULTILINE)
    files = [_edits(piece) for piece in pieces if piece.startswith("diff --git ")]
    return {"files": files, "more": more, "open": len(files) <= 10}


def _edits(piece: str) -> dict[str, Any]:
    head, *lines = piece.splitlines()
    name = head.removeprefix("diff --git ").partition(" b/")[2] or head
    counts = [sum(line.startswith(sign) and not line.startswith(sign * 3) for line in lines) for sign in "+-"]
    return {"name": printable(name), "added": counts[0], "removed": counts[1], "body": inert.code(piece, "diff")}


def _copied(source: Path, into: Path, faults: list[str]) -> list[str]:
    """The full texts of outputs that were too long for a notebook, as files beside the pages."""
    if source.is_symlink() or not source.is_dir():
        return []
    copied = []
    for path in sorted(source.glob("*.txt")):
        data = _file(path, faults)
        if data is None or not re.fullmatch(r"[A-Za-z0-9._-]+", path.name):
            continue
        try:
            into.mkdir(exist_ok=True)
            if into.is_symlink():
                raise NotADirectoryError(errno.ENOTDIR, "is a link, which is not followed")
        except OSError as error:
            raise RunFolderError(f"{into}: {error.strerror}") from error
        write(into / path.name, printable(data.decode("utf-8", "replace")))
        copied.append(f"outputs/{path.name}")
    return copied


def _file(path: Path, faults: list[str]) -> bytes | None:
    """What a file of the run holds, which anybody can have put there; `None` if there is none, or it has a fault."""
    try:
        # A link would lead out of the run, and opening a pipe would wait for whoever writes into it.
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(number, "rb") as file:  # noqa: PTH123
            status = os.fstat(number)
            if not stat.S_ISREG(status.st_mode):
                faults.append(f"{path}: is no file")
            elif status.st_size > LARGEST:
                faults.append(f"{path}: is too large to be shown: {status.st_size:,} bytes")
            else:
                return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        why = "is a link, which is not followed" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        faults.append(f"{path}: {why}")
    return None
