"""A server on loopback that speaks the Anthropic Messages API, with the faults that a real one has.

with MessagesServer("Hello!", Fails(529), "Hello again!") as server:
    config = Config(model=ModelSettings(base_url=server.url))
    ...
    server.assert_prefix_stable()
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

from tests.servers import prefixes

Event = tuple[str, dict[str, Any]]
"""A server-sent event: its name and its data."""


@dataclass(frozen=True)
class Says:
    """A reply, and what goes wrong on its way.

    Args:
        text: What the model says; empty for a message without any content.
        thinking: What it thinks before that, as a block of its own.
        stop_reason: As the API names it.
        pieces: Into how many deltas the text is cut.
        usage: Counts that replace the simulated ones.
        stall: Wait for `server.release` once so many events are sent; 0 is before the status line.
        cut: Lose the connection once so many events are sent.
        end: Close the stream in good order, but too early, once so many events are sent.
        error: `(events, type)`: send an error event of that type once so many events are sent, and end.
    """

    text: str
    thinking: str = ""
    stop_reason: str = "end_turn"
    pieces: int = 4
    usage: Mapping[str, int] = field(default_factory=dict)
    stall: int | None = None
    cut: int | None = None
    end: int | None = None
    error: tuple[int, str] | None = None


@dataclass(frozen=True)
class Fails:
    """An error in place of a reply."""

    status: int
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What it says."""
        return self.message or f"a {self.status} for the test"


@dataclass(frozen=True)
class Received:
    """One request, as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @cached_property
    def json(self) -> dict[str, Any]:
        """The body's values."""
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    @cached_property
    def prefix(self) -> list[str]:
        """The JSON text, byte for byte, of what a prompt cache compares: the system prompt, then each message."""
        return prefixes.of(self.body.decode("utf-8"))

    @property
    def opens(self) -> bool:
        """Whether nobody has answered yet in this conversation."""
        return all(message["role"] != "assistant" for message in self.json["messages"])


Answer = Says | Fails | str


