"""The kernel process of an agent: `python -I -m rlm_nb.repl.kernel -f CONNECTION_FILE`."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import zmq
from ipykernel import ipkernel, kernelapp
from ipykernel.iostream import MASTER, IOPubThread, OutStream
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from IPython.core.profiledir import ProfileDir
from jupyter_client.jsonutil import json_default
from jupyter_client.session import json_packer, new_id
from traitlets.config import Config
from zmq.eventloop.zmqstream import ZMQStream

from rlm_nb.bridge.client import VARIABLE
from rlm_nb.repl import commands, extension

HEARD = 3000
"""Milliseconds that a forked process waits until what it printed was heard."""


class RLMKernel(IPythonKernel):  # type: ignore[misc]
    """An IPython kernel that has the agent's names in it from the start."""

    implementation = "rlm"
    banner = "The REPL of an RLM agent"

    def __init__(self, **kwargs: Any) -> None:
        # ipykernel notes the file of each module for its debugger, which is left out. In a forked process that writes
        # to the reference count of every module, and the pages with all of them become its own: 2 MB, in vain.
        with _modules_out_of_sight():
            super().__init__(**kwargs)
        if self.shell.parent is not self:
            self._move_in()

    def _move_in(self) -> None:
        """Make the shell that was there before the fork what one that is made now would be."""
        shell, here = self.shell, str(Path.cwd())
        shell.parent = shell.kernel = self
        shell.profile_dir, shell.ipython_dir = self.profile_dir, self.parent.ipython_dir
        shell.init_environment()
        shell.init_encoding()
        shell.init_pushd_popd_magic()  # this is where it notes the user's home
        shell.starting_dir = here
        shell.user_ns["_dh"][:] = [Path(here)]


@contextmanager
def _modules_out_of_sight() -> Iterator[None]:
    """While the block runs, `ipykernel.ipkernel`, and nobody else, finds no module in `sys.modules`."""
    ipkernel.sys = SimpleNamespace(**{**vars(sys), "modules": {}})
    try:
        yield
    finally:
        ipkernel.sys = sys


class Stream(OutStream):  # type: ignore[misc]
    """A standard stream that is flushed only when there is something to flush.

    ipykernel flushes both streams twice around the end of each cell, and each time waits for the thread that sends. Who
    listens to us needs no such waiting: all outputs of a cell come before its `idle`, on one channel.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._written = False
        super().__init__(*args, **kwargs)

    def write(self, string: str) -> int | None:
        """Keep it until the next flush."""
        count: int | None = super().write(string)
        self._written = True
        return count

    def flush(self) -> None:
        """Hand over what was written, if anything was."""
        if self._written:
            self._written = False
            super().flush()


class Outputs(IOPubThread):  # type: ignore[misc]
    """Sends what cells put out, and hears from sockets of ZeroMQ's what processes print that cells have forked.

    ipykernel listens on the loopback interface. Where a kernel is kept from that, it is a unix socket. ipykernel's
    processes also go on, and end, before it has heard them, so that a cell which waits for one could be over first, and
    a line overtaken by the next; ours wait for an answer.
    """

    def _setup_pipe_in(self) -> None:
        self._pipe_uuid, self._pipe = os.urandom(16), ""
        pipe = self.socket.context.socket(zmq.REP)
        pipe.linger = 0
        try:
            socket.socket(socket.AF_INET).close()
            self._pipe = f"tcp://127.0.0.1:{pipe.bind_to_random_port('tcp://127.0.0.1')}"
        except OSError:
            if (path := _own_socket()) is None:
                self._pipe_flag = False  # nothing may be connected here
                pipe.close()
                return
            self._pipe = f"ipc://{path}"
            pipe.bind(self._pipe)
        self._pipe_in = ZMQStream(pipe, self.io_loop)
        self._pipe_in.on_recv(self._handle_pipe_msg)

    def _handle_pipe_msg(self, message: list[bytes]) -> None:
        super()._handle_pipe_msg(message)  # it is in line now, before whatever the cell puts out next
        self._pipe_in.send(b"")

    def _really_send(self, message: list[Any], *args: Any, **kwargs: Any) -> None:
        if self._check_mp_mode() == MASTER:
            super()._really_send(message, *args, **kwargs)
            if self._is_master_process():  # where nothing may be connected, forked processes come here, too
                self._see_who_listens()
            return
        context = zmq.Context()
        pipe = context.socket(zmq.REQ)
        pipe.linger = 0
        pipe.connect(self._pipe)
        pipe.send_multipart([self._pipe_uuid, *message], *args, **kwargs)
        pipe.poll(HEARD)
        pipe.close()
        context.term()

    def _see_who_listens(self) -> None:
        """Welcome who subscribed while something was sent: a socket tells of news once, and sending hears it, too."""
        while not self._stopped and self.socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            self._handle_subscription(self.socket.recv_multipart(zmq.NOBLOCK))


def _own_socket() -> str | None:
    """A path for a unix socket that can be connected to; `None` where that is denied."""
    try:
        folder = tempfile.mkdtemp(prefix="k-", dir="/tmp")  # short, and nobody else's where there are namespaces
        with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as calling:
            listening.bind(f"{folder}/try")
            listening.listen()
            calling.connect(f"{folder}/try")
    except OSError:
        return None
    return f"{folder}/printed"


class BareProfile(ProfileDir):  # type: ignore[misc]
    """A profile that is one empty folder: a kernel that lasts as long as its agent has no use for six of them."""

    def _mkdir(self, path: str, mode: int | None = None) -> bool:
        return False


SETTINGS = Config(
    HistoryManager={"enabled": False},
    InteractiveShell={"colors": "nocolor", "xmode": "Context"},
    IPKernelApp={"outstream_class": f"{Stream.__module__}.{Stream.__name__}"},
    # ipykernel sleeps before each reply, for clients that do not wait for a cell's `idle`. Ours does.
    Kernel={"_execute_sleep": 0.0},
    Session={"packer": f"{__name__}.pack"},
)
"""Without history or colours: what a model is told about its REPL holds on every machine."""


class RLMKernelApp(IPKernelApp):  # type: ignore[misc]
    """Starts the kernel with `SETTINGS` and nobody's configuration."""

    name = "rlm-kernel"
    kernel_class = RLMKernel

    def load_config_file(self, *args: Any, **kwargs: Any) -> None:
        """Read none."""
        self.update_config(SETTINGS)

    def update_config(self, config: Config) -> None:
        """Take settings; those that are in force already are not gone through once more."""
        if self.config != config:
            super().update_config(config)

    def prepare(self) -> None:
        """Do before the fork what is the same in all processes that are forked from this one."""
        self.update_config(SETTINGS)
        self.session.key = b""  # makes the session; the key of each kernel comes with its connection file
        self.profile_dir = BareProfile()
        self.log.setLevel(self.log_level)

    def initialize(self, argv: list[str] | None = None) -> None:
        """Start, and make no records for debugging: traitlets has its loggers ask for all, and drops them late."""
        if self.session.pid != os.getpid():
            self.session.pid, self.session.session = os.getpid(), new_id()
        super().initialize(argv)
        self.log.setLevel(self.log_level)

    def init_profile_dir(self) -> None:
        """A folder for `%store` and its kin, with nothing in it."""
        place = str(Path(self.ipython_dir, "profile_default"))
        if not self.trait_has_value("profile_dir"):
            self.profile_dir = BareProfile(location=place)
        else:  # made before the fork
            self.profile_dir.location = place

    def init_config_files(self) -> None:
        """Copy none either."""

    def parse_command_line(self, argv: list[str] | None = None) -> None:
        """Take `-f FILE` and nothing else: building the parser for a few hundred options costs a tenth of a start."""
        arguments = sys.argv[1:] if argv is None else argv
        if len(arguments) != 2 or arguments[0] != "-f":
            self.exit("usage: python -m rlm_nb.repl.kernel -f CONNECTION_FILE")
        self.connection_file = arguments[1]
        if arguments[1].startswith(os.sep):  # else it is looked for where Jupyter has such files
            self.connection_dir = os.path.dirname(arguments[1])  # noqa: PTH120 - paths use more memory of their own

    def init_iopub(self, context: Any) -> None:
        """Let outputs wait for a slow reader, in this process's own memory: beyond 1,000 ZeroMQ would drop them."""
        context.setsockopt(zmq.SNDHWM, 0)
        kernelapp.IOPubThread = Outputs
        super().init_iopub(context)

    def init_heartbeat(self) -> None:
        """Only where somebody may listen to it: three threads that no kernel of a controller needs."""
        if VARIABLE not in os.environ:
            super().init_heartbeat()

    def init_code(self) -> None:
        """Instead of start-up files: the agent's names."""
        extension.without_colours()
        commands.need_no_terminal()
        extension.load(self.shell)


