"""Messages of Jupyter's protocol on sockets of our own: read if they are signed, signed when they are sent."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import zmq
from jupyter_client.jsonutil import json_default
from jupyter_client.session import Session, new_id

from rlm_nb.kernel.messages import Message

log = logging.getLogger(__name__)


class Wire:
    """One key, and whoever speaks with it. For one thread.

    Args:
        key: What messages are signed with.
    """

    def __init__(self, key: bytes) -> None:
        self._session = Session(key=key, session=new_id(), username="rlm")
        self._session.pack = _pack

    def read(self, socket: zmq.Socket[bytes]) -> tuple[list[bytes], Message] | None:
        """The message that is there already, and who sent it; `None` when nobody signed it, or it is not one."""
        try:
            senders, parts = self._session.feed_identities(socket.recv_multipart(zmq.NOBLOCK))
            message: Message = self._session.deserialize(parts)
            known = isinstance(message["header"]["msg_id"], str) and isinstance(message["msg_type"], str)
            if known and isinstance(message["content"], dict) and isinstance(message["parent_header"], dict):
                return senders, message
            log.warning("a message that is none was left out")
        except zmq.Again:
            pass
        except Exception as error:  # noqa: BLE001 - reading what nobody signed, or what is no message, fails in many ways
            log.warning("an unreadable message was left out: %.200r", error)
        return None

    def send(
        self,
        socket: zmq.Socket[bytes],
        kind: str,
        content: Mapping[str, Any],
        parent: Mapping[str, Any],
        to: Sequence[bytes] = (),
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[bytes] = (),
    ) -> None:
        """Say something about the message with the header `parent`; it is lost if nobody is there to take it."""
        message = self._session.msg(kind, dict(content), metadata=dict(metadata or {}))
        message["parent_header"] = dict(parent)
        self._send(socket, message, list(to), buffers)

    def pass_on(self, socket: zmq.Socket[bytes], message: Message) -> None:
        """Send on what somebody else has said, as it is: answers to it name it by the id that it has."""
        self._send(socket, message, [], message.get("buffers", ()))

    def _send(self, socket: zmq.Socket[bytes], message: Message, to: list[bytes], buffers: Sequence[bytes]) -> None:
        parts = self._session.serialize(message, to)
        try:
            socket.send_multipart([*parts, *buffers], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            log.warning("a message was left out: %s", error)


def _pack(value: Any) -> bytes:
    """A part of a message as JSON. In ASCII: jupyter_client's own form cannot hold lone surrogates."""
    return json.dumps(value, default=json_default).encode()
