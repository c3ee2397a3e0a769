"""Tasks that come along: to be used, and to be read by whoever writes one."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Literal

import regex
from pydantic import BaseModel

from rlm_nb.context_access import (
    Text,
    context_around_match,
    context_chunks,
    context_head,
    context_search,
    context_slice,
    context_tail,
)
from rlm_nb.tasks.runtime import partial
from rlm_nb.tasks.subcalls import (
    semantic_subcall,
    semantic_subcall_batched,
    semantic_subcall_choice,
    semantic_subcall_json,
)

SECTIONS = r"(?m)^(?:#{1,3} +\S.*|(?:chapter|section|part|kapitel|\d+(?:\.\d+)*\.?) +\S.{0,80})$"


class Claim(BaseModel):
    """A point that a document makes."""

    claim: str
    confidence: Literal["high", "medium", "low"]


class Cause(BaseModel):
    """What a line of a log is about."""

    category: str
    cause: str


class Entities(BaseModel):
    """Names in a piece of text."""

    people: list[str] = []
    organizations: list[str] = []
    places: list[str] = []
    dates: list[str] = []


def analyze_document(context: Text) -> dict[str, Any]:
    """The title of a document, the points that it makes, and what it comes to.

    It reads the beginning, the end, and the beginnings of up to five sections between them: seven questions at most,
    however long the document is.
    """
    analysis: dict[str, Any] = {"title": None, "key_points": [], "conclusion": None}
    found: dict[str, Any] = partial({"analysis": analysis})
    analysis["title"] = semantic_subcall(
        "What is the title of this document, or its subject if there is none? Give that alone.",
        context_head(context, 1000),
    )
    sections = context_search(context, SECTIONS, max_hits=5)
    chunks = [context_slice(context, section.start, section.start + 1500) for section in sections]
    for chunk in chunks or [context_head(context, 3000)]:
        point = semantic_subcall_json(
            "What is the main point of this section, and how well is it supported?", chunk, default=None, schema=Claim
        )
        if point is not None:
            analysis["key_points"].append(point.model_dump())
    analysis["conclusion"] = semantic_subcall(
        "What does this, the end of a document, conclude? One or two sentences.", context_tail(context, 2000)
    )
    return found


def find_errors_in_log(context: Text) -> dict[str, Any]:
    """The first errors in a log: where each is, how bad it is, of which kind, and why it happened."""
    errors: list[dict[str, Any]] = []
    found: dict[str, Any] = partial({"errors": errors, "matches": 0})
    matches = context_search(context, r"\b(?:error|exception|fail(?:ed|ure)|fatal|critical|traceback)", max_hits=10)
    found["matches"] = len(matches)
    for match in matches[:5]:
        chunk = context_around_match(context, match, before=200, after=400)
        severity = semantic_subcall_choice("How bad is this?", chunk, ["critical", "warning", "info"])
        cause = semantic_subcall_json("What went wrong here, and why?", chunk, default=None, schema=Cause)
        errors.append(
            {
                "line": match.line_number,
                "match": match.text,
                "severity": severity,
                **(cause.model_dump() if cause is not None else {"category": None, "cause": None}),
            }
        )
    return found


def extract_entities(context: Text) -> dict[str, Any]:
    """People, organizations, places and dates that are named in the first 20,000 characters, each once."""
    names: dict[str, list[str]] = {name: [] for name in Entities.model_fields}
    found: dict[str, Any] = partial({"entities": names, "chunks": 0})
    for _start, end, chunk in context_chunks(context, 2000, overlap=100):
        entities = semantic_subcall_json(
            "Which people, organizations, places and dates are named here?", chunk, default=Entities(), schema=Entities
        )
        for kind, values in entities.model_dump().items():
            names[kind] += [value for value in dict.fromkeys(values) if value not in names[kind]]
        found["chunks"] += 1
        if end >= 20_000:
            break
    return found


def ask_book(
    context: Text, question: str = "What is this book about?"
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """An answer to a question about a whole book, with the passages that it rests on.

    The words of the question are searched for in all of the book; the passages where most of them meet are read one by
    one, and what they say is put together. Each passage that was read is a finding, whatever happens to
    the others, and afterwards.
    """
    words = [word for word in regex.findall(r"\w{4,}", question.casefold()) if word not in _COMMON]
    places = [
        match.start
        for word in dict.fromkeys(words)
        for match in context_search(context, rf"\b{regex.escape(word)}", max_hits=200)
    ]
    starts = _densest(places, width=PASSAGE, most=6) or [0]
    chunks = [context_slice(context, start, start + PASSAGE) for start in starts]
    prompt = f"What does this passage say about the question: {question} If it says nothing about it, answer NOTHING."
    passages = []
    answers = semantic_subcall_batched(prompt, chunks, failures="keep")
    for start, chunk, said in zip(starts, chunks, answers, strict=True):
        if isinstance(said, str) and not said.startswith("NOTHING"):
            passages.append({"start": start, "end": start + len(chunk), "says": said})
            yield passages[-1]
    for said in answers:
        if isinstance(said, Exception):
            raise said  # an answer that leaves passages out would be none
    notes = "\n".join(f"[{passage['start']}] {passage['says']}" for passage in passages)
    answer = semantic_subcall(f"From these notes alone, answer: {question}", notes) if passages else None
    return {"question": question, "answer": answer, "passages": passages}


PASSAGE = 1500
"""Characters of a passage."""

_COMMON = frozenset(["about", "does", "have", "into", "that", "then", "there", "they", "this", "were", "what", "when",
                     "where", "which", "whom", "whose", "will", "with", "from", "book"])  # fmt: skip


def _densest(places: list[int], width: int, most: int) -> list[int]:
    """Where stretches of `width` begin that hold the most places and do not overlap; in the order of the text."""
    rest, chosen = sorted(places), list[int]()
    while rest and len(chosen) < most:
        best = max(rest, key=lambda start: sum(start <= place < start + width for place in rest))
        chosen.append(max(0, best - width // 10))
        rest = [place for place in rest if not best - width < place < best + width]
    return sorted(chosen)
