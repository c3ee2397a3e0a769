"""What a prompt cache compares: the JSON text of requests, byte for byte."""

from __future__ import annotations

import hashlib
import json
import re

_DECODER = json.JSONDecoder()


def of(body: str) -> list[str]:
    """The text of a request's system prompt, then of each of its messages, as it stands in the body."""
    members = _members(body)
    return [members.get("system", ""), *_elements(members.get("messages", "[]"))]


def assert_stable(requests: list[tuple[list[str], bool]]) -> None:
    """Each request opens a conversation, or starts with the whole of the one before it in its conversation.

    Args:
        requests: In order, the prefix of each, and whether it may open a conversation.
    """
    latest: list[list[str]] = []
    for number, (here, opens) in enumerate(requests, 1):
        if here in latest:
            continue  # the same request, sent again
        before = max((there for there in latest if here[: len(there)] == there), key=len, default=None)
        if before is not None:
            latest.remove(before)
        elif not opens:
            raise AssertionError(_difference(number, here, latest))
        latest.append(here)


def digests(prefix: list[str]) -> list[bytes]:
    """One digest for each length of prefix."""
    digest, found = hashlib.sha256(), []
    for part in prefix:
        digest.update(part.encode())
        found.append(digest.digest())
    return found


def _difference(number: int, here: list[str], latest: list[list[str]]) -> str:
    """Where request `number` leaves the earlier request that it has most in common with."""

    def shared(there: list[str]) -> int:
        return next((at for at, part in enumerate(here) if at == len(there) or part != there[at]), len(here))

    nearest = max(latest, key=shared, default=[])
    at = shared(nearest)
    what = "the system prompt" if at == 0 else f"message {at}"
    now, then = (parts[at][:200] if at < len(parts) else "(nothing)" for parts in (here, nearest))
    return f"request {number} changes {what} of its conversation:\nbefore: {then}\nnow:    {now}"


def _members(text: str) -> dict[str, str]:
    """The members of the JSON object `text`, each value as the text that stands there."""
    found: dict[str, str] = {}
    at = _skip(text, 0, "{")
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        start = _skip(text, at, ":")
        _, end = _DECODER.raw_decode(text, start)
        found[name] = text[start:end]
        at = _skip(text, end, ",")
    return found


def _elements(text: str) -> list[str]:
    """The elements of the JSON array `text`, each as the text that stands there."""
    found: list[str] = []
    at = _skip(text, 0, "[")
    while text[at] != "]":
        _, end = _DECODER.raw_decode(text, at)
        found.append(text[at:end])
        at = _skip(text, end, ",")
    return found


def _skip(text: str, at: int, mark: str) -> int:
    """Where the next value or closing bracket stands, behind blanks and one `mark` if it is there."""
    match = re.compile(rf"\s*{re.escape(mark)}?\s*").match(text, at)
    assert match
    return match.end()
