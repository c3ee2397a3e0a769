"""One file for many agents: leases and slots that come back, and a file that cannot be trusted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlm_nb.errors import CostLimitError, LedgerError, RuntimeLimitError, SandboxLimitError
from rlm_nb.ledger import BudgetFile, Limits
from rlm_nb.records import Usage
from tests.ledger.spender import price


def test_nobody_knows_what_it_cost(path: Path) -> None:
    """A call whose usage is unknown keeps its reservation as spent, tokens included."""
    ledger = BudgetFile.create(path, Limits())
    assert ledger.reserve_call("root", price, 1000, 500).settle(None) == 4 * 1000 + 15 * 500
    assert ledger.balance().spent == Usage(input_tokens=1000, output_tokens=500)
    assert ledger.spent_by()["root"].cost == 11_500


def test_a_refused_call_gives_everything_back(path: Path) -> None:
    """A call that was never billed costs nothing; it counts as a call that was made."""
    ledger = BudgetFile.create(path, Limits(cost=100_000))
    assert ledger.reserve_call("root", price, 1000, 500).settle(Usage()) == 0
    ledger.release_agent("root")
    balance = ledger.balance()
    assert (balance.spent_cost, balance.left_cost, balance.calls) == (0, 100_000, 1)


def test_a_truth_above_the_reservation_is_charged(path: Path) -> None:
    """A provider that bills more than was possible is believed."""
    ledger = BudgetFile.create(path, Limits(cost=100_000))
    assert ledger.reserve_call("root", price, 10, 10).settle(Usage(input_tokens=50_000)) == 150_000
    assert ledger.balance().left_cost == 0
    with pytest.raises(CostLimitError):
        ledger.reserve_call("root", price, 10, 10)


def test_a_lease_is_settled_once(path: Path) -> None:
    """Of ten threads that settle one lease, one does, and the charge stands once."""
    lease = BudgetFile.create(path, Limits()).reserve_call("root", price, 100, 100)

    def settle(_: int) -> bool:
        try:
            lease.settle(Usage(100, 100))
        except LedgerError:
            return False
        return True

    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(settle, range(10))) == 1
    assert BudgetFile.open(path).balance().spent_cost == price(Usage(100, 100))


def test_slots_for_agents(path: Path) -> None:
    """An agent that started stays counted when it has ended; one that failed to start gives its slot back."""
    ledger = BudgetFile.create(path, Limits(sandboxes=2))
    with pytest.raises(OSError, match="no kernel"), ledger.reserve_sandbox("root.1"):
        raise OSError("no kernel")
    assert ledger.balance().sandboxes == 0
    for agent in ("root", "root.1"):
        with ledger.reserve_sandbox(agent) as started:
            counted = ledger.balance().sandboxes
            started()
            started()
        assert ledger.balance().sandboxes == counted
    with pytest.raises(SandboxLimitError) as caught, ledger.reserve_sandbox("root.1.1"):
        pytest.fail("a third agent was let in")
    assert (caught.value.used, caught.value.limit) == (2, 2)


def test_time_is_up(path: Path) -> None:
    """After the deadline nothing begins but a finishing call."""
    ledger = BudgetFile.create(path, Limits(deadline=time.time() - 1))
    assert ledger.balance().seconds_left == 0
    with pytest.raises(RuntimeLimitError):
        ledger.reserve_call("root", price, 10, 10)
    with pytest.raises(RuntimeLimitError), ledger.reserve_sandbox("root"):
        pytest.fail("an agent started after the deadline")
    ledger.reserve_call("root", price, 10, 10, finishing=True)


def test_two_runs_share_a_purse(path: Path) -> None:
    """Each run has a `root`; the promise to one is not the other's to give up."""
    one = BudgetFile.create(path, Limits(cost=1_000_000))
    other = BudgetFile.open(path)
    for ledger in (one, other):
        ledger.reserve_call("root", price, 100, 100).settle(Usage(100, 100))
    one.release_agent("root")
    assert [held.kind for held in other.reserved_by()] == ["finishing"]


def test_a_limit_is_no_other_setting() -> None:
    """A limit that is misspelt is an error, not a budget without limits."""
    with pytest.raises(ValueError, match="costs"):
        Limits(costs=5)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "damaged"),
        ('{"version": 1, "created": 0, "limits": {}, "spe', "damaged"),
        ("[]", "damaged"),
        ('{"version": 1, "created": 0, "limits": {}, "spent": {"cost": -5}}', r"damaged \(spent\.cost"),
        ('{"version": 1, "created": 0, "limits": {"cost": "5"}}', r"damaged \(limits\.cost"),
        (f'{{"version": 1, "created": 0, "limits": {{"cost": 1{"0" * 400}}}}}', r"damaged \(limits\.cost"),
        (
            '{"version": 1, "created": 0, "limits": {}, "leases": {"a": {"kind": "call", "agent": "root", "pid": -1,'
            ' "started": 0}}}',
            r"damaged \(leases\.a\.pid",
        ),
        ('{"version": 7, "accounts": []}', "newer rlm-nb"),
        ('{"version": 2, "created": 0, "limits": {}}', "newer rlm-nb"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused_and_left_alone(path: Path, text: str, says: str) -> None:
    """Truncated, half-written, nonsensical or from a newer version: an error that names the file, never a reset."""
    path.write_text(text)
    with pytest.raises(LedgerError, match=says) as caught:
        BudgetFile.open(path)
    assert str(path) in str(caught.value)
    with pytest.raises(LedgerError):
        BudgetFile.create(path, Limits())
    assert path.read_text() == text


def test_damage_while_a_run_goes_on(path: Path) -> None:
    """A file that is cut short in mid-run stops the run's spending."""
    ledger = BudgetFile.create(path, Limits())
    lease = ledger.reserve_call("root", price, 10, 10)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(LedgerError, match="damaged"):
        lease.settle(Usage(10, 10))
    path.unlink()
    with pytest.raises(LedgerError, match="no budget file"):
        ledger.reserve_call("root", price, 10, 10)


def test_what_a_later_version_added_is_kept(path: Path) -> None:
    """Keys that we do not know survive our changes, wherever they stand."""
    ledger = BudgetFile.create(path, Limits(cost=10_000_000))
    ledger.reserve_call("root", price, 10, 10).settle(Usage(10, 10))
    book = json.loads(path.read_text())
    book["team"], book["limits"]["pages"], book["spent"]["pages"] = "blue", 5, 1
    path.write_text(json.dumps(book))
    ledger.reserve_call("root", price, 10, 10).settle(Usage(10, 10))
    book = json.loads(path.read_text())
    assert (book["team"], book["limits"]["pages"], book["spent"]["pages"], book["spent"]["calls"]) == ("blue", 5, 1, 2)


def test_the_clock_is_set(path: Path) -> None:
    """A run under way goes by the time that has passed: no leap of the clock ends it, or gives it more."""
    code = f"""
import time
true, leap = time.time, 0
time.time = lambda: true() + leap  # a clock that somebody sets
from pathlib import Path
from rlm_nb.ledger import BudgetFile, Limits
from tests.ledger.spender import price
ledger = BudgetFile.create(Path({str(path)!r}), Limits(deadline=time.time() + 100))
for leap in (0, 3600, -3600):
    lease = ledger.reserve_call("root", price, 10, 10)
    assert 50 < ledger.balance().seconds_left <= 100, ledger.balance()
    assert lease.settle(None) > 0
assert ledger.balance().calls == 3
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
