"""What a call gets: what is spent and promised never passes a limit, and who ever spoke can finish."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import (
    BudgetExceededError,
    CallLimitError,
    CancelledError,
    CostLimitError,
    TokenLimitError,
)
from rlm_nb.ledger import FINISH_TOKENS, FLOOR_TOKENS, BudgetFile, Limits, worst_case
from rlm_nb.protocols import Ledger
from rlm_nb.records import Balance, Usage
from tests.ledger.spender import price


def test_a_call_is_reserved_at_its_worst_and_charged_what_it_was(path: Path) -> None:
    """Before the call its dearest outcome is set aside, and after it only the truth and the promise remain."""
    ledger: Ledger = BudgetFile.create(path, Limits(cost=1_000_000), margin=100)
    lease = ledger.reserve_call("root", price, 1000, 500)
    assert lease.max_tokens == 500
    finishing = 4 * (1000 + 500 + 100) + 15 * FINISH_TOKENS
    assert ledger.balance().reserved_cost == 4 * 1000 + 15 * 500 + finishing
    assert lease.settle(Usage(input_tokens=100, cache_read_tokens=800, output_tokens=20)) == 300 + 800 + 300
    assert ledger.balance() == Balance(
        spent_cost=1400,
        reserved_cost=4 * (900 + 20 + 100) + 15 * FINISH_TOKENS,  # the promise shrinks to what is known by now
        limit_cost=1_000_000,
        spent=Usage(input_tokens=100, cache_read_tokens=800, output_tokens=20),
        calls=1,
    )


def test_exactly_at_the_limit(path: Path) -> None:
    """The last micro-dollar can be spent, and not one more."""
    cost = worst_case(price, 1000, FLOOR_TOKENS)
    BudgetFile.create(path, Limits(cost=cost)).reserve_call("root", price, 1000, FLOOR_TOKENS).settle(None)
    assert BudgetFile.open(path).balance().left_cost == 0
    with pytest.raises(CostLimitError):
        BudgetFile.open(path).reserve_call("root", price, 1, 1)
    short = BudgetFile.create(path.with_name("short.json"), Limits(cost=cost - 1))
    with pytest.raises(CostLimitError) as caught:
        short.reserve_call("root", price, 1000, FLOOR_TOKENS)
    assert (caught.value.used, caught.value.limit) == (0, (cost - 1) / 1e6)


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        (Limits(cost=30_000), CostLimitError),
        (Limits(input_tokens=30_000), TokenLimitError),
        (Limits(output_tokens=3000), TokenLimitError),
        (Limits(calls=3), CallLimitError),
    ],
)
def test_each_limit_has_its_own_error(path: Path, limits: Limits, error: type[BudgetExceededError]) -> None:
    """Whichever limit is reached is the one that is named, and used never passes it."""
    ledger = BudgetFile.create(path, limits, margin=100)
    refused = _until_refused(lambda: ledger.reserve_call("root", price, 1000, 300).settle(Usage(1000, 300)))
    assert type(refused) is error
    assert 0 < refused.used <= refused.limit


def test_what_is_free_passes_a_spent_budget(path: Path) -> None:
    """A call that costs nothing needs no money, even where more was billed than there is."""
    ledger = BudgetFile.create(path, Limits(cost=100_000, calls=5))
    ledger.reserve_call("root", price, 10, 10).settle(Usage(50_000))
    ledger.release_agent("root")
    assert ledger.reserve_call("root", free, 1000, 500).settle(Usage(1000, 500)) == 0


def test_max_tokens_is_lowered_to_what_can_be_paid(path: Path) -> None:
    """The longest reply that leaves room for the finishing call: one token more would not fit."""
    ledger = BudgetFile.create(path, Limits(cost=100_000), margin=100)
    lease = ledger.reserve_call("root", price, 1000, 16_384)
    assert FLOOR_TOKENS < lease.max_tokens < 16_384
    left = ledger.balance().left_cost
    assert left is not None
    assert 0 <= left < 15 + 4  # a token said now, and read again in the finishing call


def test_too_small_for_a_promise_the_first_call_still_goes_out(path: Path) -> None:
    """A budget that holds one call and no finishing call after it pays the one call."""
    ledger = BudgetFile.create(path, Limits(cost=worst_case(price, 1000, 1000)))
    assert ledger.reserve_call("root", price, 1000, 1000).max_tokens == 1000
    assert [held.kind for held in ledger.reserved_by()] == ["call"]


def test_a_question_beside_the_conversation_leaves_the_promise_alone(path: Path) -> None:
    """An `llm_query` with a long prompt does not make the agent's finishing call dearer, or cheaper."""
    ledger = BudgetFile.create(path, Limits(cost=10_000_000))
    ledger.reserve_call("root", price, 5000, 1000).settle(Usage(4000, 500))
    before = ledger.reserved_by()
    for prompt in (90_000, 10):
        ledger.reserve_call("root", price, prompt, 1000, aside=True).settle(Usage(prompt, 500))
    assert ledger.reserved_by() == before


