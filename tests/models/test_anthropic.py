"""Anthropic's models: the real SDK, over real HTTP, against a server that speaks the Messages API."""

from __future__ import annotations

import gc
import itertools
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import anthropic  # noqa: F401 - takes a second or two, which is not to count in any test
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
from rlm_nb.models.anthropic import AnthropicModel
from rlm_nb.records import Message, Reply, Request, Usage
from tests.servers.messages import Fails, MessagesServer, Received, Says

KEY = "sk-ant-planted-0123456789"
SOON = {"retry-after-ms": "1"}
"""Tells the SDK to lose no time in a test that is not about time."""


def model_at(url: str, secrets: Mapping[str, str] | None = None, **settings: Any) -> AnthropicModel:
    settings = {"name": "claude-test", "retries": 2, "base_url": url, **settings}
    given = {"ANTHROPIC_API_KEY": KEY} if secrets is None else secrets
    return AnthropicModel.from_config(
        Config(model=ModelSettings(**settings)), {name: SecretStr(key) for name, key in given.items()}
    )


def ask(*contents: str, turn: int = 1, system: str = "You are an agent.") -> Request:
    """A request whose messages are the user's and the assistant's in turn."""
    roles = itertools.cycle(("user", "assistant"))
    messages = tuple(Message(role, content) for role, content in zip(roles, contents, strict=False))  # type: ignore[arg-type]
    return Request(messages, system=system, max_tokens=100, turn=turn)


def failure(server: MessagesServer, request: Request | None = None, **settings: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        model_at(server.url, **settings).complete(request or ask("Hi"), Cancellation())
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


# What is asked and what is answered


def test_reply_is_streamed_and_counted() -> None:
    """The pieces arrive one by one, thinking is not among them, and the counts are the stream's last ones."""
    usage = {
        "input_tokens": 5,
        "cache_read_input_tokens": 70,
        "cache_creation_input_tokens": 30,
        "output_tokens": 12,
    }
    with MessagesServer(Says("Hello, world!", thinking="Hm.", pieces=3, usage=usage)) as server:
        pieces: list[str] = []
        reply = model_at(server.url).complete(ask("Hi"), Cancellation(), pieces.append)
    assert reply == Reply("Hello, world!", Usage(5, 12, 70, 30), "end", "claude-test")
    assert len(pieces) == 3
    assert "".join(pieces) == "Hello, world!"


def test_pieces_arrive_before_the_reply_is_whole() -> None:
    """What is said first is heard while the rest is still on its way, in the thread that asked."""
    heard: list[threading.Thread] = []

    def on_text(piece: str) -> None:
        heard.append(threading.current_thread())
        server.release.set()

    with MessagesServer(Says("Hello, world!", pieces=2, stall=4)) as server:
        assert model_at(server.url).complete(ask("Hi"), Cancellation(), on_text).text == "Hello, world!"
    assert set(heard) == {threading.current_thread()}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("end_turn", "end"),
        ("stop_sequence", "end"),
        ("max_tokens", "max_tokens"),
        ("model_context_window_exceeded", "max_tokens"),
        ("refusal", "refusal"),
        ("something_new", "end"),
    ],
)
def test_stop_reason(theirs: str, ours: str) -> None:
    """Why a reply ended is said in our words."""
    with MessagesServer(Says("So far", stop_reason=theirs)) as server:
        assert model_at(server.url).complete(ask("Hi"), Cancellation()).stop_reason == ours


def test_reply_without_content() -> None:
    """A reply may be empty, and is paid all the same."""
    with MessagesServer(Says("")) as server:
        reply = model_at(server.url).complete(ask("Hi"), Cancellation())
    assert (reply.text, reply.stop_reason) == ("", "end")
    assert reply.usage.prompt_tokens > 0


def test_prefix_is_stable_and_found_in_the_cache() -> None:
    """Over a conversation, every request starts with all bytes of the one before, and the cache gives them back."""
    with MessagesServer(respond=lambda request: Says(f"Reply {len(request.json['messages'])}. ☃")) as server:
        model, said, replies = model_at(server.url), ['Task: count the TODOs, "all" of them. ☃'], []
        for turn in range(1, 6):
            replies.append(model.complete(ask(*said, turn=turn), Cancellation()))
            said += [replies[-1].text, f"Output of cell {turn}"]
        server.assert_prefix_stable()
    assert replies[0].usage.cache_read_tokens == 0
    for before, after in itertools.pairwise(replies):
        assert after.usage.cache_read_tokens == before.usage.prompt_tokens
        assert 0 < after.usage.cache_write_tokens < after.usage.cache_read_tokens


