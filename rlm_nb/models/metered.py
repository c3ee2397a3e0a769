"""Any model, with the ledger asked before and charged after."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import MOST_TOKENS, BudgetSettings, TokenPrices
from rlm_nb.errors import BudgetExceededError, UnknownModelError
from rlm_nb.protocols import CallLease, Ledger, Listener, Model, Price
from rlm_nb.records import Charged, Kept, Message, Notice, Reply, Request, Usage

MESSAGE_OVERHEAD = 16
"""Tokens that a provider may add around each message and the system prompt: roles, separators, cache marks."""


Keep = Callable[[Kept], None]
"""Whoever puts a reply on record."""

UNCOUNTED = "does not say how many tokens a call takes: each counts for the most that it can have taken"


class MeteredModel:
    """A model as one agent sees it: each call is reserved in the ledger, asked, and charged, whatever becomes of it.

    Safe to call from several threads at once, as `llm_query_batched` does.

    Args:
        model: Who answers.
        ledger: Who pays.
        price: What the model's tokens cost; see `price_for`.
        agent: Whose calls these are.
        max_tokens: The longest reply that is asked for, whatever a request says.
        listen: Told of each charge, and of a service that does not count.
        keep: Given each reply before it is charged, with its request and the reservation's key: who has it on record
            need not ask again, whatever happens to this process.
        before: What this agent's calls took in an earlier process of the run.
    """

    def __init__(
        self,
        model: Model,
        ledger: Ledger,
        price: Price,
        agent: str,
        max_tokens: int,
        listen: Listener = lambda event: None,
        keep: Keep = lambda kept: None,
        before: tuple[int, Usage] = (0, Usage()),
    ) -> None:
        self._model, self._ledger, self._price, self._listen = model, ledger, price, listen
        self._agent, self._max_tokens, self._keep = agent, max_tokens, keep
        self._lock = threading.Lock()
        (self._cost, self._usage), self._calls = before, 0
        self._last: _Turn | None = None
        self._has_told = "." in agent  # the first call of all is no sub-agent's

    @property
    def name(self) -> str:
        """The model's id."""
        return self._model.name

    @property
    def cost(self) -> int:
        """Micro-dollars of all calls so far."""
        return self._cost

    @property
    def usage(self) -> Usage:
        """Tokens of all calls so far, as far as they are known."""
        return self._usage

    @property
    def calls(self) -> int:
        """How many were made, those that failed included."""
        return self._calls

    def complete(
        self,
        request: Request,
        cancel: Cancellation,
        on_text: Callable[[str], None] | None = None,
        *,
        finishing: bool = False,
    ) -> Reply:
        """Ask once, with no more `max_tokens` than can be paid; the reply carries its cost.

        Args:
            request: What is asked.
            cancel: Ends the call, and the wait for its money, with `CancelledError`.
            on_text: Called with each piece of text as it arrives.
            finishing: Whether this is the agent's last turn, paid from what was set aside for it.

        Raises:
            BudgetExceededError: Not even a short reply can be paid.
            ModelError: No reply.
            CancelledError: `cancel` was set.
        """
        cancel.check()  # what was never sent is not charged
        bound = self._prompt_bound(request)
        lease = self._ledger.reserve_call(
            self._agent,
            self._price,
            bound,
            min(request.max_tokens, self._max_tokens),
            finishing=finishing,
            aside=request.turn == 0,
            cancel=cancel,
        )
        try:
            reply = self._model.complete(replace(request, max_tokens=lease.max_tokens), cancel, on_text)
        except BudgetExceededError:
            lease.settle(Usage())  # the model asks on somebody else's budget as well, and that did not let it
            raise
        except BaseException as error:
            # A ModelError says what was charged; of a call that was cancelled, or broke in another way, nobody knows.
            usage = getattr(error, "usage", None)
            self._settle(lease, usage if isinstance(usage, Usage) else None)
            raise
        if not (reply.counted and self._can_be(reply.usage)):
            return self._uncounted(request, reply, bound, lease, finishing=finishing)
        try:
            self._keep(Kept(request, replace(reply, cost=self._price(reply.usage)), lease.key, finishing))
        finally:
            cost = self._settle(lease, reply.usage)
        if request.turn > 0 and reply.usage.prompt_tokens:
            self._last = _Turn(request, reply.text, reply.usage)
        return replace(reply, cost=cost)

    def _uncounted(self, request: Request, reply: Reply, bound: int, lease: CallLease, *, finishing: bool) -> Reply:
        """Charge all that was reserved: nobody knows what was thought but not said. Where it is free, what was said."""
        if not self._has_told:
            self._has_told = True
            self._listen(Notice(self._agent, f"{self.name} {UNCOUNTED}"))
        written = min(_bytes(reply.text), lease.max_tokens) if self._is_free() else lease.max_tokens
        usage = Usage(bound, written)
        cost = self._settle(lease, usage if self._is_free() else None, usage)
        reply = replace(reply, usage=usage, cost=cost, counted=False)
        self._keep(Kept(request, reply, lease.key, finishing))
        return reply

    def _settle(self, lease: CallLease, usage: Usage | None, bound: Usage | None = None) -> int:
        cost = lease.settle(usage)
        with self._lock:
            self._calls += 1
            self._cost += cost
            self._usage += usage or bound or Usage()
            charged = Charged(self._agent, self._cost, self._usage, self._ledger.balance())
        self._listen(charged)
        return cost

    def _can_be(self, usage: Usage) -> bool:
        """Whether a service can have counted so. Every prompt has tokens: a paid one that says none has not told us."""
        in_reason = all(0 <= count < MOST_TOKENS for count in vars(usage).values())
        return in_reason and (usage.prompt_tokens > 0 or self._is_free())

    def _is_free(self) -> bool:
        return self._price(Usage(1_000_000, 1_000_000)) == 0

    def _prompt_bound(self, request: Request) -> int:
        """No fewer tokens than the prompt can have: as counted where it repeats the last turn, by bytes where not."""
        last = self._last
        if request.turn == 0 or last is None or not last.is_repeated_by(request):
            return MESSAGE_OVERHEAD + _bytes(request.system) + _bound(request.messages)
        tokens, new = last.usage.prompt_tokens, request.messages[len(last.request.messages) :]
        if new[:1] == (Message("assistant", last.text),):
            tokens, new = tokens + MESSAGE_OVERHEAD + last.usage.output_tokens, new[1:]
        return tokens + _bound(new)


