"""The sockets that people are attached to: a kernel's five, which are the controller's and outlive any kernel.

Nobody gets the kernel's own: two would read its answers, a new kernel has others, and who has its key can end it. What
people ask is looked at here, and passed on to the kernel that there is; what that shows is passed on to them.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket as sockets
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq

from rlm_nb.errors import KernelError
from rlm_nb.kernel import door, messages
from rlm_nb.kernel.messages import Message
from rlm_nb.kernel.wire import Wire
from rlm_nb.processes import mark

log = logging.getLogger(__name__)

CHANNELS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
"""The numbers that each socket's path ends with."""

KINDS = {"iopub": zmq.XPUB, "hb": zmq.REP}

FILE = "connection.json"

LARGEST, MOST_KEPT = 2 << 20, 200
"""Bytes of an output that are passed on, and how many are kept for who reads slowly, or has stopped reading."""

TOO_LARGE = "[An output of {size:,} bytes is left out here; the agent's notebook has what is kept of it.]\n"

LAST_WORDS = 200
"""Milliseconds that what was said last has to get out."""

MOST_ASKED = 1000
"""Questions that wait for the kernel's answer; the kernel may be busy for long."""

_UNIX_PATH = 100


@dataclass(frozen=True)
class Asked:
    """A request of somebody who is attached: where it came from, and what it is."""

    channel: str
    sender: list[bytes]
    message: Message


@dataclass(frozen=True)
class Behind:
    """The way to a kernel: a connection of our own to each of two channels of it."""

    shell: zmq.Socket[bytes]
    control: zmq.Socket[bytes]
    wire: Wire


