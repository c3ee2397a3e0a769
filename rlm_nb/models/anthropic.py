"""Anthropic's models, through Anthropic's SDK.

The SDK is imported by the first call, not with this file: it takes over a second, which then passes while the agent's
kernel starts.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

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
from rlm_nb.records import Reply, Request, StopReason, Usage

if TYPE_CHECKING:
    import ssl

    import anthropic
    import httpx2
    from anthropic.types import RawMessageStreamEvent

CREDENTIALS = {"ANTHROPIC_API_KEY": "api_key", "ANTHROPIC_AUTH_TOKEN": "auth_token"}
"""The variables that may hold a key, the first one that is set being used, and the SDK's name for each."""

STOP_REASONS: dict[str | None, StopReason] = {
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "refusal": "refusal",
}
"""What is not listed is a natural end."""

CACHE = {"type": "ephemeral"}

CONNECT_TIMEOUT = 10.0
"""Seconds until a connection must stand."""

_News = str | Reply | Exception | None
"""What a call's thread tells: a piece of text, how it ended, or nothing but to look up (from whoever cancels)."""


class AnthropicModel:
    """A model behind the Messages API, streamed, with prompt caching.

    Repeated within a call, as often as `model.retries` says and as the SDK does it (backing off, or as `retry-after`
    says), is only what has surely cost nothing: a connection that never stood, and an answer such as 429 or 529. What
    breaks off later may have been charged, so it raises `ModelUnavailableError` with unknown usage: asking again takes
    a reservation of its own.

    Args:
        settings: The model's name, and how it is reached.
        credential: The variable that holds the key, one of `CREDENTIALS`, and the key.
    """

    def __init__(self, settings: ModelSettings, credential: tuple[str, SecretStr]) -> None:
        self._settings = settings
        self._variable, self._key = credential
        self._idle: deque[_Line] = deque()

    @classmethod
    def from_config(cls, config: Config, secrets: Mapping[str, SecretStr]) -> Self:
        """The model of `config.model`, with a key out of `secrets` and from nowhere else.

        Raises:
            MissingKeyError: Neither of the variables is set.
            ConfigError: The base URL or the key cannot be one.
        """
        url = config.model.base_url
        if url is not None and not _is_web_address(url):
            raise ConfigError(f"model.base_url: expected an address such as https://example.org, found {url!r}")
        for variable in CREDENTIALS:
            key = secrets[variable].get_secret_value().strip() if variable in secrets else ""
            # Anything else cannot travel in a header; the error that the SDK raises for it would show the key.
            if not (key.isascii() and key.isprintable() and " " not in key):
                raise ConfigError(f"{variable} holds characters that no key has; was something else copied along?")
            if key:
                return cls(config.model, (variable, SecretStr(key)))
        either = " or ".join(CREDENTIALS)
        raise MissingKeyError(f"no key for {config.model.name}: set {either}, or write it into .env", usage=Usage())

    @property
    def name(self) -> str:
        """The model's id."""
        return self._settings.name

    def complete(self, request: Request, cancel: Cancellation, on_text: Callable[[str], None] | None = None) -> Reply:
        """Ask once; see `protocols.Model`.

        The SDK has no way to stop a call that waits: for a connection, for the first byte, for its next attempt. So
        the call runs in a thread of its own, which reports to this one. When this one has to leave, it shuts down the
        connection, which tells the service to stop writing, and that thread ends by itself: at once, or where the SDK
        sleeps between two attempts or waits for a connection to stand, after that, without another attempt.
        """
        cancel.check()
        body = self._body(request)
        try:
            line = self._idle.pop()
        except IndexError:
            line = _Line(self._settings, CREDENTIALS[self._variable], self._key)
        news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        worker = threading.Thread(
            target=self._work, args=(line, body, news.put), name=f"model call of {request.agent}", daemon=True
        )
        try:
            with cancel.calling(lambda: news.put(None)):
                worker.start()
                reply = _hear(news, cancel, on_text)
        except BaseException:
            line.wire.cut()
            raise
        self._idle.append(line)
        return reply

    def _body(self, request: Request) -> dict[str, Any]:
        """The request as the API wants it, or `RequestRefusedError` for what it would not take.

        Nothing in the system prompt or an earlier message depends on the turn, so that what was cached stays found:
        the system prompt carries its own mark, and the one that moves along with the conversation stands outside.
        """
        # The API refuses blank messages, and takes several in a row of one role as one: an empty reply is left out.
        messages = [
            {"role": message.role, "content": _valid(message.content)}
            for message in request.messages
            if message.content.strip()
        ]
        if not messages or not request.messages[-1].content.strip():
            raise RequestRefusedError("a request must end with a message that is not blank", usage=Usage())
        if messages[-1]["role"] != "user":
            raise RequestRefusedError("a request must end with a message of the user's", usage=Usage())
        body: dict[str, Any] = {"model": self.name, "max_tokens": request.max_tokens, "messages": messages}
        if request.system.strip():
            body["system"] = [{"type": "text", "text": _valid(request.system), "cache_control": CACHE}]
        if request.turn > 0:  # a single question is never asked on, and writing to the cache costs more than reading
            body["cache_control"] = CACHE
        if self._settings.temperature is not None:
            body["extra_body"] = {"temperature": self._settings.temperature}
        return body

    def _work(self, line: _Line, body: dict[str, Any], tell: Callable[[_News], None]) -> None:
        """Make the call, in its own thread."""
        try:
            tell(self._ask(line, body, tell))
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread that waits raises it
            tell(error)

    def _ask(self, line: _Line, body: dict[str, Any], tell: Callable[[str], None]) -> Reply:
        import anthropic
        import httpx2

        line.wire.attempts = 0
        try:
            with line.client.messages.create(**body, stream=True) as stream:
                return _read(stream, tell)
        except anthropic.APIStatusError as error:
            raise self._refused(error, line.wire.attempts) from None
        except anthropic.APIConnectionError as error:  # no attempt got as far as a connection: see _Wire.attempt
            tried = _times(line.wire.attempts)
            cause = self._clean(str(error.__cause__ or error))
            where = urlsplit(str(line.client.base_url)).netloc
            raise ModelUnavailableError(f"{where} cannot be reached ({tried}): {cause}", usage=Usage()) from None
        except (httpx2.TransportError, ValueError) as error:  # ValueError: what arrived was no JSON, or no UTF-8
            raise ModelUnavailableError(f"the reply broke off: {self._clean(str(error))}") from None

    def _refused(self, error: anthropic.APIStatusError, attempts: int) -> ModelError:
        """Our exception for an error that the service answered with, before the reply or in the middle of it."""
        started = error.status_code < 400
        status = STATUS_OF.get(error.type or "", 500) if started else error.status_code
        usage = None if started else Usage()
        words = f"{status}: {self._clean(error.api_message or error.message)}"
        if status in (401, 403):
            return RefusedKeyError(f"the service does not accept {self._variable} ({words})", usage=usage)
        if status == 404:
            check = "model.name" if self._settings.base_url is None else "model.name and model.base_url"
            return UnknownModelError(f"the service has no model {self.name} ({words}); check {check}", usage=usage)
        if status < 500 and status not in (408, 409, 429):
            return RequestRefusedError(f"the service refuses this request ({words})", usage=usage)
        what = "the reply broke off" if started else f"{self.name} is not available, {_times(attempts)}"
        return ModelUnavailableError(f"{what} ({words})", usage=usage)

    def _clean(self, words: str) -> str:
        """Somebody else's words, fit to be shown: short, and without the key."""
        return words.replace(self._key.get_secret_value(), "[key]")[:500]


