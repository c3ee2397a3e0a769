"""What an agent says to its model: the texts beside this file, filled in.

Nothing that changes from turn to turn goes into the system prompt, so that it can be cached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from string import Template

from rlm_nb.config import RLMSettings
from rlm_nb.records import CellResult, Iteration, Task

LEAST_SHOWN = 200
"""Characters of a cell's output that are shown in any case."""

MOST_ATTENDED, CODE_SHOWN = 10, 2000
"""Cells of a person's that a message tells of, and characters of each; the notebook has all of them."""

CONTEXT = ", and `context`, the text that you were given, with `context_search(context, pattern)` and its kin"

Shown = Callable[[CellResult, int], str]


class Prompts:
    """The texts of one agent.

    Args:
        task: What it is asked to do.
        settings: The limits that it is told.
        functions: The help for each function in its REPL, by name with parameters.
        facts: What it is told of its surroundings, one sentence each.
        status: Tells what is left of the budget, in a few words; asked anew each turn.
        system: The system prompt of an agent that goes on, as it was sent; made anew without it.
    """

    def __init__(
        self,
        task: Task,
        settings: RLMSettings,
        functions: Mapping[str, str],
        facts: Sequence[str],
        status: Callable[[], str],
        system: str = "",
    ) -> None:
        self._task, self._settings, self._facts, self._status = task, settings, facts, status
        self._system = system or _fill(
            "system",
            functions="\n".join(f"- `{name}`: {help_text}" for name, help_text in functions.items()),
            context_name=CONTEXT if task.context else "",
            limit=f"{settings.result_truncation_limit:,}",
            delegation=self._delegation(),
        )

    def system(self) -> str:
        """The system prompt: the same for each turn of an agent, and for each agent of a depth."""
        return self._system

    def opening(self) -> str:
        """The first message."""
        return _fill("opening", task=self._task.prompt.strip(), facts="\n".join(f"- {fact}" for fact in self._facts))

    def after(self, iteration: Iteration, number: int, shown: Shown) -> str:
        """The message that brings what the cells of an iteration did."""
        # One limit for all cells of a reply, or many small ones would make a message that no model takes.
        limit = max(LEAST_SHOWN, self._settings.result_truncation_limit // max(1, len(iteration.cells)))
        parts = [_output(cell, shown(cell, limit)) for cell in iteration.cells]
        if iteration.note:
            parts.append(iteration.note)
        left = self._settings.max_iterations - number
        parts.append(f"[{left} turn{'s' if left != 1 else ''} left. {self._status()}]")
        return "\n\n".join(parts)

    def attended(self, message: str, cells: Sequence[CellResult], shown: Shown) -> str:
        """The message, and what people who are attached to the kernel have run there in the meantime."""
        told = cells[-MOST_ATTENDED:]
        limit = max(LEAST_SHOWN, self._settings.result_truncation_limit // len(told))
        parts = []
        for cell in told:
            more = len(cell.code) - CODE_SHOWN
            code = f"{cell.code[:CODE_SHOWN]}\n# … {more:,} more characters" if more > 0 else cell.code
            parts.append(f"Cell {cell.number}:\n\n{_fenced(code, 'python')}\n\n{_output(cell, shown(cell, limit))}")
        earlier = f" These are the last {len(told)} of {len(cells)} cells." if len(cells) > len(told) else ""
        # Whatever else is left out: that a kernel has ended, and another one has nothing of its variables, is not.
        if lost := [event for cell in cells[: -len(told)] for event in cell.events]:
            earlier += "\n\nOf those before them: " + " ".join(dict.fromkeys(lost))
        return f"{message}\n\n{_fill('attended', cells=_NEXT.join(parts), earlier=earlier)}"

    def resumed(self, message: str, differing: Sequence[str] | None, said: str = "") -> str:
        """The message of an agent that goes on after its run was broken off.

        Args:
            message: What it is told otherwise.
            differing: What of its kernel and its files is not as it was; `None` when it had done nothing yet.
            said: What a person tells it.
        """
        parts = [message]
        if differing is not None:
            parts.append(_fill("resumed", differing=" ".join(differing) or "All of it came out as before."))
        if said:
            parts.append(f"# A message from the user\n\n{said}")
        return "\n\n".join(parts)

    def last_turn(self, message: str, why: str) -> str:
        """The message of the one turn that is granted after a limit."""
        return f"{message}\n\n{_fill('last_turn', why=why)}"

    def _delegation(self) -> str:
        if self._task.depth >= self._settings.max_depth:
            return _fill("leaf") if self._task.depth else ""
        return _fill("delegation_deep") if self._task.depth else _fill("delegation")


_NEXT = "\n\n"

_STATUS = {
    "error": "the cell raised",
    "interrupted": "the cell was interrupted",
    "timeout": "the cell took too long",
    "died": "the kernel ended",
}


def _fill(name: str, **values: str) -> str:
    return Template(_text(name)).substitute(values).strip("\n")


@cache
def _text(name: str) -> str:
    return resources.files(__package__).joinpath("texts", f"{name}.md").read_text(encoding="utf-8")


def _output(cell: CellResult, shown: str) -> str:
    how = "" if cell.status == "ok" else f" ({_STATUS[cell.status]})"
    return f"Output of cell {cell.number}{how}, {cell.ended - cell.started:.1f} s:\n\n{_fenced(shown)}"


def _fenced(text: str, language: str = "text") -> str:
    """The text in a fence longer than any in it, so that output cannot pass for something else."""
    longest = max((len(run) for line in text.split("\n") if (run := _marks(line))), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{text}\n{marks}"


def _marks(line: str) -> str:
    stripped = line.lstrip(" ")
    return stripped[: len(stripped) - len(stripped.lstrip("`"))]
