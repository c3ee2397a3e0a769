"""Where an agent lives while it works: its worktree, with its kernel in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from rlm_nb.agent.subagents import Queries
from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import RLMError
from rlm_nb.kernel.cell import OnOutput
from rlm_nb.protocols import Kernel
from rlm_nb.records import AgentResult, CellResult, Patch
from rlm_nb.workspace.worktree import Worktree

Look = Callable[[str, Cancellation], CellResult]
"""Runs something in a kernel between two cells; see `kernel.client.KernelClient.look`."""

Opened = tuple[Worktree, Kernel, Queries, Sequence[str], Look]
"""A worktree, the kernel in it, who answers what its cells ask of sub-agents and models, what is not as it was, and who
looks into the kernel."""


class Home:
    """An agent's worktree and kernel, opened in the background while the model is asked for the first time.

    Args:
        work: Opens them; is given what stops it, and who closes the worktree and the kernel.
        cancel: Stops that, and every call of the kernel's.
    """

    def __init__(
        self,
        work: Callable[[Cancellation, ExitStack, ExitStack], Opened],
        cancel: Cancellation,
    ) -> None:
        self._work, self._cancel = work, cancel
        self._stack, self._kernels = ExitStack(), ExitStack()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rlm-home")
        self._opening: Future[Opened] | None = None

    def __enter__(self) -> Self:
        self._cancel = self._stack.enter_context(self._cancel.child())
        self._opening = self._pool.submit(self._work, self._cancel, self._stack, self._kernels)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.rest()
        finally:
            self._stack.close()

    def rest(self) -> None:
        """End the kernel, and with it every call: nothing goes on below, and nothing more is written."""
        self._cancel.cancel("the agent that asked for it ended")
        self._pool.shutdown()  # nobody waits any more for a kernel that is only starting
        self._kernels.close()

    def execute(self, code: str, cancel: Cancellation, on_output: OnOutput | None = None) -> CellResult:
        """Run a cell, once there is a kernel."""
        assert self._opening is not None
        return self._opening.result()[1].execute(code, cancel, on_output)

    def look(self, code: str, cancel: Cancellation) -> CellResult:
        """Look into the kernel, once there is one."""
        assert self._opening is not None
        return self._opening.result()[4](code, cancel)

    def differing(self) -> Sequence[str]:
        """What of an earlier home could not be had again, once this one is there. Raises what kept it from being."""
        assert self._opening is not None
        return self._opening.result()[3]

    def patch(self, cancel: Cancellation) -> Patch:
        """What changed in the worktree, if there was one; or why that cannot be told."""
        assert self._opening is not None
        if self._opening.exception():
            return Patch()
        try:
            return self._opening.result()[0].patch(cancel)
        except RLMError as error:
            why = f"the edits could not be read: {error}"
            return Patch(error=why, notes=(why,))

    def children(self) -> list[AgentResult]:
        """The sub-agents that were started here."""
        assert self._opening is not None
        return [] if self._opening.exception() else self._opening.result()[2].children
