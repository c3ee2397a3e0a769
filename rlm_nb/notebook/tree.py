"""The agents of a run as a tree, put together from whatever notebooks are there; a task is a tree of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.style import Style
from rich.text import Text
from rich.tree import Tree

from rlm_nb.errors import NotebookError
from rlm_nb.notebook.names import AGENT, place
from rlm_nb.notebook.reader import read, read_task
from rlm_nb.notebook.wording import duration, first_line, money, plural
from rlm_nb.records import Status


@dataclass(frozen=True)
class Node:
    """An agent in the tree.

    Args:
        agent: Its path in the tree.
        notebook: Its notebook, which need not exist.
        status: How it ended; `unfinished` while it goes on or when it was killed, for a notebook does not know which:
            see `at_work`; `damaged` when nobody can tell.
        task: The first line of its task.
        iterations: How many are complete; of a task, how often it asked the model.
        cost: Micro-dollars, its own calls only.
        seconds: From its start to its end, or to the last sign of life.
        fault: What is wrong with the notebook, or `None`.
        children: The sub-agents, in order.
        turn: What one of its iterations is called.
    """

    agent: str
    notebook: Path
    status: Status | Literal["running", "unfinished", "damaged"]
    task: str = ""
    iterations: int = 0
    cost: int = 0
    seconds: float = 0.0
    fault: str | None = None
    children: tuple[Node, ...] = ()
    turn: Literal["iteration", "call"] = "iteration"


def tree(run_folder: Path) -> Node:
    """Read all notebooks of a run, which may be going on or have crashed; damaged ones are named, not fatal.

    Raises:
        NotebookError: The folder holds no run.
    """
    below: dict[str, set[str]] = {}
    for path in run_folder.glob("*.ipynb"):
        agent = path.stem
        while AGENT.fullmatch(agent) and agent not in below.get(parent := agent.rpartition(".")[0], ()):
            below.setdefault(parent, set()).add(agent)
            agent = parent
    if not below and (task := run_folder / "task.ipynb").exists():
        return _task(task)
    if not below:
        raise NotebookError(f"{run_folder}: there is no run here (no root.ipynb)")
    return _node("root", below, run_folder)


def at_work(node: Node) -> Node:
    """The tree of a run that is known to go on: who has not ended yet runs."""
    status = "running" if node.status == "unfinished" else node.status
    return replace(node, status=status, children=tuple(map(at_work, node.children)))


def everyone(node: Node) -> Iterator[Node]:
    """An agent and all below it, each before its sub-agents."""
    yield node
    for child in node.children:
        yield from everyone(child)


def as_text(node: Node) -> str:
    """The tree in plain lines, each with the path of its notebook."""
    return "\n".join(_lines(node, "", ""))


def as_rich(node: Node) -> Tree:
    """The tree for a terminal, where an agent's name opens its notebook."""
    branch = Tree(_label(node))
    for child in node.children:
        branch.children.append(as_rich(child))
    return branch


def _node(agent: str, below: Mapping[str, set[str]], folder: Path) -> Node:
    """The agent and those below it.

    Args:
        agent: Its path in the tree.
        below: For each agent whose sub-agents left notebooks, or left some below them, the paths of those.
        folder: Where the notebooks are.
    """
    path = folder / f"{agent}.ipynb"
    found = below.get(agent, set())
    try:
        if path.is_symlink():
            raise NotebookError(f"{path}: is a link, which is not followed")
        recorded = read(path)
        last_sign = recorded.ended or path.stat().st_mtime
    except (NotebookError, OSError) as error:
        fault = first_line(str(error).removeprefix(f"{path}: "))
        return Node(agent, path, "damaged", fault=fault, children=_children(found, below, folder))
    named = {name for name in recorded.children if AGENT.fullmatch(name) and name.rpartition(".")[0] == agent}
    return Node(
        agent,
        path,
        recorded.outcome.status if recorded.outcome else "unfinished",
        first_line(recorded.task.prompt),
        len(recorded.iterations),
        recorded.cost,
        max(0.0, last_sign - recorded.started),
        # A sub-agent that is named here and left no notebook belongs in the tree as well.
        children=_children(found | named, below, folder),
    )


def _task(path: Path) -> Node:
    try:
        if path.is_symlink():
            raise NotebookError(f"{path}: is a link, which is not followed")
        task = read_task(path)
        last_sign = task.ended or path.stat().st_mtime
    except (NotebookError, OSError) as error:
        return Node("task", path, "damaged", fault=first_line(str(error).removeprefix(f"{path}: ")))
    status = "unfinished" if task.status == "running" else task.status
    seconds = max(0.0, last_sign - task.started)
    return Node("task", path, status, first_line(task.name), task.calls, task.cost, seconds, turn="call")


def _children(names: set[str], below: Mapping[str, set[str]], folder: Path) -> tuple[Node, ...]:
    return tuple(_node(name, below, folder) for name in sorted(names, key=place))


def _lines(node: Node, first: str, rest: str) -> Iterator[str]:
    yield f"{first}{' · '.join([node.agent, *facts(node), str(node.notebook)])}"
    for child in node.children:
        last = child is node.children[-1]
        yield from _lines(child, rest + ("└── " if last else "├── "), rest + ("    " if last else "│   "))


def _label(node: Node) -> Text:
    name = Text(node.agent, Style(bold=True, link=node.notebook.absolute().as_uri()))
    status, *others = facts(node)
    label = Text(" · ", no_wrap=True, overflow="ellipsis")
    return label.join([name, Text(status, _COLOURS[node.status]), *map(Text, others)])


_COLOURS = {
    "completed": "green",
    "partial": "yellow",
    "error": "red",
    "running": "cyan",
    "unfinished": "cyan",
    "damaged": "red",
}


def facts(node: Node) -> list[str]:
    """What there is to say of an agent in a line: how it ended, how long it took, what it cost, what it was asked."""
    if node.fault:
        return [node.status, node.fault]
    return [node.status, plural(node.iterations, node.turn), money(node.cost), duration(node.seconds), node.task]
