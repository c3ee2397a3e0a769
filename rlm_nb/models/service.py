"""A call to a service through its SDK, which can be left at any moment: what the providers of one have in common.

The SDKs have no way to stop a call that waits: for a connection, for the first byte, for its next attempt. So a call
runs in a thread of its own, which reports to the one that asked. When that one has to leave, it shuts down the
connection, which tells the service to stop writing, and the call's thread ends by itself: at once, or where the SDK
sleeps between two attempts or waits for a connection to stand, after that, without another attempt.
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
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import ModelSettings, without_login
from rlm_nb.errors import (
    CancelledError,
    ConfigError,
    ModelError,
    ModelUnavailableError,
    RefusedKeyError,
    RequestRefusedError,
    UnknownModelError,
)
from rlm_nb.records import Reply, Request, Usage

if TYPE_CHECKING:
    import ssl

    import httpx2

CONNECT_TIMEOUT = 10.0
"""Seconds until a connection must stand."""

LINGER = 0.5
"""Seconds that a connection is given after a reply to come to its end, so that the next call can use it."""

_News = str | Reply | Exception | None
"""What a call's thread tells: a piece of text, how it ended, or nothing but to look up (from whoever cancels)."""

Tell = Callable[[str | Reply], None]
"""Takes the pieces of a reply, and in the end the whole."""


class Client(Protocol):
    """An SDK's client."""

    def close(self) -> None:
        """Close its connections."""
        ...


C = TypeVar("C", bound=Client)


class Lines(Generic[C]):
    """Clients with one connection each, for one call at a time; idle ones are kept and used again.

    A single client with a pool would do, were it not for cancelling: nobody is told which connection of a pool a call
    waits on.

    Args:
        connect: Makes a client that tells the wire of its connection; it must not hold what holds the lines.
    """

    def __init__(self, connect: Callable[[Wire], C]) -> None:
        self._connect = connect
        self.idle: deque[Line[C]] = deque()

    def call(
        self,
        ask: Callable[[Line[C], Tell], None],
        agent: str,
        cancel: Cancellation,
        on_text: Callable[[str], None] | None,
    ) -> Reply:
        """Make a call in a thread of its own.

        Args:
            ask: Makes the call on a line, and tells each piece of text, then the reply. What it raises is raised here;
                what it does after the reply is to leave the line as one that can be used again.
            agent: Who asks.
            cancel: Returns soon with `CancelledError` when it is set; its usage is none as long as the service has
                refused every attempt, or nothing was sent to it.
            on_text: Called with each piece of text as it arrives, in this thread.
        """
        try:
            line = self.idle.pop()
        except IndexError:
            line = Line(self._connect)
        line.wire.rest()
        news: queue.SimpleQueue[_News] = queue.SimpleQueue()

        def work() -> None:
            try:
                ask(line, news.put)
            except Exception as error:  # noqa: BLE001 - whatever it is, the thread that waits raises it
                news.put(error)

        worker = threading.Thread(target=work, name=f"model call of {agent}", daemon=True)
        try:
            cancel.check()
            with cancel.calling(lambda: news.put(None)):
                worker.start()
                reply = _hear(news, cancel, on_text)
        except CancelledError as error:
            error.usage = None if line.wire.cut() else Usage()
            raise
        except BaseException:
            line.wire.cut()
            raise
        worker.join(LINGER)
        if worker.is_alive():
            line.wire.cut()
        else:
            self.idle.append(line)
        return reply


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


class Line(Generic[C]):
    """A client, made by the first call; it closes when nobody holds the line any more, so never under a reader."""

    def __init__(self, connect: Callable[[Wire], C]) -> None:
        self.wire = Wire()
        self._connect = connect

    @cached_property
    def client(self) -> C:
        """The SDK's client."""
        # What it is made with knows the wire and not the line, or the line would never be let go of.
        client = self._connect(self.wire)
        weakref.finalize(self, client.close).atexit = False
        return client


class Wire:
    """What a client tells of its connection, and what it takes to cut it from another thread."""

    def __init__(self) -> None:
        self.attempts = 0
        self._stream: Any = None
        self._is_sent = self._is_cut = False
        self._lock = threading.Lock()

    def rest(self) -> None:
        """A call begins, and nothing of it was sent yet."""
        self.attempts, self._is_sent = 0, False

    def cut(self) -> bool:
        """Shut down the connection, if there is one, and let nothing be sent any more.

        Returns:
            Whether a request was sent that may be charged: the service has not refused it.
        """
        with self._lock:
            self._is_cut = True
        link = self._stream.get_extra_info("socket") if self._stream is not None else None
        if isinstance(link, socket.socket):
            # Not link.shutdown(): a TLS socket's takes away its state from under the thread that reads.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(link, socket.SHUT_RDWR)
        return self._is_sent

    def begin(self) -> None:
        """Count an attempt. Raises `CancelledError` once the wire is cut."""
        self._check()
        self.attempts += 1

    @property
    def hooks(self) -> dict[str, list[Callable[[Any], None]]]:
        """The HTTP client's: called with each request before it is sent, and with each response once it begins."""
        return {"request": [self._watch], "response": [self._answered]}

    def _watch(self, request: httpx2.Request) -> None:
        request.extensions = {**request.extensions, "trace": self._trace}

    def _trace(self, name: str, info: Mapping[str, Any]) -> None:
        if name.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._stream = info["return_value"]
            if self._is_cut:
                self.cut()
        elif name.endswith("send_request_headers.started"):
            with self._lock:
                self._check()
                self._is_sent = True

    def _answered(self, response: httpx2.Response) -> None:
        self._is_sent = response.is_success

    def _check(self) -> None:
        if self._is_cut:
            raise CancelledError("the call was cancelled")


