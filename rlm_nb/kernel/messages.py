"""Messages of a kernel, as far as what comes is one: its cells know its key and its sockets, and may send anything."""

from __future__ import annotations

import logging
from queue import Empty
from typing import Any

log = logging.getLogger(__name__)

Message = dict[str, Any]
"""`msg_type` is a string; `content`, `parent_header` and `metadata` are dicts, in which anything may stand."""


def receive(channel: Any) -> Message | None:
    """The next message that is there already; `None` when there is none, or when it is not one."""
    try:
        message: Message = channel.get_msg(timeout=0)
    except Empty:
        return None
    except Exception as error:  # noqa: BLE001 - reading what nobody signed, or what is no message, fails in many ways
        log.warning("an unreadable message of a kernel was left out: %.200r", error)
        return None
    if not isinstance(message["msg_type"], str):
        return None
    for part in ("content", "parent_header", "metadata"):
        if not isinstance(message[part], dict):
            message[part] = {}
    return message


def parent(message: Message) -> str:
    """The id of the message that this one belongs to; empty when it does not say."""
    identity = message["parent_header"].get("msg_id")
    return identity if isinstance(identity, str) else ""
