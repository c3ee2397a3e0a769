"""A copy of a run's record as it was at an earlier moment: right after one iteration of one of its agents."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rlm_nb.errors import RunFolderError
from rlm_nb.notebook import layout
from rlm_nb.notebook.document import Document
from rlm_nb.notebook.journal import Journal, journal_of
from rlm_nb.notebook.metadata import Child, Head, Node, Recorded, write_notebook
from rlm_nb.notebook.reader import read, read_cells
from rlm_nb.notebook.replay_cell import REPLAY, replay_cell
from rlm_nb.records import CellResult, Iteration, Patch, Usage
from rlm_nb.workspace import repository
from rlm_nb.workspace.worktree import writing

_CELL = re.compile(r"it-(\d+)-code-(\d+)$")


@dataclass(frozen=True)
class Place:
    """A moment in an agent's work.

    Args:
        agent: Its path in the tree.
        iteration: The last one that is complete.
        cell: The cell of the next one that runs; 0 when the model has not been asked for that yet.
    """

    agent: str
    iteration: int
    cell: int = 0

    def is_before(self, cell: tuple[int, int]) -> bool:
        """Whether this moment comes before a cell, given by its iteration and its place in that, has begun to run."""
        return (self.iteration + 1, self.cell) < cell


def prune(folder: Path, to: Path, agent: str, iteration: int, notice: str) -> None:
    """Copy a run's record as if the run had been broken off when an agent had just completed an iteration.

    The agents above it stand in the cell that they had started it from; sub-agents that this cell had started beside it
    are as they ended.

    Args:
        folder: The folder of the run.
        to: The folder of the new one, which has no record yet.
        agent: The agent's path in the tree.
        iteration: The number of the iteration; 0 for before the first.
        notice: What a person is to know of this, in the notebooks that are cut short.

    Raises:
        RunFolderError: There is no such agent or iteration, or the copy cannot be written.
        NotebookError: A notebook cannot be read.
        GitError: The run's repository cannot be copied.
    """
    recorded = {path.stem: read(path) for path in sorted(folder.glob("root*.ipynb"))}
    if agent not in recorded:
        raise RunFolderError(f"{folder} has no notebook of an agent {agent}; it has {', '.join(recorded)}")
    complete = len(recorded[agent].iterations)
    if not 0 <= iteration <= complete:
        raise RunFolderError(
            f"{agent} has {complete} complete iterations: there is no iteration {iteration} to fork at"
        )
    cut = {place.agent: place for place in _line(recorded, Place(agent, iteration))}
    kept = [name for name in recorded if name in cut or _is_kept(name, recorded, cut)]
    with writing(to):
        repository.duplicate(
            folder.resolve() / "ctl.git", to / "ctl.git", {f"refs/rlm/{n}" for n in kept if n not in cut}
        )
        for name in kept:
            below = next((recorded[other].task.prompt for other in cut if other.rpartition(".")[0] == name), "")
            _copy(folder, to, recorded[name], cut.get(name), kept, notice, below)
            for text in (folder / "outputs").glob(f"{name}-cell-*.txt"):
                (to / "outputs").mkdir(exist_ok=True)
                if text.is_file() and not text.is_symlink():
                    shutil.copyfile(text, to / "outputs" / text.name)


def rewind(folder: Path, agent: str, iteration: int) -> str:
    """Cut an agent's own notebook short, in its place: what came after that iteration is kept in `undone/`.

    Returns what a person is to know of it, in a sentence.

    Args:
        folder: The folder of the run.
        agent: The agent's path in the tree.
        iteration: The number of the iteration; 0 for before the first.

    Raises:
        RunFolderError: There is no such iteration, or the notebook cannot be written.
        NotebookError: It cannot be read.
    """
    path = folder / f"{agent}.ipynb"
    recorded, place = read(path), Place(agent, iteration)
    if not 0 <= iteration <= len(recorded.iterations):
        raise RunFolderError(f"{agent} has {len(recorded.iterations)} iterations: there is no iteration {iteration}")
    with writing(folder):
        undone = _new_folder(folder / "undone")
        shutil.copyfile(path, undone / path.name)
        gone = [one for one in _children(folder, agent) if place.is_before(_started_in(read(one)))]
        for child in gone:
            for each in [child, *folder.glob(f"{child.stem}.*.ipynb")]:
                each.rename(undone / each.name)
                journal_of(each).unlink(missing_ok=True)
        journal_of(path).unlink(missing_ok=True)
        document = Document(path)
        head = _cut_head(recorded, place, {one.stem for one in _children(folder, agent)})
        document.describe(lambda: (layout.head(head), write_notebook(head)))
        for cell in read_cells(path):
            if cell["id"] != layout.HEAD and (shown := _cut(cell, place)):
                document.put(shown)
        document.save()
    return f"It was taken back to iteration {iteration}; what came after that is in {undone.relative_to(folder)}"


def _new_folder(within: Path) -> Path:
    within.mkdir(exist_ok=True)
    number = len(list(within.iterdir())) + 1
    (within / str(number)).mkdir()
    return within / str(number)


def _children(folder: Path, agent: str) -> list[Path]:
    return [path for path in folder.glob(f"{agent}.*.ipynb") if "." not in path.stem.removeprefix(f"{agent}.")]


def _cut_head(recorded: Recorded, place: Place, kept: Container[str]) -> Head:
    """What a notebook says of an agent that stands at a place."""
    head = Head(**{field.name: getattr(recorded, field.name) for field in fields(Head)})
    return replace(
        head,
        state="unfinished",
        outcome=None,
        patch=Patch(),
        ended=time.time(),
        turn=place.iteration,
        subagents=tuple(child for child in head.subagents if child.agent in kept),
    )


def _line(recorded: dict[str, Recorded], place: Place) -> Iterator[Place]:
    """The place, and where each agent above it stands at that moment."""
    yield place
    while "." in place.agent:
        number, index = _started_in(recorded[place.agent])
        place = Place(place.agent.rpartition(".")[0], number - 1, index)
        yield place


def _started_in(child: Recorded) -> tuple[int, int]:
    """The iteration and the cell that a sub-agent was started from."""
    found = _CELL.search(child.parent or "")
    if found is None:
        raise RunFolderError(f"the notebook of {child.task.agent} does not say which cell it was started from")
    return int(found[1]), int(found[2])


def _is_kept(name: str, recorded: dict[str, Recorded], cut: dict[str, Place]) -> bool:
    """Whether an agent that is not cut short had been started by that moment, all above it included."""
    while "." in name:
        parent = name.rpartition(".")[0]
        if parent in cut:
            return not cut[parent].is_before(_started_in(recorded[name]))
        name = parent
    return False


def _copy(
    folder: Path, to: Path, recorded: Recorded, place: Place | None, kept: Container[str], notice: str, below: str
) -> None:
    """Copy a notebook, cut short at its place; `below` is the task of the sub-agent that it waits for there."""
    agent = recorded.task.agent
    path = to / f"{agent}.ipynb"
    document = Document(path)
    cells = read_cells(folder / path.name)
    head = Head(**{field.name: getattr(recorded, field.name) for field in fields(Head)})
    if place is not None:
        head = _cut_head(recorded, place, kept)
        head = replace(head, notices=(*head.notices, notice), started=time.time())
        cells = [shown for cell in cells if (shown := _cut(cell, place))]
        _keep_calls(path, recorded, place, below)
    # What is shared was paid by the other run.
    unpaid = tuple(map(_unpaid, head.subagents))
    head = replace(head, about={**head.about, "run": to.name}, cost=0, total_cost=0, usage=Usage(), subagents=unpaid)
    document.describe(lambda: (layout.head(head), write_notebook(head)))
    for cell in cells:
        if cell["id"] != layout.HEAD:
            document.put(replay_cell(path.name, to.name) if cell["id"] == REPLAY else cell)
    document.save()


def _unpaid(child: Child) -> Child:
    return replace(child, cost=0, own_cost=0, read=0, written=0, children=tuple(map(_unpaid, child.children)))


def _cut(cell: Node, place: Place) -> Node | None:
    """A cell as it was at that moment; `None` for one that was not there yet."""
    rlm: dict[str, Any] = cell["metadata"].get("rlm", {})
    number, index = rlm.get("number", 0), rlm.get("index", 0)
    if cell["id"] in (layout.FINAL, layout.TIMELINE) or number > place.iteration + (place.cell > 0):
        return None
    if "aside" in rlm:  # among the cells of the one that is cut, nobody knows any more after which
        return cell if number <= place.iteration else None
    if number <= place.iteration or 0 < index < place.cell:
        return cell
    if not index:
        return {**cell, "metadata": {**cell["metadata"], "rlm": {**rlm, "complete": False}}}
    if cell["cell_type"] != "code":
        return None  # what a cell asked is told when it has ended
    return layout.waiting(number, index, cell["source"], "running" if index == place.cell else "pending")


def _keep_calls(path: Path, recorded: Recorded, place: Place, below: str) -> None:
    """What the cell that runs at that moment had been answered goes where such answers are: into the journal."""
    cell = _running(recorded, place)
    if cell is None:
        return
    with Journal(path) as journal:
        for call in cell.calls:
            if call.name == "rlm_query" and below in call.arguments.get("tasks", ()):
                break  # this one is still waiting
            journal.called(call, layout.code_id(place.iteration + 1, place.cell))


def _running(recorded: Recorded, place: Place) -> CellResult | None:
    iterations: list[Iteration] = [*recorded.iterations, *([recorded.begun] if recorded.begun else [])]
    for iteration in iterations:
        if place.cell and iteration.number == place.iteration + 1 and place.cell <= len(iteration.cells):
            return iteration.cells[place.cell - 1]
    return None
