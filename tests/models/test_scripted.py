"""The model that says what a script says."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import Config, ModelSettings
from rlm_nb.errors import (
    CancelledError,
    ConfigError,
    ModelError,
    ModelUnavailableError,
    RefusedKeyError,
    RequestRefusedError,
    UnknownModelError,
)
from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.records import Message, Request, Usage


def read(tmp_path: Path, text: str) -> ScriptedModel:
    path = tmp_path / "script.yaml"
    path.write_text(dedent(text), encoding="utf-8")
    return ScriptedModel.from_config(Config(model=ModelSettings(name=f"scripted:{path}")), {})


def say(model: ScriptedModel, agent: str = "root", turn: int = 1, prompt: str = "Do it.") -> str:
    request = Request((Message("user", prompt),), agent=agent, turn=turn)
    return model.complete(request, Cancellation()).text


def test_by_agent_and_turn(tmp_path: Path) -> None:
    """Each agent says its own lines, turn by turn; an exact path comes before a pattern."""
    model = read(
        tmp_path,
        """
        agents:
          root: [one, two]
          root.*: [a child]
          root.2: [the second child]
        """,
    )
    assert [say(model, turn=1), say(model, turn=2)] == ["one", "two"]
    assert say(model, "root.1") == "a child"
    assert say(model, "root.1.3") == "a child"
    assert say(model, "root.2") == "the second child"
    assert model.name == f"scripted:{tmp_path / 'script.yaml'}"


def test_by_prompt(tmp_path: Path) -> None:
    """`reply` answers questions, `replies` are the turns of an agent whose task matches, in the order of the file."""
    model = read(
        tmp_path,
        """
        agents:
          root.*: [by path]
        prompts:
          - {pattern: "^Summari[sz]e", reply: a summary}
          - {pattern: "Summarise.*sums", agent: root.1, replies: [first, second]}
          - {pattern: ".", reply: whatever}
        """,
    )
    assert say(model, turn=0, prompt="Summarize this") == "a summary"
    assert say(model, turn=0, prompt="What is this?") == "whatever"
    assert say(model, "root.1", 1, "Task: Summarise\nthe sums") == "first"
    assert say(model, "root.1", 2, "Task: Summarise\nthe sums") == "second"
    assert say(model, "root.2", 1, "Task: Summarise\nthe sums") == "by path"


def test_everything_about_a_reply(tmp_path: Path) -> None:
    """Text, stop reason and usage are given as written; without usage it is about a token for four characters."""
    model = read(
        tmp_path,
        """
        agents:
          root:
            - {text: cut, stop_reason: max_tokens, usage: {input_tokens: 9, output_tokens: 3}}
            - text: 12345678
        """.replace("12345678", "'12345678'"),
    )
    first, second = (
        model.complete(Request((Message("user", "x" * 40),), turn=turn), Cancellation()) for turn in (1, 2)
    )
    assert (first.text, first.stop_reason, first.usage) == ("cut", "max_tokens", Usage(9, 3))
    assert (second.stop_reason, second.usage) == ("end", Usage(11, 3))


def test_prices() -> None:
    """A script may name a price, in US dollars per million tokens; micro-dollars are rounded up."""
    assert ScriptedModel.of({}).price is None
    price = ScriptedModel.of({}, price={"input": 3, "output": 15, "cache_read": 0.3}).price
    assert price is not None
    assert price(Usage(10, 2)) == 60
    assert price(Usage(0, 0, 1, 0)) == 1
    assert price(Usage(0, 0, 0, 1)) == 3


def test_pieces() -> None:
    """A listener hears the text in pieces."""
    text, pieces = "word " * 50, list[str]()
    ScriptedModel.of({"root": [text]}).complete(
        Request((Message("user", "Hi"),), turn=1), Cancellation(), pieces.append
    )
    assert "".join(pieces) == text
    assert 1 < len(pieces) < 10


def test_functions() -> None:
    """In Python, a reply may be found from the request."""
    model = ScriptedModel.of(
        {"root": [lambda request: request.messages[-1].content.upper()]},
        prompts=[("hi", lambda request: f"{request.agent} says hi"), ("task", ["one", "two"])],
    )
    assert say(model, prompt="shout") == "SHOUT"
    assert say(model, "root.1", turn=0, prompt="hi") == "root.1 says hi"
    assert say(model, "root.9", turn=2, prompt="task") == "two"


@pytest.mark.parametrize(
    ("agent", "turn", "words"),
    [
        ("root", 3, r"script\.yaml: no reply left for agent root in turn 3: it has only 2"),
        ("elsewhere", 1, r"script\.yaml: nothing is said by agent elsewhere in turn 1"),
        ("root", 0, r"script\.yaml: no entry of prompts has a reply to 'Do it\.'"),
    ],
)
def test_no_reply(tmp_path: Path, agent: str, turn: int, words: str) -> None:
    """A script that ends too early says for whom, and has cost nothing."""
    model = read(tmp_path, "agents: {root: [one, two]}")
    with pytest.raises(ModelError, match=words) as caught:
        say(model, agent, turn)
    assert caught.value.usage == Usage()


def test_repeat() -> None:
    """With `repeat`, the last line is said for ever."""
    model = ScriptedModel.of({"root": ["one", "two"]}, repeat=True)
    assert [say(model, turn=turn) for turn in (1, 2, 3, 99)] == ["one", "two", "two", "two"]


@pytest.mark.parametrize(
    ("error", "kind", "usage"),
    [
        ("unavailable", ModelUnavailableError, Usage()),
        ("lost", ModelUnavailableError, None),
        ("refused key", RefusedKeyError, Usage()),
        ("unknown model", UnknownModelError, Usage()),
        ("refused request", RequestRefusedError, Usage()),
    ],
)
def test_errors(error: str, kind: type[ModelError], usage: Usage | None) -> None:
    """A script can let things go wrong, with what they charge."""
    with pytest.raises(kind) as caught:
        say(ScriptedModel.of({"root": [{"error": error}]}))
    assert caught.value.usage == usage


def test_trouble_that_passes() -> None:
    """An error with `times` goes away when the same turn is asked for again; what is lost breaks off halfway."""
    model = ScriptedModel.of({"root": [{"error": "lost", "times": 2, "text": "12345678"}]})
    request, heard = Request((Message("user", "Hi"),), turn=1), list[str]()
    for _ in range(2):
        with pytest.raises(ModelUnavailableError):
            model.complete(request, Cancellation(), heard.append)
    assert "".join(heard) == "12341234"
    assert say(model) == "12345678"


def test_delay() -> None:
    """A reply takes its time, its own or everybody's."""
    model = ScriptedModel.of({"root": ["slow", {"text": "quick", "delay": 0}]}, latency=0.2)
    started = time.monotonic()
    say(model, turn=1)
    between = time.monotonic()
    say(model, turn=2)
    assert between - started >= 0.2
    assert time.monotonic() - between < 0.2


