"""What people who are attached to an agent's kernel may have of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from rlm_nb.notebook.wording import ESCAPES

_COMMANDS = re.compile(rf"\x1b\[[0-9;:]*m|({ESCAPES}|[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f])")
"""Colours; else, as a group, what a terminal obeys: other sequences, and control characters beside those of lines."""

Way = Literal["run", "ask", "ask aside", "tell", "interrupt", "leave", "refuse"]
"""What becomes of a request: it is run in turn; the kernel is asked, or asked without waiting for its cell; …"""

LONGEST = 100_000
"""Characters of a cell that is looked at for whether it is complete."""

_SHELL: dict[str, Way] = {
    "execute_request": "run",
    "complete_request": "ask",
    "inspect_request": "ask",
    "is_complete_request": "tell",
    "history_request": "ask",
    "comm_info_request": "ask",
    "comm_open": "ask",
    "comm_msg": "ask",
    "comm_close": "ask",
    "kernel_info_request": "ask aside",
}
_CONTROL: dict[str, Way] = {
    "kernel_info_request": "ask aside",
    "interrupt_request": "interrupt",
    "shutdown_request": "leave",
}

SHOWN = frozenset(
    {
        "status",
        "execute_input",
        "stream",
        "display_data",
        "update_display_data",
        "execute_result",
        "error",
        "clear_output",
        "comm_open",
        "comm_msg",
        "comm_close",
    }
)
"""Messages of the kernel's that people are shown. That it shuts down is none of them: another one takes its place."""


def way(channel: str, kind: str) -> Way:
    """What becomes of a request on the shell or the control channel."""
    return (_SHELL if channel == "shell" else _CONTROL).get(kind, "refuse")


def is_shown(kind: str, content: Mapping[str, Any]) -> bool:
    """Whether people get to see it. Only a controller knows whether a kernel is dead, or starts anew."""
    return kind in SHOWN and (kind != "status" or content.get("execution_state") in ("busy", "idle"))


def harmless(value: Any) -> Any:
    """The same, with every text in it so that it commands no terminal: of escape sequences only colours are left."""
    if isinstance(value, str):
        return _COMMANDS.sub(lambda found: found[0] if found[1] is None else "", value)
    if isinstance(value, Mapping):
        return {name: harmless(each) for name, each in value.items()}
    return [harmless(each) for each in value] if isinstance(value, list) else value


def about(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a kernel says of itself, without what is not to be had: a debugger, and cells beside the one that runs."""
    return {**content, "debugger": False, "supported_features": []}


def options(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a kernel is told of a cell beside its code; `None` for what it could not answer, and would be waited for."""
    kinds = {"silent": bool, "store_history": bool, "stop_on_error": bool, "user_expressions": dict}
    found = {name: content[name] for name in kinds if name in content}
    return found if all(isinstance(value, kinds[name]) for name, value in found.items()) else None


def completeness(content: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a cell may be sent, or wants more lines: what IPython says, which a busy kernel would not say in time.

    A console that gets no answer within a second asks never again, and wants an empty line after everything.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    code = content.get("code")
    if not isinstance(code, str) or len(code) > LONGEST:
        return {"status": "unknown"}
    status, spaces = TransformerManager().check_complete(code)
    return {"status": status, **({"indent": " " * (spaces or 0)} if status == "incomplete" else {})}


def is_farewell(code: str) -> bool:
    """Whether a person who types this at a prompt wants to be gone, and not to be told that the REPL stays."""
    return code.strip() in ("exit", "exit()", "quit", "quit()", "%exit", "%quit")


FAREWELL: dict[str, Any] = {
    "status": "ok",
    "execution_count": 0,
    "user_expressions": {},
    "payload": [{"source": "ask_exit", "keepkernel": True}],
}
"""The answer to that: the client ends, and the kernel does not."""


def refused(kind: str) -> dict[str, Any]:
    """The content of the answer to a request that is refused."""
    return failed("NotForPeople", f"{kind} is nothing that the kernel of an agent does for who is attached to it")


def failed(name: str, why: str) -> dict[str, Any]:
    """The content of an answer that there is none."""
    return {"status": "error", "ename": name, "evalue": why, "traceback": [f"{name}: {why}"]}


def reply_to(kind: str) -> str | None:
    """What the answer to a request is called; `None` for one that gets none."""
    return kind.removesuffix("request") + "reply" if kind.endswith("_request") else None
