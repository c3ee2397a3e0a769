"""OpenAI's models and compatible servers: the real SDK, over real HTTP, against a server of Chat Completions."""

from __future__ import annotations

import gc
import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai  # noqa: F401 - takes most of a second, which is not to count in any test
import pytest
from pydantic import SecretStr

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import Config, ModelSettings
from rlm_nb.errors import (
    CancelledError,
    ConfigError,
    MissingKeyError,
    ModelError,
    ModelUnavailableError,
    RefusedKeyError,
    RequestRefusedError,
    UnknownModelError,
)
from rlm_nb.models.openai import OpenAIModel
from rlm_nb.records import Message, Reply, Request, Usage
from tests.models.test_anthropic import once_waiting, until_gone
from tests.servers.completions import CompletionsServer, Fails, Received, Says

KEY = "sk-proj-planted-0123456789"
SOON = {"retry-after-ms": "1"}
"""Tells the SDK to lose no time in a test that is not about time."""


def model_at(url: str | None, secrets: Mapping[str, str] | None = None, **settings: Any) -> OpenAIModel:
    settings = {"name": "gpt-test", "retries": 2, "base_url": url, **settings}
    given = {"OPENAI_API_KEY": KEY} if secrets is None else secrets
    return OpenAIModel.from_config(
        Config(model=ModelSettings(**settings)), {name: SecretStr(key) for name, key in given.items()}
    )


def ask(*contents: str, turn: int = 1, system: str = "You are an agent.") -> Request:
    """A request whose messages are the user's and the assistant's in turn."""
    roles = itertools.cycle(("user", "assistant"))
    messages = tuple(Message(role, content) for role, content in zip(roles, contents, strict=False))  # type: ignore[arg-type]
    return Request(messages, system=system, max_tokens=100, turn=turn)


def failure(server: CompletionsServer, request: Request | None = None, **settings: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        model_at(server.url, **settings).complete(request or ask("Hi"), Cancellation())
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


# What is asked and what is answered


def test_reply_is_streamed_and_counted() -> None:
    """The pieces arrive one by one; what was cached or written to the cache is taken out of the prompt's count."""
    usage = {"prompt_tokens": 105, "cached_tokens": 70, "cache_write_tokens": 30, "completion_tokens": 12}
    with CompletionsServer(Says("Hello, world!", pieces=3, usage=usage)) as server:
        pieces: list[str] = []
        reply = model_at(server.url).complete(ask("Hi"), Cancellation(), pieces.append)
    assert reply == Reply("Hello, world!", Usage(5, 12, 70, 30), "end", "gpt-test")
    assert len(pieces) == 3
    assert "".join(pieces) == "Hello, world!"


def test_what_is_sent() -> None:
    """The system prompt comes first, the counts are asked for, and the temperature is sent only when it is set."""
    with CompletionsServer("a", "b") as server:
        model_at(server.url).complete(ask("Hi", " \n", "a\udc80b"), Cancellation())
        model_at(server.url, temperature=0).complete(ask("Hi", system=""), Cancellation())
    first, second = (request.json for request in server.requests)
    assert first == {
        "model": "gpt-test",
        "messages": [
            {"role": "system", "content": "You are an agent."},
            {"role": "user", "content": "Hi"},
            {"role": "user", "content": "a���b"},
        ],
        "max_tokens": 100,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert second["messages"] == [{"role": "user", "content": "Hi"}]
    assert second["temperature"] == 0


def test_pieces_arrive_before_the_reply_is_whole() -> None:
    """What is said first is heard while the rest is still on its way, in the thread that asked."""
    heard: list[threading.Thread] = []

    def on_text(piece: str) -> None:
        heard.append(threading.current_thread())
        server.release.set()

    with CompletionsServer(Says("Hello, world!", pieces=2, stall=2)) as server:
        assert model_at(server.url).complete(ask("Hi"), Cancellation(), on_text).text == "Hello, world!"
    assert set(heard) == {threading.current_thread()}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("stop", "end"), ("length", "max_tokens"), ("content_filter", "refusal"), ("tool_calls", "end"), ("new", "end")],
)
def test_stop_reason(theirs: str, ours: str) -> None:
    """Why a reply ended is said in our words."""
    with CompletionsServer(Says("So far", stop_reason=theirs)) as server:
        assert model_at(server.url).complete(ask("Hi"), Cancellation()).stop_reason == ours


def test_refusal() -> None:
    """What the model will not do, it says in a field of its own."""
    with CompletionsServer(Says("", thinking="I will not.")) as server:
        reply = model_at(server.url).complete(ask("Hi"), Cancellation())
    assert (reply.text, reply.stop_reason) == ("I will not.", "refusal")