@pytest.mark.parametrize("seed", range(6))
def test_the_finishing_turn_can_always_be_paid(path: Path, seed: int) -> None:
    """Whatever a dozen agents of random appetite do, each that ever spoke can finish, within every limit."""
    dice = random.Random(seed)
    limits = Limits(cost=3_000_000, input_tokens=900_000, output_tokens=120_000, calls=150)
    ledger = BudgetFile.create(path, limits, margin=2000)
    reads: dict[str, int] = {}
    for _ in range(150):
        agent = f"root.{dice.randrange(12)}"
        if dice.random() < 0.05 and agent in reads:  # it ends, and gives its promise back
            ledger.release_agent(agent)
            del reads[agent]
            continue
        prompt = reads.get(agent, dice.randrange(500, 3000)) + dice.randrange(2000)
        aside = agent in reads and dice.random() < 0.3
        try:
            lease = ledger.reserve_call(agent, price, prompt, dice.randrange(300, 9000), aside=aside)
        except BudgetExceededError:
            continue
        used = Usage(cache_write_tokens=prompt - dice.randrange(400), output_tokens=dice.randint(1, lease.max_tokens))
        lease.settle(None if dice.random() < 0.1 else used)
        promised = any(held.kind == "finishing" and held.agent == agent for held in ledger.reserved_by())
        if promised and not aside:
            reads[agent] = used.prompt_tokens + used.output_tokens
    assert len(reads) > 3
    assert ledger.balance().spent_cost > 0
    _until_refused(lambda: ledger.reserve_call("greedy", price, 2000, 9000).settle(None))
    for agent, repeats in reads.items():
        ledger.reserve_call(agent, price, repeats + 2000, 9000, finishing=True).settle(None)
    balance = ledger.balance()
    assert limits.cost is not None
    assert balance.spent_cost + balance.reserved_cost <= limits.cost
    assert balance.calls <= 150
    assert balance.spent.prompt_tokens <= 900_000
    assert balance.spent.output_tokens <= 120_000


def test_a_call_waits_for_what_others_will_give_back(path: Path) -> None:
    """Eight threads whose worst cases do not fit side by side all get their answer, one after the other."""
    ledger = BudgetFile.create(path, Limits(cost=250_000), margin=100)

    def ask(number: int) -> int:
        lease = ledger.reserve_call(f"root.{number}", price, 1000, 8000, cancel=Cancellation())
        lease.settle(Usage(500, 50))
        ledger.release_agent(f"root.{number}")
        return lease.max_tokens

    with ThreadPoolExecutor(8) as pool:
        assert min(pool.map(ask, range(8))) >= 4096
    assert ledger.balance().spent_cost == 8 * price(Usage(500, 50))


@pytest.mark.parametrize(("billed", "tokens"), [(Usage(500, 50), 8000), (Usage(40_000), 1250)])
def test_a_call_waits_rather_than_be_cut_short(path: Path, billed: Usage, tokens: int) -> None:
    """A short reply is taken only when no call is under way that could give something back."""
    ledger = BudgetFile.create(path, Limits(cost=250_000), margin=100)
    other = ledger.reserve_call("root", price, 1000, 8000)

    class Meanwhile(Cancellation):
        def wait(self, seconds: float | None = None) -> bool:
            other.settle(billed)  # a second time would be an error
            return super().wait(0)

    assert ledger.reserve_call("root.1", price, 1000, 8000, cancel=Meanwhile()).max_tokens == tokens


def test_a_waiting_call_can_be_cancelled(path: Path) -> None:
    """Somebody stops the run while a call waits for money; nothing of it stays reserved."""
    ledger = BudgetFile.create(path, Limits(cost=60_000), margin=100)
    ledger.reserve_call("root", price, 1000, 1000)
    cancel = Cancellation()
    timer = threading.Timer(0.1, cancel.cancel, ["it was enough"])
    timer.start()
    with pytest.raises(CancelledError, match="it was enough"):
        ledger.reserve_call("root.1", price, 1000, 8000, cancel=cancel)
    timer.join()
    assert {held.agent for held in ledger.reserved_by()} == {"root"}


def free(usage: Usage) -> int:
    return 0


def _until_refused(call: Callable[[], object]) -> BudgetExceededError:
    try:
        while True:
            call()
    except BudgetExceededError as error:
        return error