class Relay:
    """Open as long as the `with` lasts; one thread has all of its sockets.

    Args:
        context: Makes them.
        run: Told of each cell that is to be run; must not take long.
        interrupt: Interrupts whatever cell runs; must not take long either.
    """

    def __init__(self, context: zmq.Context[Any], run: Callable[[Asked], None], interrupt: Callable[[], None]) -> None:
        self._context, self._run, self._interrupt = context, run, interrupt
        self._key = secrets.token_hex(32).encode()
        self._wire = Wire(self._key)
        self._outbox: deque[Callable[[], None]] = deque()
        self._bell, self._rung = sockets.socketpair()
        self._bell.setblocking(False)
        self._behind: Behind | None = None
        self._asked: dict[str, Asked] = {}  # by the id of the message: what the kernel is to answer
        self._closing = False
        self._about: Mapping[str, Any] | None = None  # what the kernel says of itself
        self._busy: Mapping[str, Any] = {}  # the header of the cell that runs
        self._front: dict[str, zmq.Socket[bytes]] = {}
        self._folder = ""
        self._thread = threading.Thread(target=self._serve, name="rlm-relay", daemon=True)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._rung.close)
            stack.callback(self._bell.close)
            try:
                self._folder = stack.enter_context(_folder())
                for name in CHANNELS:
                    self._front[name] = stack.enter_context(self._context.socket(KINDS.get(name, zmq.ROUTER)))
                    self._front[name].setsockopt(zmq.LINGER, LAST_WORDS)
                    self._front[name].setsockopt(zmq.SNDHWM, MOST_KEPT)
                    self._front[name].bind(f"ipc://{self._folder}/k-{CHANNELS[name]}")
                self._front["iopub"].setsockopt(zmq.XPUB_VERBOSE, 1)
                connection = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(connection, "w", encoding="utf-8") as file:
                    json.dump(self._connection(), file)
            except (OSError, zmq.ZMQError) as error:
                raise KernelError(f"nobody can be attached: {error}") from error
            self._thread.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell who is attached that there is nothing any more, and take everything away."""
        self._do(lambda: self._publish("status", {"execution_state": "dead"}, {}))
        self._closing = True
        self._ring()
        self._thread.join()
        self._stack.close()

    @property
    def file(self) -> Path:
        """The connection file, as `jupyter console --existing` wants it."""
        return Path(self._folder, FILE)

    def connect(self, connection: Mapping[str, Any] | None) -> None:
        """From now on the kernel is the one with this connection, or there is none."""
        self._do(lambda: self._turn_to(connection))

    def show(self, message: Message) -> None:
        """Let people see what the kernel says, if it is for them."""
        if door.is_shown(message["msg_type"], message["content"]):
            self._do(lambda: self._pass_on(message))

    def publish(self, kind: str, content: Mapping[str, Any], parent: Mapping[str, Any]) -> None:
        """Let people see something about the message with the header `parent`."""
        self._do(lambda: self._publish(kind, content, parent))

    def answer(self, asked: Asked, content: Mapping[str, Any]) -> None:
        """Answer a request."""
        self._do(lambda: self._answer(asked, content))

    def _connection(self) -> dict[str, Any]:
        ports = {f"{name}_port": number for name, number in CHANNELS.items()}
        scheme = {"key": self._key.decode(), "signature_scheme": "hmac-sha256"}
        return {"transport": "ipc", "ip": f"{self._folder}/k", **ports, **scheme}

    def _do(self, act: Callable[[], None]) -> None:
        """Have it done by the thread that has the sockets, in the order in which it was asked for."""
        self._outbox.append(act)
        self._ring()

    def _ring(self) -> None:
        with suppress(BlockingIOError, OSError):  # it rings already, or nobody is there any more
            self._bell.send(b".")

    def _serve(self) -> None:
        while True:
            poller = zmq.Poller()
            behind = [self._behind.shell, self._behind.control] if self._behind else []
            for one in (*self._front.values(), *behind, self._rung):
                poller.register(one, zmq.POLLIN)
            known = self._behind
            while known is self._behind:
                ready = dict(poller.poll())
                self._look(ready)
                if self._closing and not self._outbox:
                    self._turn_to(None)
                    return

    def _look(self, ready: Mapping[Any, int]) -> None:
        if self._rung.fileno() in ready:
            self._rung.recv(4096)
        while self._outbox:
            with _going_on():
                self._outbox.popleft()()
        if self._front["iopub"] in ready:
            with _going_on():
                self._welcome()
        if self._front["hb"] in ready:
            with _going_on():
                self._front["hb"].send_multipart(self._front["hb"].recv_multipart())
        if self._front["stdin"] in ready:
            self._front["stdin"].recv_multipart()  # nobody was asked anything
        for channel in ("control", "shell"):
            if self._front[channel] in ready and (read := self._wire.read(self._front[channel])) is not None:
                with _going_on():
                    self._take(Asked(channel, *read))
        if self._behind is not None:
            for one in (self._behind.shell, self._behind.control):
                if one in ready and (read := self._behind.wire.read(one)) is not None:
                    with _going_on():
                        self._hand_back(read[1])

    def _welcome(self) -> None:
        """Who listens from now on is told so, as ipykernel does."""
        iopub = self._front["iopub"]
        said, topic = (word := iopub.recv())[:1], word[1:]
        if said == b"\x01":
            content = {"subscription": topic.decode("utf-8", "replace")}
            self._wire.send(iopub, "iopub_welcome", content, {}, [topic])

    def _take(self, asked: Asked) -> None:
        """Do what is asked, or have it done."""
        kind, header = asked.message["msg_type"], asked.message["header"]
        way = door.way(asked.channel, kind)
        if way == "run":
            self._run(asked)
            return
        if way in ("ask", "ask aside"):
            self._ask(asked)
            return
        self._publish("status", {"execution_state": "busy"}, header)
        if way == "interrupt":
            self._interrupt()
        self._answer(asked, _done(way, asked.message))
        self._publish("status", {"execution_state": "idle"}, header)

    def _ask(self, asked: Asked) -> None:
        """Ask the kernel; while there is none, what the last one was is what the next one will be."""
        kind, header = asked.message["msg_type"], asked.message["header"]
        aside = door.way(asked.channel, kind) == "ask aside"
        if len(self._asked) >= MOST_ASKED or (self._behind is None and not aside):
            self._answer(asked, door.failed("NoKernel", "the agent has no kernel now, or it has been asked too much"))
            return
        if self._behind is None and self._about is not None:
            self._publish("status", {"execution_state": "busy"}, header)
            self._answer(asked, self._about)
            self._publish("status", {"execution_state": "idle"}, header)
            return
        if door.reply_to(kind) is not None:
            self._asked[header["msg_id"]] = asked
        if self._behind is not None:
            self._behind.wire.pass_on(self._behind.control if aside else self._behind.shell, asked.message)

    def _hand_back(self, reply: Message) -> None:
        """Bring the kernel's answer to who asked for it."""
        asked = self._asked.pop(messages.parent(reply), None)
        if asked is not None:
            if asked.message["msg_type"] == "kernel_info_request":
                self._about = reply["content"] = door.about(reply["content"])
            self._answer(asked, reply["content"], reply)

    def _turn_to(self, connection: Mapping[str, Any] | None) -> None:
        if self._behind is not None:
            self._behind.shell.close(linger=0)
            self._behind.control.close(linger=0)
        self._behind = None
        if connection is not None:
            shell, control = self._context.socket(zmq.DEALER), self._context.socket(zmq.DEALER)
            for one, name in ((shell, "shell_port"), (control, "control_port")):
                one.connect(f"{connection['transport']}://{connection['ip']}-{connection[name]}")
            self._behind = Behind(shell, control, Wire(connection["key"]))
        waiting, self._asked = list(self._asked.values()), {}
        for asked in waiting:  # nobody else will answer
            self._ask(asked)

    def _answer(self, asked: Asked, content: Mapping[str, Any], said: Mapping[str, Any] | None = None) -> None:
        kind = door.reply_to(asked.message["msg_type"])
        more = (said["metadata"], said["buffers"]) if said else ()
        if kind is not None:
            content = door.harmless(content)
            self._wire.send(self._front[asked.channel], kind, content, asked.message["header"], asked.sender, *more)

    def _pass_on(self, message: Message) -> None:
        size = sum(map(len, message.get("buffers", ()))) + _size(message["content"])
        if size > LARGEST:
            said = {"name": "stderr", "text": TOO_LARGE.format(size=size)}
            self._publish("stream", said, message["parent_header"])
        else:
            iopub, kind = self._front["iopub"], message["msg_type"]
            more = message["metadata"], message.get("buffers", ())
            content = door.harmless(message["content"])
            self._wire.send(iopub, kind, content, message["parent_header"], [kind.encode()], *more)
            self._note_state(kind, message["content"], message["parent_header"])

    def _publish(self, kind: str, content: Mapping[str, Any], parent: Mapping[str, Any]) -> None:
        self._wire.send(self._front["iopub"], kind, door.harmless(content), parent, [kind.encode()])
        self._note_state(kind, content, parent)

    def _note_state(self, kind: str, content: Mapping[str, Any], parent: Mapping[str, Any]) -> None:
        """Front ends believe the last word: when something else has ended, they hear again that a cell still runs."""
        if kind != "status":
            return
        if content["execution_state"] == "busy":
            if parent.get("msg_type") == "execute_request":
                self._busy = parent
        elif parent.get("msg_id") == self._busy.get("msg_id"):
            self._busy = {}
        elif self._busy and content["execution_state"] == "idle":
            iopub, again = self._front["iopub"], {"execution_state": "busy"}
            self._wire.send(iopub, kind, again, self._busy, [kind.encode()])


def _done(way: door.Way, message: Message) -> dict[str, Any]:
    """The content of the answer to a request that the kernel does not hear of."""
    if way == "refuse":
        return door.refused(message["msg_type"])
    if way == "tell":
        return door.completeness(message["content"])
    return {"status": "ok", **({"restart": bool(message["content"].get("restart"))} if way == "leave" else {})}


@contextmanager
def _going_on() -> Iterator[None]:
    """Whatever stands in a message, those after it are for somebody, too."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - cells and clients may say anything
        log.warning("a message was left out: %.200r", error)


def _folder() -> tempfile.TemporaryDirectory[str]:
    """A 0700 folder whose name says whose it is, and leaves room for the name of a unix socket."""
    short = len(os.fsencode(tempfile.gettempdir())) + len(mark()) + len("/12345678/k-5") <= _UNIX_PATH
    return tempfile.TemporaryDirectory(prefix=mark(), dir=None if short else "/tmp", ignore_cleanup_errors=True)


def _size(value: Any) -> int:
    """About how many bytes a value takes; as soon as it is too large, that is all there is to know."""
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    if isinstance(value, list):
        return sum(map(_size, value))
    return len(value) if isinstance(value, str) else 8
