"""How the record looks to a person: the cells of a notebook, made from what they record."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rlm_nb.notebook.metadata import (
    Child,
    Head,
    Node,
    relative,
    write_execution,
    write_iteration,
    write_result,
)
from rlm_nb.notebook.wording import duration, money, plural, printable
from rlm_nb.records import CellResult, Iteration, Outcome, Output, Patch, Usage

HEAD, FINAL = "head", "final"

SHOWN = 20_000
"""Characters of a task or an answer that are shown; the metadata holds all of it."""


def think_id(number: int) -> str:
    """The id of the cell that holds an iteration's prose."""
    return f"it-{number:03d}-think"


def code_id(number: int, index: int) -> str:
    """The id of an iteration's code cell, counted from 1."""
    return f"it-{number:03d}-code-{index}"


def head(head: Head) -> Node:
    """The first cell: who this is, how it stands, where it came from and what it started."""
    parts = [f"# Agent {escaped(head.task.agent)}", _standing(head)]
    if head.parent:
        parts.append(f"Started by [{escaped(head.parent.partition('.ipynb')[0])}]({_target(head.parent)})")
    parts += ["**Task**", fenced(head.task.prompt)]
    if head.subagents:
        parts += ["**Sub-agents**", "\n".join(_branch(head.subagents, 0))]
    if head.notices:
        parts += ["**Notes**", "\n".join(f"- {escaped(_line(notice))}" for notice in head.notices)]
    if head.about:
        parts += ["**About**", table(head.about)]
    return markdown(HEAD, parts, ["rlm-head"], {})


def think(iteration: Iteration, code: Sequence[str], folder: Path, *, complete: bool, model: str = "") -> Node:
    """An iteration's heading, what it took, what went wrong, and the prose of the reply.

    Args:
        iteration: What is shown.
        code: The cells of the reply, which are not shown a second time.
        folder: Where the notebook is; links become relative to it.
        complete: Whether its cells have run.
        model: The one that the head names; the iteration names its own when that is another.
    """
    # Ours comes first: whatever the model left open (a fence, a comment) swallows nothing but its own text.
    parts = [f"## Iteration {iteration.number}", _price(iteration, model)]
    if iteration.note:
        parts.append(quoted(iteration.note))
    for index, cell in enumerate(iteration.cells, 1):
        parts += _happened(index, cell, folder)
    parts.append(printable(prose(iteration.reply.text, code)))
    return markdown(think_id(iteration.number), parts, ["rlm-think"], write_iteration(iteration, complete=complete))


def waiting(number: int, index: int, code: str, status: str, outputs: Iterable[Output] = ()) -> Node:
    """A cell without a result: `pending`, `running`, or `skipped` because the ones before it ended the reply."""
    tags = ["rlm-skipped" if status == "skipped" else "rlm-code"]
    return _code(number, index, code, tags, {"status": status}, outputs=outputs)


def ran(number: int, index: int, cell: CellResult, folder: Path, outputs: Iterable[Output]) -> Node:
    """An executed cell, with `outputs` in place of those that it had when it ended."""
    execution = write_execution(cell)
    return _code(
        number,
        index,
        cell.code,
        ["rlm-code"],
        write_result(cell, folder),
        {"execution": execution} if execution else {},
        outputs=outputs,
        execution_count=cell.execution_count,
    )


def final(outcome: Outcome, patch: Patch) -> Node:
    """The last cell: the answer."""
    title = "No answer" if outcome.source == "none" else "Answer" if outcome.status == "completed" else "Partial answer"
    parts = [f"## {title}", f"*{escaped(_line(outcome.stop_reason))}*" if outcome.stop_reason else ""]
    if patch.files:
        shown = ", ".join(escaped(_line(file)) for file in patch.files[:20])
        parts.append(f"**Changed:** {shown}" + (f" and {len(patch.files) - 20} more" if len(patch.files) > 20 else ""))
    parts += [quoted(note) for note in patch.notes]
    answer = outcome.answer
    if outcome.source == "none" and outcome.stop_reason:
        return markdown(FINAL, parts, ["rlm-final"], {"status": outcome.status})  # its text would say the same again
    parts.append(_cut(printable(answer.text)) if isinstance(answer.value, str) else fenced(answer.text))
    return markdown(FINAL, parts, ["rlm-final"], {"status": outcome.status})


