"""Any model under a ledger: asked before, charged after, whatever becomes of the call."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import genai_prices
import pytest

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import BudgetSettings, TokenPrices
from rlm_nb.errors import (
    CancelledError,
    CostLimitError,
    MissingKeyError,
    ModelError,
    ModelUnavailableError,
    UnknownModelError,
)
from rlm_nb.ledger import FLOOR_TOKENS, BudgetFile, Limits, worst_case
from rlm_nb.models.metered import MESSAGE_OVERHEAD, MeteredModel, configured_price, price_for, price_of
from rlm_nb.protocols import Asker, Model, Price
from rlm_nb.records import Message, Reply, Request, Usage

PRICE = configured_price(TokenPrices(input=3, output=15, cache_read=0.3, cache_write=3.75))


class Oracle:
    """A model that does what it is told, and remembers what it was asked."""

    name = "oracle"

    def __init__(self, act: Callable[[Request], Reply] | Exception) -> None:
        self.act = act
        self.asked: list[Request] = []

    def complete(self, request: Request, cancel: Cancellation, on_text: Callable[[str], None] | None = None) -> Reply:
        self.asked.append(request)
        if isinstance(self.act, Exception):
            raise self.act
        return self.act(request)


@pytest.fixture
def ledger(tmp_path: Path) -> BudgetFile:
    return BudgetFile.create(tmp_path / "budget.json", Limits(cost=2_000_000))


def metered(model: Model, ledger: BudgetFile, price: Price = PRICE, max_tokens: int = 1000) -> MeteredModel:
    return MeteredModel(model, ledger, price, "root", max_tokens)


def question(*texts: str, turn: int = 1, system: str = "") -> Request:
    """A conversation: the user's words, the model's, the user's, …."""
    messages = tuple(Message("assistant" if number % 2 else "user", text) for number, text in enumerate(texts))
    return Request(messages, system, max_tokens=8000, turn=turn)


def reserved(ledger: BudgetFile) -> int:
    """Tokens of the prompt that is reserved for the call under way."""
    return next(held.amount.input_tokens for held in ledger.reserved_by() if held.kind == "call")


def test_a_reply_carries_what_it_cost(ledger: BudgetFile) -> None:
    """The cost stands on the reply, in the totals, and in the ledger, to the micro-dollar."""
    model: Asker = (meter := metered(Oracle(lambda request: Reply("yes", Usage(100, 10, 1000, 50))), ledger))
    cost = 300 + 150 + 300 + 188  # the last is 187.5, rounded up with the rest
    assert model.complete(question("Is it?"), Cancellation()).cost == cost
    assert model.complete(question("Is it?"), Cancellation()).cost == cost
    assert (meter.cost, meter.usage, meter.calls) == (2 * cost, Usage(200, 20, 2000, 100), 2)
    assert ledger.balance().spent_cost == 2 * cost


def test_the_model_is_asked_for_no_more_than_can_be_paid(tmp_path: Path) -> None:
    """`max_tokens` is the least of the request's, the setting's, and what the budget pays."""
    oracle = Oracle(lambda request: Reply("yes", Usage(10, 10)))
    rich = BudgetFile.create(tmp_path / "rich.json", Limits())
    poor = BudgetFile.create(tmp_path / "poor.json", Limits(cost=110_000))
    metered(oracle, rich, max_tokens=20_000).complete(question("?"), Cancellation())
    metered(oracle, rich, max_tokens=1000).complete(question("?"), Cancellation())
    metered(oracle, poor, max_tokens=1000).complete(question("?" * 700), Cancellation())
    full, capped, lowered = (request.max_tokens for request in oracle.asked)
    assert (full, capped) == (8000, 1000)
    assert FLOOR_TOKENS <= lowered < 1000


