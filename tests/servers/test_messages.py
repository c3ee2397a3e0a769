"""The tests' server finds what it is there to find."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

from tests.servers.messages import MessagesServer


def post(server: MessagesServer, body: str) -> dict[str, Any]:
    """Send exactly these bytes."""
    request = urllib.request.Request(f"{server.url}/v1/messages", body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        value = json.load(response)
    assert isinstance(value, dict)
    return value


def body(*messages: str, system: str = "S") -> str:
    roles = ("user", "assistant") * len(messages)
    turns = [{"role": role, "content": text} for role, text in zip(roles, messages, strict=False)]
    return json.dumps({"model": "m", "max_tokens": 9, "messages": turns, "system": system, "cache_control": {}})


def test_conversation_that_grows() -> None:
    """Conversations that only grow pass, side by side and with a request sent twice; the cache is found."""
    with MessagesServer("a", "b", "c", "d") as server:
        usage = [post(server, one)["usage"] for one in (body("x"), body("y"), body("x"), body("x", "a", "more"))]
        server.assert_prefix_stable()
    read = [counts["cache_read_input_tokens"] for counts in usage]
    whole = [counts["cache_read_input_tokens"] + counts["cache_creation_input_tokens"] for counts in usage]
    assert read[0] == 0
    assert 0 < read[1] < whole[1]  # only the system prompt was known
    assert read[2] == whole[0]
    assert read[3] == whole[0] < whole[3]


@pytest.mark.parametrize(
    ("second", "what"),
    [
        (body("X", "a", "more"), "message 1"),
        (body("x", "a", "more", system="other"), "the system prompt"),
        (body("x", "a", "more").replace('"content": "x"', '"content":"x"'), "message 1"),
        (body("x", "a", "more").replace('{"role": "user", "content": "x"}', '{"content": "x", "role": "user"}'), "1"),
    ],
    ids=["another text", "another system prompt", "another blank", "another order"],
)
def test_conversation_that_changes(second: str, what: str) -> None:
    """A single byte that changed in an earlier message is found, and its place named."""
    with MessagesServer("a", "b") as server:
        post(server, body("x"))
        post(server, second)
        with pytest.raises(AssertionError, match=f"request 2 changes .*{what}"):
            server.assert_prefix_stable()


def test_message_left_out() -> None:
    """A history that is cut short is found."""
    with MessagesServer("a", "b", "c") as server:
        post(server, body("x"))
        post(server, body("x", "a", "y"))
        post(server, body("x", "a", "z"))
        with pytest.raises(AssertionError, match="request 3 changes message 3"):
            server.assert_prefix_stable()
