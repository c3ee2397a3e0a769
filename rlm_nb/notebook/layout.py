"""How the record looks to a person: the cells of a notebook, made from what they record."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlm_nb.notebook.markup import cut, escaped, facts, fenced, folded, line, link, markdown, quoted, table
from rlm_nb.notebook.metadata import (
    Child,
    Head,
    Node,
    relative,
    write_execution,
    write_iteration,
    write_result,
)
from rlm_nb.notebook.timeline import size
from rlm_nb.notebook.wording import duration, first_line, money, plural, printable
from rlm_nb.records import CellResult, Iteration, Outcome, Output, Patch, Usage

HEAD, SYSTEM, TIMELINE, FINAL = "head", "system", "timeline", "final"


def think_id(number: int) -> str:
    """The id of the cell that holds an iteration's prose."""
    return f"it-{number:03d}-think"


def code_id(number: int, index: int) -> str:
    """The id of an iteration's code cell, counted from 1."""
    return f"it-{number:03d}-code-{index}"


def calls_id(number: int, index: int) -> str:
    """The id of the cell that tells what a code cell asked others."""
    return f"it-{number:03d}-calls-{index}"


def aside_id(cell: int) -> str:
    """The id of a cell that a person ran who was attached to the kernel, by the number of the cell."""
    return f"aside-{cell:03d}"


def about(head: Head) -> str:
    """The part of the first cell that never changes."""
    return folded(f"About: {', '.join(head.about)}", facts(head.about)) if head.about else ""


def head(head: Head, about_it: str | None = None) -> Node:
    """The first cell: who this is, where it came from, how it and everything below it stands.

    Args:
        head: What is known of that.
        about_it: What `about` gives, for who draws the cell time and again.
    """
    parts = [f"# Agent {escaped(head.task.agent)}"]
    if head.parent:
        parts.append(f"Started by {link(head.parent.partition('.ipynb')[0], head.parent)}")
    parts += [_standing(head), "**Task**", fenced(head.task.prompt)]
    if head.notices:
        parts += ["**Notes**", "\n".join(f"- {escaped(line(notice))}" for notice in head.notices)]
    return markdown(HEAD, [*parts, about(head) if about_it is None else about_it], ["rlm-head"], {})


def system(text: str) -> Node:
    """The system prompt, folded away."""
    return markdown(SYSTEM, [folded(f"System prompt, {len(text):,} characters", fenced(text))], ["rlm-system"], {})


def timeline(picture: bytes, why: str) -> Node:
    """The picture of the run below its table, as the output of a cell that draws it anew; or why there is none."""
    if why:
        return markdown(TIMELINE, [f"*{escaped(why)}*"], ["rlm-timeline"], {})
    return {
        "cell_type": "code",
        "id": TIMELINE,
        "metadata": {
            "editable": False,
            "tags": ["rlm-timeline", "raises-exception"],  # run elsewhere, or without matplotlib, it stops nobody
            "rlm": {},
            "jupyter": {"source_hidden": True},
        },
        "source": "from rlm_nb.notebook.timeline import show\n\nshow()  # from the notebooks in this folder",
        "outputs": [
            {
                "output_type": "display_data",
                "data": {"image/png": b64encode(picture).decode(), "text/plain": "A timeline of the agents"},
                "metadata": {"image/png": size(picture)},
            }
        ],
        "execution_count": None,
    }


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


def aside(number: int, cell: CellResult, folder: Path) -> Node:
    """A cell that a person ran who was attached to the kernel, after the iteration `number` had begun."""
    node = ran(number, 0, cell, folder, cell.outputs)
    metadata = node["metadata"]
    rlm = {name: value for name, value in metadata["rlm"].items() if name != "index"}
    return {
        **node,
        "id": aside_id(cell.number),
        "metadata": {**metadata, "tags": ["rlm-aside"], "rlm": {**rlm, "aside": True}},
    }


def aside_note(number: int, cell: CellResult, folder: Path) -> Node:
    """The cell above that: whose it is, and what its outputs do not say."""
    parts = ["*A person who was attached to the kernel ran this:*", *_happened(cell.number, cell, folder)]
    return markdown(f"{aside_id(cell.number)}-note", parts, ["rlm-aside"], {"number": number, "aside": True})


