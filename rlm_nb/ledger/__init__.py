"""One budget for a whole tree of agents: a file under a lock, in which every call is reserved before it happens.

Every limit is held by `spent + reserved + asked <= limit`, looked at and written down in one locked step. Three things
are reserved: a `call` under way, the `finishing` call that an agent can still make when a limit is reached, and the
`opening` of an agent that has not started yet.

`storage.py` reads, locks and writes, and `file.py` has it done. What is written is decided in `limits.py` (how much is
left), `calls.py` (what a call gets of that) and `book.py` (what the file holds), which touch nothing. `shared.py` holds
a run to its own budget and to a purse at the same time.
"""

from rlm_nb.ledger.book import Book, Reservation
from rlm_nb.ledger.calls import FINISH_TOKENS, FLOOR_TOKENS, worst_case
from rlm_nb.ledger.file import BudgetFile, Lease
from rlm_nb.ledger.limits import Amount, Limits
from rlm_nb.ledger.shared import SharedBudget

__all__ = [
    "FINISH_TOKENS",
    "FLOOR_TOKENS",
    "Amount",
    "Book",
    "BudgetFile",
    "Lease",
    "Limits",
    "Reservation",
    "SharedBudget",
    "worst_case",
]
