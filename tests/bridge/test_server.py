"""The bridge between two real processes: `tests/bridge/caller.py` holds the other end."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.bridge import messages
from rlm_nb.bridge.client import VARIABLE, Client
from rlm_nb.bridge.server import MAX_IN_FLIGHT, Call, Server
from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import BridgeError, CostLimitError, RecursionDepthError, RLMError, SubAgentError

HERE = Path(__file__).parents[2]


class Controller:
    """Answers calls, and remembers what became of them."""

    def __init__(self) -> None:
        self.cancel = Cancellation()
        self.calls: list[Call] = []
        self.entered = threading.Semaphore(0)
        self.cancelled: dict[str, str] = {}
        self.was_cancelled = threading.Semaphore(0)
        self.full = threading.Event()
        self.inside = self.most = 0
        self.lock = threading.Lock()

    def handle(self, call: Call, cancel: Cancellation) -> Any:
        with self.lock:
            self.calls.append(call)
        answer: Callable[[Call, Cancellation], Any] = getattr(self, call.name)
        return answer(call, cancel)

    def echo(self, call: Call, cancel: Cancellation) -> Any:
        return call.arguments

    def who(self, call: Call, cancel: Cancellation) -> Any:
        return sorted(vars(call))

    def megabyte(self, call: Call, cancel: Cancellation) -> Any:
        self.entered.release()
        return "x" * 1_000_000

    def hold(self, call: Call, cancel: Cancellation) -> Any:
        self.entered.release()
        cancel.wait(30)
        self.cancelled[call.name] = cancel.reason
        self.was_cancelled.release()
        cancel.check()

    beside = hold

    def gather(self, call: Call, cancel: Cancellation) -> Any:
        """Nobody leaves before all are there who can be."""
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            if self.inside == MAX_IN_FLIGHT:
                self.full.set()
        assert self.full.wait(30)
        with self.lock:
            self.inside -= 1
        return call.arguments["number"]

    def fail(self, call: Call, cancel: Cancellation) -> Any:
        class OwnError(RLMError):
            """One that only we know."""

        raised: dict[str, Exception] = {
            "budget": CostLimitError("cost in US dollars", 5.25, 5),
            "depth": RecursionDepthError("depth of sub-agents", 2, 2),
            "subagent": SubAgentError("root.1: it gave up — naïvely"),
            "surprise": ZeroDivisionError("a secret"),
            "own": OwnError("own words"),
        }
        if call.arguments["how"] == "no json":
            return {1, 2}
        raise raised[call.arguments["how"]]


class Caller:
    """The other process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def said(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def finish(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


@pytest.fixture
def controller() -> Controller:
    return Controller()


@contextmanager
def calling(server: Server, what: str) -> Iterator[Caller]:
    with server.kernel_end as wire:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bridge.caller", what],
            cwd=HERE,
            env={**os.environ, VARIABLE: str(wire.fileno())},
            pass_fds=[wire.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    with process:
        try:
            yield Caller(process)
        finally:
            process.kill()


@pytest.fixture
def call(controller: Controller) -> Iterator[Callable[..., Caller]]:
    """Starts a process that calls the controller."""
    with ExitStack() as stack:

        def start(what: str, **settings: Any) -> Caller:
            server = stack.enter_context(Server(controller.handle, controller.cancel, **settings))
            return stack.enter_context(calling(server, what))

        yield start


Start = Callable[..., Caller]


def was_hung_up(line: socket.socket) -> bool:
    try:
        return line.recv(1) == b""
    except ConnectionResetError:  # so the system says it when something was left unread
        return True


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208


def test_many_threads_at_once(controller: Controller) -> None:
    """Each thread gets its own answer; afterwards no thread and no descriptor is left."""
    threads, before = threading.active_count(), open_descriptors()
    with Server(controller.handle, controller.cancel) as server, calling(server, "many") as caller:
        assert caller.said() == [{"number": number} for number in range(200)]
    assert (threading.active_count(), open_descriptors()) == (threads, before)
    assert {call.cell for call in controller.calls} == {"cell-1"}
    assert len({call.key for call in controller.calls}) == 200


def test_large_values(call: Start) -> None:
    """Megabytes go there and back."""
    assert call("large").said() is True


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no files in memory")
def test_large_values_need_no_disk(call: Start) -> None:
    """A temporary folder that is full or gone keeps no answer from being given."""
    assert call("large_without_a_disk").said() is True


def test_no_room_for_a_large_value(call: Start) -> None:
    """The caller is told what is wrong, and the next call is answered."""
    large, short = call("without_room").said()
    assert re.match(r"BridgeError: a value of 18,000,\d+ bytes cannot be sent: File too large$", large)
    assert short == {"text": "short"}


def test_a_caller_without_descriptors(call: Start) -> None:
    """It is told that it has too many files open, rather than that the controller is gone; then it goes on."""
    before, large, after = call("without_descriptors").said()
    assert before == "BridgeError: this process has no file descriptors left (limit 100): close some files"
    assert re.match(r"BridgeError: a value of 18,000,\d+ bytes cannot be sent: Too many open files$", large)
    assert after == {"text": "after"}


def test_in_flight(call: Start, controller: Controller) -> None:
    """Seventy calls at once are all answered, never more than the limit at a time."""
    assert call("seventy").said() == list(range(70))
    assert controller.most == MAX_IN_FLIGHT


def test_the_next_one_waits(controller: Controller) -> None:
    """Connection 65 comes when one of the 64 is given back, and not before."""
    with Server(controller.handle, controller.cancel) as server:
        wire = server.kernel_end
        wire.sendall(b"?" * (MAX_IN_FLIGHT + 1))
        held = [socket.recv_fds(wire, 1, 1)[1][0] for _ in range(MAX_IN_FLIGHT)]
        wire.settimeout(0.2)
        with pytest.raises(TimeoutError):
            wire.recv(1, socket.MSG_PEEK)
        os.close(held.pop())
        wire.settimeout(10)
        held += socket.recv_fds(wire, 1, 1)[1]
        assert len(held) == MAX_IN_FLIGHT
        for descriptor in held:
            os.close(descriptor)


def test_connections_that_are_held_in_silence(call: Start) -> None:
    """Who holds all connections and says nothing is hung up on after a while, and the next call gets its turn."""
    answer, hung_up = call("silent", silence_timeout=0.3).said()
    assert answer == {"n": 1}
    assert hung_up >= 1


def test_silence_is_no_fault_while_there_is_room(controller: Controller) -> None:
    """A connection that nobody needs is kept for as long as it takes."""
    with Server(controller.handle, controller.cancel, silence_timeout=0.1) as server:
        wire = server.kernel_end
        wire.sendall(b"?")
        with socket.socket(fileno=socket.recv_fds(wire, 1, 1)[1][0]) as line:
            line.settimeout(0.5)
            with pytest.raises(TimeoutError):
                line.recv(1)
            messages.send(line, {"call": "echo", "arguments": {"n": 1}, "cell": "c", "key": "k"})
            assert messages.receive(line, 10) == {"answer": {"n": 1}}


def test_a_flood_that_is_never_used(controller: Controller) -> None:
    """Who asks for 200 connections and takes none gets no more than the limit, and costs nothing afterwards."""
    before = open_descriptors()
    with Server(controller.handle, controller.cancel) as server, calling(server, "flood") as caller:
        assert caller.said() == "asked"
        assert open_descriptors() < before + MAX_IN_FLIGHT + 20
    assert open_descriptors() == before


def test_connections_that_are_given_back_unused(call: Start) -> None:
    """They are free for the next call."""
    assert call("abandoned").said() == {"n": 1}


def test_half_a_frame(call: Start) -> None:
    """Who stops in the middle of a message is hung up on after a while; others are served meanwhile."""
    assert call("half", frame_timeout=0.3).said() == [{"n": 1}, True]


def test_closing_does_not_wait_for_half_a_frame(controller: Controller) -> None:
    """The end of an agent does not wait for the rest of a message."""
    with Server(controller.handle, controller.cancel, frame_timeout=100) as server:
        wire = server.kernel_end
        wire.sendall(b"?")
        line = socket.socket(fileno=socket.recv_fds(wire, 1, 1)[1][0])
        line.sendall(b"i\0\0")
    with line:
        assert was_hung_up(line)


def test_closing_does_not_wait_for_a_deaf_caller(controller: Controller) -> None:
    """Nor does it wait for a caller who asks for much and reads nothing."""
    with ExitStack() as stack:
        with Server(controller.handle, controller.cancel) as server:
            caller = stack.enter_context(calling(server, "deaf"))
            assert controller.entered.acquire(timeout=10)
        assert caller.process.poll() is None


def test_what_is_no_call(call: Start) -> None:
    """Frames without the right fields, and a key for the second time, get an error that says so."""
    told = call("faults").said()
    assert [answer["error"]["type"] for answer in told if "error" in answer] == ["BridgeError"] * 8
    assert all("must have the fields" in answer["error"]["message"] for answer in told[:6])
    assert "at most 200 characters" in told[6]["error"]["message"]
    assert told[7] == {"answer": {}}
    assert "made before" in told[8]["error"]["message"]


def test_errors_keep_their_class(call: Start, caplog: pytest.LogCaptureFixture) -> None:
    """What is raised here is raised there; a surprise is logged here, and told there by its kind only."""
    with caplog.at_level(logging.ERROR, "rlm_nb"):
        budget, depth, subagent, surprise, no_json, own = call("errors").said()
    assert budget == [
        "CostLimitError",
        "limit reached: cost in US dollars: 5.25 of 5 used",
        {"what": "cost in US dollars", "used": 5.25, "limit": 5},
    ]
    assert (depth[0], depth[2]["used"]) == ("RecursionDepthError", 2)
    assert subagent == ["SubAgentError", "root.1: it gave up — naïvely", {}]
    assert surprise == ["BridgeError", "the controller failed: ZeroDivisionError", {}]
    assert "a secret" in caplog.text
    assert no_json[0] == "BridgeError"
    assert "is not JSON" in no_json[1]
    assert own[:2] == ["BridgeError", "own words"]


def test_a_forged_identity(call: Start) -> None:
    """What a message says about agents, depths and budgets does not even reach the handler."""
    assert call("forged").said() == {"answer": ["arguments", "cell", "key", "name"]}


def test_killed_in_mid_call(call: Start, controller: Controller) -> None:
    """Who dies while it waits has its call cancelled."""
    caller = call("hold")
    assert controller.entered.acquire(timeout=10)
    caller.process.kill()
    assert controller.was_cancelled.acquire(timeout=10)
    assert controller.cancelled["hold"] in ("the kernel ended", "the cell that asked no longer waits")


def test_an_interrupt_cancels_its_own_call_only(call: Start, controller: Controller) -> None:
    """Ctrl-C hangs up, even where a fork keeps a copy of the line; a call beside it and later ones are unharmed."""
    caller = call("interrupted")
    assert controller.entered.acquire(timeout=10)
    assert controller.entered.acquire(timeout=10)
    assert caller.said() == "forked"
    caller.process.send_signal(signal.SIGINT)
    assert controller.was_cancelled.acquire(timeout=10)
    assert controller.cancelled == {"hold": "the cell that asked no longer waits"}
    controller.cancel.cancel("the test is over")
    assert controller.was_cancelled.acquire(timeout=10)
    assert controller.cancelled["beside"] == "the test is over"


def test_who_no_longer_waits_cancels_the_call(call: Start, controller: Controller) -> None:
    """By a deadline or on somebody's wish: the caller goes on, and the controller stops what it does for it."""
    caller = call("left")
    assert caller.said() == ["the time limit of the run was reached", "no longer wanted", "long ago", {"n": 1}]
    for _ in range(2):
        assert controller.was_cancelled.acquire(timeout=10)
    assert controller.cancelled == {"hold": "the cell that asked no longer waits"}


def test_closing_while_a_call_is_under_way(controller: Controller) -> None:
    """The call is cancelled, the caller is told or hung up on, and nothing is left."""
    threads, before = threading.active_count(), open_descriptors()
    with ExitStack() as stack:
        server = Server(controller.handle, controller.cancel)
        with server:
            caller = stack.enter_context(calling(server, "hold"))
            assert controller.entered.acquire(timeout=10)
        assert controller.cancelled == {"hold": "the kernel ended"}
        assert caller.said()[0] in ("BridgeError", "CancelledError")
    assert (threading.active_count(), open_descriptors()) == (threads, before)


def test_who_cancels_the_agent_cancels_its_calls(call: Start, controller: Controller) -> None:
    """The caller is told why."""
    caller = call("hold")
    assert controller.entered.acquire(timeout=10)
    controller.cancel.cancel("somebody pressed Ctrl-C")
    assert caller.said() == ["CancelledError", "somebody pressed Ctrl-C"]


def test_no_call_after_the_end(controller: Controller) -> None:
    """A bridge that was closed answers nobody."""
    with Server(controller.handle, controller.cancel) as server:
        wire = socket.socket(fileno=os.dup(server.kernel_end.fileno()))
    with wire, pytest.raises(BridgeError, match="echo: the controller does not answer this kernel any more"):
        Client(wire, lambda: "").call("echo")


def test_no_descriptors_left(controller: Controller) -> None:
    """A controller at its limit of open files refuses a call, and answers the next one when it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Server(controller.handle, controller.cancel) as server:
        client = Client(server.kernel_end, lambda: "")
        resource.setrlimit(resource.RLIMIT_NOFILE, (server.kernel_end.fileno(), hard))
        try:
            with pytest.raises(BridgeError, match="no connection to give"):
                client.call("echo")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert client.call("echo", n=1) == {"n": 1}
