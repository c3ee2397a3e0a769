"""What the folder of a run still knows of each of its agents, wherever the run was broken off."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlm_nb.agent import reply as replies
from rlm_nb.errors import RunFolderError
from rlm_nb.notebook.journal import Entries, journal_of, read_journal
from rlm_nb.notebook.layout import aside_id, code_id
from rlm_nb.notebook.metadata import Recorded
from rlm_nb.notebook.reader import read
from rlm_nb.records import (
    AgentResult,
    Answer,
    BridgeCall,
    CellResult,
    Iteration,
    Kept,
    Outcome,
    Usage,
)

NEVER_ENDED = Outcome(
    "error", Answer.of("It was broken off, and nobody asked for it again."), "none", "It never ended."
)


@dataclass(frozen=True)
class BrokenOff:
    """A cell that had begun to run, or has ended without its result having been put on record.

    Args:
        code: The cell.
        calls: What it had been answered.
        replies: What models had answered it, of a batch that was not answered as a whole.
        agents: The sub-agents that it had started, and not heard of: their tasks by their numbers.
    """

    code: str
    calls: tuple[BridgeCall, ...]
    replies: tuple[Kept, ...]
    agents: Mapping[int, str]


@dataclass(frozen=True)
class Recalled:
    """One agent, as far as it had come.

    Args:
        notebook: Its notebook.
        recorded: What that holds.
        iterations: The complete ones.
        begun: One whose reply is there, and whose cells are still to be run, from the first one that is not in it.
        broken_off: Those of these cells of which something is known.
        children: The notebooks of its sub-agents by their numbers, but for those that `broken_off` waits for.
    """

    notebook: Path
    recorded: Recorded
    iterations: tuple[Iteration, ...]
    begun: Iteration | None
    broken_off: tuple[BrokenOff, ...]
    children: Mapping[int, Path]

    @property
    def has_ended(self) -> bool:
        """Whether it came to an end of its own, good or bad."""
        return self.recorded.outcome is not None and not self.recorded.outcome.stopped

    @property
    def needs_nothing(self) -> bool:
        """Whether it is done: a sub-agent that has ended, or a root that has completed its task."""
        outcome = self.recorded.outcome
        return (
            outcome is not None and self.has_ended and (self.recorded.task.depth > 0 or outcome.status == "completed")
        )

    @property
    def base(self) -> str:
        """The commit that its worktree started from. Raises `RunFolderError`."""
        base = self.recorded.start.get("base")
        if not isinstance(base, str) or not base:
            raise RunFolderError(f"{self.notebook}: does not say what it started from: an older version recorded it")
        return base

    @property
    def end(self) -> str:
        """The commit that holds the files as it left them; empty when it has not ended, or is to run a cell again."""
        return self.recorded.patch.commit if self.recorded.outcome is not None and self.begun is None else ""

    @property
    def cells(self) -> list[CellResult]:
        """All that have run, those of people who were attached included, in order."""
        iterations = [*self.iterations, *([self.begun] if self.begun else [])]
        own = [cell for iteration in iterations for cell in iteration.cells]
        return sorted([*own, *self.recorded.asides], key=lambda cell: cell.number) if self.recorded.asides else own

    @property
    def untold(self) -> list[CellResult]:
        """What people ran that the model has not been told of."""
        iterations = [*self.iterations, *([self.begun] if self.begun else [])]
        asked = max((iteration.started for iteration in iterations), default=0.0)
        return [cell for cell in self.recorded.asides if cell.ended > asked]

    @property
    def ids(self) -> dict[int, str]:
        """The ids of its cells in the notebook, by their numbers."""
        iterations = [*self.iterations, *([self.begun] if self.begun else [])]
        own = {
            cell.number: code_id(iteration.number, index)
            for iteration in iterations
            for index, cell in enumerate(iteration.cells, 1)
        }
        return own | {cell.number: aside_id(cell.number) for cell in self.recorded.asides}

    @property
    def highest(self) -> int:
        """The highest number of a sub-agent of it."""
        return max([0, *self.children, *(number for cell in self.broken_off for number in cell.agents)])


def recall(notebook: Path, *, again: bool = True) -> Recalled:
    """What is known of the agent with this notebook.

    Args:
        notebook: The notebook.
        again: Whether a cell that was stopped with the run is one that is still to be run.

    Raises:
        NotebookError: It cannot be read.
        RunFolderError: The journal beside it cannot.
    """
    recorded, entries = read(notebook), read_journal(notebook)
    iterations, begun = recorded.iterations, recorded.begun
    if begun is None:
        begun = _only_in_the_journal(recorded, entries)
    if begun is None and iterations and again and _is_to_run_again(recorded):
        *before, last = iterations
        iterations, begun = tuple(before), replace(last, cells=last.cells[:-1])
    children = _children(notebook)
    broken_off = _broken_off(notebook, begun, entries, children) if begun else ()
    waited_for = {number for cell in broken_off for number in cell.agents}
    heard_of = {number: path for number, path in children.items() if number not in waited_for}
    return Recalled(notebook, recorded, iterations, begun, broken_off, heard_of)


def _broken_off(
    notebook: Path, begun: Iteration, entries: Entries, children: Mapping[int, Path]
) -> tuple[BrokenOff, ...]:
    """What is known of the cells that are to run: one after the other, since a cell begins once the last has ended."""
    cells = []
    recorded = {number: read(path) for number, path in children.items()}
    code = begun.code
    if code is None:
        code = replies.cells(begun.reply.text, begun.reply.stop_reason).code
    for index in range(len(begun.cells) + 1, len(code) + 1):
        cell = code_id(begun.number, index)
        calls = tuple(call for place, call in entries.calls if place == cell)
        said = [kept for place, kept in entries.asides if place == cell]
        agents = _unheard_of(f"{notebook.name}#cell-id={cell}", recorded, calls)
        cells.append(BrokenOff(code[index - 1], calls, tuple(_unheard(said, calls)), agents))
    return tuple(cells)


def _only_in_the_journal(recorded: Recorded, entries: Entries) -> Iteration | None:
    """The turn whose reply had come, and had not reached the notebook."""
    following = recorded.iterations[-1].number + 1 if recorded.iterations else 1
    for kept in entries.turns:
        if kept.request.turn == following:
            message = kept.request.messages[-1].content
            return Iteration(recorded.task.agent, following, message, kept.reply, finishing=kept.finishing)
    return None


def _is_to_run_again(recorded: Recorded) -> bool:
    """Whether its last cell was stopped with the run, rather than for a limit of its own."""
    cells = recorded.iterations[-1].cells
    stopped = recorded.outcome is None or recorded.outcome.stopped
    return stopped and bool(cells) and cells[-1].may_go_on


def _children(notebook: Path) -> dict[int, Path]:
    """The notebooks of an agent's sub-agents, by their numbers."""
    pattern = re.compile(re.escape(notebook.stem) + r"\.([1-9][0-9]{0,8})")
    found = {int(match[1]): path for path in notebook.parent.glob("*.ipynb") if (match := pattern.fullmatch(path.stem))}
    return dict(sorted(found.items()))


