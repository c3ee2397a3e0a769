"""OpenAI's models, and those of every server that speaks Chat Completions: vLLM, Ollama, llama.cpp, ….

The SDK is an extra, and is imported by the first call: that takes most of a second, which then passes while the agent's
kernel starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import Config, ModelSettings
from rlm_nb.errors import ConfigError, MissingKeyError, ModelError, ModelUnavailableError
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
    import httpx2
    import openai
    from openai.types import CompletionUsage
    from openai.types.chat import ChatCompletionChunk

KEY = "OPENAI_API_KEY"

OWN = (".openai.com", ".openai.azure.com")
"""Where OpenAI's models are at home; a server elsewhere is only compatible."""

STOP_REASONS: dict[str, StopReason] = {"length": "max_tokens", "content_filter": "refusal"}
"""What is not listed is a natural end."""


class OpenAIModel:
    """A model behind the Chat Completions API, streamed; what it repeats of a prompt is cached unasked.

    Repeated within a call is only what has surely cost nothing, as often as `model.retries` says; see `AnthropicModel`.
    A server that does not say how many tokens a call took gets a reply that is not `counted`.

    Args:
        settings: The model's name, and how it is reached.
        key: The key; `None` for a server that wants none.
    """

    provider = "openai"
    """Whose price list its name is looked up in first."""

    def __init__(self, settings: ModelSettings, key: SecretStr | None) -> None:
        self._settings, self._key = settings, key
        self._lines = Lines(partial(_connect, settings, key))
        # `max_tokens` is what every compatible server knows, and what OpenAI's newer models refuse; one that overlooked
        # the word it does not know would write, and charge, without an end.
        self._limit = "max_completion_tokens" if _is_own(settings.base_url) else "max_tokens"
        self._asks_for_usage = True

    @classmethod
    def from_config(cls, config: Config, secrets: Mapping[str, SecretStr]) -> Self:
        """The model of `config.model`, with a key out of `secrets` and from nowhere else.

        Raises:
            MissingKeyError: No key is set, and the server is OpenAI's own.
            ConfigError: The SDK is not installed, or the base URL or the key cannot be one.
        """
        _check_sdk(config.model.name)
        check_address(config.model)
        key = find_key(KEY, secrets)
        if key is None and _is_own(config.model.base_url):
            raise MissingKeyError(
                f"no key for {config.model.name}: set {KEY}, or write it into .env; for a server of your own, that may "
                "need none, set model.base_url",
                usage=Usage(),
            )
        return cls(config.model, key)

    @property
    def name(self) -> str:
        """The model's id."""
        return self._settings.name

    @property
    def base_url(self) -> str | None:
        """Where it is, unless at OpenAI."""
        return self._settings.base_url

    def complete(self, request: Request, cancel: Cancellation, on_text: Callable[[str], None] | None = None) -> Reply:
        """Ask once; see `protocols.Model`."""
        body = self._body(request)
        return self._lines.call(partial(self._ask, body, request.max_tokens), request.agent, cancel, on_text)

    def _body(self, request: Request) -> dict[str, Any]:
        """The request as the API wants it, or `RequestRefusedError` for what it would not take."""
        messages = turns(request)
        if request.system.strip():
            messages.insert(0, {"role": "system", "content": valid(request.system)})
        body: dict[str, Any] = {"model": self.name, "messages": messages}
        if self._settings.temperature is not None:
            body["temperature"] = self._settings.temperature
        return body

    def _ask(self, body: dict[str, Any], max_tokens: int, line: Line[openai.OpenAI], tell: Tell) -> None:
        """Ask, and once more for each word of the request that this server does not know."""
        import openai

        while True:
            options: dict[str, Any] = {self._limit: max_tokens}
            if self._key is None:
                options["extra_headers"] = {"Authorization": openai.omit}
            if self._asks_for_usage:
                options["stream_options"] = {"include_usage": True}
            try:
                stream = line.client.chat.completions.create(**body, **options, stream=True)
            except openai.APIStatusError as error:
                if error.status_code in (400, 422) and self._is_adapted(error.message, options):
                    continue
                raise self._refused(error, error.status_code, line.wire.attempts) from None
            except openai.APIConnectionError as error:  # no attempt got as far as a connection: see _http_client
                words = self._clean(str(error.__cause__ or error))
                raise unreachable(str(line.client.base_url), words, line.wire.attempts) from None
            self._pass_on(stream, tell)
            return

    def _is_adapted(self, words: str, sent: Mapping[str, Any]) -> bool:
        """Whether a refusal was about something that can be said in another way, or left out."""
        if "max_tokens" in sent and "max_completion_tokens" in words:
            self._limit = "max_completion_tokens"
        elif "stream_options" in sent and "stream_options" in words:
            self._asks_for_usage = False
        else:
            return False
        return True

    def _pass_on(self, stream: openai.Stream[ChatCompletionChunk], tell: Tell) -> None:
        import openai

        body: Any = stream.response.stream
        try:
            tell(_read(stream, tell))
            body.drain()
        except openai.APIConnectionError as error:
            raise ModelUnavailableError(f"the reply broke off: {self._clean(str(error.__cause__ or error))}") from None
        except openai.APIError as error:  # an error in place of the next piece
            raise self._refused(error, _status(error), None) from None
        except ValueError as error:  # what arrived was no JSON, no UTF-8, or no chunk
            raise ModelUnavailableError(f"the reply broke off: {self._clean(str(error))}") from None
        finally:
            body.let_go()

    def _refused(self, error: openai.APIError, status: int, attempts: int | None) -> ModelError:
        words = self._clean(error.message)
        if status == 404 and self.base_url is not None and not urlsplit(self.base_url).path.strip("/"):
            words += "; the base_url of most servers ends in /v1"
        credential = KEY if self._key else f"a request without a key: set {KEY}"
        return refused(status, words, self._settings, credential, attempts)

    def _clean(self, words: str) -> str:
        return clean(words, self._key, self._settings)


