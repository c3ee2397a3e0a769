"""The two kernels that are compared: ours, as an agent gets it, and the one that `jupyter_client` starts by itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from jupyter_client import KernelManager

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import KernelSettings
from rlm_nb.errors import BridgeError
from rlm_nb.kernel.client import KernelClient
from rlm_nb.kernel.launch import Launcher
from rlm_nb.records import JSON


@contextmanager
def our_kernel(launcher: Launcher, folder: Path) -> Iterator[KernelClient]:
    """A kernel with its bridge, ready for its first cell; its files go to `folder`."""
    workdir = folder / "work"
    workdir.mkdir(parents=True)
    greeting: dict[str, JSON] = {"task": "Measure", "subagents": True, "context": None}
    settings, outputs = KernelSettings(), folder / "outputs"
    with KernelClient(
        launcher,
        folder,
        workdir,
        lambda number: outputs / f"{number}.txt",
        settings,
        lambda: greeting,
        _refuse,
        Cancellation(),
    ) as client:
        yield client


@contextmanager
def stock_kernel(folder: Path) -> Iterator[tuple[Any, int]]:
    """The client and the process number of a kernel that has said that it is ready; its files go to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    manager = KernelManager(connection_file=str(folder / "stock.json"))
    environment = {**os.environ, "IPYTHONDIR": str(folder / "ipython")}
    manager.start_kernel(cwd=str(folder), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = manager.blocking_client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            yield client, manager.provisioner.pid
        finally:
            client.stop_channels()
    finally:
        manager.shutdown_kernel(now=True)


def run_in_ours(client: KernelClient, cell: str) -> None:
    """Run a cell to its end, which must be a good one."""
    result = client.execute(cell, Cancellation())
    assert result.status == "ok", result


def run_in_stock(client: Any, cell: str) -> None:
    """The same in a stock kernel, with its outputs read and dropped."""
    reply = client.execute_interactive(cell, allow_stdin=False, output_hook=lambda _: None)
    assert reply["content"]["status"] == "ok", reply


def started_by(launcher: Launcher) -> list[psutil.Process]:
    """The warm process of a launcher, and all kernels and supervisors that descend from it."""
    assert launcher.forkserver is not None, "there is no fork on this system"
    assert launcher.forkserver.pid is not None
    parent = psutil.Process(launcher.forkserver.pid)
    return [parent, *parent.children(recursive=True)]


def _refuse(*_: object) -> JSON:
    raise BridgeError("a bench answers no calls")
