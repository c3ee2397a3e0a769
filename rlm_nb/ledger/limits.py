"""What may be spent in all, how much of it is taken, and whether there is room for more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from rlm_nb.config import BudgetSettings
from rlm_nb.errors import (
    BudgetExceededError,
    CallLimitError,
    CostLimitError,
    SandboxLimitError,
    TokenLimitError,
)
from rlm_nb.records import Usage

Count = Annotated[int, Field(ge=0, lt=10**30)]


class Limits(BaseModel):
    """What may be spent in all; `None` where there is no limit.

    Args:
        cost: Micro-dollars.
        input_tokens: Everything read, from a cache or not.
        output_tokens: Everything written.
        calls: Model calls, those that failed included.
        sandboxes: Agents that were started.
        deadline: Seconds since the epoch, after which no agent and no call but a finishing one begins.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    cost: Count | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    calls: Count | None = None
    sandboxes: Count | None = None
    deadline: float | None = None

    @classmethod
    def of(cls, budget: BudgetSettings) -> Self:
        """The limits of the settings: those of money, tokens and calls."""
        return cls(
            cost=None if budget.max_cost is None else round(budget.max_cost * 1e6),
            input_tokens=budget.max_input_tokens,
            output_tokens=budget.max_output_tokens,
            calls=budget.max_calls,
        )


@dataclass(frozen=True)
class Amount:
    """So much of what the limits count."""

    cost: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0
    sandboxes: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.cost + other.cost,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.calls + other.calls,
            self.sandboxes + other.sandboxes,
        )

    @property
    def usage(self) -> Usage:
        """Its tokens, as if none of them had come from a cache."""
        return Usage(input_tokens=self.input_tokens, output_tokens=self.output_tokens)


@dataclass(frozen=True)
class Room:
    """What the limits leave beside what is taken."""

    limits: Limits
    taken: Amount

    def holds(self, asked: Amount) -> bool:
        """Whether `asked` passes no limit."""
        return self.breach(asked) is None

    def breach(self, asked: Amount) -> BudgetExceededError | None:
        """The error of the first limit that `asked` would pass.

        What asks for nothing of a kind is not held up by its limit, even where more is taken than there is.
        """
        for field, error, words, unit in _KINDS:
            limit, more, used = getattr(self.limits, field), getattr(asked, field), getattr(self.taken, field)
            if limit is not None and more and used + more > limit:
                return error(f"{words} ({more / unit:g} more may be needed)", used / unit, limit / unit)
        return None


_KINDS: tuple[tuple[str, type[BudgetExceededError], str, int], ...] = (
    ("cost", CostLimitError, "cost in US dollars", 1_000_000),
    ("input_tokens", TokenLimitError, "input tokens", 1),
    ("output_tokens", TokenLimitError, "output tokens", 1),
    ("calls", CallLimitError, "model calls", 1),
    ("sandboxes", SandboxLimitError, "agents", 1),
)
"""The field, the error of its limit, its name with the unit for people, and how much of us makes one of it."""
