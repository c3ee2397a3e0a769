"""What it takes to ask the ledger: a reservation and its settlement, each a change of the file under its lock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from rlm_nb.bench.table import Row, milliseconds
from rlm_nb.config import TokenPrices
from rlm_nb.ledger import BudgetFile, Limits
from rlm_nb.models.metered import configured_price
from rlm_nb.records import Usage
from rlm_nb.workspace.scratch import scratch

PLENTY = 10**12
"""Micro-dollars that no bench will spend."""


def measure(quick: bool) -> Iterator[Row]:
    """Calls that one process reserves and settles, one after the other."""
    price = configured_price(TokenPrices(input=3, output=15))
    calls = []
    with scratch() as folder:
        ledger = BudgetFile.create(folder / "budget.json", Limits(cost=PLENTY, sandboxes=50))
        for _ in range(50 if quick else 1000):
            began = time.perf_counter()
            ledger.reserve_call("root", price, 9000, 16384).settle(Usage(9000, 300))
            calls.append(time.perf_counter() - began)
    # Two operations a call: the reservation and the settlement.
    yield Row("a call reserved and settled", milliseconds(calls), measured=f"{2 / median(calls):,.0f} operations/s")