def test_reply_without_content() -> None:
    """A reply may be empty, and is paid all the same."""
    with CompletionsServer(Says("")) as server:
        reply = model_at(server.url).complete(ask("Hi"), Cancellation())
    assert (reply.text, reply.stop_reason) == ("", "end")
    assert reply.usage.prompt_tokens > 0


def test_prefix_is_stable_and_found_in_the_cache() -> None:
    """Over a conversation, every request starts with all bytes of the one before, and the cache gives them back."""
    with CompletionsServer(respond=lambda request: Says(f"Reply {len(request.json['messages'])}. ☃")) as server:
        model, said, replies = model_at(server.url), ['Task: count the TODOs, "all" of them. ☃'], []
        for turn in range(1, 6):
            replies.append(model.complete(ask(*said, turn=turn), Cancellation()))
            said += [replies[-1].text, f"Output of cell {turn}"]
        server.assert_prefix_stable()
    for before, after in itertools.pairwise(replies):
        assert after.usage.cache_read_tokens == before.usage.prompt_tokens > 0


@pytest.mark.parametrize("contents", [(), ("",), ("Hi", "Hello"), ("Hi", "Hello", " ")])
def test_request_without_a_last_word_of_the_user(contents: tuple[str, ...]) -> None:
    """What no service takes is not sent."""
    with CompletionsServer("never") as server:
        assert isinstance(error := failure(server, ask(*contents)), RequestRefusedError)
    assert error.usage == Usage()
    assert server.requests == []


# Compatible servers


def test_server_that_counts_nothing() -> None:
    """A reply whose tokens nobody has counted says so."""
    with CompletionsServer("Hello", counts=False) as server:
        reply = model_at(server.url).complete(ask("Hi"), Cancellation())
    assert (reply.text, reply.usage, reply.counted) == ("Hello", Usage(), False)


def test_server_that_wants_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key, none is sent, whatever the environment holds; a server that wants one says what to set."""
    monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
    with CompletionsServer("Hello", Fails(401, "No cookie auth credentials found")) as server:
        model = model_at(server.url, {})
        assert model.complete(ask("Hi"), Cancellation()).text == "Hello"
        assert "authorization" not in server.requests[0].headers
        with pytest.raises(RefusedKeyError, match="without a key: set OPENAI_API_KEY"):
            model.complete(ask("Hi"), Cancellation())


def test_words_that_a_server_does_not_know() -> None:
    """The limit goes by its other name, and the counts are done without, from then on and at no cost."""
    refuses = ["max_tokens", "stream_options"]
    with CompletionsServer("one", "two", refuses=refuses) as server:
        model = model_at(server.url)
        replies = [model.complete(ask("Hi"), Cancellation()) for _ in range(2)]
    assert [reply.text for reply in replies] == ["one", "two"]
    assert [reply.counted for reply in replies] == [False, False]
    assert len(server.requests) == 4
    assert server.requests[-1].json["max_completion_tokens"] == 100


@pytest.mark.parametrize(
    ("url", "limit"),
    [
        (None, "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", "max_completion_tokens"),
        ("https://mine.openai.azure.com/openai/v1", "max_completion_tokens"),
        ("http://localhost:11434/v1", "max_tokens"),
        ("https://notopenai.com/v1", "max_tokens"),
    ],
)
def test_what_limits_a_reply(url: str | None, limit: str) -> None:
    """OpenAI's newer models want one name, and only the other is known everywhere else."""
    assert model_at(url)._limit == limit


def test_base_url_without_its_path() -> None:
    """A 404 of a server whose address lacks /v1 says that it may be that."""
    with CompletionsServer() as server:
        with pytest.raises(UnknownModelError, match=r"model\.base_url") as caught:
            model_at(server.url.removesuffix("/v1")).complete(ask("Hi"), Cancellation())
    assert "ends in /v1" in str(caught.value)


# Keys


