"""A warm process that forks kernels: everything that a kernel imports is imported here, once.

`python -I -m rlm_nb.kernel.forkserver FD [ASKED]` reads requests on the socket `FD`, each one message of JSON with the
descriptors that it names, and ends when the socket is closed. It never has a thread or a ZeroMQ context, for they do
not survive a fork. What the socket `ASKED` asks about isolation is answered before the imports: a process that has
imported little is forked soon.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

from rlm_nb.kernel.guard import Guard
from rlm_nb.kernel.isolation import system
from rlm_nb.kernel.isolation.attempts import attempt, end_with
from rlm_nb.kernel.isolation.birth import Born, bear
from rlm_nb.kernel.isolation.confining import foresee
from rlm_nb.kernel.isolation.policy import Policy
from rlm_nb.kernel.limits import Limits
from rlm_nb.kernel.supervisor import supervise

MAX_REQUEST, MAX_DESCRIPTORS = 1 << 17, 8

QUIET = 1.0
"""Seconds without a request after which it is time for imports that can wait."""

KERNEL = "rlm_nb.repl.kernel"
"""The module that runs a kernel and knows what one needs; by name, for this room does not know that one."""


def main() -> None:
    """Import, then fork until the socket is closed; requests that come early wait in it.

    Imports that can wait are for when nobody has asked for a kernel for a while: before that, others need the
    processors, and what is forked has less to copy.
    """
    requests = socket.socket(fileno=int(sys.argv[1]))
    requests.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is the controller's business
    guard = Guard()
    for asked in sys.argv[2:]:
        guard.started.add(_find_out(socket.socket(fileno=int(asked)), guard))
    gc.disable()  # what is imported stays
    warming = import_module(KERNEL).preload()
    is_warm = _warm_up(warming)
    quiet = time.monotonic() + QUIET
    while True:
        wait = None if is_warm else max(0.0, quiet - time.monotonic())
        ready = select.select([requests.fileno(), guard.woken], [], [], wait)[0]
        if not ready:
            is_warm = _warm_up(warming)
            continue
        if guard.woken in ready:
            guard.look()
            continue
        message, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST, MAX_DESCRIPTORS)
        if not message:
            return
        request = json.loads(message)
        limits, policy = Limits.from_text(request["limits"]), Policy.from_text(request["policy"])
        foresee(policy)
        pid = system.fork()
        if pid == 0:
            guard.leave()
            requests.close()
            _become_supervisor(request, descriptors, limits, policy)
        guard.started.add(pid)
        for descriptor in descriptors:
            os.close(descriptor)
        quiet = time.monotonic() + QUIET


def _find_out(asked: socket.socket, guard: Guard) -> int:
    """Answer in another process; returns its number."""
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        try:
            end_with(parent)
            guard.leave()
            attempt(asked)
        finally:
            os._exit(0)
    asked.close()
    return pid


def _warm_up(imports: Iterator[None]) -> bool:
    """Import a little more; whether that was all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        is_warm = next(imports, imports) is imports
    gc.freeze()
    return is_warm


def _become_supervisor(request: dict[str, Any], descriptors: list[int], limits: Limits, policy: Policy) -> NoReturn:
    side_fd, log, *kept = descriptors
    side = socket.socket(fileno=side_fd)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for descriptor in {null, log} - {0, 1, 2}:
        os.close(descriptor)

    def prepare() -> None:
        side.close()
        os.setsid()
        limits.apply()

    def start() -> Born:
        born = bear(policy, prepare, partial(_become_kernel, request, kept))
        for descriptor in kept:
            os.close(descriptor)
        return born

    os.setsid()  # out of reach of signals for the controller's terminal
    supervise(side, start, limits)


def _become_kernel(request: dict[str, Any], kept: list[int]) -> NoReturn:
    """Be for the kernel what a new process would be, and run it."""
    import tempfile  # the kernel's imports have brought both, and what is asked for first does not wait for them
    import traceback

    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        for name, descriptor in zip(request["descriptors"], kept, strict=True):
            os.environ[name] = str(descriptor)
        # What an interpreter reads from its environment only when it starts.
        sys.dont_write_bytecode = bool(request["env"].get("PYTHONDONTWRITEBYTECODE"))
        tempfile.tempdir = None
        gc.enable()
        sys.argv = request["argv"]
        import_module(request["module"]).main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)  # the log
        raise
    finally:
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
