"""A run that draws on a purse: what it spends fits into both, and stands in both."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import BudgetExceededError, CostLimitError, SandboxLimitError
from rlm_nb.ledger import BudgetFile, Limits, SharedBudget, worst_case
from rlm_nb.protocols import Ledger
from rlm_nb.records import Usage
from tests.ledger.spender import price


def drawing(path: Path, own: Limits, purse: Limits, run: str = "run-1") -> tuple[Ledger, BudgetFile, BudgetFile]:
    """A run's ledger, its own part, and the purse."""
    mine = BudgetFile.create(path.with_name(f"{run}.json"), own, margin=100)
    shared, _ = BudgetFile.share(path, purse, run)
    return SharedBudget(mine, shared), mine, shared


def test_the_first_makes_it_and_its_limits_stay(path: Path) -> None:
    """Whoever comes later with other limits finds those of the first."""
    assert [BudgetFile.share(path, Limits(cost=cost), "run")[1] for cost in (5, 7)] == [True, False]
    assert BudgetFile.open(path).limits().cost == 5


def test_the_same_is_charged_in_both(path: Path) -> None:
    """What is known and what nobody knows; in the purse it stands by the run's name."""
    both, own, purse = drawing(path, Limits(cost=1_000_000), Limits(cost=2_000_000))
    cost = both.reserve_call("root", price, 1000, 500).settle(Usage(100, 20))
    cost += both.reserve_call("root.1", price, 1000, 500).settle(None)
    assert cost == price(Usage(100, 20)) + worst_case(price, 1000, 500)
    assert own.balance().spent_cost == purse.balance().spent_cost == cost
    assert {payer: amount.cost for payer, amount in purse.spent_by().items()} == {"run-1": cost}
    assert set(own.spent_by()) == {"root", "root.1"}
    for agent in ("root", "root.1"):
        both.release_agent(agent)
    assert own.reserved_by() == purse.reserved_by() == ()


@pytest.mark.parametrize(("own", "purse"), [(100_000, 10_000_000), (10_000_000, 250_000)])
def test_a_reply_is_as_long_as_both_can_pay(path: Path, own: int, purse: int) -> None:
    """The smaller of the two decides, and a call whose usage is unknown costs the same in both."""
    both, mine, shared = drawing(path, Limits(cost=own), Limits(cost=purse))
    lease = both.reserve_call("root", price, 1000, 16_384)
    assert lease.max_tokens < 16_384
    cost = lease.settle(None)
    assert cost == worst_case(price, 1000, lease.max_tokens)
    assert mine.balance().spent_cost == shared.balance().spent_cost == cost


def test_a_call_that_the_purse_refuses_was_never_made(path: Path) -> None:
    """The error names the purse, and nothing of the call stays in the run's own budget."""
    both, own, _ = drawing(path, Limits(cost=1_000_000), Limits(cost=1000))
    with pytest.raises(CostLimitError, match=r"in budget\.json: 0 of 0\.001 used"):
        both.reserve_call("root", price, 1000, 500, aside=True)
    assert own.reserved_by() == ()
    assert own.balance().calls == 0


def test_what_is_left_is_the_less_of_both(path: Path) -> None:
    """An agent that asks for its budget is told what it can really spend."""
    both, own, purse = drawing(path, Limits(cost=1_000_000), Limits(cost=600_000))
    assert both.balance().left_cost == 600_000
    other, _, _ = drawing(path, Limits(), Limits(), "run-2")
    other.reserve_call("root", price, 1000, 500, aside=True).settle(Usage(100_000))
    assert both.balance().left_cost == 300_000
    assert other.balance().left_cost == 300_000
    assert both.balance().spent_cost == 0
    assert (own.balance().left_cost, purse.balance().left_cost) == (1_000_000, 300_000)


def test_agents_and_time_are_the_runs_own(path: Path) -> None:
    """A deadline that a purse has is nobody's, and its agents are not counted."""
    purse = Limits(cost=1_000_000, sandboxes=1, deadline=1.0)
    both, own, shared = drawing(path, Limits(sandboxes=2), purse)
    for agent in ("root", "root.1"):
        with both.reserve_sandbox(agent) as started:
            started()
        both.reserve_call(agent, price, 100, 100).settle(Usage(100, 100))
    with pytest.raises(SandboxLimitError), both.reserve_sandbox("root.2"):
        pytest.fail("a third agent was let in")
    assert (own.balance().sandboxes, shared.balance().sandboxes) == (2, 0)


def test_two_runs_never_pass_the_limit_together(path: Path) -> None:
    """Four threads of each of two runs spend until both are refused; each run knows its own share."""
    runs = [drawing(path, Limits(cost=800_000), Limits(cost=1_000_000), f"run-{number}") for number in range(2)]

    def spend(ledger: Ledger) -> None:
        try:
            while True:
                lease = ledger.reserve_call("root", price, 1000, 2000, aside=True, cancel=Cancellation())
                lease.settle(Usage(900, lease.max_tokens // 2))
        except BudgetExceededError:
            return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(spend, [ledger for ledger, _, _ in runs] * 4))
    purse = runs[0][2].balance()
    own = [mine.balance().spent_cost for _, mine, _ in runs]
    assert 900_000 < purse.spent_cost == sum(own) <= 1_000_000
    assert max(own) <= 800_000
