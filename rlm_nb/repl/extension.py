"""Fills a kernel with the agent's names, and puts them back when a cell has bent them."""

from __future__ import annotations

import builtins
import contextvars
import mmap
import os
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlm_nb.bridge.client import Caller, Client, let_answer
from rlm_nb.errors import ContextError
from rlm_nb.repl.functions import AGENT_FUNCTIONS, FUNCTIONS, YIELDING, Functions

if TYPE_CHECKING:  # a kernel's first cell waits for every import
    from rlm_nb.records import JSON

CONTEXT_FUNCTIONS = (
    "context_around_match",
    "context_chunks",
    "context_head",
    "context_search",
    "context_slice",
    "context_tail",
)
"""What looks into a context, where there is one."""

RESERVE = 8 << 20
"""Bytes of memory that a kernel may take, and does not, lest it lack them when a cell has taken all others."""


def load(shell: Any) -> None:
    """Fill the kernel of an agent, and tell its controller that it is ready.

    Args:
        shell: The `InteractiveShell` of the kernel.
    """
    client = Client.inherited(lambda: _cell(shell))
    hello = client.call("hello", pid=os.getpid()) if client else {}
    if "workdir" in hello:  # the kernel began while its files were still written
        Path(hello["workdir"]).mkdir(parents=True, exist_ok=True)  # an earlier kernel's cell may have deleted it
        os.chdir(hello["workdir"])
        shell.starting_dir = hello["workdir"]
        shell.user_ns["_dh"][:] = [Path(hello["workdir"])]
    furnish(shell, client, hello)
    if client:
        client.call("ready")  # not before all that can fail has been done


def without_colours() -> None:
    """ipykernel asks every program for colours, and cells work with what programs print."""
    for name in ("CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR"):
        os.environ.pop(name, None)
    os.environ["TERM"] = "dumb"


def furnish(shell: Any, client: Caller | None, hello: Mapping[str, JSON]) -> Callable[[], None]:
    """Put the functions, `TASK`, `WORKDIR`, `os`, `subprocess`, `Path` and `context` into the shell's namespace.

    With `context` come the functions that look into it. A short one is a string, a long one a `Context`.

    Args:
        shell: The `InteractiveShell` of the kernel, which works in the worktree already.
        client: Who answers what the functions ask, and whatever else calls in this process.
        hello: What the controller tells a kernel of its agent.

    Returns:
        What ends the watch over these names; they stay.
    """
    let_answer(client)
    workdir = Path.cwd()
    place = (hello["objects"], hello["worktree"]) if "objects" in hello else None
    functions = Functions(client, workdir, shell.user_ns, place)
    names = FUNCTIONS + (AGENT_FUNCTIONS if hello.get("subagents") else ())
    lasting = {name: getattr(functions, name) for name in names if name not in YIELDING}
    yielding = {name: getattr(functions, name) for name in YIELDING}
    lasting["get_ipython"] = shell.get_ipython
    shell.push({"WORKDIR": workdir, "os": os, "subprocess": subprocess, "Path": Path})
    if hello.get("task"):
        shell.push({"TASK": hello["task"]})
    if hello.get("context"):
        shell.push(_context(hello["context"]))
    shell.push(lasting | yielding)
    # quit() would end the kernel a moment after its cell, with everything in it.
    shell.ask_exit = lambda: print("The REPL stays; FINAL(answer) ends your work.", file=sys.stderr)  # noqa: T201
    _search_here(str(workdir))
    _threads_inherit_context()
    keeper = _Keeper(shell, lasting, yielding)
    shell.events.register("pre_run_cell", keeper.restore)
    shell.events.register("post_run_cell", keeper.settle)
    shell.set_custom_exc((MemoryError,), keeper.tell_of_want)

    def leave() -> None:
        shell.set_custom_exc((), None)
        shell.events.unregister("pre_run_cell", keeper.restore)
        shell.events.unregister("post_run_cell", keeper.settle)
        let_answer(None)

    return leave


def _context(path: str) -> dict[str, Any]:
    """The context under its name, and what looks into it."""
    from rlm_nb import context_access  # not needed by every kernel, and its patterns take a while to load

    try:
        context = context_access.Context.read(path)
    except ContextError as error:
        # The last words of this kernel, straight into its log, where the controller looks for them.
        os.write(sys.stderr.fileno(), os.fsencode(f"{error}\n"))
        raise SystemExit(1) from None
    return {"context": context, **{name: getattr(context_access, name) for name in CONTEXT_FUNCTIONS}}


