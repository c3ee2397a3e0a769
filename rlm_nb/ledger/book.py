"""What the budget file holds, and what can be told from it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlm_nb.errors import LedgerError, RuntimeLimitError
from rlm_nb.ledger.limits import Amount, Count, Limits, Room
from rlm_nb.records import Balance, Usage

VERSION = 1
"""Of the file's form. Keys that we do not know are kept; a file with a higher number is refused."""

Kind = Literal["call", "finishing", "opening"]


class _Part(BaseModel):
    """A part of the file; what a later version of the same form adds to it is carried along."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Limits(Limits):
    """The limits as a part of the file."""

    model_config = ConfigDict(extra="allow")


class Spent(_Part):
    """What was spent, by everybody or by one agent."""

    cost: Count = 0
    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_tokens: Count = 0
    cache_write_tokens: Count = 0
    calls: Count = 0
    sandboxes: Count = 0

    @property
    def usage(self) -> Usage:
        """Its tokens."""
        return Usage(self.input_tokens, self.output_tokens, self.cache_read_tokens, self.cache_write_tokens)

    @property
    def amount(self) -> Amount:
        """As the limits count it."""
        return Amount(self.cost, self.usage.prompt_tokens, self.output_tokens, self.calls, self.sandboxes)

    def add_call(self, cost: int, usage: Usage) -> None:
        """Count one call."""
        self.cost += cost
        self.calls += 1
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.cache_read_tokens += usage.cache_read_tokens
        self.cache_write_tokens += usage.cache_write_tokens


class Reservation(_Part):
    """What an agent holds at the moment, and the process that it lives in, by its number and its start.

    `run` is its run where several share the file; `since` is when it was reserved, in seconds since the epoch.
    """

    kind: Kind
    agent: str
    run: str = ""
    since: float = 0.0
    pid: int = Field(gt=0, lt=1 << 31)
    started: float
    cost: Count = 0
    input_tokens: Count = 0
    output_tokens: Count = 0

    @property
    def amount(self) -> Amount:
        """As the limits count it."""
        calls, sandboxes = (0, 1) if self.kind == "opening" else (1, 0)
        return Amount(self.cost, self.input_tokens, self.output_tokens, calls, sandboxes)

    @property
    def payer(self) -> str:
        """By whose name it is spent: a run's, where several share the file, or an agent's."""
        return self.run or self.agent

    def shrink(self, to: Amount) -> None:
        """Hold no more than `to`."""
        self.cost = min(self.cost, to.cost)
        self.input_tokens = min(self.input_tokens, to.input_tokens)
        self.output_tokens = min(self.output_tokens, to.output_tokens)


class Book(_Part):
    """The whole file. Settled leases vanish into the totals, so that it stays small."""

    version: int = Field(le=VERSION)
    created: float
    limits: _Limits
    spent: Spent = Field(default_factory=Spent)
    agents: dict[str, Spent] = Field(default_factory=dict)
    leases: dict[str, Reservation] = Field(default_factory=dict)

    @classmethod
    def new(cls, limits: Limits, now: float) -> Book:
        """A book with nothing in it."""
        return cls(version=VERSION, created=now, limits=_Limits(**limits.model_dump()))

    @classmethod
    def parse(cls, text: bytes) -> Book:
        """Read what `as_bytes` wrote.

        Raises:
            LedgerError: It is damaged, or a newer version wrote it.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            fault = error.errors()[0]
        # A newer version may have another form altogether, but its number is the first thing that is looked at.
        if fault["loc"] == ("version",) and fault["type"] == "less_than_equal":
            raise LedgerError(f"written by a newer rlm-nb (version {fault['input']} of the file); upgrade")
        place = ".".join(map(str, fault["loc"]))
        what = f"{place}: {fault['msg']}" if place else fault["msg"]
        raise LedgerError(
            f"damaged ({what}). What was spent cannot be known from it: restore the file, or end the runs that share "
            "it, remove it and start anew"
        )

    def as_bytes(self) -> bytes:
        """The file's text."""
        return self.model_dump_json().encode()

    def check_time(self, now: float) -> None:
        """Do nothing, or raise `RuntimeLimitError` when the deadline has passed."""
        deadline = self.limits.deadline
        if deadline is not None and now >= deadline:
            raise RuntimeLimitError("seconds", now - self.created, deadline - self.created)

    def room(self, without: str | None = None) -> Room:
        """What the limits leave beside what is spent and reserved, but for the lease `without`."""
        held = [lease for key, lease in self.leases.items() if key != without]
        spent, openings = self.spent.amount, sum(lease.kind == "opening" for lease in held)
        # In one go for each kind: an amount for each lease would take longer than all the rest of a call.
        taken = Amount(
            cost=spent.cost + sum(lease.cost for lease in held),
            input_tokens=spent.input_tokens + sum(lease.input_tokens for lease in held),
            output_tokens=spent.output_tokens + sum(lease.output_tokens for lease in held),
            calls=spent.calls + len(held) - openings,
            sandboxes=spent.sandboxes + openings,
        )
        return Room(self.limits, taken)

    def has_calls(self) -> bool:
        """Whether a call is under way that may give something back."""
        return any(lease.kind == "call" for lease in self.leases.values())

    def balance(self, now: float) -> Balance:
        """What is spent, reserved and left."""
        deadline = self.limits.deadline
        return Balance(
            spent_cost=self.spent.cost,
            reserved_cost=sum(lease.cost for lease in self.leases.values()),
            limit_cost=self.limits.cost,
            spent=self.spent.usage,
            calls=self.spent.calls,
            sandboxes=self.room().taken.sandboxes,
            limit_sandboxes=self.limits.sandboxes,
            seconds_left=None if deadline is None else max(0.0, deadline - now),
        )

    def charge(self, payer: str, cost: int, usage: Usage) -> None:
        """Count a call as spent, in all and by whom."""
        self.spent.add_call(cost, usage)
        self.agents.setdefault(payer, Spent()).add_call(cost, usage)

    def count_agent(self, agent: str) -> None:
        """Count an agent that has started."""
        self.spent.sandboxes += 1
        self.agents.setdefault(agent, Spent()).sandboxes += 1

    def under(self, limits: Limits) -> Book:
        """The same, with other limits."""
        return self.model_copy(update={"limits": _Limits(**limits.model_dump())})

    def bury(self, is_alive: Callable[[int, float], bool]) -> None:
        """Settle for the dead: their calls may have been billed in full, the rest never came about.

        Args:
            is_alive: Whether the process with this number and start still runs.
        """
        alive = functools.cache(is_alive)
        dead = [key for key, lease in self.leases.items() if not alive(lease.pid, lease.started)]
        for lease in map(self.leases.pop, dead):
            if lease.kind == "call":
                self.charge(lease.payer, lease.cost, lease.amount.usage)