def _read(stream: openai.Stream[ChatCompletionChunk], tell: Tell) -> Reply:
    from openai.types.chat import ChatCompletionChunk

    text: list[str] = []
    model, finish, usage, refuses = "", "", None, False
    for chunk in stream:
        if not isinstance(chunk, ChatCompletionChunk):
            raise ValueError(f"{chunk!r} is no piece of a completion")
        model, usage = chunk.model or model, chunk.usage or usage
        for choice in chunk.choices or ():
            # Some servers end without a delta, or with one of null.
            refusal = choice.delta.refusal if choice.delta else None
            piece = (choice.delta.content or refusal) if choice.delta else None
            if piece:
                text.append(piece)
                tell(piece)
            refuses, finish = refuses or bool(refusal), choice.finish_reason or finish
    if not finish:
        raise ModelUnavailableError("the reply broke off: the service ended it before it was complete")
    stop: StopReason = "refusal" if refuses else STOP_REASONS.get(finish, "end")
    counts = _counts(usage) if usage else Usage()
    return Reply("".join(text), counts, stop, model, counted=counts.prompt_tokens > 0)


def _counts(usage: CompletionUsage) -> Usage:
    """The API's counts: what was cached, and what was thought, are parts of the prompt and of the completion there."""

    def count(value: object) -> int:
        return value if isinstance(value, int) and value > 0 else 0  # the SDK checks nothing that arrives

    prompt, details = count(usage.prompt_tokens), usage.prompt_tokens_details
    read = min(prompt, count(details.cached_tokens)) if details else 0
    written = min(prompt - read, count(details.cache_write_tokens)) if details else 0
    return Usage(prompt - read - written, count(usage.completion_tokens), read, written)


def _status(error: openai.APIError) -> int:
    """The status that an error in mid-stream, where 200 has been sent already, would have had."""
    if error.code is not None and error.code.isdecimal():
        return int(error.code)
    refusals = {"invalid_request_error": 400, "invalid_api_key": 401, "rate_limit_exceeded": 429}
    return refusals.get(error.code or "") or refusals.get(error.type or "", 500)


def _check_sdk(model: str) -> None:
    """Do nothing, or say how to get the extra; the SDK's earlier versions are widespread, and differ."""
    found = version("openai") if find_spec("openai") else ""
    if found.partition(".")[0] != "3":
        what = f"the openai that is installed is {found}" if found else "openai is not installed"
        raise ConfigError(f"model.name: {model} needs openai 3, and {what}: pip install 'rlm-nb[openai]'")


def _connect(settings: ModelSettings, key: SecretStr | None, wire: Wire) -> openai.OpenAI:
    import openai

    timeout = openai.Timeout(settings.timeout, connect=min(CONNECT_TIMEOUT, settings.timeout))
    return openai.OpenAI(
        api_key=key.get_secret_value() if key else "none",  # without any, it would look into the environment
        base_url=settings.base_url,
        timeout=timeout,
        max_retries=settings.retries,
        http_client=_http_client()(wire, timeout=timeout, verify=tls(), follow_redirects=True),
    )


@cache
def _http_client() -> Callable[..., httpx2.Client]:
    """The class of our HTTP clients: the SDK sends each attempt through one, and has no middleware to watch it."""
    import httpx2

    class Client(httpx2.Client):
        def __init__(self, wire: Wire, **options: Any) -> None:
            super().__init__(event_hooks=wire.hooks, **options)
            self._wire = wire

        def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            self._wire.begin()
            try:
                response = super().send(request, **options)
            except httpx2.TransportError as error:
                if never_sent(error):
                    raise  # the SDK may try again
                raise lost(error) from None
            if response.is_success:
                response.stream = Body(response.stream)
            return response

    class Body(httpx2.SyncByteStream):
        """Stays open when the SDK leaves it at `[DONE]`: a connection can be used again once it is read to its end."""

        def __init__(self, stream: Any) -> None:
            self._stream, self._pieces = stream, iter(stream)

        def __iter__(self) -> Iterator[bytes]:
            for piece in self._pieces:  # noqa: UP028 - `yield from` would close the pieces when it is left
                yield piece

        def close(self) -> None:
            pass

        def drain(self) -> None:
            with suppress(httpx2.TransportError):  # the reply was whole
                for _ in self._pieces:
                    pass

        def let_go(self) -> None:
            self._stream.close()

    return Client


def _is_own(base_url: str | None) -> bool:
    return base_url is None or f".{urlsplit(base_url).hostname}".endswith(OWN)
