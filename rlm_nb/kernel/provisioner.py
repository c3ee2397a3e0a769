"""How jupyter_client starts our kernels: forked from a warm process if there is one, else cold; always supervised."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import psutil
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import LocalProvisioner

from rlm_nb.errors import IsolationError, KernelStartError
from rlm_nb.kernel.isolation.checking import check
from rlm_nb.kernel.isolation.policy import VARIABLE as POLICY_VARIABLE
from rlm_nb.kernel.isolation.policy import Policy
from rlm_nb.kernel.isolation.report import Report
from rlm_nb.kernel.limits import VARIABLE, Limits
from rlm_nb.kernel.supervisor import BEGUN, CONFINED, ENDED, REPORT, STARTED

logger = logging.getLogger(__name__)

READY_TIMEOUT = 30.0
"""Seconds that the forkserver may take to import what kernels need, and a supervisor to say its first word."""

LOOK = 0.5
"""Seconds between two looks at whether somebody has stopped the forkserver meanwhile."""

_TOO_SOON = "the kernel's supervisor ended before the kernel began"

KILL_TIMEOUT = 2.0
"""Seconds after which we no longer wait for a supervisor to end its kernel, and do it ourselves."""


class RLMProvisioner(LocalProvisioner):  # type: ignore[misc]
    """Starts a kernel under a supervisor; forks it if the kernel manager has a `forkserver`.

    Any Jupyter program can use it: without a forkserver the kernel is started cold, and still leaves nothing behind.
    """

    async def launch_kernel(
        self,
        cmd: list[str],
        *,
        env: dict[str, str],
        cwd: str | None = None,
        descriptors: dict[str, int] | None = None,
        log: Path | None = None,
        limits: Limits | None = None,
        policy: Policy | None = None,
        **kwargs: Any,
    ) -> KernelConnectionInfo:
        """Start the command.

        Args:
            cmd: `python [options] -m module arguments…`.
            env: All of the kernel's environment.
            cwd: Where it runs.
            descriptors: File descriptors to inherit, by the variable that is to hold their number.
            log: The file that gets what the kernel writes on its own stdout and stderr.
            limits: What the kernel, and all that it starts, may take of the machine; without, as much as there is.
            policy: What they may reach; without, whatever this process may.

        Raises:
            KernelStartError: It could not be started.
            IsolationError: It could not be confined.
        """
        forkserver: Forkserver | None = getattr(self.parent, "forkserver", None)
        birth = Birth(cmd, env, cwd or str(Path.cwd()), descriptors or {}, limits or Limits(), policy or Policy())
        start = partial(_start, forkserver, birth, log)
        # Waiting for another process must not stop the loop, in which other kernels live.
        with ThreadPoolExecutor(1, thread_name_prefix="rlm-start") as thread:
            process = await asyncio.get_running_loop().run_in_executor(thread, start)
        self.process = process
        self.pid = self.pgid = process.pid
        self.cwd = cwd
        self._supervised = process
        return self.connection_info

    async def cleanup(self, restart: bool = False) -> None:
        """Let go of the supervisor, which ends what still lives."""
        self._supervised.close()
        await super().cleanup(restart=restart)


@dataclass(frozen=True)
class Birth:
    """What a kernel begins with: see `RLMProvisioner.launch_kernel`."""

    command: list[str]
    env: dict[str, str]
    cwd: str
    descriptors: dict[str, int]
    limits: Limits
    policy: Policy


def _start(forkserver: Forkserver | None, birth: Birth, log: Path | None) -> SupervisedProcess:
    """Fork the kernel if that can be done, else start it cold; confined in either case."""
    with open_log(log) if log else Path(os.devnull).open("ab") as output:
        process = None
        if forkserver is not None:
            try:
                process = _supervised(partial(_fork, forkserver, birth, output=output.fileno()), forkserver)
            except IsolationError:
                raise  # what keeps a forked kernel from being confined keeps one that is started cold from it, too
            except KernelStartError as error:
                logger.warning("%s; the kernel is started cold", error)
        process = process or _supervised(partial(_start_cold, birth, output=output.fileno()))
    try:
        check(process.pid, birth.policy)
    except BaseException:
        process.kill()
        process.close()
        raise
    return process


def open_log(path: Path, flags: int = os.O_WRONLY | os.O_APPEND | os.O_CREAT) -> BinaryIO:
    """A kernel's log, which is a file and nothing else: opening a pipe that a cell has put there would wait for ever.

    Raises:
        OSError: It cannot be opened, or is no file.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no file", str(path))
    return os.fdopen(descriptor, "rb" if flags == os.O_RDONLY else "ab")