def test_what_cannot_be_paid_is_never_sent(tmp_path: Path) -> None:
    """The refusal comes before the call."""
    oracle = Oracle(lambda request: Reply("yes", Usage(10, 10)))
    with pytest.raises(CostLimitError):
        metered(oracle, BudgetFile.create(tmp_path / "b.json", Limits(cost=100))).complete(
            question("?"), Cancellation()
        )
    assert oracle.asked == []


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (MissingKeyError("no key", usage=Usage()), Usage()),
        (ModelError("cut off", usage=Usage(40, 7)), Usage(40, 7)),
        (ModelUnavailableError("lost"), None),
        (CancelledError("enough"), None),
        (OSError("the disk is full"), None),
    ],
)
def test_a_call_that_fails_is_charged_what_is_known(ledger: BudgetFile, error: Exception, known: Usage | None) -> None:
    """What the error says was used is charged; where nobody knows, the whole reservation is; the error goes on."""
    meter = metered(Oracle(error), ledger)
    request = question("a question", turn=0)
    with pytest.raises(type(error)):
        meter.complete(request, Cancellation())
    bound = len("a question") + 2 * MESSAGE_OVERHEAD
    assert meter.cost == (worst_case(PRICE, bound, 1000) if known is None else PRICE(known))
    assert (ledger.balance().spent_cost, ledger.reserved_by()) == (meter.cost, ())


def test_a_run_that_was_stopped_sends_nothing(ledger: BudgetFile) -> None:
    """A call made after the cancellation costs nothing."""
    cancel = Cancellation()
    cancel.cancel("enough")
    with pytest.raises(CancelledError):
        metered(Oracle(lambda request: Reply("yes")), ledger).complete(question("?"), cancel)
    assert ledger.balance().calls == 0


def test_a_paid_model_that_counts_nothing(ledger: BudgetFile) -> None:
    """A reply without a count is charged at its worst; of a free model it is just free."""
    silent = Oracle(lambda request: Reply("yes"))
    bound = 1 + 2 * MESSAGE_OVERHEAD
    assert metered(silent, ledger).complete(question("?"), Cancellation()).cost == worst_case(PRICE, bound, 1000)
    before = ledger.balance().spent
    free = metered(silent, ledger, configured_price(TokenPrices(input=0, output=0)))
    assert free.complete(question("?"), Cancellation()).cost == 0
    assert ledger.balance().spent == before


def test_a_service_that_says_what_it_does_not_know(ledger: BudgetFile) -> None:
    """A reply that nobody has counted is charged at its worst; a free one counts as what was said."""
    silent = Oracle(lambda request: Reply("five!", counted=False))
    bound = 1 + 2 * MESSAGE_OVERHEAD
    paid = metered(silent, ledger)
    reply = paid.complete(question("?"), Cancellation())
    assert (reply.cost, reply.usage) == (worst_case(PRICE, bound, 1000), Usage(bound, 1000))
    assert (paid.usage, ledger.balance().spent) == (reply.usage, reply.usage)
    free = metered(silent, ledger, configured_price(TokenPrices(input=0, output=0)))
    reply = free.complete(question("?"), Cancellation())
    assert (reply.cost, reply.usage) == (0, Usage(bound, 5))
    assert ledger.balance().spent == paid.usage + free.usage


@pytest.mark.parametrize("usage", [Usage(-1_000_000, 5), Usage(10**12, 5), Usage(5, -(10**9)), Usage(5, 5, 10**400)])
def test_a_service_that_cannot_count(ledger: BudgetFile, usage: Usage) -> None:
    """Counts that are none give nobody money, and charge nobody more than was reserved."""
    reply = metered(Oracle(lambda request: Reply("yes", usage)), ledger).complete(question("?"), Cancellation())
    bound = 1 + 2 * MESSAGE_OVERHEAD
    assert reply.cost == ledger.balance().spent_cost == worst_case(PRICE, bound, 1000)
    assert (reply.counted, reply.usage) == (False, Usage(bound, 1000))


def test_the_bound_of_a_prompt_is_exact_where_it_repeats(ledger: BudgetFile) -> None:
    """What the service has counted before is not counted in bytes again."""
    bounds: list[int] = []

    def act(request: Request) -> Reply:
        bounds.append(reserved(ledger))
        return Reply("I look.", Usage(70, 5, 30))

    meter = metered(Oracle(act), ledger)
    first = "What is in this — naïve — file?"
    meter.complete(question(first, system="Be brief."), Cancellation())
    meter.complete(question("beside", turn=0), Cancellation())
    meter.complete(question(first, "I look.", "It says 4.", turn=2, system="Be brief."), Cancellation())
    meter.complete(question("all new", "I look.", "It says 4.", turn=3, system="Be brief."), Cancellation())
    assert bounds == [
        len("Be brief.") + len(first.encode()) + 2 * MESSAGE_OVERHEAD,
        len("beside") + 2 * MESSAGE_OVERHEAD,
        100 + 5 + MESSAGE_OVERHEAD + len("It says 4.") + MESSAGE_OVERHEAD,
        len("Be brief." + "all new" + "I look." + "It says 4.") + 4 * MESSAGE_OVERHEAD,
    ]


