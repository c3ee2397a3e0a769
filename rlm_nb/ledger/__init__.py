"""One budget for a whole tree of agents: a file under a lock, in which every call is reserved before it happens.

Every limit is held by `spent + reserved + asked <= limit`, looked at and written down in one locked step. Three things
are reserved: a `call` under way, the `finishing` call that an agent can still make when a limit is reached, and the
`opening` of an agent that has not started yet.

`file.py` does: it reads, locks and writes. What it does is decided in `limits.py` (how much is left), `calls.py` (what
a call gets of that) and `book.py` (what the file holds), which touch nothing.
"""

from rlm_nb.ledger.book import Reservation
from rlm_nb.ledger.calls import FINISH_TOKENS, FLOOR_TOKENS, worst_case
from rlm_nb.ledger.file import BudgetFile, Lease
from rlm_nb.ledger.limits import Amount, Limits

__all__ = [
    "FINISH_TOKENS",
    "FLOOR_TOKENS",
    "Amount",
    "BudgetFile",
    "Lease",
    "Limits",
    "Reservation",
    "worst_case",
]
