"""Processes that share a budget and are killed: the limit holds, the file is whole, the dead hold nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock
import pytest

from rlm_nb.ledger import BudgetFile, Limits, worst_case
from rlm_nb.records import Usage
from tests.ledger.spender import price

SPENDER = Path(__file__).with_name("spender.py")


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
    assert {file.name for file in path.parent.iterdir()} <= {
        f"budget.json{end}" for end in ("", ".lock", ".new", ".old")
    }


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


@contextmanager
def _program(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(SPENDER), *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
