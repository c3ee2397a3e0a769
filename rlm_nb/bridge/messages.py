"""One message on the bridge: a length, then JSON; a large one travels as an open file.

A frame holds at most `MAX_FRAME` bytes. What is larger is written to a file of the sender's without a name, in memory
where the system has such files, whose descriptor goes with the header: there is no path to find, to guess or to clean
up.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import stat
import struct
import tempfile
import time
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, NoReturn

from rlm_nb.errors import BridgeError

if TYPE_CHECKING:  # a kernel's first cell waits for every import
    from rlm_nb.records import JSON

MAX_FRAME = 1 << 20
"""Bytes of JSON that travel on the socket itself."""

MAX_VALUE = 64 << 20
"""Bytes of JSON that travel at all."""

MAX_DEPTH = 100
"""Lists and dicts inside one another: what comes through can be walked, copied and written without a second thought."""

_HEADER = struct.Struct("!cI")
_INLINE, _FILE = b"i", b"f"


def send(connection: socket.socket, value: JSON) -> None:
    """Send one value.

    Raises:
        BridgeError: JSON has no form for it, it is too large, or there is no room to send it from; nothing was sent.
        OSError: Nobody listens any more.
    """
    try:
        # ASCII keeps lone surrogates as escapes, so that any Python text survives the way.
        body = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise BridgeError(f"a value is not JSON: {error}") from None
    if len(body) > MAX_VALUE:
        raise BridgeError(f"{len(body):,} bytes are too many for the bridge: {MAX_VALUE:,} is the most")
    if len(body) <= MAX_FRAME:
        connection.sendall(_HEADER.pack(_INLINE, len(body)) + body)
        return
    with _in_a_file(body) as file:
        socket.send_fds(connection, [_HEADER.pack(_FILE, len(body))], [file.fileno()])


def _in_a_file(body: bytes) -> IO[bytes]:
    """A file that holds it, and has no name; a full temporary folder does not matter where memory serves."""
    try:
        with ExitStack() as undo:
            file: IO[bytes]
            if hasattr(os, "memfd_create"):
                file = undo.enter_context(os.fdopen(os.memfd_create("rlm-nb"), "wb", buffering=0))
            else:
                file = undo.enter_context(tempfile.TemporaryFile(buffering=0))
            rest = memoryview(body)
            while rest:
                rest = rest[file.write(rest) :]
            undo.pop_all()
            return file
    except OSError as error:
        raise BridgeError(f"a value of {len(body):,} bytes cannot be sent: {error.strerror or error}") from None


def without_descriptors() -> str:
    """What is wrong when something was sent as a descriptor, and this process can have no more of them."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"this process has no file descriptors left (limit {most:,}): close some files"


def receive(connection: socket.socket, seconds: float | None = None) -> JSON:
    """Wait for one value.

    Args:
        connection: Where it comes from.
        seconds: How long the whole message may take; `None` for as long as it likes.

    Raises:
        EOFError: The other side closed the connection.
        TimeoutError: The time is up.
        BridgeError: What came is no message.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    connection.settimeout(seconds)
    header, descriptors, flags, _ = socket.recv_fds(connection, _HEADER.size, 1)
    try:
        if not header:
            raise EOFError("the bridge was closed")
        header += _exactly(connection, _HEADER.size - len(header), deadline)
        kind, length = _HEADER.unpack(header)
        if kind == _INLINE and length <= MAX_FRAME:
            body = _exactly(connection, length, deadline)
        elif kind == _FILE and length <= MAX_VALUE and descriptors:
            body = _file(descriptors[0], length)
        elif kind == _FILE and flags & socket.MSG_CTRUNC:
            raise BridgeError(f"a message of {length:,} bytes cannot be taken: {without_descriptors()}")
        else:
            raise BridgeError(f"a message of {length:,} bytes and kind {kind!r} is not understood")
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return _value(body)


def _exactly(connection: socket.socket, count: int, deadline: float | None) -> bytes:
    parts = []
    while count:
        if deadline is not None:
            # The time limit of a socket begins anew with each byte that comes.
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError("the rest of a message did not come")
            connection.settimeout(left)
        part = connection.recv(min(count, 1 << 16))
        if not part:
            raise EOFError("the bridge was closed in the middle of a message")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _file(descriptor: int, length: int) -> bytes:
    # A pipe or a device would make the reader wait for ever; a file can only be short.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise BridgeError("a message came as something that is not a file")
    parts = []
    at = 0
    while at < length:
        try:
            part = os.pread(descriptor, length - at, at)
        except OSError as error:
            raise BridgeError(f"a message came as a file that cannot be read: {error.strerror}") from None
        if not part:
            raise BridgeError(f"a message of {length:,} bytes ends after {at:,}")
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _value(body: bytes) -> JSON:
    try:
        value = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BridgeError(f"a message is not JSON: {error}") from None
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for outer in level for inner in _within(outer)]
        if not level:
            return value
    raise BridgeError(f"a value is nested too deeply: {MAX_DEPTH} lists or dicts inside one another are the most")


def _within(value: JSON) -> list[JSON]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _refuse(constant: str) -> NoReturn:
    # Python reads and writes NaN and Infinity; a browser that opens a notebook with one in it does not.
    raise ValueError(f"{constant} has no form in it")
