"""A person in the place of the model."""

from __future__ import annotations

import io
import os
import pty
import select
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import CancelledError, ModelError
from rlm_nb.models.human import HumanModel
from rlm_nb.records import Message, Request


class Keyboard:
    """A pipe that somebody types into."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self.screen = io.StringIO()
        self.model = HumanModel(self, self.screen)

    def fileno(self) -> int:
        return self._read

    def type(self, text: str | bytes) -> None:
        os.write(self._write, text.encode() if isinstance(text, str) else text)

    def end(self) -> None:
        os.close(self._write)
        self._write = -1

    def close(self) -> None:
        os.close(self._read)
        if self._write >= 0:
            os.close(self._write)


@pytest.fixture
def keyboard() -> Iterator[Keyboard]:
    keyboard = Keyboard()
    yield keyboard
    keyboard.close()


def request(agent: str = "root", turn: int = 1) -> Request:
    return Request((Message("user", f"Output for {agent}"),), agent=agent, turn=turn)


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("x = 1\nprint(x)\n.\n", "```python\nx = 1\nprint(x)\n```"),
        ("I look.\n```python\nx = 1\n```\n.\n", "I look.\n```python\nx = 1\n```"),
        ("~~~python\nx = 1\n~~~\n.\n", "~~~python\nx = 1\n~~~"),
        ("print('```')\n.\n", "```python\nprint('```')\n```"),
        ("name = '☃'\r\n.\r\n", "```python\nname = '☃'\n```"),
        (".\n", ""),
    ],
    ids=["bare code", "prose and a fence", "tildes", "backticks in a string", "CRLF", "nothing"],
)
def test_reply(keyboard: Keyboard, typed: str, text: str) -> None:
    """Bare code becomes a cell; a reply that has one of its own stays as it is."""
    keyboard.type(typed)
    assert keyboard.model.complete(request(), Cancellation()).text == text


def test_what_is_shown(keyboard: Keyboard) -> None:
    """The agent, its iteration, what it has to say, and how to end."""
    keyboard.type("1\n.\n2\n.\n")
    keyboard.model.complete(request("root.2", 3), Cancellation())
    keyboard.model.complete(request("root.2", 0), Cancellation())
    shown = keyboard.screen.getvalue()
    assert "root.2, iteration 3" in shown
    assert "root.2, a question of a cell" in shown
    assert "Output for root.2" in shown
    assert "end it with a line of only '.'" in shown


def test_replies_typed_ahead(keyboard: Keyboard) -> None:
    """What was typed before it was asked for is kept for the next reply, whatever bytes it arrived in."""
    keyboard.type("a = 1\n.\nname = '☃'\n.\n".encode()[:20])
    keyboard.type("a = 1\n.\nname = '☃'\n.\n".encode()[20:])
    heard: list[str] = []
    first = keyboard.model.complete(request(), Cancellation(), heard.append)
    second = keyboard.model.complete(request(), Cancellation(), heard.append)
    assert [first.text, second.text] == heard == ["```python\na = 1\n```", "```python\nname = '☃'\n```"]


def test_input_ends_after_some_lines(keyboard: Keyboard) -> None:
    """The end of the input ends the reply, a last line without its end included."""
    keyboard.type("a = 1\nb = 2")
    keyboard.end()
    assert keyboard.model.complete(request(), Cancellation()).text == "```python\na = 1\nb = 2\n```"
    with pytest.raises(CancelledError):
        keyboard.model.complete(request(), Cancellation())


def test_input_ends_at_once(keyboard: Keyboard) -> None:
    """With nobody there, the run is cancelled."""
    keyboard.end()
    with pytest.raises(CancelledError, match="the input ended"):
        keyboard.model.complete(request(), Cancellation())


def test_input_from_a_file(tmp_path: Path) -> None:
    """Replies may come from a file, too."""
    path = tmp_path / "replies"
    path.write_text("a = 1\n.\nb = 2\n.\n")
    with path.open() as source:
        model = HumanModel(source, io.StringIO())
        assert [model.complete(request(), Cancellation()).text for _ in range(2)] == [
            "```python\na = 1\n```",
            "```python\nb = 2\n```",
        ]


def test_nothing_to_read_from() -> None:
    """Where standard input is none, as in a notebook, that is said."""
    with pytest.raises(ModelError, match="standard input cannot be read"):
        HumanModel(io.StringIO(), io.StringIO()).complete(request(), Cancellation())


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_cancelled_while_it_waits(keyboard: Keyboard, how: str) -> None:
    """Waiting for a person ends when the run does, and another agent can be served then."""
    cancel = Cancellation(time.monotonic() + 0.05 if how == "deadline" else None)
    if how == "cancel":
        threading.Timer(0.05, cancel.cancel, ["enough"]).start()
    started = time.monotonic()
    with pytest.raises(CancelledError):
        keyboard.model.complete(request(), cancel)
    assert time.monotonic() - started < 0.5
    keyboard.type("a = 1\n.\n")
    assert keyboard.model.complete(request(), Cancellation()).text == "```python\na = 1\n```"


def test_several_agents_ask_at_once(keyboard: Keyboard) -> None:
    """One agent is served after the other, and none gets a line that was meant for another."""
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(keyboard.model.complete, request(f"root.{n}"), Cancellation()) for n in range(4)]
        for n in range(4):
            keyboard.type(f"a{n} = 1\n")
            keyboard.type(f"b{n} = 1\n.\n")
        replies = sorted(future.result().text for future in asked)
    assert replies == [f"```python\na{n} = 1\nb{n} = 1\n```" for n in range(4)]
    assert keyboard.screen.getvalue().count("Output for root.") == 4


def test_waiting_in_line_can_be_cancelled(keyboard: Keyboard) -> None:
    """An agent whose turn has not come can be cancelled as well."""
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(keyboard.model.complete, request("root.1"), Cancellation())
        while "root.1" not in keyboard.screen.getvalue():
            time.sleep(0.001)
        with pytest.raises(CancelledError):
            keyboard.model.complete(request("root.2"), Cancellation(time.monotonic() + 0.05))
        keyboard.type("a = 1\n.\n")
        assert first.result().text == "```python\na = 1\n```"
    assert "root.2" not in keyboard.screen.getvalue()


def test_terminal() -> None:
    """At a real terminal, Ctrl-D ends a reply like a line with a dot, and the next one can be typed."""
    person, terminal = pty.openpty()
    try:
        with open(terminal, closefd=False) as source:
            model = HumanModel(source, io.StringIO())
            os.write(person, b"a = 1\n\x04")
            assert model.complete(request(), Cancellation()).text == "```python\na = 1\n```"
            os.write(person, b"b = 1\n.\n")
            assert model.complete(request(), Cancellation()).text == "```python\nb = 1\n```"
            os.write(person, b"\x04")
            with pytest.raises(CancelledError):
                model.complete(request(), Cancellation())
        assert select.select([person], [], [], 0)[0]  # the terminal echoed what was typed
    finally:
        os.close(person)
        os.close(terminal)