def _supervised(start: Callable[[socket.socket], None], forkserver: Forkserver | None = None) -> SupervisedProcess:
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            start(theirs)
        _await_word(ours, forkserver)
        return SupervisedProcess(ours)
    except BaseException:
        ours.close()
        raise


def _await_word(side: socket.socket, forkserver: Forkserver | None) -> None:
    """Wait until the supervisor says something, or has gone; a forkserver that does not answer is ended."""
    end = time.monotonic() + READY_TIMEOUT
    side.settimeout(LOOK)
    while True:
        with suppress(TimeoutError):
            with suppress(ConnectionError):
                side.recv(1, socket.MSG_PEEK)
            return
        if forkserver is not None and (forkserver.is_stopped() or time.monotonic() > end):
            forkserver.close()
            raise KernelStartError("the forkserver does not answer")
        if time.monotonic() > end:
            raise KernelStartError("the kernel's supervisor does not answer")


def _fork(forkserver: Forkserver, birth: Birth, side: socket.socket, *, output: int) -> None:
    arguments = birth.command[birth.command.index("-m") + 1 :]
    request = {
        "argv": arguments,
        "module": arguments[0],
        "cwd": birth.cwd,
        "env": birth.env,
        "descriptors": list(birth.descriptors),
        "limits": birth.limits.as_text(),
        "policy": birth.policy.as_text(),
    }
    forkserver.fork(request, [side.fileno(), output, *birth.descriptors.values()])