@pytest.mark.parametrize("secrets", [{}, {"ANTHROPIC_API_KEY": KEY}, {"OPENAI_API_KEY": " "}])
def test_no_key(secrets: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI wants a key, out of the secrets: the error says what to set, whatever the environment holds."""
    monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
    with pytest.raises(MissingKeyError, match=r"OPENAI_API_KEY.*\.env.*model\.base_url") as caught:
        model_at(None, secrets)
    assert caught.value.usage == Usage()


def test_key_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the secrets is the one that is used."""
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    with CompletionsServer("Welcome", key=KEY) as server:
        model = model_at(server.url, {"OPENAI_API_KEY": KEY + "\n"})
        assert model.complete(ask("Hi"), Cancellation()).text == "Welcome"


def test_key_that_cannot_be_one() -> None:
    """A key that no header can carry is named by its variable, and not shown."""
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
        model_at("http://127.0.0.1:9", {"OPENAI_API_KEY": f"{KEY}\nexport B=2"})
    assert KEY not in str(caught.value)


def test_key_is_in_no_repr() -> None:
    """Neither the model nor what it holds shows the key to whoever prints it."""
    with CompletionsServer("Hi") as server:
        model = model_at(server.url)
        model.complete(ask("Hi"), Cancellation())
        assert KEY not in repr(model) + repr(vars(model)) + repr(vars(model._lines.idle[0]))


# Errors


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, RequestRefusedError, "context length"),
        (401, RefusedKeyError, "OPENAI_API_KEY"),
        (402, RequestRefusedError, "402"),
        (403, RefusedKeyError, "403"),
        (404, UnknownModelError, "gpt-test"),
        (413, RequestRefusedError, "413"),
        (422, RequestRefusedError, "422"),
    ],
)
def test_refusals_are_not_repeated(status: int, kind: type[ModelError], words: str) -> None:
    """What asking again cannot help is raised at once, in the service's words, and has cost nothing."""
    with CompletionsServer(Fails(status, f"The context length is exceeded, {KEY}")) as server:
        error = failure(server)
    assert type(error) is kind
    assert words in str(error)
    assert "The context length is exceeded" in str(error)
    assert error.usage == Usage()
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_waited_out(status: int) -> None:
    """Rate limits and server errors are tried again, up to `model.retries` times."""
    fails = Fails(status, headers=SOON)
    with CompletionsServer(fails, fails, "At last") as server:
        assert model_at(server.url).complete(ask("Hi"), Cancellation()).text == "At last"
    assert len(server.requests) == 3
    assert len({request.body for request in server.requests}) == 1


@pytest.mark.parametrize("status", [429, 500])
def test_lasting_trouble(status: int) -> None:
    """Trouble that outlasts the retries is reported with its status, how often it was tried, and no charge."""
    with CompletionsServer(respond=lambda request: Fails(status, "Too much", SOON)) as server:
        assert isinstance(error := failure(server), ModelUnavailableError)
    assert f"{status}: " in str(error)
    assert "Too much" in str(error)
    assert "tried 3 times" in str(error)
    assert error.usage == Usage()
    assert len(server.requests) == 3


def test_nobody_listens() -> None:
    """A service that cannot be reached is named, and has cost nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(ModelUnavailableError, match=r"127\.0\.0\.1:\d+ cannot be reached \(tried 2") as caught:
            model_at(url, retries=1).complete(ask("Hi"), Cancellation())
    assert caught.value.usage == Usage()


@pytest.mark.parametrize(
    "answer",
    [
        Says("Hello, world!", cut=3),
        Says("Hello, world!", cut=0),
        Says("Hello, world!", end=3),
        Says("Hello, world!", end=5),
        Says("Hello, world!", error=(3, "server_error")),
        Says("Hello, world!", error=(1, "rate_limit_exceeded")),
    ],
    ids=["lost in the middle", "lost before the first byte", "ended early", "without its end", "error", "overloaded"],
)
def test_stream_that_breaks_off(answer: Says) -> None:
    """A call that broke off when it may have been charged says that nobody knows, and is not repeated unasked."""
    with CompletionsServer(answer, "never") as server:
        assert isinstance(error := failure(server), ModelUnavailableError)
    assert error.usage is None
    assert len(server.requests) == 1


def test_stream_without_its_counts() -> None:
    """A reply that is whole counts, although the connection ended before its tokens were told."""
    with CompletionsServer(Says("Hello, world!", end=6)) as server:
        reply = model_at(server.url).complete(ask("Hi"), Cancellation())
    assert (reply.text, reply.counted) == ("Hello, world!", False)


def test_refusal_in_the_middle() -> None:
    """A server that finds out late that it does not like the request may have charged for it."""
    with CompletionsServer(Says("Hello, world!", error=(1, "invalid_request_error"))) as server:
        assert isinstance(error := failure(server), RequestRefusedError)
    assert error.usage is None


@pytest.mark.parametrize("stall", [0, 3])
def test_service_falls_silent(stall: int) -> None:
    """A service that sends nothing for `model.timeout` seconds counts as lost."""
    with CompletionsServer(Says("Hello", stall=stall)) as server:
        assert isinstance(error := failure(server, timeout=0.2), ModelUnavailableError)
        assert error.usage is None
        assert len(server.requests) == 1


@pytest.mark.parametrize("page", [b"<html>", b"data: <html>\n\n", b'data: {"choices": null}\n\n', b"data: 5\n\n"])
def test_answer_that_is_no_completion(page: bytes) -> None:
    """What answers is not the API: somebody's web page, say."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page))

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ModelUnavailableError):
            model_at(f"http://127.0.0.1:{listener.getsockname()[1]}/v1").complete(ask("Hi"), Cancellation())
        thread.join()


