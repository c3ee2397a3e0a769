"""A run's own budget, which draws on a purse that other runs draw on, too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Self

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import BudgetExceededError
from rlm_nb.ledger.book import Spent
from rlm_nb.ledger.file import BudgetFile, Lease
from rlm_nb.ledger.limits import Limits
from rlm_nb.protocols import Price
from rlm_nb.records import Balance, Usage


class SharedBudget:
    """A ledger (`protocols.Ledger`) in which every call has to fit into both: the run's own limits, and the purse's.

    Money, tokens and calls are in both. Agents and time are the run's alone, so that no run that has ended keeps the
    next one from beginning.

    Args:
        own: The run's.
        purse: Everybody's.
    """

    def __init__(self, own: BudgetFile, purse: BudgetFile) -> None:
        self._own, self._purse = own, purse

    @classmethod
    def open(cls, own: BudgetFile, path: Path, limits: Limits, run: str) -> tuple[Self, str]:
        """Draw on the purse `path` as well, and say what is in it.

        Args:
            own: The run's own budget.
            path: The purse, which is made if it is not there.
            limits: For a new one.
            run: Who draws on it.

        Raises:
            LedgerError: See `BudgetFile.share`.
        """
        purse, is_made = BudgetFile.share(path, limits, run)
        left, limit = purse.balance().left_cost, purse.limits().cost
        holds = (
            "no limit of money" if left is None or limit is None else f"${left / 1e6:.2f} left of ${limit / 1e6:.2f}"
        )
        return cls(own, purse), f"{path} {'was made, and ' if is_made else ''}has {holds}"

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
    ) -> SharedLease:
        """See `BudgetFile.reserve_call`; the lease holds what both can pay.

        Raises:
            BudgetExceededError: Not even a short reply can be paid; the error tells the purse's limit by its name.
            CancelledError: `cancel` was set while the call waited.
        """
        own = self._own.reserve_call(
            agent, price, prompt_tokens, max_tokens, finishing=finishing, aside=aside, cancel=cancel
        )
        try:
            purse = self._purse.reserve_call(
                agent, price, prompt_tokens, own.max_tokens, finishing=finishing, aside=aside, cancel=cancel
            )
        except BaseException as error:
            own.release()
            if isinstance(error, BudgetExceededError):
                raise type(error)(f"{error.what} in {self._purse.path.name}", error.used, error.limit) from None
            raise
        if purse.max_tokens < own.max_tokens:
            own.lower(purse.max_tokens)
        return SharedLease(own, purse)

    def reserve_sandbox(self, agent: str) -> AbstractContextManager[Callable[[], None]]:
        """See `BudgetFile.reserve_sandbox`."""
        return self._own.reserve_sandbox(agent)

    def release_agent(self, agent: str) -> None:
        """Give back what was set aside for the last turn of an agent that has ended."""
        try:
            self._own.release_agent(agent)
        finally:
            self._purse.release_agent(agent)

    def spent_of(self, agent: str) -> Spent:
        """See `BudgetFile.spent_of`."""
        return self._own.spent_of(agent)

    def balance(self) -> Balance:
        """What this run has spent and reserved; what is left is the less of what its own limits and the purse leave."""
        own, left = self._own.balance(), self._purse.balance().left_cost
        if left is None or (own.left_cost is not None and own.left_cost <= left):
            return own
        return replace(own, limit_cost=own.spent_cost + own.reserved_cost + left)


class SharedLease:
    """A reservation in both (`protocols.CallLease`)."""

    def __init__(self, own: Lease, purse: Lease) -> None:
        self.max_tokens, self.key = purse.max_tokens, own.key
        self._own, self._purse = own, purse

    def settle(self, usage: Usage | None) -> int:
        """Charge both, and give back the rest; returns micro-dollars.

        Raises:
            LedgerError: See `Lease.settle`; the other one is settled all the same.
        """
        try:
            return self._own.settle(usage)
        finally:
            self._purse.settle(usage)
