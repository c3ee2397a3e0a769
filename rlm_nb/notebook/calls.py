"""What a cell asked of sub-agents and of the model, and what it was given: told below the cell, each with its link."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlm_nb.notebook.markup import brief, escaped, line, link, markdown, quoted
from rlm_nb.notebook.metadata import Node
from rlm_nb.notebook.wording import duration, money, plural
from rlm_nb.records import BridgeCall, CellResult

MOST = 20
"""How many questions of one cell are shown; the metadata of the cell holds all of them."""

ASKING = {"rlm_query": "tasks", "llm_query": "prompts"}
"""The calls that ask somebody something, and the argument that says what."""


def calls(cell: CellResult, name: str, head: str) -> Node | None:
    """The cell below one that asked; `None` below one that asked nobody.

    Args:
        cell: The one above, executed.
        name: The id of the new cell.
        head: The id of the cell that links to a sub-agent's notebook lead to.
    """
    told = [part for call in cell.calls if call.name in ASKING for part in _each(call, head)]
    if not told:
        return None
    more = f"*… and {plural(len(told) - MOST, 'question')} more; the metadata of the cell above has them.*"
    return markdown(name, [*told[:MOST], more if len(told) > MOST else ""], ["rlm-calls"], {})


def _each(call: BridgeCall, head: str) -> Iterator[str]:
    """Every question of a call with its answer."""
    asked = call.arguments.get(ASKING[call.name])
    questions = asked if isinstance(asked, list) else []
    answers = call.answer if isinstance(call.answer, list) else []
    for at, question in enumerate(questions):
        given = answers[at] if at < len(answers) and isinstance(answers[at], dict) else {}
        alone = len(questions) == 1
        yield "\n\n".join(_told(call, str(question), given, head, call.ended - call.started if alone else 0))


def _told(call: BridgeCall, question: str, given: Mapping[str, Any], head: str, seconds: float) -> Iterator[str]:
    error = given.get("error") or (call.error or {}).get("message")
    whom = "a sub-agent" if call.name == "rlm_query" else "the model"
    if given.get("agent") and given.get("notebook"):
        whom = link(str(given["agent"]), f"{given['notebook']}#cell-id={head}")
    facts = [str(given.get("status") or ("error" if error else "without an answer"))]
    if isinstance(cost := given.get("cost"), int):
        facts.append(money(cost))
    if seconds:
        facts.append(duration(seconds))
    if files := given.get("files"):
        facts.append(f"{plural(len(files), 'file')} changed")
    yield f"**{whom}** · {escaped(' · '.join(map(line, facts)))}"
    yield brief("Asked", question)
    if error:
        yield quoted(str(error))
    elif given:
        yield brief("Gave", str(given.get("text", "")))