class _Keeper:
    """Rebinding `FINAL`, `print` or stdout, or emptying the namespace, breaks nothing in the next cell."""

    def __init__(self, shell: Any, lasting: dict[str, Any], yielding: dict[str, Any]) -> None:
        self._shell, self._lasting, self._yielding = shell, lasting, yielding
        self._print = builtins.print
        self._streams: dict[str, Any] = {"stdout": sys.stdout, "stderr": sys.stderr}
        self._threads = {name: stream.pub_thread for name, stream in self._streams.items()}
        self._workdir = Path.cwd()
        self._bent: list[str] = []
        self._reserve: mmap.mmap | None = None

    def restore(self, info: object) -> None:
        """Before each cell: put back what an earlier one bent, and say so."""
        if self._reserve is None:
            with suppress(OSError):  # there is no room for it yet
                self._reserve = mmap.mmap(-1, RESERVE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        bent = [*self._bent, *self._names(), *self._output(), *self._folder()]
        self._bent = []
        if bent:
            print(f"(put back as it was: {', '.join(bent)})", file=sys.stderr)  # noqa: T201

    def settle(self, result: object) -> None:
        """After each cell: the kernel itself flushes stdout then, and would fall over one that cannot be flushed."""
        self._bent = self._output()

    def tell_of_want(self, shell: Any, kind: Any, error: Any, trace: Any, tb_offset: int | None = None) -> None:
        """A cell took all memory and keeps it: to say so takes some, and ZeroMQ aborts where it gets none."""
        if self._reserve is not None:
            self._reserve.close()
            self._reserve = None
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset, running_compiled_code=True)

    def _names(self) -> list[str]:
        namespace = self._shell.user_ns
        bent = [name for name, value in self._lasting.items() if namespace.get(name) is not value]
        if "_oh" not in namespace:
            self._shell.init_user_ns()
        namespace.update(self._lasting)
        for name, value in self._yielding.items():
            namespace.setdefault(name, value)
        namespace.setdefault("__builtins__", builtins)
        builtins.print = self._print
        if not callable(namespace.get("print", print)):
            del namespace["print"]
            bent.append("print")
        return bent

    def _output(self) -> list[str]:
        bent = []
        for name, stream in self._streams.items():
            # A cell may well send its output elsewhere for a while, but not to what serves nobody.
            present = getattr(sys, name, None)
            if getattr(present, "closed", False) or not callable(getattr(present, "flush", None)):
                stream.pub_thread = self._threads[name]
                setattr(sys, name, stream)
                bent.append(f"sys.{name}")
        return bent

    def _folder(self) -> list[str]:
        try:
            Path.cwd()
        except FileNotFoundError:
            os.chdir(self._workdir)
            return ["the working folder, which was deleted"]
        return []


def _cell(shell: Any) -> str:
    """The id of the message whose cell this thread works for."""
    kernel = getattr(shell, "kernel", None)
    header = kernel.get_parent().get("header", {}) if kernel else {}
    return str(header.get("msg_id", ""))


@cache
def installed() -> frozenset[str]:
    """Where installed packages are; it takes a while to find out."""
    return frozenset(sysconfig.get_path(name) for name in ("purelib", "platlib"))


def _search_here(workdir: str) -> None:
    """Let `import` find the worktree's modules: after the standard library, before installed packages.

    First place, where a stock kernel puts it, would let a repository's own `types.py` break the kernel; last place
    would import the installed version of the package that the agent is working on.
    """
    places = installed()
    at = next((index for index, entry in enumerate(sys.path) if entry in places), len(sys.path))
    sys.path.insert(at, workdir)


def _threads_inherit_context() -> None:
    """What a thread prints belongs to the cell that started it, however late.

    ipykernel keeps the cell in a context variable, which new threads get from Python 3.14 on (its flag
    `thread_inherit_context`); this is the same for the versions before.
    """
    start = threading.Thread.start

    def start_in_context(thread: threading.Thread) -> None:
        context, run = contextvars.copy_context(), thread.run
        thread.run = lambda: context.run(run)  # type: ignore[method-assign]
        start(thread)

    threading.Thread.start = start_in_context  # type: ignore[assignment, method-assign]