def test_text_that_is_not_valid_unicode_has_a_bound(ledger: BudgetFile) -> None:
    """A lone surrogate in an output costs a call no exception of its own."""
    assert metered(Oracle(lambda request: Reply("yes", Usage(1))), ledger).complete(question("\ud800"), Cancellation())


def test_the_finishing_turn_is_paid_by_what_was_set_aside(tmp_path: Path) -> None:
    """When the budget refuses the next turn, the last one still goes out."""
    ledger = BudgetFile.create(tmp_path / "budget.json", Limits(cost=250_000), margin=1000)
    meter = metered(Oracle(lambda request: Reply("so far", Usage(cache_write_tokens=2000, output_tokens=900))), ledger)
    texts = ["x" * 1900]
    while True:
        try:
            meter.complete(question(*texts), Cancellation())
        except CostLimitError:
            break
        texts += ["so far", "x" * 900]
    assert meter.complete(question(*texts), Cancellation(), finishing=True).text == "so far"
    assert ledger.balance().spent_cost <= 250_000
    assert ledger.reserved_by() == ()


def test_a_call_that_waits_for_its_money_can_be_stopped(tmp_path: Path) -> None:
    """While another call holds what is needed it waits, is not refused, and heeds the cancellation."""
    ledger = BudgetFile.create(tmp_path / "budget.json", Limits(cost=20_000))
    ledger.reserve_call("root.1", PRICE, 100, 1000)
    cancel = Cancellation()
    timer = threading.Timer(0.1, cancel.cancel, ["enough"])
    timer.start()
    with pytest.raises(CancelledError, match="enough"):
        metered(Oracle(lambda request: Reply("yes")), ledger).complete(question("?"), cancel)
    timer.join()


def test_many_threads_ask_at_once(ledger: BudgetFile) -> None:
    """Eight questions are out at the same time, and the totals hold every one of forty."""
    together = threading.Barrier(8, timeout=30)

    def act(request: Request) -> Reply:
        together.wait()
        return Reply("yes", Usage(10, 1))

    meter = metered(Oracle(act), ledger)
    with ThreadPoolExecutor(8) as pool:
        costs = list(pool.map(lambda _: meter.complete(question("?", turn=0), Cancellation()).cost, range(40)))
    assert (meter.calls, meter.cost, meter.usage) == (40, sum(costs), Usage(400, 40))
    assert ledger.balance().spent_cost == sum(costs) == 40 * PRICE(Usage(10, 1))


# Prices


def test_a_configured_price_is_exact_and_rounds_up() -> None:
    """Tenths of a cent add up as on paper; a fraction of a micro-dollar is a whole one."""
    price = configured_price(TokenPrices(input=0.1, output=0.2))
    assert price(Usage(10, 10)) == 3
    assert price(Usage(1, 0)) == 1
    assert price(Usage()) == 0
    assert price(Usage(cache_read_tokens=100, cache_write_tokens=100)) == 20  # not given: as dear as input


def test_a_configured_price_comes_before_the_list() -> None:
    """`budget.prices` decides, for known names too."""
    budget = BudgetSettings(prices={"claude-sonnet-5-5": TokenPrices(input=1, output=1)})
    assert price_of("claude-sonnet-5-5", budget)(Usage(5, 5)) == 10


def test_the_list_knows_what_kinds_of_tokens_cost() -> None:
    """Plain, cached, written and said tokens are charged apart, and none of them twice."""
    price = price_of("claude-sonnet-5-5", BudgetSettings())
    kinds = Usage(1_000_000), Usage(0, 1_000_000), Usage(0, 0, 1_000_000), Usage(0, 0, 0, 1_000_000)
    plain, said, read, written = (price(kind) for kind in kinds)
    assert read < plain < written < said
    assert price(Usage(1_000_000, 1_000_000, 1_000_000, 1_000_000)) == plain + said + read + written
    assert worst_case(price, 1_000_000, 1_000_000) == written + said


