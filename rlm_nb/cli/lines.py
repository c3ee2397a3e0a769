"""A run as plain lines, one for each event worth telling: for logs, pipes and CI."""

from __future__ import annotations

from collections.abc import Iterator

from rlm_nb.cli.wording import answer_headline, head, outputs_text, tokens
from rlm_nb.notebook.wording import cut, duration, first_line, money, plural
from rlm_nb.records import (
    AgentEnded,
    AgentResult,
    AgentStarted,
    Attended,
    CellResult,
    CellStarted,
    Event,
    Iterated,
    Iteration,
    Notice,
    Usage,
)

WIDEST = 300
"""Characters of the longest line; the notebook has all of it."""


def told(event: Event, max_iterations: int) -> Iterator[str]:
    """The lines that tell the event; none for what only moves a progress display."""
    match event:
        case Notice(text=text):
            yield from head(text)
        case AgentStarted(task=task):
            yield f"started: {first_line(task.prompt)}"
        case Iterated(iteration=iteration):
            turn = (
                f"iteration {iteration.number}/{max_iterations}" if iteration.number <= max_iterations else "last turn"
            )
            yield f"{turn}: {_done(iteration)} ({_spent(iteration)})"
        case Attended(cell=cell):
            yield f"a person ran in its kernel: {first_line(cell.code, WIDEST)}"
        case AgentEnded(result=result):
            yield ended(result)


def detailed(event: Event) -> Iterator[str]:
    """What `--verbose` adds: the code of each cell as it starts, and what came of it."""
    match event:
        case CellStarted(code=code):
            yield from (f"  >>> {cut(line, WIDEST)}" for line in head(code))
        case Iterated(iteration=iteration):
            for cell in iteration.cells:
                yield from (f"  {cut(line, WIDEST)}" for line in head(outputs_text(cell.outputs)))


def ended(result: AgentResult) -> str:
    """How an agent ended, in a line."""
    took = f"{plural(result.iterations, 'iteration')}, {duration(result.ended - result.started)}, {money(result.cost)}"
    reason = first_line(result.outcome.stop_reason, WIDEST)
    said = reason if result.outcome.source == "none" else cut(answer_headline(result.answer), 100)
    return f"{result.status} after {took}: {said}"


def _done(iteration: Iteration) -> str:
    if not iteration.cells:
        return first_line(iteration.note or "no cell", WIDEST)
    bad = next((cell for cell in iteration.cells if cell.status != "ok"), None)
    ran = plural(len(iteration.cells), "cell")
    return f"{ran} ran" if bad is None else f"{ran} ran, the last {_trouble(bad)}"


def _trouble(cell: CellResult) -> str:
    what = {"error": "raised", "interrupted": "was interrupted", "timeout": "timed out", "died": "lost its kernel"}
    return f"{what.get(cell.status, cell.status)}: {first_line(cell.error or '', WIDEST)}".rstrip(": ")


def _spent(iteration: Iteration) -> str:
    usage: Usage = iteration.reply.usage
    return f"{duration(iteration.ended - iteration.started)}, {tokens(usage)} tokens, {money(iteration.reply.cost)}"
