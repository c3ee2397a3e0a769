"""The tree of agents as it stands at one moment, never higher than it may be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from rlm_nb.cli.progress import AgentProgress, Progress
from rlm_nb.cli.wording import answer_headline, tokens
from rlm_nb.notebook.wording import duration, headline, money, plural
from rlm_nb.records import Status, Usage

MARKS: dict[Status | None, tuple[str, str]] = {
    None: ("●", "cyan"),
    "completed": ("✓", "green"),
    "partial": ("◐", "yellow"),
    "error": ("✗", "red"),
}


def drawing(progress: Progress, now: float, height: int, max_iterations: int) -> Group:
    """A line on the whole run, and the tree of its agents below it, in at most `height` lines."""
    tree = Tree("", hide_root=True, guide_style="dim")
    branches = {"": tree}
    for row in _fitting(progress, now, height - 1, max_iterations):
        branches[row.name] = branches[row.parent].add(row.label)
    return Group(_whole(progress, now), tree)


@dataclass(frozen=True)
class _Row:
    """A line of the tree: an agent, or some that are only counted."""

    name: str
    parent: str
    label: Text


def _fitting(progress: Progress, now: float, height: int, max_iterations: int) -> list[_Row]:
    """Every agent if there is room, else those that run with the others counted, else as many as there is room for."""
    rows = [row for root in progress.roots for row in _rows(root, "", now, max_iterations, collapse=False)]
    if len(rows) > height:
        rows = [row for root in progress.roots for row in _rows(root, "", now, max_iterations, collapse=True)]
    if len(rows) > height:
        kept = max(0, height - 1)
        rows = [*rows[:kept], _Row("…", "", _label((f"… {len(rows) - kept} more lines", "dim")))]
    return rows


def _rows(agent: AgentProgress, parent: str, now: float, max_iterations: int, *, collapse: bool) -> Iterator[_Row]:
    """The agent and everything below it, parents first."""
    yield _Row(agent.name, parent, _agent(agent, now, max_iterations))
    ended = [child for child in agent.children if collapse and child.ended is not None]
    for child in agent.children:
        if child not in ended:
            yield from _rows(child, agent.name, now, max_iterations, collapse=collapse)
    if ended:
        everyone = [one for child in ended for one in (child, *child.descendants())]
        yield _Row(f"{agent.name}.ended", agent.name, _counted(everyone))


def _agent(agent: AgentProgress, now: float, max_iterations: int) -> Text:
    """Numbers first: what does not fit is cut off on the right, and words can spare it."""
    mark, colour = MARKS[agent.status]
    turns = f"{agent.iteration}/{max_iterations}" if agent.ended is None else plural(agent.iteration, "iteration")
    numbers = f" {turns}  {duration(agent.elapsed(now))}  {tokens(agent.usage)} tok  {money(agent.cost)}  "
    return _label((f"{mark} ", colour), (agent.name, "bold"), (numbers, "dim"), (_doing(agent), ""))


def _doing(agent: AgentProgress) -> str:
    if agent.result is not None:
        return f"{agent.result.status}: {answer_headline(agent.result.answer)}"
    if agent.waiting_for:
        return f"waiting for {plural(agent.waiting_for, 'sub-agent')}: {agent.activity}"
    return f"{agent.activity}: {headline(agent.task)}" if agent.iteration <= 1 and not agent.in_cell else agent.activity


def _counted(agents: list[AgentProgress]) -> Text:
    statuses = Counter(agent.status for agent in agents if agent.status is not None)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    return _label((f"{len(agents)} ended: {counts}, {money(sum(agent.cost for agent in agents))}", "dim"))


def _whole(progress: Progress, now: float) -> Text:
    """The run: how long, how many agents, what is spent and what is left."""
    agents, balance = progress.agents(), progress.balance
    if not agents:
        return _label(("starting …", "dim"))
    usage = sum((agent.usage for agent in agents), Usage())
    parts = [duration(agents[0].elapsed(now)), plural(len(agents), "agent"), f"{tokens(usage)} tok"]
    if balance is not None:
        left = "no limit" if balance.left_cost is None else f"{money(balance.left_cost)} left"
        parts.append(f"{money(balance.spent_cost)} spent, {left}")
    return _label(("  ".join(parts), "bold"))


def _label(*parts: tuple[str, str]) -> Text:
    """One line of plain text in styles; what a model wrote in it is not read as markup."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")