def test_cache_marks() -> None:
    """The system prompt is marked; the conversation from outside; a question that is asked once is not."""
    with MessagesServer("a", "b") as server:
        model = model_at(server.url)
        model.complete(ask("Hi", turn=1), Cancellation())
        model.complete(ask("Hi", turn=0), Cancellation())
    turn, query = (request.json for request in server.requests)
    mark = {"type": "ephemeral"}
    assert turn["system"] == [{"type": "text", "text": "You are an agent.", "cache_control": mark}]
    assert turn["cache_control"] == mark
    assert turn["messages"] == [{"role": "user", "content": "Hi"}]
    assert "cache_control" not in query


def test_temperature_is_sent_only_when_it_is_set() -> None:
    """Current models refuse the setting, so it is left out by default, and 0 is a setting."""
    with MessagesServer("a", "b") as server:
        model_at(server.url).complete(ask("Hi"), Cancellation())
        model_at(server.url, temperature=0).complete(ask("Hi"), Cancellation())
    assert "temperature" not in server.requests[0].json
    assert server.requests[1].json["temperature"] == 0
    assert server.requests[1].json["max_tokens"] == 100


def test_blank_messages_are_left_out() -> None:
    """An empty reply in the history, which the API would refuse, does not end the conversation."""
    with MessagesServer("fine") as server:
        assert model_at(server.url).complete(ask("Hi", " \n", "No cell?"), Cancellation()).text == "fine"
    assert [message["content"] for message in server.requests[0].json["messages"]] == ["Hi", "No cell?"]


@pytest.mark.parametrize("contents", [(), ("",), ("Hi", "Hello"), ("Hi", "Hello", " ")])
def test_request_without_a_last_word_of_the_user(contents: tuple[str, ...]) -> None:
    """What no service takes is not sent."""
    with MessagesServer("never") as server:
        assert isinstance(error := failure(server, ask(*contents)), RequestRefusedError)
    assert error.usage == Usage()
    assert server.requests == []


def test_half_a_surrogate_pair() -> None:
    """Text that UTF-8 cannot carry is made valid on its way."""
    with MessagesServer("fine") as server:
        model_at(server.url).complete(ask("a\udc80b"), Cancellation())
    content = server.requests[0].json["messages"][0]["content"]
    assert content.startswith("a�")
    assert content.endswith("�b")


# Keys


@pytest.mark.parametrize("secrets", [{}, {"OPENAI_API_KEY": KEY}, {"ANTHROPIC_API_KEY": " "}])
def test_no_key(secrets: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key in the secrets the error says what to set, whatever the environment holds."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "from the environment")
    with pytest.raises(MissingKeyError, match=r"ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN.*\.env") as caught:
        model_at("http://127.0.0.1:9", secrets)
    assert caught.value.usage == Usage()


@pytest.mark.parametrize("variable", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
def test_either_key_is_accepted(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both variables work, and what the environment holds beside them is not used."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "another")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "another")
    with MessagesServer("Welcome", key=KEY) as server:
        assert model_at(server.url, {variable: KEY + "\n"}).complete(ask("Hi"), Cancellation()).text == "Welcome"


def test_key_that_cannot_be_one() -> None:
    """A key that no header can carry is named by its variable, and not shown."""
    with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY") as caught:
        model_at("http://127.0.0.1:9", {"ANTHROPIC_API_KEY": f"{KEY}\nexport B=2"})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://u:1@example.org", "http://", "http://[", "", "http://a:1/2@c", "http://a:b/1@c"]
)
def test_base_url_that_cannot_be_one(url: str) -> None:
    """A base URL that nothing could be sent to is refused before anything is."""
    with pytest.raises(ConfigError, match=r"model\.base_url") as caught:
        model_at(url)
    assert "@" not in url or "write / as %2F and @ as %40" in str(caught.value)
    assert "1" not in str(caught.value)


def test_key_is_in_no_repr() -> None:
    """Neither the model nor what it holds shows the key to whoever prints it."""
    with MessagesServer("Hi") as server:
        model = model_at(server.url)
        model.complete(ask("Hi"), Cancellation())
        assert KEY not in repr(model) + repr(vars(model)) + repr(vars(model._lines.idle[0]))


# Errors


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, RequestRefusedError, "Your credit balance is too low"),
        (401, RefusedKeyError, "ANTHROPIC_API_KEY"),
        (402, RequestRefusedError, "402"),
        (403, RefusedKeyError, "403"),
        (413, RequestRefusedError, "413"),
        (422, RequestRefusedError, "422"),
    ],
)
def test_refusals_are_not_repeated(status: int, kind: type[ModelError], words: str) -> None:
    """What asking again cannot help is raised at once, in the service's words, and has cost nothing."""
    with MessagesServer(Fails(status, f"Your credit balance is too low, {KEY}")) as server:
        error = failure(server)
    assert type(error) is kind
    assert words in str(error)
    assert "Your credit balance is too low" in str(error)
    assert error.usage == Usage()
    assert len(server.requests) == 1