def _start_cold(birth: Birth, side: socket.socket, *, output: int) -> None:
    numbers = {name: str(number) for name, number in birth.descriptors.items()}
    ours = {
        "RLM_KEEP_FDS": " ".join(numbers.values()),
        VARIABLE: birth.limits.as_text(),
        POLICY_VARIABLE: birth.policy.as_text(),
    }
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "rlm_nb.kernel.guard", str(side.fileno()), *birth.command],
            env={**birth.env, **numbers, **ours},
            cwd=birth.cwd,
            pass_fds=[side.fileno(), *birth.descriptors.values()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    except OSError as error:
        raise KernelStartError(f"the kernel could not be started: {error}") from error
    threading.Thread(target=process.wait, name="rlm-supervisor", daemon=True).start()  # no zombie of it


class SupervisedProcess:
    """A kernel's process, seen through its supervisor; has what jupyter_client wants of a `Popen`.

    Args:
        side: The socket that joins us to the supervisor. It becomes readable when the kernel ends.
    """

    stdin = stdout = stderr = None

    def __init__(self, side: socket.socket) -> None:
        self.side = side
        self._code: int | None = None
        self.passed: list[tuple[bytes, int]] = []  # the limits, in the supervisor's words
        self._lock = threading.Lock()
        self._kernel: psutil.Process | None = None
        self._supervisor: psutil.Process | None = None
        side.settimeout(READY_TIMEOUT)
        self.pid = 0
        kind, supervisor = self._report()
        if kind != BEGUN:
            raise KernelStartError(_TOO_SOON)
        self.report = self._confinement()
        if self.report.fault is not None:
            raise IsolationError(f"the kernel could not be confined: {self.report.fault}")
        kind, self.pid = self._report()
        if kind != STARTED:
            raise KernelStartError(_TOO_SOON)
        with suppress(psutil.NoSuchProcess):  # remembered with their start times: numbers are used again
            self._kernel = psutil.Process(self.pid)
            self._supervisor = psutil.Process(supervisor)

    def poll(self) -> int | None:
        """`None` while the kernel lives, else its exit code, below 0 for a signal."""
        with self._lock:
            if self._code is None:
                self.side.settimeout(0)
                with suppress(BlockingIOError):
                    self._code = self._end()
            return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises `subprocess.TimeoutExpired`."""
        with self._lock:
            if self._code is None:
                self.side.settimeout(timeout)
                try:
                    self._code = self._end()
                except TimeoutError:
                    raise subprocess.TimeoutExpired(f"kernel {self.pid}", timeout or 0) from None
            return self._code

    def send_signal(self, number: int) -> None:
        """Send a signal to the kernel and what it started in its process group."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def kill(self) -> None:
        """End the kernel with everything that it started, and wait until that is done."""
        if self.poll() is None:
            with suppress(OSError):
                self.side.shutdown(socket.SHUT_WR)  # the supervisor's cue
            try:
                self.wait(KILL_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._kill_without_help()
                self._code = -signal.SIGKILL

    def terminate(self) -> None:
        """The same as `kill`: a kernel has nothing to save."""
        self.kill()

    def close(self) -> None:
        """Let go of the supervisor; it ends what still lives."""
        self.side.close()

    def _confinement(self) -> Report:
        kind, length = self._report()
        text = self.side.recv(length, socket.MSG_WAITALL) if kind == CONFINED else b""
        if not text or len(text) < length:
            raise KernelStartError(_TOO_SOON)
        return Report.from_text(text.decode())

    def _end(self) -> int:
        """The exit code; what is reported before it is kept."""
        while (report := self._report())[0] != ENDED:
            self.passed.append(report)
        return report[1]

    def _report(self) -> tuple[bytes, int]:
        data = b""
        with suppress(ConnectionError):
            data = self.side.recv(REPORT.size, socket.MSG_WAITALL)
        if len(data) == REPORT.size:
            kind, number = REPORT.unpack(data)
            return kind, number
        self._kill_without_help()
        return ENDED, -signal.SIGKILL

    def _kill_without_help(self) -> None:
        """A cell has stopped or killed its supervisor.

        Who has left the kernel's family is found while the supervisor lives, else by its guard: `guard.py`.
        """
        family: list[psutil.Process] = []
        for process in (self._supervisor, self._kernel):
            with suppress(psutil.NoSuchProcess):
                if process is not None and process.is_running():
                    family += [process, *process.children(recursive=True)]
        if self._kernel in family:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()


class Forkserver:
    """The controller's handle on the warm process; starts it, and starts another if it was killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """The warm process's number, while there is one."""
        return None if self._process is None else self._process.pid

    def is_stopped(self) -> bool:
        """Whether somebody has stopped the process: it is alive then, and answers nobody."""
        pid = self.pid
        with suppress(psutil.NoSuchProcess):
            return pid is not None and psutil.Process(pid).status() == psutil.STATUS_STOPPED
        return False

    def begin(self, asked: socket.socket | None = None) -> None:
        """Start the process, without waiting until it is warm.

        Args:
            asked: What it is to find out about isolation before all else; see `kernel.isolation.detection`.
        """
        with self._lock:
            self._begin(asked)

    def fork(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """Have a kernel forked.

        Args:
            request: `module`, `argv`, `cwd`, `env` and `descriptors`, the names of all but the first two descriptors.
            descriptors: The supervisor's socket, the log, and what the kernel is to inherit.

        Raises:
            KernelStartError: There is no warm process, and none can be started.
        """
        message = json.dumps(request).encode()
        with self._lock:
            for attempt in (1, 2):
                self._begin()
                assert self._requests is not None
                try:
                    socket.send_fds(self._requests, [message], descriptors)
                    return
                except OSError as error:  # it was killed
                    self._end()
                    if attempt == 2:
                        raise KernelStartError(f"the forkserver does not answer: {error}") from error

    def close(self) -> None:
        """End the process; kernels that it has forked live on."""
        with self._lock:
            self._end()

    def _begin(self, asked: socket.socket | None = None) -> None:
        if self._process is not None and self._process.poll() is None and not self.is_stopped():
            return
        self._end()
        # A socket of whole messages: requests of several agents at once must not run into each other.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            sockets = [theirs.fileno(), *([] if asked is None else [asked.fileno()])]
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "rlm_nb.kernel.forkserver", *map(str, sockets)],
                pass_fds=sockets,
                env={"PATH": os.environ.get("PATH", os.defpath), "LANG": os.environ.get("LANG", "C.UTF-8")},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        ours.settimeout(READY_TIMEOUT)  # so that one who reads nothing stops nobody
        self._requests = ours

    def _end(self) -> None:
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if self._process is not None:
            self._process.kill()  # it has nothing to save, and may be in the middle of its imports
            self._process.wait()
            self._process = None