def _hear(news: queue.SimpleQueue[_News], cancel: Cancellation, on_text: Callable[[str], None] | None) -> Reply:
    """Pass on the pieces as they come, until the reply is whole."""
    while True:
        try:
            item = news.get(timeout=cancel.seconds_left())
        except queue.Empty:
            item = None
        if isinstance(item, Reply):
            return item
        if isinstance(item, Exception):
            raise item
        cancel.check()
        if item is not None and on_text is not None:
            on_text(item)


def _read(stream: anthropic.Stream[RawMessageStreamEvent], tell: Callable[[str], None]) -> Reply:
    """Read to the end, which gives the connection back."""
    text: list[str] = []
    model, stop, usage, complete = "", None, Usage(), False
    for event in stream:
        if event.type == "message_start":
            model, usage = event.message.model, _counts(event.message.usage, Usage())
        elif event.type == "content_block_delta" and event.delta.type == "text_delta":
            text.append(event.delta.text)
            tell(event.delta.text)
        elif event.type == "message_delta":
            stop, usage = event.delta.stop_reason, _counts(event.usage, usage)
        elif event.type == "message_stop":
            complete = True
    if not complete:
        raise ModelUnavailableError("the reply broke off: the service ended it before it was complete")
    return Reply("".join(text), usage, STOP_REASONS.get(stop, "end"), model)