def test_refused_key() -> None:
    """A key that the service does not know is reported by its variable's name."""
    with MessagesServer(key="another") as server:
        assert isinstance(error := failure(server), RefusedKeyError)
    assert "ANTHROPIC_API_KEY" in str(error)
    assert "401" in str(error)


def test_unknown_model() -> None:
    """A model that the service does not have is named."""
    with MessagesServer(models=["claude-other"]) as server:
        assert isinstance(error := failure(server), UnknownModelError)
    assert "claude-test" in str(error)
    assert error.usage == Usage()


@pytest.mark.parametrize("status", [429, 500, 503, 529])
def test_passing_trouble_is_waited_out(status: int) -> None:
    """Rate limits, overload and server errors are tried again, up to `model.retries` times."""
    fails = Fails(status, headers=SOON)
    with MessagesServer(fails, fails, "At last") as server:
        assert model_at(server.url).complete(ask("Hi"), Cancellation()).text == "At last"
    assert len(server.requests) == 3
    assert len({request.body for request in server.requests}) == 1


@pytest.mark.parametrize("status", [429, 500, 529])
def test_lasting_trouble(status: int) -> None:
    """Trouble that outlasts the retries is reported with its status, how often it was tried, and no charge."""
    with MessagesServer(respond=lambda request: Fails(status, "Too much", SOON)) as server:
        assert isinstance(error := failure(server), ModelUnavailableError)
    assert f"{status}: Too much" in str(error)
    assert "tried 3 times" in str(error)
    assert error.usage == Usage()
    assert len(server.requests) == 3


def test_retry_after_is_honoured() -> None:
    """The service says when to come back; without being told, the SDK would have come after half a second."""
    with MessagesServer(Fails(429, headers={"retry-after": "1"}), "Now") as server:
        started = time.monotonic()
        assert model_at(server.url, retries=1).complete(ask("Hi"), Cancellation()).text == "Now"
    assert 1.0 <= time.monotonic() - started < 3.0


def test_nobody_listens() -> None:
    """A service that cannot be reached is named, and has cost nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(
            ModelUnavailableError, match=rf"{url[7:]} cannot be reached \(tried twice|tried 2"
        ) as caught:
            model_at(url, retries=1).complete(ask("Hi"), Cancellation())
    assert caught.value.usage == Usage()


@pytest.mark.parametrize(
    "answer",
    [
        Says("Hello, world!", cut=4),
        Says("Hello, world!", cut=0),
        Says("Hello, world!", end=4),
        Says("Hello, world!", end=8),
        Says("Hello, world!", error=(4, "overloaded_error")),
        Says("Hello, world!", error=(1, "api_error")),
    ],
    ids=["lost in the middle", "lost before the first byte", "ended early", "without its end", "overloaded", "error"],
)
def test_stream_that_breaks_off(answer: Says) -> None:
    """A call that broke off when it may have been charged says that nobody knows, and is not repeated unasked."""
    with MessagesServer(answer, "never") as server:
        assert isinstance(error := failure(server), ModelUnavailableError)
    assert error.usage is None
    assert len(server.requests) == 1


def test_service_falls_silent() -> None:
    """A service that sends nothing for `model.timeout` seconds counts as lost."""
    with MessagesServer(Says("Hello", stall=0)) as server:
        assert isinstance(error := failure(server, timeout=0.2), ModelUnavailableError)
        assert error.usage is None
    with MessagesServer(Says("Hello", stall=3)) as server:
        assert isinstance(error := failure(server, timeout=0.2), ModelUnavailableError)
        assert error.usage is None


def test_answer_that_is_no_message() -> None:
    """What answers is not the API: somebody's web page, say."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")

        page = threading.Thread(target=serve)
        page.start()
        with pytest.raises(ModelUnavailableError):
            model_at(f"http://127.0.0.1:{listener.getsockname()[1]}").complete(ask("Hi"), Cancellation())
        page.join()


