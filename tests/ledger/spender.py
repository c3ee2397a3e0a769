"""A program for the tests: a process that shares a budget file.

    python spender.py lock|hold|spend FILE [SEED]

`lock` holds the file's lock until it is killed, `hold` a call and two agents. `spend` makes calls until it is refused:
it prints what each is billed, and settles it when it reads a line.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import filelock

from rlm_nb.errors import BudgetExceededError
from rlm_nb.ledger import BudgetFile
from rlm_nb.records import Usage


def price(usage: Usage) -> int:
    """3 micro-dollars a token read, 4 for one written to a cache, 15 for one said."""
    return 3 * usage.input_tokens + 4 * usage.cache_write_tokens + usage.cache_read_tokens + 15 * usage.output_tokens


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
