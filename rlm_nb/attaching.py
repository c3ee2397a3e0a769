"""How Jupyter's kernel managers attach to the kernel of an agent at work: they start nothing, and end nothing.

The kernelspec of such an agent (`live_specs.py`) names the provisioner here. To start is to ask the run for the way in,
to restart is to ask again, to shut down is to let go. The agent's kernel is the controller's, and lives on.
"""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import KernelProvisionerBase

from rlm_nb import control
from rlm_nb.errors import KernelStartError, RLMError
from rlm_nb.kernel.wire import Wire
from rlm_nb.processes import is_alive, mark

LINGER = 1000
"""Milliseconds that an interrupt may take on its way."""

POLL = 0.2
"""Seconds between two looks at whether the agent is still at work."""


class LiveProvisioner(KernelProvisionerBase):  # type: ignore[misc]
    """Attaches to one agent, which its kernelspec names."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._links: tempfile.TemporaryDirectory[str] | None = None
        self._sockets: Path | None = None  # as long as we are attached

    @property
    def has_process(self) -> bool:
        """Whether we are attached."""
        return self._sockets is not None

    async def poll(self) -> int | None:
        """`None` while the agent is at work, and we are attached to it."""
        if self._sockets is None:
            return 0
        if self._is_at_work(self._sockets):
            return None
        # There is nothing to be started anew: Jupyter is not to try, and says at once that the kernel is dead.
        if (restarter := getattr(self.parent, "_restarter", None)) is not None:
            restarter.restart_limit = 0
        # A server that has heard it forgets the kernel, and cleans nothing up.
        self.parent.cleanup_connection_file()
        self._unlink()
        return 1

    async def wait(self) -> int | None:
        """Wait until we are no longer attached, or there is nothing to be attached to."""
        while (code := await self.poll()) is None:
            await asyncio.sleep(POLL)
        self._let_go()
        return code

    async def send_signal(self, signum: int) -> None:
        """Interrupt the cell that runs, for SIGINT; not for the one that comes before a kernel manager shuts down."""
        if signum == signal.SIGINT and self.has_process and not getattr(self.parent, "shutting_down", False):
            info = self.connection_info
            with self.parent.context.socket(zmq.DEALER) as asking:
                asking.linger = LINGER
                asking.connect(f"{info['transport']}://{info['ip']}-{info['control_port']}")
                Wire(info["key"]).send(asking, "interrupt_request", {}, {})

    async def kill(self, restart: bool = False) -> None:
        """Let go."""
        self._let_go()

    async def terminate(self, restart: bool = False) -> None:
        """Let go."""
        self._let_go()

    async def shutdown_requested(self, restart: bool = False) -> None:
        """Let go."""
        self._let_go()

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """There is no command."""
        return {**await super().pre_launch(**kwargs), "cmd": []}

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Attach.

        Raises:
            KernelStartError: The agent has ended, or is not at work yet.
        """
        rlm = self.kernel_spec.metadata["rlm"]
        try:
            # The run takes a moment to answer, and other kernels live in this loop.
            with ThreadPoolExecutor(1, thread_name_prefix="rlm-attach") as thread:
                asked = partial(control.attach, Path(rlm["run"]), rlm["agent"])
                file = await asyncio.get_running_loop().run_in_executor(thread, asked)
            info = json.loads(file.read_bytes())
        except (RLMError, OSError, ValueError) as error:
            raise KernelStartError(f"nobody can be attached: {error}") from error
        self._sockets = file.parent
        self.connection_info = {**info, "ip": self._linked(info), "key": info["key"].encode()}
        return self.connection_info

    async def cleanup(self, restart: bool = False) -> None:
        """Remove what was made for this attachment."""
        self._let_go()
        self._unlink()

    def _linked(self, info: dict[str, Any]) -> str:
        """The sockets under names of our own, since a kernel manager removes those that it used in the end."""
        self._unlink()
        self._links = tempfile.TemporaryDirectory(prefix=mark(), dir="/tmp", ignore_cleanup_errors=True)
        for name, number in info.items():
            if name.endswith("_port"):
                Path(self._links.name, f"k-{number}").symlink_to(f"{info['ip']}-{number}")
        return f"{self._links.name}/k"

    def _unlink(self) -> None:
        if self._links is not None:
            self._links.cleanup()
            self._links = None

    def _let_go(self) -> None:
        self._sockets = None

    def _is_at_work(self, sockets: Path) -> bool:
        rlm = self.kernel_spec.metadata["rlm"]
        return sockets.is_dir() and is_alive(int(rlm["pid"]), float(rlm["pid_started"]))