def _unheard_of(place: str, children: Mapping[int, Recorded], calls: Sequence[BridgeCall]) -> dict[int, str]:
    """The sub-agents that a cell had started, and that none of its answered calls is about."""
    waiting = {number: child.task.prompt for number, child in children.items() if child.parent == place}
    agents = {number: child.task.agent for number, child in children.items()}
    for call in calls:
        if call.name != "rlm_query":
            continue
        heard = {str(result.get("agent")) for result in call.answer or ()}
        for number in [number for number in waiting if agents[number] in heard]:
            del waiting[number]
        if call.error is not None:  # its only task failed; the error does not say in whose hands
            prompt = next(iter(call.arguments.get("tasks", ())), None)
            for number in [number for number, task in waiting.items() if task == prompt][:1]:
                del waiting[number]
    return waiting


def _unheard(replies: list[Kept], calls: Sequence[BridgeCall]) -> list[Kept]:
    """The replies that none of the answered calls has brought to the cell."""
    for call in calls:
        if call.name == "llm_query":
            for prompt in call.arguments.get("prompts", ()):
                for kept in replies:
                    if kept.request.messages[-1].content == prompt:
                        replies.remove(kept)
                        break
    return replies


def result_of(recalled: Recalled, patch_text: str) -> AgentResult:
    """What an agent left that had ended before, with everything below it.

    Args:
        recalled: The agent.
        patch_text: Its edits, which the notebook does not hold.
    """
    recorded = recalled.recorded
    children = tuple(result_of(recall(path), "") for path in recalled.children.values())
    return AgentResult(
        agent=recorded.task.agent,
        outcome=recorded.outcome or NEVER_ENDED,
        patch=replace(recorded.patch, text=patch_text),
        notebook=recalled.notebook,
        cost=recorded.cost,
        total_cost=recorded.total_cost or recorded.cost + sum(child.total_cost for child in children),
        usage=recorded.usage,
        iterations=len(recalled.iterations),
        children=children,
        started=recorded.started,
        ended=recorded.ended,
        task=recorded.task.prompt,
    )


def unsettled(folder: Path) -> dict[str, tuple[int, Usage]]:
    """What the calls took that a run's agents have the replies of, by their reservations: money and tokens."""
    known = {}
    for notebook in _notebooks(folder):
        entries = read_journal(notebook)
        for kept in (*entries.turns, *(kept for _, kept in entries.asides)):
            if kept.lease and kept.reply.counted:
                known[kept.lease] = (kept.reply.cost, kept.reply.usage)
    return known


def _notebooks(folder: Path) -> Iterator[Path]:
    for path in folder.glob("root*.ipynb"):
        if journal_of(path).is_file():
            yield path
