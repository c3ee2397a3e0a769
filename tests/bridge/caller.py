"""A process that holds the kernel's end of a bridge: `python -m tests.bridge.caller WHAT`.

It does what the function of that name does, and prints what came of it as one line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from rlm_nb.bridge import messages
from rlm_nb.bridge.client import VARIABLE, Client
from rlm_nb.bridge.server import MAX_IN_FLIGHT
from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import CancelledError, RLMError


def main() -> None:
    what: Callable[..., Any] = globals()[sys.argv[1]]
    wire = int(os.environ[VARIABLE])
    client = Client.inherited(lambda: "cell-1")
    assert client is not None
    say(what(client, socket.socket(fileno=os.dup(wire))))


def say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def until_told() -> None:
    """Wait until whoever started us closes our stdin."""
    sys.stdin.read()


def connection(wire: socket.socket) -> socket.socket:
    """What a client does for each call, by hand."""
    wire.sendall(b"?")
    _, descriptors, _, _ = socket.recv_fds(wire, 1, 1)
    return socket.socket(fileno=descriptors[0])


def many(client: Client, wire: socket.socket) -> Any:
    """200 calls from 20 threads."""
    with ThreadPoolExecutor(20) as pool:
        return list(pool.map(lambda number: client.call("echo", number=number), range(200)))


def large_without_a_disk(client: Client, wire: socket.socket) -> Any:
    """A text that is too long for a frame, where no temporary file can be made."""
    tempfile.tempdir = "/dev/null/none"
    return large(client, wire)


def without_room(client: Client, wire: socket.socket) -> Any:
    """A text that is too long for the largest file that this process may write, and then a shorter one."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    return [_said(client, text="é" * 3_000_000), _said(client, text="short")]


def without_descriptors(client: Client, wire: socket.socket) -> Any:
    """A call when every descriptor is taken, and one when there are some again."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    taken = []
    with suppress(OSError):
        while True:
            taken.append(os.dup(0))
    before = _said(client, text="before")
    os.close(taken.pop())
    large = _said(client, text="é" * 3_000_000)
    for descriptor in taken:
        os.close(descriptor)
    return [before, large, _said(client, text="after")]


def _said(client: Client, **arguments: Any) -> Any:
    try:
        return client.call("echo", **arguments)
    except RLMError as error:
        return f"{type(error).__name__}: {error}"


def large(client: Client, wire: socket.socket) -> Any:
    """There and back through files."""
    text = "é" * 3_000_000
    return client.call("echo", text=text) == {"text": text}


def seventy(client: Client, wire: socket.socket) -> Any:
    """70 calls at the same time."""
    with ThreadPoolExecutor(70) as pool:
        return list(pool.map(lambda number: client.call("gather", number=number), range(70)))


def flood(client: Client, wire: socket.socket) -> Any:
    """Asks for 200 connections and takes none."""
    wire.sendall(b"?" * 200)
    say("asked")
    until_told()


def abandoned(client: Client, wire: socket.socket) -> Any:
    """Takes 200 connections one after the other, says nothing on any, and calls in the end."""
    for _ in range(200):
        connection(wire).close()
    return client.call("echo", n=1)


def silent(client: Client, wire: socket.socket) -> Any:
    """Holds as many connections as there are and says nothing, then calls; how many were hung up on meanwhile."""
    held = [connection(wire) for _ in range(MAX_IN_FLIGHT)]
    answer = client.call("echo", n=1)
    for line in held:
        line.setblocking(False)
    return [answer, sum(_is_closed(line) for line in held)]


def _is_closed(line: socket.socket) -> bool:
    try:
        return line.recv(1) == b""
    except BlockingIOError:
        return False


def half(client: Client, wire: socket.socket) -> Any:
    """Half a frame, then silence, with other calls meanwhile."""
    with connection(wire) as silent:
        silent.sendall(struct.pack("!cI", b"i", 100) + b'{"call"')
        answer = client.call("echo", n=1)
        return [answer, silent.recv(1) == b""]


def faults(client: Client, wire: socket.socket) -> Any:
    """Frames that are no calls: the answer to each."""
    good = {"call": "echo", "arguments": {}, "cell": "c", "key": "k"}
    bad: list[Any] = [
        [],
        "text",
        {},
        {**good, "arguments": []},
        {**good, "call": None},
        {name: value for name, value in good.items() if name != "key"},
        {**good, "key": "k" * 1000},
        good,
        good,  # the same key again
    ]
    told = []
    for message in bad:
        with connection(wire) as line:
            messages.send(line, message)
            told.append(messages.receive(line))
    return told


def errors(client: Client, wire: socket.socket) -> Any:
    """What different failures look like here."""
    seen = []
    for name in ("budget", "depth", "subagent", "surprise", "no json", "own"):
        try:
            client.call("fail", how=name)
        except RLMError as error:
            seen.append([type(error).__name__, str(error), vars(error)])
    return seen


def forged(client: Client, wire: socket.socket) -> Any:
    """A call that claims to be somebody else's."""
    with connection(wire) as line:
        message = {"call": "who", "arguments": {}, "cell": "c", "key": "k", "agent": "root", "depth": 0, "budget": 1e9}
        messages.send(line, message)
        return messages.receive(line)


def hold(client: Client, wire: socket.socket) -> Any:
    """A call that lasts."""
    try:
        return client.call("hold")
    except RLMError as error:
        return [type(error).__name__, str(error)]


def left(client: Client, wire: socket.socket) -> Any:
    """Calls that a deadline, and somebody, ends; a call whose end comes too early; then another one."""
    wished = Cancellation()
    threading.Timer(1.0, wished.cancel, ["no longer wanted"]).start()
    gone = Cancellation()
    gone.cancel("long ago")
    said = []
    for until in (Cancellation(time.monotonic() + 0.2), wished, gone):
        try:
            client.call_until(until, "hold")
        except CancelledError as error:
            said.append(str(error))
    return [*said, client.call_until(Cancellation(time.monotonic() + 30), "echo", n=1)]


def interrupted(client: Client, wire: socket.socket) -> Any:
    """Ctrl-C in mid-call, while a forked process holds copies of all descriptors; then another call."""
    beside = threading.Thread(target=client.call, args=("beside",))
    beside.start()
    threading.Thread(target=_fork, daemon=True).start()
    try:
        client.call("hold")
    except KeyboardInterrupt:
        answer = client.call("echo", after="interrupt")
        until_told()
        beside.join()
        return answer


def _fork() -> None:
    time.sleep(0.1)  # the call is under way
    if os.fork() == 0:
        say("forked")
        until_told()
        os._exit(0)


def deaf(client: Client, wire: socket.socket) -> Any:
    """Asks for much, and does not read it."""
    with connection(wire) as line:
        messages.send(line, {"call": "megabyte", "arguments": {}, "cell": "c", "key": "k"})
        until_told()


def round_trips(client: Client, wire: socket.socket) -> Any:
    """The median time of a call, in microseconds."""
    times = []
    for _ in range(2000):
        began = time.perf_counter()
        client.call("echo")
        times.append(time.perf_counter() - began)
    return 1e6 * sorted(times)[1000]


if __name__ == "__main__":
    main()