# Cancelling


@pytest.mark.parametrize("stall", [0, 4], ids=["before the first byte", "in the middle"])
@pytest.mark.parametrize("warm", [False, True], ids=["new connection", "used connection"])
@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_cancelled_while_the_service_stalls(stall: int, warm: bool, how: str) -> None:
    """A cancelled call returns soon, the service sees its connection close, and nobody knows what it has charged."""
    stalling = Says("Hello, world!", stall=stall)
    with MessagesServer(*(["warm"] if warm else []), stalling) as server:
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


@contextmanager
def once_waiting(sdk: str, do: Callable[[], None]) -> Iterator[None]:
    """Do something when the SDK says that it waits for its next attempt."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Retrying request"):
                do()

    log, listener = logging.getLogger(f"{sdk}._base_client"), Listener()
    before = log.level
    log.setLevel(logging.INFO)
    log.addHandler(listener)
    try:
        yield
    finally:
        log.removeHandler(listener)
        log.setLevel(before)


def test_cancelled_between_two_attempts() -> None:
    """A call that waits for its next attempt returns at once; that attempt is never made, and nothing was charged."""
    with MessagesServer(Fails(529, headers={"retry-after": "1"}), "never") as server:
        cancel = Cancellation()
        started = time.monotonic()
        with once_waiting("anthropic", lambda: cancel.cancel("enough")), pytest.raises(CancelledError) as caught:
            model_at(server.url).complete(ask("Hi"), cancel)
        assert time.monotonic() - started < 5
        assert (str(caught.value), caught.value.usage) == ("enough", Usage())
        until_gone("model call of root")
        assert len(server.requests) == 1


def test_cancelled_before_it_asked() -> None:
    """Nothing is sent for a call that was cancelled before it began."""
    with MessagesServer("never") as server:
        cancel = Cancellation()
        cancel.cancel("too late")
        with pytest.raises(CancelledError, match="too late") as caught:
            model_at(server.url).complete(ask("Hi"), cancel)
    assert server.requests == []
    assert caught.value.usage == Usage()


def test_listener_that_raises() -> None:
    """What `on_text` raises reaches the caller, and ends the call."""

    def on_text(piece: str) -> None:
        raise RuntimeError("no room")

    with MessagesServer(Says("Hello, world!", stall=4)) as server:
        with pytest.raises(RuntimeError, match="no room"):
            model_at(server.url).complete(ask("Hi"), Cancellation(), on_text)
        assert server.hung_up.wait(2)


def until_gone(name: str) -> None:
    """Wait until no thread of that name is left."""
    deadline = time.monotonic() + 5
    while threads := [thread for thread in threading.enumerate() if thread.name == name]:
        assert time.monotonic() < deadline, threads
        threads[0].join(0.1)


# One model, many agents


def test_many_agents_at_once() -> None:
    """One instance serves sixteen agents at a time; each gets its own reply, and connections are used again."""

    def echo(request: Received) -> Says:
        return Says(f"You said {request.json['messages'][0]['content']}")

    with MessagesServer(respond=echo, latency=0.02) as server:
        model = model_at(server.url)
        with ThreadPoolExecutor(16) as pool:
            replies = pool.map(lambda n: model.complete(ask(f"<{n}>"), Cancellation()).text, range(64))
            assert list(replies) == [f"You said <{n}>" for n in range(64)]
        assert len(server.requests) == 64
        assert server.connections_made <= 16
        server.assert_prefix_stable()


def test_connections_close_with_the_model() -> None:
    """A model that nobody holds any more keeps no connection open."""
    with MessagesServer("Hi") as server:
        model = model_at(server.url)
        model.complete(ask("Hi"), Cancellation())
        assert server.connections_open == 1
        gc.disable()
        try:
            del model  # closes without the help of the garbage collector
            server.wait_until(lambda: server.connections_open == 0)
        finally:
            gc.enable()


def test_importing_the_models_does_not_import_the_sdk() -> None:
    """The SDK takes over a second to import, so it waits until the first call."""
    code = "import sys, rlm_nb.models, rlm_nb.models.anthropic; sys.exit('anthropic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