def never_sent(error: BaseException | None) -> bool:
    """Whether no connection stood, so that nothing was sent and asking again costs nothing twice."""
    import httpx2

    return isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError))


def lost(error: BaseException | None) -> ModelUnavailableError:
    """What a connection that was lost between the request and its reply is: nobody knows what it has cost."""
    return ModelUnavailableError(
        f"the connection was lost before the reply began: {str(error) or type(error).__name__}"
    )


@cache
def tls() -> ssl.SSLContext:
    """Shared by all lines: making one takes 20 to 50 ms, the rest of a line half a millisecond."""
    import httpx2

    return httpx2.create_ssl_context()


def check_address(settings: ModelSettings) -> None:
    """Do nothing, or raise `ConfigError` for a `model.base_url` that nothing could be sent to."""
    url = settings.base_url
    if url is not None and not _is_web_address(url):
        # A login that makes it none (a / in a password) must not be shown, and cannot be told from the rest.
        found = "; in a login, write / as %2F and @ as %40" if "@" in url else f", found {url!r}"
        raise ConfigError(f"model.base_url: expected an address such as https://example.org{found}")


def find_key(variable: str, secrets: Mapping[str, SecretStr]) -> SecretStr | None:
    """The key that the variable holds, if it holds one. Raises `ConfigError` for what cannot be one."""
    key = secrets[variable].get_secret_value().strip() if variable in secrets else ""
    # Anything else cannot travel in a header; the error that an SDK raises for it would show the key.
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(f"{variable} holds characters that no key has; was something else copied along?")
    return SecretStr(key) if key else None


def turns(request: Request) -> list[dict[str, str]]:
    """The conversation as services take it, or `RequestRefusedError` for what none would.

    They refuse blank messages, and take several in a row of one role as one: an empty reply is left out.
    """
    messages = [
        {"role": message.role, "content": valid(message.content)}
        for message in request.messages
        if message.content.strip()
    ]
    if not messages or not request.messages[-1].content.strip():
        raise RequestRefusedError("a request must end with a message that is not blank", usage=Usage())
    if messages[-1]["role"] != "user":
        raise RequestRefusedError("a request must end with a message of the user's", usage=Usage())
    return messages


def refused(status: int, words: str, settings: ModelSettings, credential: str, attempts: int | None) -> ModelError:
    """Our exception for an error that the service answered with.

    Args:
        status: The HTTP status, or what it would have been.
        words: The service's own, fit to be shown.
        settings: The model, and how it is reached.
        credential: What the service does not accept, if it is that.
        attempts: How often it was tried; `None` when the error came in the middle of a reply, so that nobody knows what
            it has cost.
    """
    usage = None if attempts is None else Usage()
    words = f"{status}: {words}"
    if status in (401, 403):
        return RefusedKeyError(f"the service does not accept {credential} ({words})", usage=usage)
    if status == 404:
        check = "model.name" if settings.base_url is None else "model.name and model.base_url"
        return UnknownModelError(f"the service has no model {settings.name} ({words}); check {check}", usage=usage)
    if status < 500 and status not in (408, 409, 429):
        return RequestRefusedError(f"the service refuses this request ({words})", usage=usage)
    what = "the reply broke off" if attempts is None else f"{settings.name} is not available, {times(attempts)}"
    return ModelUnavailableError(f"{what} ({words})", usage=usage)


def unreachable(address: str, words: str, attempts: int) -> ModelUnavailableError:
    """No attempt got as far as a connection."""
    where = urlsplit(address).netloc.rpartition("@")[2]
    return ModelUnavailableError(f"{where} cannot be reached ({times(attempts)}): {words}", usage=Usage())


def clean(words: str, key: SecretStr | None, settings: ModelSettings) -> str:
    """Somebody else's words, fit to be shown: short, and without the key and the password of the base URL."""
    if key:
        words = words.replace(key.get_secret_value(), "[key]")
    if password := unquote(urlsplit(settings.base_url or "").password or ""):
        words = words.replace(password, "[password]")
    return without_login(words)[:500]


def times(attempts: int) -> str:
    """How often it was tried, in words."""
    return "tried once" if attempts == 1 else f"tried {attempts} times"


def valid(text: str) -> str:
    """Text as UTF-8 can carry it: what a cell printed may hold half of a surrogate pair."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and "@" not in parts.path
    except ValueError:
        return False
