"""What a call gets of a budget: the longest reply that can be paid, and a promise of the finishing call after it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace

from rlm_nb.ledger.limits import Amount, Room
from rlm_nb.protocols import Price
from rlm_nb.records import Usage

FLOOR_TOKENS = 256
"""A reply shorter than this is not worth paying its prompt for."""

USEFUL_TOKENS = 4096
"""Rather than shorten a reply below this, a call waits for others to give back what they did not need."""

FINISH_TOKENS = 2048
"""What a finishing call may write: a cell that calls `FINAL`."""

MARGIN_TOKENS = 16_000
"""What a finishing call may read beyond the last call: a cell's output, cut at 10,000 characters, and our words."""


@dataclass(frozen=True)
class Call:
    """A call that an agent wants to make; `BudgetFile.reserve_call` says what the fields mean."""

    price: Price
    prompt_tokens: int
    max_tokens: int
    margin: int
    finishing: bool
    aside: bool

    def is_cramped(self, room: Room) -> bool:
        """Whether there is no room for a reply of a useful length, so that waiting may be better."""
        useful = FINISH_TOKENS if self.finishing else USEFUL_TOKENS
        return self._longest(room, self.offer) < min(useful, self.max_tokens)

    def grant(self, room: Room, *, promised: bool) -> Grant:
        """The longest reply that there is room for.

        Args:
            room: What is left beside everything that this call does not replace.
            promised: Whether the agent was promised a finishing call before; then it does not get a call without one.

        Raises:
            BudgetExceededError: There is no room for a short reply.
        """
        offer = self.offer
        tokens = self._longest(room, offer)
        if not tokens and not promised:
            offer = self._offer_alone  # too little for both: better a call without a promise than none
            tokens = self._longest(room, offer)
        if not tokens and (error := room.breach(offer(self._shortest).needs)):
            raise error
        return offer(tokens)

    def offer(self, tokens: int) -> Grant:
        """What a reply of so many tokens needs; only a call that the conversation goes on from promises another."""
        alone = self._offer_alone(tokens)
        if self.finishing or self.aside:
            return alone
        return replace(alone, promise=finishing_call(self.price, self.prompt_tokens + tokens, self.margin))

    def _offer_alone(self, tokens: int) -> Grant:
        return Grant(worst_call(self.price, self.prompt_tokens, tokens))

    @property
    def _shortest(self) -> int:
        return min(FLOOR_TOKENS, self.max_tokens)

    def _longest(self, room: Room, offer: Callable[[int], Grant]) -> int:
        """The most tokens whose offer fits, 0 when not even the fewest do."""

        def is_too_much(tokens: int) -> bool:
            return not room.holds(offer(tokens).needs)

        if not is_too_much(self.max_tokens):
            return self.max_tokens
        # A longer reply never needs less: those that fit stand before those that are too much.
        lengths = range(self._shortest, self.max_tokens)
        fitting = bisect_right(lengths, False, key=is_too_much)
        return lengths[fitting - 1] if fitting else 0


@dataclass(frozen=True)
class Grant:
    """What a call may use (`call.output_tokens` is its `max_tokens`), and the finishing call promised after it."""

    call: Amount
    promise: Amount | None = None

    @property
    def needs(self) -> Amount:
        """Both together."""
        return self.call + (self.promise or Amount())


def finishing_call(price: Price, repeats: int, margin: int) -> Amount:
    """The worst case of a finishing call whose prompt repeats so many tokens and adds `margin` at most."""
    return worst_call(price, repeats + margin, FINISH_TOKENS)


def worst_call(price: Price, prompt_tokens: int, max_tokens: int) -> Amount:
    """What a call reserves."""
    return Amount(worst_case(price, prompt_tokens, max_tokens), prompt_tokens, max_tokens, calls=1)


def worst_case(price: Price, prompt_tokens: int, max_tokens: int) -> int:
    """Micro-dollars of the dearest call that reads and writes so much: fresh, written to a cache or read from it.

    A mixture costs no more than the dearest of its parts, since what a list charges by size goes by the whole prompt.
    """
    ways = ("input_tokens", "cache_write_tokens", "cache_read_tokens")
    return max(price(Usage(**{way: prompt_tokens}, output_tokens=max_tokens)) for way in ways)
