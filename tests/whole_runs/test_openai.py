"""Whole runs through the real OpenAI SDK, against a server on loopback that speaks Chat Completions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.config import BudgetSettings
from rlm_nb.models.metered import price_of
from rlm_nb.notebook.reader import read
from rlm_nb.records import Usage
from tests.servers.completions import Answer, CompletionsServer, Fails, Received, Says
from tests.whole_runs.conftest import Shell, cell, check_record, spent

KEY = "sk-proj-planted-0123456789abcdef"
"""A key that must be found nowhere."""


def served_by(shell: Shell, server: CompletionsServer, name: str = "gpt-5-mini", **more: Any) -> Path:
    """A file of settings that reaches the server."""
    sections: dict[str, dict[str, Any]] = {
        "model": {"name": name, "provider": "openai", "base_url": server.url, "retries": 1},
        "rlm": {"max_failures": 2},
    }
    return shell.settings(**{name: {**sections.get(name, {}), **more.get(name, {})} for name in {*sections, *more}})


def by_task(**replies: list[Answer]) -> Any:
    """What the server answers, by a word of the agent's task."""

    def respond(request: Received) -> Answer:
        opening = next(message["content"] for message in request.json["messages"] if message["role"] == "user")
        return next(answers.pop(0) for task, answers in replies.items() if f"# Task\n\n{task}" in opening)

    return respond


def test_a_tree_of_agents(repository: Path, shell: Shell) -> None:
    """Each conversation only grows, byte for byte, and is paid at the listed price of each kind of token."""
    answers: dict[str, list[Answer]] = {
        "Count": [
            cell("parts = rlm_query_batched(['left', 'right'])", "print(parts)"),
            cell("FINAL(sum(part.answer for part in parts))"),
        ],
        "left": [cell("x = len(list(Path('.').rglob('*.py')))", "print(x)"), cell("FINAL(x)")],
        "right": [cell("FINAL(1)")],
    }
    with CompletionsServer(respond=by_task(**answers), key=KEY) as server:
        config = served_by(shell, server)
        ended = shell.run(repository, "-c", config, prompt="Count the parts.", OPENAI_API_KEY=KEY)
        server.assert_prefix_stable()
        assert all(request.json["messages"][0]["role"] == "system" for request in server.requests)
    assert (ended.code, ended.out) == (0, "4\n"), ended.err
    ledger = json.loads((ended.run / "budget.json").read_text())
    turns = [turn for path in ended.run.glob("*.ipynb") for turn in read(path).iterations]
    price = price_of("gpt-5-mini", BudgetSettings())
    assert [turn.reply.cost for turn in turns] == [price(turn.reply.usage) for turn in turns]
    assert sum(turn.reply.cost for turn in turns) == spent(ledger) > 0
    plain = sum((Usage(turn.reply.usage.prompt_tokens, turn.reply.usage.output_tokens) for turn in turns), Usage())
    assert spent(ledger) < price(plain)  # a part was read from the cache
    check_record(ended.run)
    assert KEY not in ended.err
    assert not [path for path in ended.run.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_key_out_of_dotenv(repository: Path, shell: Shell) -> None:
    """A key in .env will do."""
    (shell.here / ".env").write_text(f"OPENAI_API_KEY={KEY}\n")
    with CompletionsServer(cell("FINAL('hello')"), key=KEY) as server:
        ended = shell.run(repository, "-c", served_by(shell, server))
    assert (ended.code, ended.out) == (0, "hello\n"), ended.err


def test_server_of_ones_own(repository: Path, shell: Shell) -> None:
    """Without a key, a price, or counts: the run works, says what nobody knows, and its token limits hold."""
    with CompletionsServer(respond=lambda request: cell("print('x' * 3000)"), counts=False) as server:
        config = served_by(
            shell,
            server,
            "qwen3-coder",
            model={"max_tokens": 500},
            budget={"unpriced": True, "max_input_tokens": 150_000},
        )
        ended = shell.run(repository, "-c", config)
        assert all("authorization" not in request.headers for request in server.requests)
    assert ended.code == 3, ended.err
    assert "qwen3-coder does not say how many tokens a call takes" in ended.err
    assert ended.err.count("does not say how many") == 1
    assert "limit reached: input tokens" in ended.err
    ledger = json.loads((ended.run / "budget.json").read_text())
    assert 0 < ledger["spent"]["input_tokens"] <= 150_000
    check_record(ended.run)


def test_paid_server_that_counts_nothing(repository: Path, shell: Shell) -> None:
    """Where nobody says what was used, the whole reservation is charged, and the run says so."""
    with CompletionsServer(cell("x = 1"), cell("FINAL(x)"), counts=False) as server:
        ended = shell.run(repository, "-c", served_by(shell, server, model={"max_tokens": 1000}))
    assert ended.code == 0, ended.err
    assert "each counts for the most that it can have taken" in ended.err
    ledger = json.loads((ended.run / "budget.json").read_text())
    assert ledger["spent"]["output_tokens"] == 2 * 1000
    check_record(ended.run)


@pytest.mark.parametrize(
    "trouble",
    [
        Fails(429, headers={"retry-after": "0.01"}),
        Says(cell("x = 'never whole'"), cut=3),
        Says(cell("x = 'never whole'"), error=(3, "server_error")),
    ],
    ids=["429", "a stream that breaks off", "an error in mid-stream"],
)
def test_passing_trouble(repository: Path, shell: Shell, trouble: Answer) -> None:
    """The same request is sent again, and what has broken off is in no history; only that may have been charged."""
    with CompletionsServer(cell("x = 1"), trouble, cell("FINAL(x)")) as server:
        ended = shell.run(repository, "-c", served_by(shell, server))
        server.assert_prefix_stable()
        first, second, third = server.requests
    assert (ended.code, ended.out) == (0, "1\n"), ended.err
    assert second.prefix == third.prefix
    assert len(first.prefix) + 2 == len(third.prefix)
    turns = read(ended.run / "root.ipynb").iterations
    surely = sum(turn.reply.cost for turn in turns)
    assert (spent(json.loads((ended.run / "budget.json").read_text())) > surely) == isinstance(trouble, Says)
    check_record(ended.run)


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (Fails(401, "Incorrect API key provided"), 1, "does not accept OPENAI_API_KEY (401: "),
        (Fails(404, "The model does not exist"), 1, "the service has no model gpt-5-mini (404: "),
        (Fails(400, "maximum context length"), 1, "the service refuses this request (400: "),
        (
            Fails(500, "The server had an error", {"retry-after-ms": "1"}),
            1,
            "gpt-5-mini is not available, tried 2",
        ),
    ],
)
def test_errors_are_sentences(repository: Path, shell: Shell, answer: Fails, code: int, says: str) -> None:
    """What the service refuses at once ends the run before it began, in words, and leaves nothing."""
    with CompletionsServer(respond=lambda request: answer) as server:
        ended = shell.run(repository, "-c", served_by(shell, server), OPENAI_API_KEY=KEY)
    assert ended.code == code
    assert ended.last_line.startswith("Error: ")
    assert says in ended.last_line
    assert "Traceback" not in ended.err
    assert ended.left == []