class MessagesServer:
    """`POST /v1/messages` on a free port of 127.0.0.1, as JSON and as a stream; nothing outlives the `with` block.

    Args:
        answers: Given in turn, one a request; a string is short for `Says`.
        respond: Answers whatever comes after those.
        key: The only key that is accepted; `None` accepts any.
        models: The only models that exist; `None` knows all.
        latency: Seconds before each answer.
    """

    def __init__(
        self,
        *answers: Answer,
        respond: Callable[[Received], Answer] | None = None,
        key: str | None = None,
        models: Collection[str] | None = None,
        latency: float = 0.0,
    ) -> None:
        self.answers = deque(answers)
        self.respond = respond
        self.key, self.models, self.latency = key, models, latency
        self.requests: list[Received] = []
        self.release = threading.Event()
        """Set it to let every `Says(stall=…)` go on."""
        self.stalled = threading.Event()
        """Set once a `Says(stall=…)` waits."""
        self.hung_up = threading.Event()
        """Set once a client has closed its connection before its answer was complete."""
        self._cached: dict[bytes, int] = {}
        self._http = _HTTPServer(self)
        self._changed = self._http.changed
        # The default polls for the shutdown every half second, which every test would wait for.
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), name="messages-server")

    @property
    def url(self) -> str:
        """The API's base URL."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release.set()
        self._http.shutdown()
        self._thread.join()
        self._http.hang_up()
        self._http.server_close()  # joins the threads of the connections

    @property
    def connections_open(self) -> int:
        """How many connections clients keep open."""
        return len(self._http.connections)

    @property
    def connections_made(self) -> int:
        """How many connections clients have made."""
        return self._http.connections_made

    def wait_for_requests(self, count: int, seconds: float = 10.0) -> None:
        """Return once `count` requests have arrived."""
        self.wait_until(lambda: len(self.requests) >= count, seconds)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Return once `condition` is true; it is looked at again whenever a request arrives or a connection closes."""
        with self._changed:
            assert self._changed.wait_for(condition, seconds), f"not so within {seconds} s"

    def assert_prefix_stable(self) -> None:
        """Each request opens a conversation, or starts with every byte of the one before it in its conversation.

        Compared is the raw JSON of the system prompt and of each message, in order. A request sent a second time
        counts as the same request.
        """
        prefixes.assert_stable([(request.prefix, request.opens) for request in self.requests])

    def answer(self, request: Received) -> Answer:
        """Record the request, and find what to say to it."""
        with self._changed:
            self.requests.append(request)
            answer = self.answers.popleft() if self.answers and not self._refusal(request) else None
            self._changed.notify_all()
        if self.latency:
            time.sleep(self.latency)
        return (
            self._refusal(request)
            or answer
            or (self.respond(request) if self.respond else Fails(400, "the test's server has no answer left"))
        )

    def cached(self, request: Received) -> tuple[int, int]:
        """Tokens of the prompt, and how many of them were read from the cache; it keeps each request whole."""
        tokens = [len(part) // 4 + 1 for part in request.prefix]
        marks = prefixes.digests(request.prefix)
        with self._changed:
            read = next((self._cached[mark] for mark in reversed(marks) if mark in self._cached), 0)
            self._cached[marks[0]] = tokens[0]
            self._cached[marks[-1]] = sum(tokens)
        return sum(tokens), read

    # What is this protocol's, and not another's.

    path = "/v1/messages"

    def whole(self, answer: Says, request: Received) -> dict[str, Any]:
        """The message, as it is sent to whoever does not want it streamed."""
        return _message(answer, request, self._usage(request))

    def events(self, answer: Says, request: Received) -> list[bytes]:
        """The message as the API streams it."""
        return [_framed(event) for event in _events(answer, request, self._usage(request))]

    def error_event(self, kind: str) -> bytes:
        """An error in the middle of a stream."""
        return _framed(("error", error_body(kind, "a fault for the test")))

    def failure(self, answer: Fails) -> dict[str, Any]:
        """The body of an error."""
        return error_body(ERROR_TYPES.get(answer.status, "api_error"), answer.words)

    def _usage(self, request: Received) -> dict[str, int]:
        """Input counts as the prompt cache would give them: every request that asks for it is cached whole."""
        if b'"cache_control"' not in request.body:
            tokens = sum(len(part) // 4 + 1 for part in request.prefix)
            return {"input_tokens": tokens, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
        tokens, read = self.cached(request)
        return {"input_tokens": 0, "cache_read_input_tokens": read, "cache_creation_input_tokens": tokens - read}

    def _refusal(self, request: Received) -> Fails | None:
        """What the service says to a request that it does not take, whatever the test has in store."""
        if request.path != self.path:
            return Fails(404, f"no such path: {request.path}")
        given = request.headers.get("authorization", "").removeprefix("Bearer ") or request.headers.get("x-api-key")
        if self.key is not None and given != self.key:
            return Fails(401, "invalid x-api-key")
        if self.models is not None and request.json["model"] not in self.models:
            return Fails(404, f"model: {request.json['model']}")
        messages = request.json["messages"]
        if not messages or not all(message["content"] for message in messages):
            return Fails(400, "messages: text content blocks must be non-empty")
        if messages[-1]["role"] != "user":
            return Fails(400, "This model does not support assistant message prefill.")
        return None


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = False  # so that closing the server joins them
    request_queue_size = 128

    def __init__(self, api: MessagesServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.api = api
        self.connections: set[socket.socket] = set()
        self.connections_made = 0
        self.changed = threading.Condition()

    def hang_up(self) -> None:
        """End what clients keep alive, so that no thread waits for their next request."""
        with self.changed:
            for connection in self.connections:
                _shut(connection)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # Nagle's and the client's delayed acknowledgement would cost 40 ms an event
    server: _HTTPServer

    def setup(self) -> None:
        super().setup()
        with self.server.changed:
            self.server.connections.add(self.connection)
            self.server.connections_made += 1

    def finish(self) -> None:
        super().finish()
        with self.server.changed:
            self.server.connections.discard(self.connection)
            self.server.changed.notify_all()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionResetError):  # the client went away between two requests
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        request = Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        answer = self.server.api.answer(request)
        if isinstance(answer, str):
            answer = Says(answer)
        try:
            self._send(answer, request)
        except (BrokenPipeError, ConnectionResetError):
            self.server.api.hung_up.set()
            self.close_connection = True

    def _send(self, answer: Says | Fails, request: Received) -> None:
        if isinstance(answer, Fails):
            self._send_json(answer.status, self.server.api.failure(answer), answer.headers)
        elif request.json.get("stream"):
            self._send_stream(answer, self.server.api.events(answer, request))
        elif self._goes_on(answer, 0):
            self._send_json(200, self.server.api.whole(answer, request))

    def _send_json(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "request-id": "req_test", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_stream(self, answer: Says, events: list[bytes]) -> None:
        if not self._goes_on(answer, 0):
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("request-id", "req_test")
        self.end_headers()
        for count, event in enumerate(events, 1):
            self._send_event(event)
            if not self._goes_on(answer, count):
                return
            if answer.error is not None and answer.error[0] == count:
                self._send_event(self.server.api.error_event(answer.error[1]))
                break
            if answer.end == count:
                break
        self.wfile.write(b"0\r\n\r\n")

    def _send_event(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _goes_on(self, answer: Says, count: int) -> bool:
        """Stall or cut where the answer says so; returns whether there is still somebody to talk to."""
        if answer.stall == count:
            self.server.api.stalled.set()
            while not self.server.api.release.wait(0.005):
                if select.select([self.connection], [], [], 0)[0]:  # nothing is due from a client but its end
                    raise BrokenPipeError
        if answer.cut == count:
            _shut(self.connection)
            self.close_connection = True
            return False
        return True


def _message(answer: Says, request: Received, usage: Mapping[str, int]) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = []
    if answer.thinking:
        blocks.append({"type": "thinking", "thinking": answer.thinking, "signature": "c2ln"})
    if answer.text:
        blocks.append({"type": "text", "text": answer.text})
    written = {"output_tokens": (len(answer.text) + len(answer.thinking)) // 4 + 1}
    return {
        "id": "msg_test",
        "type": "message",
        "role": "assistant",
        "model": request.json["model"],
        "content": blocks,
        "stop_reason": answer.stop_reason,
        "stop_sequence": None,
        "usage": {**usage, **written, **answer.usage},
    }


def _events(answer: Says, request: Received, usage: Mapping[str, int]) -> list[Event]:
    """The message as the API streams it."""
    whole = _message(answer, request, usage)
    start = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    events: list[Event] = [("message_start", {"type": "message_start", "message": start})]
    for index, block in enumerate(whole["content"]):
        kind: Literal["text", "thinking"] = block["type"]
        empty = {"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})}
        events.append(("content_block_start", {"index": index, "content_block": empty}))
        if index == 0:
            events.append(("ping", {}))
        for piece in cut_up(block[kind], answer.pieces):
            events.append(("content_block_delta", {"index": index, "delta": {"type": f"{kind}_delta", kind: piece}}))
        events.append(("content_block_stop", {"index": index}))
    last = {"stop_reason": answer.stop_reason, "stop_sequence": None}
    events.append(("message_delta", {"delta": last, "usage": {"output_tokens": whole["usage"]["output_tokens"]}}))
    events.append(("message_stop", {}))
    return [(name, {"type": name, **data}) for name, data in events]


def _framed(event: Event) -> bytes:
    return f"event: {event[0]}\ndata: {json.dumps(event[1])}\n\n".encode()


ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def error_body(kind: str, message: str) -> dict[str, Any]:
    """An error, in a response or in a stream."""
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_test"}


def cut_up(text: str, pieces: int) -> list[str]:
    """The text in so many pieces, or fewer."""
    size = max(1, -(-len(text) // pieces))
    return [text[at : at + size] for at in range(0, len(text), size)]


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client was faster
        connection.shutdown(socket.SHUT_RDWR)
