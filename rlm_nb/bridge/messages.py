"""One message on the bridge: a length, then JSON; a large one travels as an open file.

A frame holds at most `MAX_FRAME` bytes. What is larger is written to an unlinked temporary file of the sender's, whose
descriptor goes with the header: there is no path to find, to guess or to clean up.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
import tempfile

from rlm_nb.errors import BridgeError
from rlm_nb.records import JSON

MAX_FRAME = 1 << 20
"""Bytes of JSON that travel on the socket itself."""

MAX_VALUE = 64 << 20
"""Bytes of JSON that travel at all."""

_HEADER = struct.Struct("!cI")
_INLINE, _FILE = b"i", b"f"


def send(connection: socket.socket, value: JSON) -> None:
    """Send one value. Raises `BridgeError` when it is too large, and `OSError` when nobody listens any more."""
    # ASCII keeps lone surrogates as escapes, so that any Python text survives the way.
    body = json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    if len(body) > MAX_VALUE:
        raise BridgeError(f"{len(body):,} bytes are too many for the bridge: {MAX_VALUE:,} is the most")
    if len(body) <= MAX_FRAME:
        connection.sendall(_HEADER.pack(_INLINE, len(body)) + body)
        return
    with tempfile.TemporaryFile() as file:
        file.write(body)
        file.flush()
        socket.send_fds(connection, [_HEADER.pack(_FILE, len(body))], [file.fileno()])


def receive(connection: socket.socket) -> JSON:
    """Wait for one value.

    Raises:
        EOFError: The other side closed the connection.
        BridgeError: What came is no message.
    """
    header, descriptors, _, _ = socket.recv_fds(connection, _HEADER.size, 1)
    try:
        if not header:
            raise EOFError("the bridge was closed")
        header += _exactly(connection, _HEADER.size - len(header))
        kind, length = _HEADER.unpack(header)
        if kind == _INLINE and length <= MAX_FRAME:
            body = _exactly(connection, length)
        elif kind == _FILE and length <= MAX_VALUE and descriptors:
            body = _file(descriptors[0], length)
        else:
            raise BridgeError(f"a message of {length:,} bytes and kind {kind!r} is not understood")
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BridgeError(f"a message is not JSON: {error}") from None


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = []
    while count:
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
        part = os.pread(descriptor, length - at, at)
        if not part:
            raise BridgeError(f"a message of {length:,} bytes ends after {at:,}")
        parts.append(part)
        at += len(part)
    return b"".join(parts)