def prose(text: str, code: Sequence[str]) -> str:
    """A reply without the fenced blocks that became the cells `code`, found in that order; the rest as it is."""
    kept, rest = [], text
    for cell in filter(str.strip, code):
        body = re.escape(cell.strip("\n"))
        block = rf"^ {{0,3}}(?P<fence>`{{3,}}|~{{3,}})[^\n]*\n+{body}\s*?(?:\n {{0,3}}(?P=fence)[`~]*[ \t\r]*$|\Z)"
        if found := re.search(block, rest, re.MULTILINE):
            kept.append(rest[: found.start()])
            rest = rest[found.end() :]
    return "\n\n".join(piece.strip("\n") for piece in [*kept, rest] if piece.strip())


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"[\\`*_\[\]<>|$~&#!]", r"\\\g<0>", text)


def _standing(head: Head) -> str:
    facts = [f"**{head.state}**"]
    if head.turn:
        facts.append(plural(head.turn, "iteration"))
    facts += _tokens(head.usage)
    facts.append(money(head.cost))
    if head.total_cost > head.cost:
        facts.append(f"{money(head.total_cost)} with its sub-agents")
    if head.ended:
        facts.append(duration(head.ended - head.started))
    return " · ".join(escaped(fact) if number else fact for number, fact in enumerate(facts))


def _price(iteration: Iteration, usual: str) -> str:
    reply = iteration.reply
    # A service answers with the date behind the name: claude-x-1 is claude-x-1-20260101.
    same = re.fullmatch(rf"{re.escape(usual)}(-[\d-]{{8,}})?", reply.model)
    facts = ["" if same else _line(reply.model), *_tokens(reply.usage), money(reply.cost)]
    if iteration.ended:
        facts.append(duration(iteration.ended - iteration.started))
    if reply.stop_reason != "end":
        facts.append({"max_tokens": "cut off at its token limit", "refusal": "refused"}[reply.stop_reason])
    return f"*{escaped(' · '.join(fact for fact in facts if fact))}*"


def _tokens(usage: Usage) -> list[str]:
    both = usage.prompt_tokens + usage.output_tokens
    return [f"{usage.prompt_tokens:,} tokens read, {usage.output_tokens:,} written"] if both else []


def _happened(index: int, cell: CellResult, folder: Path) -> list[str]:
    """What a cell's own outputs do not say."""
    said = [quoted(f"Cell {index}: {event}") for event in cell.events]
    if cell.overflow:
        target = relative(cell.overflow, folder)
        said.append(f"> Cell {index}: its whole output is in [{escaped(_line(target))}]({_target(target)})")
    return said


def _branch(children: Iterable[Child], level: int) -> list[str]:
    lines = []
    for child in children:
        name = f"[{child.agent}]({_target(child.notebook)}#cell-id={HEAD})" if child.notebook else child.agent
        facts = [name, child.state, escaped(money(child.cost)), escaped(child.task)]
        lines += [f"{'  ' * level}- {' · '.join(fact for fact in facts if fact)}", *_branch(child.children, level + 1)]
    return lines


def table(about: Mapping[str, Any]) -> str:
    """Names and values side by side."""
    rows = ["| | |", "|---|---|"]
    for name, value in about.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        rows.append(f"| {escaped(_line(name))} | {escaped(_line(text))} |")
    return "\n".join(rows)


def _target(path: str) -> str:
    """A link's target; what follows `#` stays what it is."""
    before, mark, cell = path.partition("#")
    return quote(before, errors="surrogateescape") + mark + cell


def fenced(text: str) -> str:
    """A block that shows `text` as it is, whatever fences it has of its own."""
    text = _cut(printable(text))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}\n\n… and {len(text) - SHOWN:,} characters more"


def _line(text: str) -> str:
    return " ".join(printable(text).split())


def quoted(text: str) -> str:
    """A block quote that shows `text` as it is."""
    return "\n".join(f"> {escaped(line)}" for line in printable(text).splitlines())


def markdown(name: str, parts: Iterable[str], tags: list[str], rlm: dict[str, Any]) -> Node:
    """A cell of prose; empty parts are left out."""
    return {
        "cell_type": "markdown",
        "id": name,
        "metadata": {"editable": False, "tags": tags, "rlm": rlm},
        "source": "\n\n".join(part for part in parts if part),
    }


def _code(
    number: int,
    index: int,
    source: str,
    tags: list[str],
    rlm: dict[str, Any],
    metadata: dict[str, Any] | None = None,
    *,
    outputs: Iterable[Output] = (),
    execution_count: int | None = None,
) -> Node:
    return {
        "cell_type": "code",
        "id": code_id(number, index),
        "metadata": {
            "editable": False,
            "tags": tags,
            "rlm": {"number": number, "index": index, **rlm},
            **(metadata or {}),
        },
        "source": source,
        "outputs": list(outputs),
        "execution_count": execution_count,
    }
