"""A whole run through the real SDK, against a server on loopback that speaks the Messages API."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

import rlm_nb
from rlm_nb.models.metered import price_of
from rlm_nb.notebook.reader import read
from rlm_nb.records import Usage
from tests.servers.messages import Answer, Fails, MessagesServer, Says
from tests.whole_runs.conftest import KEY, agents_of, cell, check_record, conversations

SECRETS = {"ANTHROPIC_API_KEY": SecretStr(KEY)}


def config_for(server: MessagesServer, folder: Path, **model: object) -> rlm_nb.Config:
    """Settings that reach the server, and record below `folder`."""
    return rlm_nb.load_config(flags={"model": {"base_url": server.url, **model}, "runs": {"dir": folder / "runs"}})


TREE: dict[str, list[Answer]] = {
    "Count": [
        cell("parts = rlm_query_batched(['left', 'right'])", "print(parts)"),
        cell("judged = llm_query('Is that so?')", "print(judged)"),
        cell("FINAL([part.answer for part in parts])"),
    ],
    "left": [cell("x = len(list(Path('.').rglob('*.py')))", "print(x)"), cell("FINAL(x)")],
    "right": [cell("FINAL(rlm_query('deepest').answer + 1)")],
    "deepest": [cell("print('looking')"), cell("FINAL(1)")],
}


def test_a_tree_of_agents(repository: Path, tmp_path: Path) -> None:
    """Each conversation only grows, is found in the cache, and is paid at the listed price of each kind of token."""
    respond = conversations(TREE)
    with MessagesServer(
        respond=lambda r: Says("Yes.") if r.json["messages"][0]["content"] == "Is that so?" else respond(r)
    ) as server:
        config = config_for(server, tmp_path)
        result = rlm_nb.run("Count the parts.", repository, config, secrets=SECRETS)
        server.assert_prefix_stable()
        requests = [request.json for request in server.requests]
    assert result.root.answer.value == [3, 2]
    assert len(requests) == 3 + 2 + 1 + 2 + 1
    assert all("temperature" not in request for request in requests)
    agents = agents_of(result.root)
    assert sorted(agent.agent for agent in agents) == ["root", "root.1", "root.2", "root.2.1"]
    # Each turn after the first reads from the cache what the one before it wrote there.
    assert all(agent.usage.cache_read_tokens > 0 for agent in agents if agent.iterations > 1)
    price = price_of(config.model.name, config.budget)
    turns = [turn for agent in agents for turn in read(agent.notebook).iterations]
    assert [turn.reply.cost for turn in turns] == [price(turn.reply.usage) for turn in turns]
    plain = sum((Usage(turn.reply.usage.prompt_tokens, turn.reply.usage.output_tokens) for turn in turns), Usage())
    assert sum(turn.reply.cost for turn in turns) < price(plain)
    assert result.balance.spent == sum((agent.usage for agent in agents), Usage())
    assert result.balance.spent_cost == sum(agent.cost for agent in agents) == result.root.total_cost
    assert result.balance.reserved_cost == 0
    check_record(result.folder)


@pytest.mark.parametrize(
    "trouble",
    [
        Fails(429, headers={"retry-after": "0.01"}),
        Fails(529, headers={"retry-after": "0.01"}),
        Says(cell("x = 'never whole'"), cut=5),
        Says(cell("x = 'never whole'"), error=(5, "overloaded_error")),
    ],
    ids=["429", "529", "a stream that breaks off", "overloaded in mid-stream"],
)
def test_passing_trouble(repository: Path, tmp_path: Path, trouble: Answer) -> None:
    """The same request is sent again, and what has broken off is in no history; only that may have been charged."""
    with MessagesServer(cell("x = 1"), trouble, cell("FINAL(x)")) as server:
        result = rlm_nb.run("Count.", repository, config_for(server, tmp_path), secrets=SECRETS)
        server.assert_prefix_stable()
        first, second, third = server.requests
    assert result.root.answer.value == 1
    assert second.prefix == third.prefix
    assert len(first.prefix) + 2 == len(third.prefix)
    assert third.json["messages"][1]["content"] == cell("x = 1")
    recorded = read(result.root.notebook)
    assert [turn.number for turn in recorded.iterations] == [1, 2]
    surely = sum(turn.reply.cost for turn in recorded.iterations)
    assert (result.root.cost > surely) == isinstance(trouble, Says)
    check_record(result.folder)


def test_temperature_that_is_set(repository: Path, tmp_path: Path) -> None:
    """It is sent with every request, sub-agents' included."""
    answers = {"Ask": [cell("FINAL(rlm_query('below'))")], "below": [cell("FINAL('done')")]}
    with MessagesServer(respond=conversations(answers)) as server:
        rlm_nb.run("Ask.", repository, config_for(server, tmp_path, temperature=0.5), secrets=SECRETS)
        assert [request.json["temperature"] for request in server.requests] == [0.5, 0.5]


def test_money_that_is_up(repository: Path, tmp_path: Path) -> None:
    """No call is sent that could pass the limit; the last turn can be paid, and the run ends with what there is."""
    with MessagesServer(respond=lambda request: cell("answer = 'so far'; print('x' * 5000)")) as server:
        config = rlm_nb.load_config(
            flags={
                "model": {"base_url": server.url, "max_tokens": 1000},
                "budget": {"max_cost": 0.06},
                "runs": {"dir": tmp_path / "runs"},
            }
        )
        result = rlm_nb.run("Go on.", repository, config, secrets=SECRETS)
        server.assert_prefix_stable()
    assert (result.root.status, result.root.answer.text) == ("partial", "so far")
    assert "The budget ended" in result.root.outcome.stop_reason
    assert 0 < result.balance.spent_cost <= 60_000
    check_record(result.folder)