def price_for(model: Model, budget: BudgetSettings) -> Price:
    """What `model` costs: by a price of its own, as scripted models may have, else by its name and where it is.

    Raises:
        UnknownModelError: See `price_of`.
    """
    own: Price | None = getattr(model, "price", None)
    if own is not None:
        return own
    provider, base_url = getattr(model, "provider", None), getattr(model, "base_url", None)
    return price_of(model.name, budget, provider=provider, base_url=base_url)


def price_of(
    model_name: str, budget: BudgetSettings, *, provider: str | None = None, base_url: str | None = None
) -> Price:
    """What a model costs: as `budget.prices` says, else as the list of `genai-prices` does.

    Args:
        model_name: The model's id.
        budget: The settings.
        provider: Whose model it is, as that list calls them, for names that do not tell it by themselves.
        base_url: Where it is served: services that the list knows have prices of their own.

    Raises:
        UnknownModelError: Neither knows it, and `budget.unpriced` is not set.
    """
    if model_name in budget.prices:
        return configured_price(budget.prices[model_name])
    if model_name == "human" or model_name.startswith(("scripted:", "replay:")):
        return _free
    for place in ({"provider_api_url": base_url}, {"provider_id": provider}, {}):
        try:
            if None not in place.values():
                return _list_price(model_name, place)
        except LookupError:
            continue
    if budget.unpriced:
        return _free
    raise UnknownModelError(
        f"nobody knows what {model_name} costs: write its price under budget.prices in config.yaml, "
        "or set budget.unpriced: true to run it without counting money",
        usage=Usage(),
    )


def configured_price(prices: TokenPrices) -> Price:
    """Dollars per million tokens, that is micro-dollars per token; a rate that is left out is that of input."""

    def exact(dollars: float | None) -> Decimal:
        return Decimal(str(prices.input if dollars is None else dollars))  # 0.1 is a tenth

    rates = exact(prices.input), exact(prices.output), exact(prices.cache_read), exact(prices.cache_write)

    def price(usage: Usage) -> int:
        counts = usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens
        return math.ceil(sum((rate * count for rate, count in zip(rates, counts, strict=True)), Decimal(0)))

    return price


def _list_price(model_name: str, place: Mapping[str, Any]) -> Price:
    """The list's price, its steps by the size of the prompt included."""
    import genai_prices  # takes 0.3 s, and not every run needs it

    def price_at(when: datetime, usage: Usage) -> int:
        if usage == Usage():
            return 0  # some lists have a price for the call itself: this one was refused
        # There, the input tokens include the cached ones.
        counts = genai_prices.Usage(
            input_tokens=usage.prompt_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            output_tokens=usage.output_tokens,
        )
        listed = genai_prices.calc_price(counts, model_name, **place, genai_request_timestamp=when)
        return math.ceil(listed.total_price * 1_000_000)

    # Some prices change with the time of day, and a call may begin in one hour and be billed in the next: the dearest
    # hour of today counts.
    now = datetime.now(UTC)
    hours = [now.replace(hour=hour, minute=59) for hour in range(24)]
    dearest = max(hours, key=lambda hour: price_at(hour, Usage(1_000_000, 1_000_000)))
    return lambda usage: price_at(dearest, usage)


def _free(usage: Usage) -> int:
    return 0


@dataclass(frozen=True)
class _Turn:
    """The last turn of the conversation, whose prompt the next one repeats."""

    request: Request
    text: str
    usage: Usage

    def is_repeated_by(self, request: Request) -> bool:
        begins = request.messages[: len(self.request.messages)] == self.request.messages
        return begins and request.system == self.request.system


def _bound(messages: tuple[Message, ...]) -> int:
    return sum(MESSAGE_OVERHEAD + _bytes(message.content) for message in messages)


def _bytes(text: str) -> int:
    """The length in UTF-8: a token is at least one byte."""
    return len(text.encode("utf-8", "surrogatepass"))
