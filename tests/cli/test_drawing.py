from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from rlm_nb.cli.drawing import drawing
from rlm_nb.cli.progress import Progress
from rlm_nb.records import (
    AgentEnded,
    AgentResult,
    AgentStarted,
    Answer,
    Asked,
    Balance,
    CellStarted,
    Charged,
    Iterated,
    Iteration,
    Notice,
    Outcome,
    Patch,
    Reply,
    Status,
    Task,
    Usage,
)


def drawn(progress: Progress, *, height: int = 20, width: int = 120, now: float = 65.0) -> list[str]:
    """The lines of the drawing, without colours."""
    console = Console(file=io.StringIO(), width=width)
    console.print(drawing(progress, now, height, 50))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n").split("\n")


def ended(agent: str, status: Status = "completed", answer: str = "done") -> AgentEnded:
    outcome = Outcome(status, Answer.of(answer), "final", "FINAL was called")
    return AgentEnded(
        agent, AgentResult(agent, outcome, Patch(), Path("x"), cost=10_000, usage=Usage(500), iterations=3)
    )


@pytest.fixture
def progress() -> Progress:
    """A root that waits for two sub-agents, of which one has ended."""
    progress = Progress()
    for now, event in enumerate(
        [
            AgentStarted("root", Task("Find bugs.")),
            Asked("root", 1),
            Charged("root", 20_000, Usage(1000, 200), Balance(20_000, 0, 5_000_000, calls=1)),
            CellStarted("root", 1, 1, "# fan out\nrlm_query_batched(tasks)"),
            AgentStarted("root.1", Task("Read the parser.")),
            AgentStarted("root.2", Task("Read the writer.")),
            Asked("root.1", 1),
            ended("root.2", answer="no bugs"),
        ]
    ):
        progress.take(event, float(now))
    return progress


def test_the_tree_tells_who_does_what(progress: Progress) -> None:
    """A line for the run with what is left, and one for each agent below its parent."""
    whole, root, first, second = drawn(progress)
    assert "1m05s" in whole
    assert "3 agents" in whole
    assert "$0.0200 spent, $4.98 left" in whole
    assert root.startswith("● root 1/50  1m05s  1.2k tok  $0.0200  waiting for 1 sub-agent: rlm_query_batched(tasks)")
    assert first == "├── ● root.1 1/50  1m01s  0 tok  $0.00  asking the model: Read the parser."
    assert second == "└── ✓ root.2 3 iterations  2.0s  500 tok  $0.0100  completed: no bugs"


def test_what_a_model_wrote_is_only_text(progress: Progress) -> None:
    """Markup is shown as it is written, escape sequences are not shown at all."""
    progress.take(CellStarted("root.1", 1, 1, "print('[bold red]\x1b[2J[/] [link=x]')"), 9.0)
    assert drawn(progress)[2].endswith("print('[bold red][/] [link=x]')")


def test_lines_are_cut_at_the_terminals_edge(progress: Progress) -> None:
    """The numbers survive, the words give way."""
    progress.take(CellStarted("root.1", 1, 1, "x" * 500), 9.0)
    lines = drawn(progress, width=60)
    assert len(lines) == 4
    assert all(len(line) <= 60 for line in lines)
    assert lines[2].startswith("├── ● root.1 1/50  1m01s  0 tok  $0.00  xxx")
    assert lines[2].endswith("…")


def test_those_that_ended_are_counted_when_there_are_many(progress: Progress) -> None:
    """Agents that run are shown rather than agents that ended."""
    for number in range(3, 40):
        progress.take(AgentStarted(f"root.{number}", Task("Read.")), 10.0)
        progress.take(ended(f"root.{number}", "error" if number == 7 else "completed"), 11.0)
    lines = drawn(progress, height=10)
    assert [line.split()[:3] for line in lines[1:-1]] == [["●", "root", "1/50"], ["├──", "●", "root.1"]]
    assert lines[-1] == "└── 38 ended: 37 completed, 1 error, $0.38"


@pytest.mark.parametrize("height", [2, 3, 10, 30])
def test_never_higher_than_the_terminal(progress: Progress, height: int) -> None:
    """Fifty agents that all run: as many as there is room for, and how many lines are missing."""
    for number in range(3, 53):
        progress.take(AgentStarted(f"root.{number}", Task("Read.")), 10.0)
    lines = drawn(progress, height=height)
    assert len(lines) == height
    assert lines[-1] == f"… {53 + 1 - (height - 2) - 1} more lines"


def test_an_agent_between_its_cells_waits_for_nobody(progress: Progress) -> None:
    """Once its cell is over it is no longer the sub-agents that it waits for."""
    progress.take(Iterated("root", Iteration("root", 1, "", Reply(""))), 9.0)
    progress.take(Asked("root", 2), 9.0)
    assert "2/50" in drawn(progress)[1]
    assert drawn(progress)[1].endswith("asking the model")


def test_a_sub_agent_that_never_began(progress: Progress) -> None:
    """It has no result; it is over when the cell that asked for it is."""
    progress.take(Iterated("root", Iteration("root", 1, "", Reply(""))), 9.0)
    assert drawn(progress)[2].startswith("├── ✗ root.1 1 iteration  5.0s")


def test_events_out_of_order() -> None:
    """Threads race: a child may be heard of before its parent, an old balance after a new one."""
    progress = Progress()
    assert drawn(progress) == ["starting …"]
    progress.take(Notice("root.1", "hello"), 0.0)
    progress.take(Charged("root", 1, Usage(), Balance(30_000, 0, 1_000_000, calls=3)), 0.0)
    progress.take(Charged("root.1", 1, Usage(), Balance(20_000, 0, 1_000_000, calls=2)), 0.0)
    lines = drawn(progress)
    assert "$0.97 left" in lines[0]
    assert len(lines) == 3


def test_sub_agents_stand_in_their_order() -> None:
    """Those of a batch begin in any order."""
    progress = Progress()
    for name in ("root", "root.10", "root.2", "root.1"):
        progress.take(AgentStarted(name, Task("Read.")), 0.0)
    assert [child.name for child in progress.roots[0].children] == ["root.1", "root.2", "root.10"]