def pack(value: Any) -> bytes:
    """A part of a message as JSON, whatever text is in it: jupyter_client's own form cannot hold lone surrogates."""
    try:
        return json.dumps(value, default=json_default, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, default=json_default, allow_nan=False).encode()  # as their escapes
    except (TypeError, ValueError):
        packed: bytes = json_packer(value)  # which has a way with values that are not quite JSON
        return packed


FIRST = (
    "IPython.core.completer",
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.historyapp",
    "IPython.core.logger",
    "IPython.core.magics",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "IPython.lib.pretty",
    "ipykernel.displayhook",
    "ipykernel.iostream",
    "ipykernel.subshell_manager",
    "ipykernel.zmqshell",
    "tornado.ioloop",
    "tornado.locks",
    "tornado.platform.asyncio",
    "tornado.queues",
    "zmq.eventloop.zmqstream",
    "faulthandler",
)
"""What a kernel has loaded by the time that it has run a cell."""

LATER = (
    "stack_data",
    "pygments.formatters.terminal256",
    "pygments.lexers.python",
    "pygments.styles",
    "pexpect",
    "ipykernel.heartbeat",
    "sqlite3",
    "encodings.idna",
)
"""What it loads when a cell raises or runs a `!command`, and for what nearly every agent does some time."""


def main() -> None:
    """Run until shut down."""
    leave_out_debugpy()
    RLMKernelApp.launch_instance()


def preload() -> Iterator[None]:
    """Import what a kernel needs, and make its shell, for processes that are forked afterwards; starts no thread.

    Yields as soon as a kernel can run a cell, and again after each import that can wait.
    """
    leave_out_debugpy()
    for name in FIRST:
        import_module(name)
    extension.installed()
    nowhere = BareProfile()
    shell = RLMKernel.shell_class.default_value.instance(
        config=SETTINGS, profile_dir=nowhere, ipython_dir=os.sep, compiler_class=RLMKernel.compiler_class.default_value
    )
    shell.run_cell("None", store_history=False, silent=True)
    shell.extension_manager.load_extension("storemagic")  # as every IPython has it
    RLMKernelApp.instance().prepare()
    yield
    for name in LATER:
        import_module(name)
        yield


def leave_out_debugpy() -> None:
    """Let ipykernel find no debugger: a third of a kernel's memory, and nobody here to use it.

    Cells can still `import debugpy`.
    """
    if "ipykernel.debugger" not in sys.modules:
        sys.modules["debugpy"] = None  # type: ignore[assignment]
        try:
            import_module("ipykernel.debugger")
        finally:
            del sys.modules["debugpy"]


if __name__ == "__main__":
    main()