def test_cancelled_while_it_takes_its_time() -> None:
    """A delay ends when the call is cancelled."""
    cancel = Cancellation()
    threading.Timer(0.05, cancel.cancel, ["enough"]).start()
    started = time.monotonic()
    with pytest.raises(CancelledError, match="enough"):
        ScriptedModel.of({"root": ["never"]}, latency=60).complete(Request((Message("user", "Hi"),), turn=1), cancel)
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("agents: {root: [", r"script\.yaml: line \d+: not valid YAML"),
        ("- a list", r"script\.yaml: the file: expected a section"),
        ("agent: {}", r"script\.yaml: agent is not a part of a script"),
        ("agents: {root: [a, {txet: b}]}", r"script\.yaml: agents\.root\.2\.txet is not a part of a script"),
        ("agents: {root: [{text: 5}]}", r"script\.yaml: agents\.root\.1\.text: .*string"),
        ("agents: {root: [{error: bang}]}", r"agents\.root\.1\.error: .*'unavailable'.*'lost'"),
        ("agents: {root: just text}", r"agents\.root: .*tuple"),
        ("prompts: [{pattern: '(', reply: a}]", r"prompts\.1\.pattern: not a regular expression"),
        ("prompts: [{pattern: a}]", r"prompts\.1: needs either `reply`.*or `replies`"),
        ("price: {input: 1}", r"price\.output: Field required"),
        ("delay: -1", r"delay: .*greater than or equal to 0"),
    ],
)
def test_malformed_script(tmp_path: Path, text: str, words: str) -> None:
    """What is wrong with a script is said with its place; replies are counted from 1, as turns are."""
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, text)


def test_script_without_end(tmp_path: Path) -> None:
    """A pipe that nobody writes into, and nesting that nobody could follow."""
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match=r"pipe\.yaml: is no file$"):
        ScriptedModel.read(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match=r"^/dev/zero: is no file$"):
        ScriptedModel.read(Path("/dev/zero"))
    with pytest.raises(ConfigError, match=r"nested too deeply$"):
        read(tmp_path, "[" * 10_000)


def test_script_that_is_not_there(tmp_path: Path) -> None:
    """A missing file is named."""
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read: No such file"):
        ScriptedModel.read(tmp_path / "nowhere.yaml")


def test_many_agents_at_once() -> None:
    """Agents that ask at the same time get their own lines."""
    agents: dict[str, Any] = {f"root.{n}": [f"line {n}"] for n in range(20)}
    model, said = ScriptedModel.of(agents, latency=0.01), dict[str, str]()
    threads = [threading.Thread(target=lambda a=agent: said.update({a: say(model, a)})) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {agent: lines[0] for agent, lines in agents.items()}


def test_example_in_the_docstring(tmp_path: Path) -> None:
    """The script that the documentation shows is one."""
    shown = (ScriptedModel.__doc__ or "").split("may be left out:")[1].split("For an agent's turn")[0]
    model = read(tmp_path, shown)
    assert say(model, turn=0, prompt="Summarize it") == "A short summary."
    assert "FINAL(3)" in say(model, "root.4", prompt="Please count the TODOs.")
