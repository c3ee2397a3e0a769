"""What goes over a connection of the bridge, and what a reader makes of everything else."""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.bridge import messages
from rlm_nb.errors import BridgeError


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def header(kind: bytes, length: int) -> bytes:
    return struct.pack("!cI", kind, length)


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208


@pytest.mark.parametrize(
    "value",
    [None, 0, "", [], {}, {"a": [1, 2.5, {"b": None}]}, "naïve \u2028 🐍", "\ud800 alone", "\x00\x1b[1m", 10**300],
    ids=repr,
)
def test_values_arrive_as_they_were(pair: Pair, value: Any) -> None:
    """Every value that JSON can hold, lone surrogates and NULs included."""
    messages.send(pair[0], value)
    assert messages.receive(pair[1]) == value


@pytest.mark.parametrize("more", [-1, 0, 1, 5_000_000])
def test_large_values_travel_as_a_file(pair: Pair, more: int) -> None:
    """Around the size where a descriptor takes over, and far beyond it; no descriptor stays open."""
    before = descriptors()
    value = "x" * (messages.MAX_FRAME - 2 + more)  # two quotes make the frame
    received: list[Any] = []
    reader = threading.Thread(target=lambda: received.append(messages.receive(pair[1])))
    reader.start()  # a frame is larger than what the system keeps for a reader who is not there yet
    messages.send(pair[0], value)
    reader.join()
    assert received == [value]
    assert descriptors() == before


def test_a_large_value_for_a_reader_without_descriptors(pair: Pair) -> None:
    """It is told why it cannot have the value."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    messages.send(pair[0], "x" * messages.MAX_FRAME)
    resource.setrlimit(resource.RLIMIT_NOFILE, (pair[1].fileno(), hard))
    try:
        with pytest.raises(BridgeError, match=r"cannot be taken: this process has no file descriptors left \(limit "):
            messages.receive(pair[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_large_to_send(pair: Pair) -> None:
    """More than the bridge carries is refused before a byte of it is sent."""
    with pytest.raises(BridgeError, match="too many for the bridge: 67,108,864 is the most"):
        messages.send(pair[0], "x" * messages.MAX_VALUE)
    messages.send(pair[0], "next")
    assert messages.receive(pair[1]) == "next"


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {1, 2}, object()], ids=["nan", "inf", "set", "object"])
def test_what_json_has_no_form_for(pair: Pair, value: Any) -> None:
    """It is refused before a byte of it is sent."""
    with pytest.raises(BridgeError, match="is not JSON"):
        messages.send(pair[0], value)
    messages.send(pair[0], "next")
    assert messages.receive(pair[1]) == "next"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[NaN]", "NaN has no form"),
        (b'{"x": -Infinity}', "-Infinity has no form"),
        (b"1" * 5000, "not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "not JSON|nested too deeply"),
        (b"[" * 102 + b"]" * 102, "nested too deeply"),
        (b'{"a":' * 102 + b"1" + b"}" * 102, "nested too deeply"),
    ],
    ids=["nothing", "half", "binary", "NaN", "Infinity", "digits", "deepest", "deep lists", "deep dicts"],
)
def test_what_is_not_a_value(pair: Pair, body: bytes, says: str) -> None:
    """A well-made frame with something in it that we do not want is an error, never a crash."""
    pair[0].sendall(header(b"i", len(body)) + body)
    with pytest.raises(BridgeError, match=says):
        messages.receive(pair[1])


def test_as_deep_as_it_may_be(pair: Pair) -> None:
    """A hundred levels come through."""
    body = b"[" * 100 + b"1" + b"]" * 100
    pair[0].sendall(header(b"i", len(body)) + body)
    assert json.dumps(messages.receive(pair[1])).encode() == body


@pytest.mark.parametrize(
    "frame",
    [
        header(b"i", messages.MAX_FRAME + 1),
        header(b"i", 0xFFFFFFFF),
        header(b"f", 10),  # without a descriptor
        header(b"f", messages.MAX_VALUE + 1),
        header(b"?", 10),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["one byte too many", "4 GiB", "no file", "too large a file", "unknown kind", "HTTP"],
)
def test_headers_that_are_none(pair: Pair, frame: bytes) -> None:
    """What is announced is not believed: nothing is allocated, nothing is waited for."""
    pair[0].sendall(frame)
    with pytest.raises(BridgeError, match="is not understood"):
        messages.receive(pair[1])


@pytest.mark.parametrize("sent", [b"", header(b"i", 4)[:2], header(b"i", 4), header(b"i", 4) + b"tr"])
def test_the_end_in_the_middle(pair: Pair, sent: bytes) -> None:
    """A sender that goes away before, in the header, after it and in the body."""
    pair[0].sendall(sent)
    pair[0].close()
    with pytest.raises(EOFError, match="closed"):
        messages.receive(pair[1])


def test_a_sender_that_drips(pair: Pair) -> None:
    """The time limit is the message's, not each byte's."""
    ours, theirs = pair
    stop = threading.Event()

    def drip() -> None:
        ours.sendall(header(b"i", 1000))
        while not stop.wait(0.02):
            ours.sendall(b" ")

    sender = threading.Thread(target=drip)
    sender.start()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        messages.receive(theirs, 0.3)
    assert time.monotonic() - began < 3
    stop.set()
    sender.join()


def test_descriptors_that_are_no_files(pair: Pair, tmp_path: Path) -> None:
    """A pipe, a FIFO, a device, a folder, a socket or an unreadable file: an error at once, and none stays open."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "write-only").write_text('"text"')
    before = descriptors()
    read, write = os.pipe()
    opened = [
        read,
        os.open(tmp_path / "fifo", os.O_RDWR),
        os.open("/dev/zero", os.O_RDONLY),
        os.open(tmp_path, os.O_RDONLY),
        os.dup(pair[0].fileno()),
        os.open(tmp_path / "write-only", os.O_WRONLY),
    ]
    for descriptor in opened:
        socket.send_fds(pair[0], [header(b"f", 6)], [descriptor])
        with pytest.raises(BridgeError, match=r"came as (something that is not a file|a file that cannot be read)"):
            messages.receive(pair[1])
    for descriptor in [*opened, write]:
        os.close(descriptor)
    assert descriptors() == before


def test_a_file_that_is_too_short(pair: Pair) -> None:
    """The length in the header is a promise; a file that does not keep it is no message."""
    with tempfile.TemporaryFile() as file:
        file.write(b'"abc"')
        file.flush()
        socket.send_fds(pair[0], [header(b"f", 50)], [file.fileno()])
        with pytest.raises(BridgeError, match="of 50 bytes ends after 5"):
            messages.receive(pair[1])


def test_more_descriptors_than_wanted(pair: Pair) -> None:
    """Descriptors that nobody asked for are closed: those beside the first, and those with an ordinary message."""
    before = descriptors()
    with tempfile.TemporaryFile() as file:
        for body in (b"true", b"null"):
            socket.send_fds(pair[0], [header(b"i", 4) + body], [file.fileno()] * 5)
        assert messages.receive(pair[1]) is True
        assert messages.receive(pair[1]) is None
    assert descriptors() == before
