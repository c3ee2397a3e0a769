"""What a cell asked of sub-agents and of the model, and what it was given: told below the cell, each with its link."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlm_nb.notebook.layout import HEAD, calls_id
from rlm_nb.notebook.markup import BRIEFLY, brief, escaped, line, link, markdown, quoted
from rlm_nb.notebook.metadata import Node
from rlm_nb.notebook.wording import duration, first_line, money, plural
from rlm_nb.records import BridgeCall, CellResult

MOST = 20
"""How many questions of one cell are shown; the metadata of the cell holds all of them."""

ASKING = {"rlm_query": "tasks", "llm_query": "prompts"}
"""The calls that ask somebody something, and the argument that says what."""


def calls(cell: CellResult, number: int, index: int) -> Node | None:
    """The cell below one that asked; `None` below one that asked nobody.

    Args:
        cell: The one above, executed.
        number: Its iteration.
        index: Its place in that, from 1.
    """
    told = [part for call in cell.calls if call.name in ASKING for part in _each(call)]
    if not told:
        return None
    more = f"*… and {plural(len(told) - MOST, 'question')} more; the metadata of the cell above has them.*"
    parts = [*told[:MOST], more if len(told) > MOST else ""]
    return markdown(calls_id(number, index), parts, ["rlm-calls"], {"number": number, "index": index})


def told(cell: CellResult) -> Iterator[str]:
    """The same in a line each, for a terminal: whom it asked, how that ended, the answer's first line."""
    for call in cell.calls:
        if call.name in ASKING:
            for _, given in _pairs(call):
                whom = str(given.get("agent") or ("a sub-agent" if call.name == "rlm_query" else "the model"))
                error = given.get("error") or (call.error or {}).get("message")
                cost = [money(given["cost"])] if isinstance(given.get("cost"), int) else []
                said = error or given.get("text") or "no answer"
                yield first_line(" · ".join([f"→ {whom}", *cost, line(str(said)[:BRIEFLY])]), 200)


def _pairs(call: BridgeCall) -> list[tuple[str, Mapping[str, Any]]]:
    """Every question of a call with its answer, which is empty where there is none."""
    asked = call.arguments.get(ASKING[call.name])
    questions = asked if isinstance(asked, list) else []
    answers = call.answer if isinstance(call.answer, list) else []
    answers = [answer if isinstance(answer, dict) else {} for answer in answers]
    answers += [{}] * (len(questions) - len(answers))
    return list(zip(map(str, questions), answers, strict=False))


def _each(call: BridgeCall) -> Iterator[str]:
    pairs = _pairs(call)
    for question, given in pairs:
        yield "\n\n".join(_told(call, question, given, call.ended - call.started if len(pairs) == 1 else 0))


def _told(call: BridgeCall, question: str, given: Mapping[str, Any], seconds: float) -> Iterator[str]:
    error = given.get("error") or (call.error or {}).get("message")
    whom = "a sub-agent" if call.name == "rlm_query" else "the model"
    if given.get("agent") and given.get("notebook"):
        whom = link(str(given["agent"]), f"{given['notebook']}#cell-id={HEAD}")
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
