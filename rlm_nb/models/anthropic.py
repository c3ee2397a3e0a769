"""Anthropic's models, through Anthropic's SDK.

The SDK is imported by the first call, not with this file: it takes over a second, which then passes while the agent's
kernel starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from pydantic import SecretStr

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import Config, ModelSettings
from rlm_nb.errors import MissingKeyError, ModelError, ModelUnavailableError
from rlm_nb.models.service import (
    CONNECT_TIMEOUT,
    Line,
    Lines,
    Tell,
    Wire,
    check_address,
    clean,
    find_key,
    lost,
    never_sent,
    refused,
    tls,
    turns,
    unreachable,
    valid,
)
from rlm_nb.records import Reply, Request, StopReason, Usage

if TYPE_CHECKING:
    import anthropic
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
        self._lines = Lines(partial(_connect, settings, CREDENTIALS[self._variable], self._key))

    @classmethod
    def from_config(cls, config: Config, secrets: Mapping[str, SecretStr]) -> Self:
        """The model of `config.model`, with a key out of `secrets` and from nowhere else.

        Raises:
            MissingKeyError: Neither of the variables is set.
            ConfigError: The base URL or the key cannot be one.
        """
        check_address(config.model)
        for variable in CREDENTIALS:
            if key := find_key(variable, secrets):
                return cls(config.model, (variable, key))
        either = " or ".join(CREDENTIALS)
        raise MissingKeyError(f"no key for {config.model.name}: set {either}, or write it into .env", usage=Usage())

    @property
    def name(self) -> str:
        """The model's id."""
        return self._settings.name

    def complete(self, request: Request, cancel: Cancellation, on_text: Callable[[str], None] | None = None) -> Reply:
        """Ask once; see `protocols.Model`."""
        body = self._body(request)
        return self._lines.call(partial(self._ask, body), request.agent, cancel, on_text)

    def _body(self, request: Request) -> dict[str, Any]:
        """The request as the API wants it, or `RequestRefusedError` for what it would not take.

        Nothing in the system prompt or an earlier message depends on the turn, so that what was cached stays found:
        the system prompt carries its own mark, and the one that moves along with the conversation stands outside.
        """
        body: dict[str, Any] = {"model": self.name, "max_tokens": request.max_tokens, "messages": turns(request)}
        if request.system.strip():
            body["system"] = [{"type": "text", "text": valid(request.system), "cache_control": CACHE}]
        if request.turn > 0:  # a single question is never asked on, and writing to the cache costs more than reading
            body["cache_control"] = CACHE
        if self._settings.temperature is not None:
            body["extra_body"] = {"temperature": self._settings.temperature}
        return body

    def _ask(self, body: dict[str, Any], line: Line[anthropic.Anthropic], tell: Tell) -> None:
        import anthropic
        import httpx2

        try:
            with line.client.messages.create(**body, stream=True) as stream:
                tell(_read(stream, tell))
        except anthropic.APIStatusError as error:
            raise self._refused(error, line.wire.attempts) from None
        except anthropic.APIConnectionError as error:  # no attempt got as far as a connection: see _attempt
            words = self._clean(str(error.__cause__ or error))
            raise unreachable(str(line.client.base_url), words, line.wire.attempts) from None
        except (httpx2.TransportError, ValueError) as error:  # ValueError: what arrived was no JSON, or no UTF-8
            raise ModelUnavailableError(f"the reply broke off: {self._clean(str(error))}") from None

    def _refused(self, error: anthropic.APIStatusError, attempts: int) -> ModelError:
        """Our exception for an error that the service answered with, before the reply or in the middle of it."""
        started = error.status_code < 400
        status = STATUS_OF.get(error.type or "", 500) if started else error.status_code
        words = self._clean(error.api_message or error.message)
        return refused(status, words, self._settings, self._variable, None if started else attempts)

    def _clean(self, words: str) -> str:
        return clean(words, self._key, self._settings)


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


def _connect(settings: ModelSettings, argument: str, key: SecretStr, wire: Wire) -> anthropic.Anthropic:
    import anthropic

    timeout = anthropic.Timeout(settings.timeout, connect=min(CONNECT_TIMEOUT, settings.timeout))
    credential: dict[str, Any] = {argument: key.get_secret_value()}
    return anthropic.Anthropic(
        **credential,
        base_url=settings.base_url,
        timeout=timeout,
        max_retries=settings.retries,
        http_client=anthropic.DefaultHttpxClient(timeout=timeout, verify=tls(), event_hooks=wire.hooks),
        middleware=[partial(_attempt, wire)],
    )


def _attempt(wire: Wire, request: anthropic.APIRequest, call_next: anthropic.CallNext) -> anthropic.APIResponse[Any]:
    """The SDK's middleware: called around each attempt; what it raises is final unless the SDK raised it."""
    import anthropic

    wire.begin()
    try:
        return call_next(request)
    except anthropic.APIConnectionError as error:
        if never_sent(error.__cause__):
            raise  # the SDK may try again
        raise lost(error.__cause__) from None


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
