"""A stock Jupyter kernel, spoken to as front ends do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
import yaml
from jupyter_client import BlockingKernelClient, KernelManager

PATIENCE = 60.0
"""Seconds that a kernel may take for a cell."""


@dataclass
class Ran:
    """What became of a cell.

    Args:
        reply: The content of the kernel's reply.
        shown: Its displays, the last picture of each by the id that it has, and the texts of streams and errors.
    """

    reply: dict[str, Any] = field(default_factory=dict)
    shown: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it as plain text."""
        return "\n".join(one["text/plain"] for one in self.shown)

    @property
    def html(self) -> str:
        """What of it is HTML."""
        return "\n".join(one.get("text/html", "") for one in self.shown)

    @property
    def next_input(self) -> str | None:
        """The cell that is put below."""
        found = [one["text"] for one in self.reply.get("payload", []) if one["source"] == "set_next_input"]
        return found[-1] if found else None


class Kernel:
    """A kernel and a front end of it."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager, self.client = manager, client

    def run(
        self, code: str, until: Callable[[Ran], bool] | None = None, then: Callable[[], None] = lambda: None
    ) -> Ran:
        """Run a cell to its end; as soon as `until` is so, do `then`."""
        identity = self.client.execute(code)
        ran, idle, ids = Ran(), False, dict[str, int]()
        end = time.monotonic() + PATIENCE
        while not (idle and ran.reply):
            assert time.monotonic() < end, ran.text
            try:
                message = self.client.get_iopub_msg(timeout=0.2)
            except Empty:
                message = None
            if message is not None and message["parent_header"].get("msg_id") == identity:
                idle = idle or message["content"].get("execution_state") == "idle"
                self._take(message, ran, ids)
            if until is not None and until(ran):
                until = None
                then()
            if idle and not ran.reply:
                reply = self.client.get_shell_msg(timeout=PATIENCE)
                if reply["parent_header"]["msg_id"] == identity:  # it may have been asked more than once what it is
                    ran.reply = reply["content"]
        assert until is None, ran.text
        return ran

    @staticmethod
    def _take(message: dict[str, Any], ran: Ran, ids: dict[str, int]) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            ran.shown.append({"text/plain": content["text"]})
        elif kind == "error":
            ran.shown.append({"text/plain": "\n".join(content["traceback"])})
        elif kind in ("display_data", "execute_result"):
            ids[content.get("transient", {}).get("display_id", "")] = len(ran.shown)
            ran.shown.append(content["data"])
        elif kind == "update_display_data":
            ran.shown[ids[content["transient"]["display_id"]]] = content["data"]


@contextmanager
def started(name: str, folder: Path, **variables: str) -> Iterator[Kernel]:
    """A kernel of this name, at work in a folder."""
    manager = KernelManager(kernel_name=name)
    manager.start_kernel(cwd=str(folder), env=os.environ | variables)
    try:
        client = manager.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=PATIENCE)
        yield Kernel(manager, client)
        client.stop_channels()
    finally:
        manager.shutdown_kernel()
        manager.cleanup_resources()


def write_script(path: Path, agents: dict[str, list[Any]], **more: Any) -> str:
    """A script for a model; returns how it is named."""
    path.write_text(yaml.safe_dump({"agents": agents, **more}), "utf-8")
    return f"scripted:{path}"


@pytest.fixture
def in_repository(repository: Path, tmp_path: Path) -> Iterator[Kernel]:
    """A stock Python kernel with the magics, at work in a small repository, where runs are recorded beside it."""
    with started("python3", repository, RLM_RUNS_DIR=str(tmp_path / "runs"), **PLANTED) as kernel:
        kernel.run("%load_ext rlm_nb")
        yield kernel


KEY = "sk-ant-planted-0123456789abcdef"
PLANTED = {"ANTHROPIC_API_KEY": KEY}
