"""Where each agent of a run stands, as far as its events tell: what the views draw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rlm_nb.cli.wording import code_headline
from rlm_nb.records import (
    AgentEnded,
    AgentResult,
    AgentStarted,
    Asked,
    Balance,
    CellStarted,
    Charged,
    Event,
    Iterated,
    Replied,
    Status,
    Usage,
)


@dataclass
class AgentProgress:
    """One agent.

    Args:
        name: Its path in the tree.
        started: When, in `time.monotonic()` seconds, as all times here.
        task: What it was asked to do.
        iteration: The turn it is at, from 1; 0 before the first.
        activity: What it does at this moment.
        in_cell: Whether a cell runs.
        cost: Micro-dollars of its own calls.
        usage: Tokens of its own calls.
        result: What it left behind; `None` while it runs, and when it failed too early to leave anything.
        ended: When it ended; `None` while it runs.
        children: The sub-agents that it started, in order.
    """

    name: str
    started: float
    task: str = ""
    iteration: int = 0
    activity: str = "starting"
    in_cell: bool = False
    cost: int = 0
    usage: Usage = field(default_factory=Usage)
    result: AgentResult | None = None
    ended: float | None = None
    children: list[AgentProgress] = field(default_factory=list)

    @property
    def waiting_for(self) -> int:
        """How many sub-agents its cell waits for."""
        return sum(child.ended is None for child in self.children) if self.in_cell else 0

    @property
    def status(self) -> Status | None:
        """How it ended; `None` while it runs."""
        if self.result is not None:
            return self.result.status
        return None if self.ended is None else "error"

    def elapsed(self, now: float) -> float:
        """Seconds since it started, or that it took."""
        return (self.ended or now) - self.started

    def descendants(self) -> Iterator[AgentProgress]:
        """Everything below it, parents before children."""
        for child in self.children:
            yield child
            yield from child.descendants()


class Progress:
    """A run as its events tell it."""

    def __init__(self) -> None:
        self.roots: list[AgentProgress] = []
        self.balance: Balance | None = None
        self._agents: dict[str, AgentProgress] = {}

    def take(self, event: Event, now: float) -> None:
        """Note what the event, which happened at `now`, changes."""
        agent = self.agent(event.agent, now)
        match event:
            case AgentStarted(task=task):
                agent.task = task.prompt
            case Asked(number=number):
                agent.iteration, agent.activity = number, "asking the model"
            case Replied():
                agent.activity = "reading the reply"
            case CellStarted(code=code):
                agent.in_cell, agent.activity = True, code_headline(code)
            case Iterated(iteration=iteration):
                answered = bool(iteration.cells) and iteration.cells[-1].final is not None
                agent.in_cell, agent.activity = False, "answered" if answered else "between turns"
                _end_those_below(agent, now)
            case Charged(cost=cost, usage=usage, balance=balance):
                agent.cost, agent.usage = cost, usage
                # Agents' threads race from the ledger to here: the balance with the most calls is the latest.
                if self.balance is None or balance.calls >= self.balance.calls:
                    self.balance = balance
            case AgentEnded(result=result):
                agent.result, agent.ended, agent.in_cell = result, now, False
                agent.cost, agent.usage, agent.iteration = result.cost, result.usage, result.iterations
                _end_those_below(agent, now)

    def agent(self, name: str, now: float) -> AgentProgress:
        """The agent of that path; one that was not heard of before starts now."""
        if name not in self._agents:
            agent = self._agents[name] = AgentProgress(name, now)
            parent = self._agents.get(name.rpartition(".")[0])
            siblings = parent.children if parent else self.roots
            siblings.append(agent)
            siblings.sort(key=_place)  # those of a batch are heard of in any order
        return self._agents[name]

    def agents(self) -> list[AgentProgress]:
        """Every agent, parents before children."""
        return [agent for root in self.roots for agent in (root, *root.descendants())]


def _place(agent: AgentProgress) -> list[int]:
    """root.2 before root.10."""
    return [int(part) for part in agent.name.split(".")[1:]]


def _end_those_below(agent: AgentProgress, now: float) -> None:
    # A sub-agent that could not even begin ends in an exception of its parent's cell, without a result.
    for one in agent.descendants():
        if one.ended is None:
            one.ended, one.in_cell, one.activity = now, False, "failed to begin"