def final(outcome: Outcome, patch: Patch) -> Node:
    """The last cell: the answer."""
    title = "No answer" if outcome.source == "none" else "Answer" if outcome.status == "completed" else "Partial answer"
    parts = [f"## {title}", f"*{escaped(line(outcome.stop_reason))}*" if outcome.stop_reason else ""]
    if patch.files:
        shown = ", ".join(escaped(line(file)) for file in patch.files[:20])
        parts.append(f"**Changed:** {shown}" + (f" and {len(patch.files) - 20} more" if len(patch.files) > 20 else ""))
    parts += [quoted(note) for note in patch.notes]
    answer = outcome.answer
    if outcome.source == "none" and outcome.stop_reason:
        return markdown(FINAL, parts, ["rlm-final"], {"status": outcome.status})  # its text would say the same again
    parts.append(cut(printable(answer.text)) if isinstance(answer.value, str) else fenced(answer.text))
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


def _standing(head: Head) -> str:
    """The agent and everything below it, a row each, and what they took together."""
    read, written = head.usage.prompt_tokens, head.usage.output_tokens
    own = Child(head.task.agent, first_line(head.task.prompt), state=head.state, cost=head.cost, own_cost=head.cost)
    own = replace(own, iterations=head.turn, read=read, written=written, started=head.started, ended=head.ended)
    everyone = [own, *(below for child in head.subagents for below in _below(child))]
    rows = [_row(child) for child in everyone]
    rows[0][:2] = [f"**{cell}**" for cell in rows[0][:2]]
    if head.subagents and head.ended:
        counted = zip(*((one.iterations, one.read, one.written) for one in everyone), strict=True)
        turns, *tokens = (f"{sum(counts):,}" for counts in counted)
        took, cost = duration(head.ended - head.started), escaped(money(head.total_cost))
        rows.append([f"*{plural(len(everyone), 'agent')}*", "", turns, took, *tokens, cost, ""])
    return table(rows, ("agent", "status", ":iterations", ":time", ":tokens read", ":written", ":cost", "asked"))


def _below(child: Child) -> list[Child]:
    return [child, *(one for below in child.children for one in _below(below))]


def _row(child: Child) -> list[str]:
    name = link(child.agent, f"{child.notebook}#cell-id={HEAD}") if child.notebook else escaped(child.agent)
    took = duration(child.ended - child.started) if child.ended else ""
    counts = [f"{number:,}" if number else "" for number in (child.read, child.written)]
    cost = escaped(money(child.own_cost)) if child.own_cost or child.ended else ""
    turns = str(child.iterations) if child.iterations else ""
    return [name, child.state, turns, took, *counts, cost, escaped(child.task)]


def _price(iteration: Iteration, usual: str) -> str:
    """What the iteration took: money first, then where the time went."""
    reply = iteration.reply
    told = [money(reply.cost)]
    if iteration.ended:
        told.append(_time(iteration))
    told += _tokens(reply.usage)
    # A service answers with the date behind the name: claude-x-1 is claude-x-1-20260101.
    if not re.fullmatch(rf"{re.escape(usual)}(-[\d-]{{8,}})?", reply.model):
        told.append(line(reply.model))
    if reply.stop_reason != "end":
        told.append({"max_tokens": "cut off at its token limit", "refusal": "refused"}[reply.stop_reason])
    told += [f"cell {at} {FAILED[cell.status]}" for at, cell in enumerate(iteration.cells, 1) if cell.status in FAILED]
    return f"*{escaped(' · '.join(fact for fact in told if fact))}*"


FAILED = {"error": "failed", "interrupted": "was interrupted", "timeout": "ran out of time", "died": "lost its kernel"}
"""What is said of a cell that did not end well, by its status."""


def _time(iteration: Iteration) -> str:
    """How long it took, and who took how long of that."""
    whole = iteration.ended - iteration.started
    waited = sum(cell.waited for cell in iteration.cells)
    cells = sum(cell.ended - cell.started for cell in iteration.cells)
    parts = {"model": whole - cells, "cells": cells - waited, "waiting": waited}
    told = [f"{name} {duration(seconds)}" for name, seconds in parts.items() if seconds >= 0.05]
    return f"{duration(whole)} ({', '.join(told)})" if len(told) > 1 else duration(whole)


def _tokens(usage: Usage) -> list[str]:
    both = usage.prompt_tokens + usage.output_tokens
    return [f"{usage.prompt_tokens:,} tokens read, {usage.output_tokens:,} written"] if both else []


def _happened(index: int, cell: CellResult, folder: Path) -> list[str]:
    """What a cell's own outputs do not say."""
    said = [quoted(f"Cell {index}: {event}") for event in cell.events]
    if cell.overflow:
        target = relative(cell.overflow, folder)
        said.append(f"> Cell {index}: its whole output is in {link(target, target)}")
    return said


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