@pytest.mark.parametrize("name", ["gpt-4o", "gpt-4.1-mini", "gpt-5", "gpt-5-mini-2025-08-07", "o3", "o4-mini", "o1"])
def test_openais_models_have_a_price(name: str) -> None:
    """Plain and cached tokens are charged apart, and what is written to the cache is charged no less than plain."""
    price = price_of(name, BudgetSettings())
    plain, said, read, written = (
        price(kind) for kind in (Usage(1000), Usage(0, 1000), Usage(0, 0, 1000), Usage(0, 0, 0, 1000))
    )
    assert 0 < read < plain <= written < said
    assert price(Usage(1000, 1000, 1000, 1000)) == plain + said + read + written


def test_a_name_that_only_its_provider_has() -> None:
    """The list is asked for the provider that the model names, and for the place where it is served."""

    class Theirs(Oracle):
        name = "chatgpt-4o-latest"
        provider = "openai"

    class Elsewhere(Oracle):
        name = "llama-3.3-70b-versatile"
        provider = "openai"
        base_url = "https://api.groq.com/openai/v1"

    for model in (Theirs(OSError()), Elsewhere(OSError())):
        assert price_for(model, BudgetSettings())(Usage(1000)) > 0
        with pytest.raises(UnknownModelError):
            price_of(f"{model.name}-not", BudgetSettings(), provider="openai")


def test_a_server_of_ones_own_has_no_price() -> None:
    """What nobody lists is refused, wherever it is served; a price for it can be set."""

    class Own(Oracle):
        name = "qwen3-coder"
        provider = "openai"
        base_url = "http://localhost:8000/v1"

    model = Own(OSError())
    with pytest.raises(UnknownModelError, match=r"qwen3-coder.*budget\.prices.*budget\.unpriced: true"):
        price_for(model, BudgetSettings())
    priced = BudgetSettings(prices={"qwen3-coder": TokenPrices(input=0.1, output=0.4, cache_read=0.01)})
    assert price_for(model, priced)(Usage(100, 100, 100)) == 10 + 40 + 1


def test_a_list_price_by_size_goes_by_the_whole_prompt() -> None:
    """A model that is dearer above 100,000 tokens is so for a prompt that was mostly cached."""
    price = price_of("claude-haiku-5-5", BudgetSettings())
    small, large = price(Usage(50_000, 0, 50_000)), price(Usage(50_000, 0, 50_001))
    assert large > 2 * small
    assert worst_case(price, 100_001, 0) > 2 * worst_case(price, 100_000, 0)


def test_a_price_by_the_hour_is_the_dearest_of_the_day() -> None:
    """deepseek-chat is cheaper at night, and what is reserved at night may be billed in the morning."""
    now = datetime.now(UTC)
    by_hour = {
        genai_prices.calc_price(
            genai_prices.Usage(input_tokens=1_000_000),
            "deepseek-chat",
            genai_request_timestamp=now.replace(hour=hour, minute=59),
        ).total_price
        for hour in range(24)
    }
    assert len(by_hour) > 1
    assert price_of("deepseek-chat", BudgetSettings())(Usage(1_000_000)) == max(by_hour) * 1_000_000


def test_an_unknown_price_is_refused_with_the_way_out() -> None:
    """The error names both settings that help."""
    with pytest.raises(UnknownModelError, match=r"my-llama.*budget\.prices.*budget\.unpriced: true") as caught:
        price_of("my-llama", BudgetSettings())
    assert caught.value.usage == Usage()
    assert price_of("my-llama", BudgetSettings(unpriced=True))(Usage(10**9, 10**9)) == 0


def test_a_known_model_is_paid_although_unknown_ones_are_free() -> None:
    """`unpriced` frees nobody whose price is known."""
    assert price_of("claude-sonnet-5-5", BudgetSettings(unpriced=True))(Usage(1_000_000)) > 0


def test_scripts_and_people_cost_nothing_unless_they_say_so() -> None:
    """A model's own price comes first."""
    budget = BudgetSettings()
    for name in ("human", "scripted:demo.yaml"):
        assert price_of(name, budget)(Usage(1000, 1000)) == 0

    class Dear(Oracle):
        price = staticmethod(PRICE)

    class Modest(Oracle):
        name = "scripted:demo.yaml"
        price = None

    assert price_for(Dear(OSError()), budget)(Usage(1000)) == 3000
    assert price_for(Modest(OSError()), budget)(Usage(1000)) == 0


def test_the_price_list_is_read_only_when_needed() -> None:
    """Importing this module does not take the 0.3 s of the list."""
    code = "import sys, rlm_nb.models.metered; sys.exit('genai_prices' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
