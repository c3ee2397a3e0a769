"""One budget, many agents, threads and processes: what is spent and promised never passes the limit."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock
import pytest

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import (
    BudgetExceededError,
    CallLimitError,
    CancelledError,
    CostLimitError,
    LedgerError,
    RuntimeLimitError,
    SandboxLimitError,
    TokenLimitError,
)
from rlm_nb.ledger import FINISH_TOKENS, FLOOR_TOKENS, BudgetFile, Limits, worst_case
from rlm_nb.protocols import Ledger
from rlm_nb.records import Balance, Usage


def price(usage: Usage) -> int:
    """3 micro-dollars a token read, 4 for one written to a cache, 15 for one said."""
    return 3 * usage.input_tokens + 4 * usage.cache_write_tokens + usage.cache_read_tokens + 15 * usage.output_tokens


def free(usage: Usage) -> int:
    return 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "budget.json"


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


# Damage


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "damaged"),
        ('{"version": 1, "created": 0, "limits": {}, "spe', "damaged"),
        ("[]", "damaged"),
        ('{"version": 1, "created": 0, "limits": {}, "spent": {"cost": -5}}', r"damaged \(spent\.cost"),
        ('{"version": 1, "created": 0, "limits": {"cost": "5"}}', r"damaged \(limits\.cost"),
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


def test_a_limit_is_no_other_setting() -> None:
    """A limit that is misspelt is an error, not a budget without limits."""
    with pytest.raises(ValueError, match="costs"):
        Limits(costs=5)  # type: ignore[call-arg]


# Other processes: this file, run as a program


def test_a_killed_holder_of_the_lock_blocks_nobody(path: Path) -> None:
    """SIGKILL in the middle of an operation: the next one goes on with the file as it was."""
    ledger = BudgetFile.create(path, Limits())
    with _program("lock", path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(f"{path}.lock", timeout=0).acquire()
        holder.kill()
        ledger.reserve_call("root", price, 10, 10).settle(Usage(10, 10))
    assert ledger.balance().calls == 1


def test_the_dead_are_settled_for(path: Path) -> None:
    """A killed process's call is charged in full, its agent that had started stays counted, all else comes back."""
    ledger = BudgetFile.create(path, Limits(cost=1_000_000, sandboxes=5))
    with _program("hold", path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        assert sorted(held.kind for held in ledger.reserved_by()) == ["call", "finishing", "opening"]
        assert ledger.balance().sandboxes == 2
        holder.kill()
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, and still a zombie: nobody has reaped it
        balance = ledger.balance()
        ledger.release_agent("root")
    assert balance == ledger.balance()
    assert (balance.spent_cost, balance.reserved_cost) == (worst_case(price, 1000, 1000), 0)
    assert (balance.calls, balance.sandboxes) == (1, 1)
    assert ledger.reserved_by() == ()


def test_a_number_taken_over_by_another_process_is_not_the_holder(path: Path) -> None:
    """A lease names its process by its start as well: a process that got the same number later does not keep it."""
    ledger = BudgetFile.create(path, Limits())
    with _program("hold", path) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        book = json.loads(path.read_text())
        for lease in book["leases"].values():
            lease["started"] -= 3600
        path.write_text(json.dumps(book))
        assert ledger.reserved_by() == ()


def test_processes_killed_in_mid_call_never_break_the_limit(path: Path) -> None:
    """Five processes spend, three die while their call is out: what is billed or promised stays within the limit."""
    ledger = BudgetFile.create(path, Limits(cost=4_000_000, calls=400), margin=200)
    with ExitStack() as stack:
        spenders = [_Spender(stack.enter_context(_program("spend", path, str(seed)))) for seed in range(5)]
        doomed, others = spenders[:3], spenders[3:]
        for spender in doomed:
            for _ in range(7):
                spender.answer_a_call()
        for spender in others:
            spender.go_on_alone()
        for spender in doomed:
            spender.die_in_mid_call()
            balance = ledger.balance()
            assert balance.spent_cost + balance.reserved_cost <= 4_000_000
        for spender in others:
            spender.wait()
        billed = sum(spender.billed for spender in spenders)
    balance = ledger.balance()
    assert min(spender.billed for spender in spenders) > 0
    assert billed <= balance.spent_cost <= 4_000_000
    assert 30 < balance.calls <= 400
    assert ledger.reserved_by() == ()
    assert sum(spent.cost for spent in ledger.spent_by().values()) == balance.spent_cost


def test_the_file_is_whole_after_sigkill_at_any_moment(path: Path) -> None:
    """Processes that do nothing but change the file are killed anywhere in it, and the file can always be read."""
    ledger = BudgetFile.create(path, Limits())
    billed = 0
    for seed in range(6):
        with _program("spend", path, str(seed)) as process:
            spender = _Spender(process)
            spender.go_on_alone()
            spender.die_in_mid_call(after=3 + seed)
            assert ledger.balance().calls > 0
            billed += spender.billed
    assert ledger.balance().spent_cost >= billed > 0
    ledger.release_agent("root")
    assert json.loads(path.read_text())["leases"] == {}
    assert {file.name for file in path.parent.iterdir()} <= {"budget.json", "budget.json.lock", "budget.json.new"}


class _Spender:
    """A process that spends: prints what each call is billed, and settles it when it is answered."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self.stdin, self.stdout = process, process.stdin, process.stdout
        self.billed = 0

    def answer_a_call(self) -> None:
        self.billed += int(self.stdout.readline())
        self.stdin.write("\n")
        self.stdin.flush()

    def go_on_alone(self) -> None:
        self.stdin.close()

    def die_in_mid_call(self, after: int = 1) -> None:
        """Kill it at once when it has printed so many bills."""
        self.billed += sum(int(self.stdout.readline()) for _ in range(after))
        self.process.kill()
        self.wait()

    def wait(self) -> None:
        self.billed += sum(int(line) for line in self.stdout if line.endswith("\n"))
        self.process.wait()


def _until_refused(call: Callable[[], object]) -> BudgetExceededError:
    try:
        while True:
            call()
    except BudgetExceededError as error:
        return error


@contextmanager
def _program(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _main(what: str, path: Path, seed: str = "") -> None:
    ledger = BudgetFile.open(path, margin=200)
    if what == "lock":
        with filelock.FileLock(f"{path}.lock"):
            _say("locked")
            sys.stdin.read()
    elif what == "hold":
        ledger.reserve_call("root.1", price, 1000, 1000)
        with ledger.reserve_sandbox("root.1") as started:
            started()
        with ledger.reserve_sandbox("root.2"):
            _say("holding")
            sys.stdin.read()
    else:
        _spend(ledger, random.Random(seed), f"root.{seed}")


def _spend(ledger: BudgetFile, dice: random.Random, agent: str) -> None:
    while True:
        prompt = dice.randrange(100, 3000)
        try:
            lease = ledger.reserve_call(agent, price, prompt, dice.randrange(300, 3000))
        except BudgetExceededError:
            return
        usage = Usage(cache_write_tokens=dice.randint(50, prompt), output_tokens=dice.randint(1, lease.max_tokens))
        _say(str(price(usage)))
        sys.stdin.readline()
        lease.settle(usage)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
