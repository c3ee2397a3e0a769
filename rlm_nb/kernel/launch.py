"""Kernel processes: started through jupyter_client, ready when they say so, ended with all that they started."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import zmq
from jupyter_client import AsyncKernelManager, BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec

from rlm_nb.bridge.client import VARIABLE
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import IsolationSettings
from rlm_nb.errors import IsolationError, KernelStartError
from rlm_nb.kernel import causes, environment, messages
from rlm_nb.kernel.isolation.choice import Choice, Found, Isolation
from rlm_nb.kernel.isolation.policy import Policy
from rlm_nb.kernel.limits import Limits, memory_kills
from rlm_nb.kernel.provisioner import Forkserver, SupervisedProcess, open_log
from rlm_nb.kernel.specs import spec_folder
from rlm_nb.processes import mark

MAX_MESSAGE = 64 << 20
"""Bytes of one message that we take; a kernel that sends more is cut off from that message."""

LAST_WORDS = 2000
"""Characters of a kernel's log that an error repeats."""

_UNIX_PATH = 100
"""The longest path of a unix socket is 107 bytes; a little of that is the socket's own name."""

_ADDRESS = ("transport", "ip", "shell_port", "iopub_port", "stdin_port", "hb_port", "control_port")

T = TypeVar("T")

FOUND: Found = {}
"""What isolation has held in this process, so that of many runs in one only the first waits until it is tried."""


class Launcher:
    """Starts the kernels of one controller.

    jupyter_client manages kernels with asyncio; its event loop lives here, in one thread, for all of them.

    Args:
        warm: Whether kernels are forked from a warm process, as far as the system allows.
        isolation: What kernels are kept from.
    """

    def __init__(self, *, warm: bool = True, isolation: IsolationSettings | None = None) -> None:
        isolation = isolation or IsolationSettings()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rlm-launcher", daemon=True)
        # What bubblewrap confines is run by it, and so begins cold.
        self.forkserver = Forkserver() if warm and can_fork() and isolation.level != "bwrap" else None
        host = self.forkserver.begin if self.forkserver is not None else None
        self._isolation = Isolation(isolation, host, FOUND)
        # A processor does no more for being shared by many: the first kernels are ready soon, the last no later.
        self._starting = threading.BoundedSemaphore((os.cpu_count() or 1) + 1)
        self.context = zmq.Context()
        self.context.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        self.context.setsockopt(zmq.LINGER, 0)

    def __enter__(self) -> Self:
        self._isolation.__enter__()
        if self.forkserver is not None:
            self.forkserver.begin()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.forkserver is not None:
            self.forkserver.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.context.destroy(linger=0)
        self._isolation.__exit__(kind, error, trace)

    def confinement(self) -> Choice:
        """What keeps kernels from the rest of the machine. Raises `IsolationError` when what is wished for cannot."""
        return self._isolation.choice()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of jupyter_client's in the loop, and wait for it here."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def start(self, folder: Path, workdir: Path, wire: int, limits: Limits, readable: Sequence[Path] = ()) -> Process:
        """Start a kernel process; it is ready once it has said so on the bridge.

        Args:
            folder: The agent's own folder, for HOME, temporary files, sockets and the log.
            workdir: Where cells run.
            wire: The file descriptor of the kernel's end of the bridge.
            limits: What the kernel, and all that it starts, may take of the machine.
            readable: What they may read, beside what is the agent's own, the system's, and Python's.

        Raises:
            KernelStartError: The process could not be started at all.
            IsolationError: It could not be confined.
        """
        with self._starting:
            try:
                return Process(self, folder, workdir, wire, limits, readable)
            except IsolationError:
                self._isolation.forget()
                raise

    def policy(self, readable: Sequence[Path], own: Sequence[Path], limits: Limits) -> Policy:
        """What a kernel may reach: what it may read, and what is its own. Raises `IsolationError`."""
        return self._isolation.policy(readable, own, limits.memory)