# Cancelling


@pytest.mark.parametrize("stall", [0, 3], ids=["before the first byte", "in the middle"])
@pytest.mark.parametrize("warm", [False, True], ids=["new connection", "used connection"])
@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_cancelled_while_the_service_stalls(stall: int, warm: bool, how: str) -> None:
    """A cancelled call returns soon, the service sees its connection close, and nobody knows what it has charged."""
    stalling = Says("Hello, world!", stall=stall)
    with CompletionsServer(*(["warm"] if warm else []), stalling) as server:
        model = model_at(server.url)
        if warm:
            model.complete(ask("Hi"), Cancellation())
        cancel = Cancellation(time.monotonic() + 0.5 if how == "deadline" else None)

        def stop_once_stalled() -> None:
            server.stalled.wait()
            cancel.cancel("enough")

        stop = threading.Thread(target=stop_once_stalled)
        if how == "cancel":
            stop.start()
        started = time.monotonic()
        with pytest.raises(CancelledError) as caught:
            model.complete(ask("Hi"), cancel)
        assert time.monotonic() - started < 1.0
        assert caught.value.usage is None
        assert server.hung_up.wait(2)
        if how == "cancel":
            stop.join()
        until_gone("model call of root")


def test_cancelled_between_two_attempts() -> None:
    """A call that waits for its next attempt returns at once; that attempt is never made, and nothing was charged."""
    with CompletionsServer(Fails(503, headers={"retry-after": "1"}), "never") as server:
        cancel = Cancellation()
        started = time.monotonic()
        with once_waiting("openai", lambda: cancel.cancel("enough")), pytest.raises(CancelledError) as caught:
            model_at(server.url).complete(ask("Hi"), cancel)
        assert time.monotonic() - started < 5
        assert (str(caught.value), caught.value.usage) == ("enough", Usage())
        until_gone("model call of root")
        assert len(server.requests) == 1


# One model, many agents


def test_many_agents_at_once() -> None:
    """One instance serves sixteen agents at a time; each gets its own reply, and connections are used again."""

    def echo(request: Received) -> Says:
        return Says(f"You said {request.json['messages'][-1]['content']}")

    with CompletionsServer(respond=echo, latency=0.02) as server:
        model = model_at(server.url)
        with ThreadPoolExecutor(16) as pool:
            replies = pool.map(lambda n: model.complete(ask(f"<{n}>"), Cancellation()).text, range(64))
            assert list(replies) == [f"You said <{n}>" for n in range(64)]
        assert len(server.requests) == 64
        assert server.connections_made < 32


def test_connections_close_with_the_model() -> None:
    """A model that nobody holds any more keeps no connection open."""
    with CompletionsServer("Hi") as server:
        model = model_at(server.url)
        model.complete(ask("Hi"), Cancellation())
        assert server.connections_open == 1
        gc.disable()
        try:
            del model  # closes without the help of the garbage collector
            server.wait_until(lambda: server.connections_open == 0)
        finally:
            gc.enable()


# The extra


def test_importing_the_model_does_not_import_the_sdk() -> None:
    """The SDK waits until the first call, and nothing needs it for anything else."""
    code = "import sys, rlm_nb.models.openai; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("found", [None, "1.99.9"], ids=["not there", "an old one"])
def test_extra_that_is_not_installed(found: str | None, tmp_path: Path) -> None:
    """Without the SDK, or with its old version, the error names the command that installs it."""
    code = "import sys; from rlm_nb.config import load; from rlm_nb.models import get_model\n"
    if found is None:
        code += "sys.modules['openai'] = None\n"  # as if it were not there
    else:
        (tmp_path / f"openai-{found}.dist-info").mkdir()
        (tmp_path / f"openai-{found}.dist-info/METADATA").write_text(f"Name: openai\nVersion: {found}\n")
        code += f"sys.path.insert(0, {str(tmp_path)!r})\n"
    code += "get_model(load(flags={'model': {'name': 'gpt-5'}}), {})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ConfigError: model.name: gpt-5 needs openai 3" in done.stderr
    assert "pip install 'rlm-nb[openai]'" in done.stderr
