"""The seams on one page: what the loop and the controller ask of a model, a kernel, a ledger and a workspace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from rlm_nb.cancellation import Cancellation
from rlm_nb.records import Balance, CellResult, Event, Output, Patch, Reply, Request, Usage

Listener = Callable[[Event], None]
"""Whoever wants to know what happens. Called from the agents' threads, one call at a time for each agent."""


class Model(Protocol):
    """Messages in, reply out."""

    @property
    def name(self) -> str:
        """The model's id, as its provider and the price list know it."""
        ...

    def complete(self, request: Request, cancel: Cancellation, on_text: Callable[[str], None] | None = None) -> Reply:
        """Ask once, and wait for the whole reply.

        Args:
            request: What is asked.
            cancel: Returns soon with `CancelledError` when it is set.
            on_text: Called with each piece of text as it arrives.

        Raises:
            ModelError: No reply; `error.usage` says what was charged, `None` meaning that nobody knows.
            CancelledError: `cancel` was set.
        """
        ...


class Asker(Protocol):
    """A model with somebody who pays for it: what an agent's loop asks."""

    def complete(
        self,
        request: Request,
        cancel: Cancellation,
        on_text: Callable[[str], None] | None = None,
        *,
        finishing: bool = False,
    ) -> Reply:
        """Reserve, ask, and charge.

        Args:
            request: What is asked; its `max_tokens` may be lowered to what is left.
            cancel: Returns soon with `CancelledError` when it is set.
            on_text: Called with each piece of text as it arrives.
            finishing: Whether this is the agent's last turn, paid from what was set aside for it.

        Raises:
            BudgetExceededError: Not even a short reply can be paid.
            ModelError: No reply.
            CancelledError: `cancel` was set.
        """
        ...


class Kernel(Protocol):
    """A REPL that runs cells one at a time and cannot hang."""

    def execute(
        self, code: str, cancel: Cancellation, on_output: Callable[[Sequence[Output]], None] | None = None
    ) -> CellResult:
        """Run one cell to its end, whatever that is; never raises for what the cell does.

        Args:
            code: The cell.
            cancel: Interrupts the cell when it is set; a cell that does not heed that loses its kernel.
            on_output: Called with all outputs of this cell so far whenever they change, late ones included.

        Raises:
            KernelDiedError: The kernel is gone and may not be restarted any more.
        """
        ...


class Price(Protocol):
    """What tokens of one model cost."""

    def __call__(self, usage: Usage) -> int:
        """Micro-dollars for `usage`, rounded up."""
        ...


class CallLease(Protocol):
    """A reservation for one model call; `max_tokens` is what the budget can pay, `key` its name in the file."""

    max_tokens: int
    key: str

    def settle(self, usage: Usage | None) -> int:
        """Charge what was used (`None`: all that was reserved), and give back the rest; returns micro-dollars."""
        ...


class Ledger(Protocol):
    """One budget for a whole tree of agents, kept in a file that processes share."""

    def reserve_call(
        self,
        agent: str,
        price: Price,
        prompt_tokens: int,
        max_tokens: int,
        *,
        finishing: bool = False,
        aside: bool = False,
        cancel: Cancellation | None = None,
    ) -> CallLease:
        """Set aside the worst case of one call: `prompt_tokens` read at the dearest rate, `max_tokens` written.

        Args:
            agent: Who asks.
            price: What the model's tokens cost.
            prompt_tokens: No fewer than the request can have.
            max_tokens: Wanted; the lease holds what can be paid.
            finishing: Whether this is the agent's last turn, paid from what was set aside for it.
            aside: Whether it is a question beside the agent's conversation, which changes nothing in what is set aside.
            cancel: Ends the waiting for calls under way that may give money back.

        Raises:
            BudgetExceededError: Not even a short reply can be paid.
            CancelledError: `cancel` was set.
        """
        ...

    def release_agent(self, agent: str) -> None:
        """Give back what was set aside for the last turn of an agent that has ended."""
        ...

    def reserve_sandbox(self, agent: str) -> AbstractContextManager[Callable[[], None]]:
        """Count one agent against the limit while the block opens it.

        The block is given a function to call once the agent has really started; when the block ends before that,
        the slot comes back.

        Raises:
            SandboxLimitError: The run has had all the agents that it may have.
        """
        ...

    def balance(self) -> Balance:
        """What is spent, reserved and left."""
        ...


class Workspace(Protocol):
    """An agent's own checkout."""

    @property
    def path(self) -> Path:
        """The worktree."""
        ...

    def snapshot(self, message: str, cancel: Cancellation | None = None) -> str:
        """Keep the worktree's present state as a commit of the run; returns its id.

        Raises:
            CancelledError: `cancel` was set meanwhile.
        """
        ...

    def patch(self, cancel: Cancellation | None = None) -> Patch:
        """What changed since the agent started, as far as it could be read before `cancel` was set."""
        ...