def can_fork() -> bool:
    """Whether a process may be forked after it has imported what kernels need.

    On macOS system libraries start threads on their own, and a forked process crashes in them.
    """
    return sys.platform == "linux"


class _Manager(AsyncKernelManager):  # type: ignore[misc]
    """jupyter_client's manager, which also tells its provisioner where to fork from."""

    forkserver: Forkserver | None = None

    def _connect_control_socket(self) -> None:
        """Connect none: it is for asking a kernel to shut down, and ours are ended by their supervisors."""


class Process:
    """One kernel process and the channels to it."""

    def __init__(
        self, launcher: Launcher, folder: Path, workdir: Path, wire: int, limits: Limits, readable: Sequence[Path]
    ) -> None:
        self._launcher, self._limits = launcher, limits
        self._told = 0
        self._memory_kills = memory_kills()
        self._log = folder / "kernel.log"
        try:
            with ExitStack() as stack:
                sockets = stack.enter_context(_socket_folder(folder))
                self._manager = _Manager(
                    transport="ipc", ip=f"{sockets}/k", connection_file=f"{sockets}/connection.json"
                )
                self._manager.forkserver = launcher.forkserver
                self._manager._kernel_spec = kernel_spec()
                # CurveZMQ guards sockets that others can reach; these lie in a folder of our own.
                self._manager.transport_encryption = "disabled"
                launcher.run(
                    self._manager.start_kernel(
                        cwd=str(workdir),
                        env=_environment(folder),
                        descriptors={VARIABLE: wire},
                        log=self._log,
                        limits=limits,
                        policy=launcher.policy(readable, (folder, workdir, Path(sockets)), limits),
                    )
                )
                self._stack = stack.pop_all()
        except OSError as error:  # cells can write in the agent's folder, and so remove or replace what is in it
            raise KernelStartError(f"the kernel cannot be started: {error.strerror}: {error.filename}") from error
        self._process: SupervisedProcess = self._manager.provisioner.process
        self._client: BlockingKernelClient | None = None
        self._control = threading.Lock()

    @property
    def pid(self) -> int:
        """The kernel's process number."""
        return self._process.pid

    @property
    def exit_fd(self) -> int:
        """A descriptor that becomes readable when the kernel ends."""
        return self._process.side.fileno()

    @property
    def connection(self) -> dict[str, Any]:
        """How its sockets are found, and its key."""
        found: dict[str, Any] = self._manager.get_connection_info()
        return found

    @property
    def client(self) -> BlockingKernelClient:
        """The channels; opened at the first use, once the kernel has bound its sockets."""
        if self._client is None:
            known = {name: value for name, value in self.connection.items() if name in _ADDRESS}
            # The manager has a session, and sends nothing: to make another one takes longer than all else here.
            client = BlockingKernelClient(context=self._launcher.context, session=self._manager.session, **known)
            client.start_channels(shell=True, iopub=True, stdin=False, hb=False, control=True)
            self._client = client
        return self._client

    def wait_until_ready(self, said_ready: threading.Event, timeout: float, cancel: Cancellation) -> None:
        """Wait for the kernel's word that it is ready, and for its iopub channel.

        Raises:
            KernelStartError: It died, or the time is up; the message holds the end of its log.
            CancelledError: `cancel` was set.
        """
        end = time.monotonic() + timeout
        while not said_ready.wait(min(0.02, max(0.0, end - time.monotonic()))):
            self._check_start(cancel)
            if time.monotonic() > end:
                raise KernelStartError(f"the kernel was not ready after {timeout:g} seconds{self._log_tail()}")
        while True:
            self._check_start(cancel)
            if self.client.iopub_channel.socket.poll(50):
                message = messages.receive(self.client.iopub_channel)
                if message is not None and message["msg_type"] == "iopub_welcome":
                    return
            elif time.monotonic() > end:
                raise KernelStartError(f"the kernel's output channel was silent for {timeout:g} s{self._log_tail()}")
            else:
                # Who subscribes while something is sent may be overlooked: ZeroMQ's sockets tell of news only once.
                self.client.iopub_channel.socket.unsubscribe(b"")
                self.client.iopub_channel.socket.subscribe(b"")

    def _check_start(self, cancel: Cancellation) -> None:
        cancel.check()
        if (code := self.exit_code()) is not None:
            raise KernelStartError(f"the kernel ended while it was starting ({self._ended(code)}){self._log_tail()}")

    def exit_code(self) -> int | None:
        """`None` while it lives; below 0 for the signal that ended it."""
        return self._process.poll()

    def how_it_ended(self) -> str:
        """For people and models: `exit code 3`, `signal SIGSEGV`, `signal SIGKILL, because …`."""
        code = self.exit_code()
        return self._ended(code) if code is not None else "it still runs"

    def begin_cell(self) -> None:
        """What happens from now on is this cell's doing."""
        self._memory_kills = memory_kills()

    def explain(self, error: str | None) -> list[str]:
        """What limits had to do with this error, and what was killed for them since the last question: sentences."""
        self.exit_code()  # what was reported meanwhile
        passed, self._told = self._process.passed[self._told :], len(self._process.passed)
        return [*causes.of_error(error, self._limits), *causes.of_losses(passed, self._limits)]

    def interrupt(self) -> None:
        """Ask the kernel to interrupt its cell, and what the cell started. Any thread may."""
        with self._control:
            if self._client is not None:
                self._client.control_channel.send(self._client.session.msg("interrupt_request", content={}))

    def kill(self) -> None:
        """End the process with everything that it started, at once."""
        self._process.kill()

    def close(self) -> None:
        """Kill it, and leave nothing of it."""
        self.kill()
        with self._control:
            if self._client is not None:
                self._client.stop_channels()
            self._client = None
        self._process.close()
        self._launcher.run(self._clean_up())
        self._stack.close()

    async def _clean_up(self) -> None:
        self._manager.cleanup_connection_file()
        self._manager.cleanup_ipc_files()
        await self._manager.cleanup_resources()

    def _ended(self, code: int) -> str:
        ran_out = memory_kills() > self._memory_kills
        return causes.of_death(code, self._process.passed, self._limits, memory_ran_out=ran_out)

    def _log_tail(self) -> str:
        try:
            with open_log(self._log, os.O_RDONLY) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4 * LAST_WORDS))
                text = file.read(4 * LAST_WORDS).decode("utf-8", "replace")[-LAST_WORDS:].strip()
        except OSError:  # it is not there, or no log any more
            return ""
        return f"; its last words:\n{text}" if text else ""


@cache
def kernel_spec() -> KernelSpec:
    """The kernelspec `rlm` that was installed with this very package, whatever else the machine has under that name."""
    return KernelSpec.from_resource_dir(str(spec_folder("rlm")))


def _environment(folder: Path) -> dict[str, str]:
    """What a kernel gets to see: nothing of the controller's but how to find programs and which language to speak."""
    places = {"HOME": f"{folder}/home", "TMPDIR": f"{folder}/tmp", "IPYTHONDIR": f"{folder}/home/.ipython"}
    for place in places.values():
        os.makedirs(place, mode=0o700, exist_ok=True)  # noqa: PTH103 - texts, here and there: there are many starts
    return {
        **environment.allowed(os.environ),
        **places,
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }


def _socket_folder(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """A 0700 folder whose path leaves room for the name of a unix socket."""
    short = len(os.fsencode(folder)) + len("/s-12345678/k-5") <= _UNIX_PATH
    # A cell may have put something else in its place by the time that it is removed.
    return tempfile.TemporaryDirectory(
        prefix="s-" if short else mark(), dir=folder if short else "/tmp", ignore_cleanup_errors=True
    )