def _counts(usage: anthropic.types.Usage | anthropic.types.MessageDeltaUsage, before: Usage) -> Usage:
    """The API's counts, which are totals so far; one that is not given stays as it was."""

    def latest(count: int | None, known: int) -> int:
        return known if count is None else count

    return Usage(
        latest(usage.input_tokens, before.input_tokens),
        latest(usage.output_tokens, before.output_tokens),
        latest(usage.cache_read_input_tokens, before.cache_read_tokens),
        latest(usage.cache_creation_input_tokens, before.cache_write_tokens),
    )


class _Line:
    """A client of the SDK with one connection, for one call at a time; idle ones are kept and used again.

    A single client with a pool would do, were it not for cancelling: nobody is told which connection of a pool a call
    waits on. It closes when nobody holds it any more, so never under a thread that reads from it.
    """

    def __init__(self, settings: ModelSettings, argument: str, key: SecretStr) -> None:
        self.wire = _Wire()
        self._settings, self._argument, self._key = settings, argument, key

    @cached_property
    def client(self) -> anthropic.Anthropic:
        import anthropic

        settings = self._settings
        timeout = anthropic.Timeout(settings.timeout, connect=min(CONNECT_TIMEOUT, settings.timeout))
        # The hooks know the wire and not the line, or the line would never be let go of.
        http = anthropic.DefaultHttpxClient(timeout=timeout, verify=_tls(), event_hooks={"request": [self.wire.watch]})
        weakref.finalize(self, http.close).atexit = False
        credential: dict[str, Any] = {self._argument: self._key.get_secret_value()}
        return anthropic.Anthropic(
            **credential,
            base_url=settings.base_url,
            timeout=timeout,
            max_retries=settings.retries,
            http_client=http,
            middleware=[self.wire.attempt],
        )


@cache
def _tls() -> ssl.SSLContext:
    """Shared by all lines: making one takes 20 to 50 ms, the rest of a line half a millisecond."""
    import httpx2

    return httpx2.create_ssl_context()


class _Wire:
    """What a line's client tells of its connection, and what it takes to cut it from another thread."""

    def __init__(self) -> None:
        self.attempts = 0
        self._stream: Any = None
        self._is_cut = False

    def cut(self) -> None:
        """Shut down the connection, if there is one, and let no attempt be made any more."""
        self._is_cut = True
        link = self._stream.get_extra_info("socket") if self._stream is not None else None
        if isinstance(link, socket.socket):
            # Not link.shutdown(): a TLS socket's takes away its state from under the thread that reads.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(link, socket.SHUT_RDWR)

    def attempt(self, request: anthropic.APIRequest, call_next: anthropic.CallNext) -> anthropic.APIResponse[Any]:
        """The SDK's middleware: called around each attempt; what it raises is final unless the SDK raised it."""
        import anthropic
        import httpx2

        if self._is_cut:
            raise CancelledError("the call was cancelled")
        self.attempts += 1
        try:
            return call_next(request)
        except anthropic.APIConnectionError as error:
            if isinstance(error.__cause__, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)):
                raise  # nothing was sent: the SDK may try again
            why = str(error.__cause__) or type(error.__cause__).__name__
            raise ModelUnavailableError(f"the connection was lost before the reply began: {why}") from None

    def watch(self, request: httpx2.Request) -> None:
        """The HTTP client's hook: called with each request before it is sent."""
        request.extensions = {**request.extensions, "trace": self._trace}

    def _trace(self, name: str, info: Mapping[str, Any]) -> None:
        if name.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._stream = info["return_value"]
            if self._is_cut:
                self.cut()


STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that an error in mid-stream, where 200 has been sent already, would have had."""


def _times(attempts: int) -> str:
    return "tried once" if attempts == 1 else f"tried {attempts} times"


def _valid(text: str) -> str:
    """Text as UTF-8 can carry it: what a cell printed may hold half of a surrogate pair."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
