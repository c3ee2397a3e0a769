"""The budget file: read, changed under its lock, and written whole."""

from __future__ import annotations

import functools
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import LedgerError
from rlm_nb.ledger.book import Book, Kind, Reservation, Spent
from rlm_nb.ledger.calls import MARGIN_TOKENS, Call, finishing_call, worst_call
from rlm_nb.ledger.limits import Amount, Limits
from rlm_nb.ledger.storage import Storage
from rlm_nb.processes import is_alive, this_process
from rlm_nb.protocols import Price
from rlm_nb.records import Balance, Usage


class BudgetFile:
    """The ledger in the file `path`, for any number of threads and processes; each process opens it for itself.

    Args:
        path: The budget file.
        margin: Tokens that a finishing call may read beyond the prompt and reply of the agent's last call.
        run: The run that draws on a file that several runs share: what it holds and spends stands there by its name,
            and no deadline holds in it.
    """

    def __init__(self, path: Path, *, margin: int = MARGIN_TOKENS, run: str = "") -> None:
        self._storage = Storage(path)
        self.path = self._storage.path
        self._margin, self._run = margin, run
        self._latest: tuple[bytes, Book | None] = b"", None
        self._serial = secrets.token_hex(3)
        # The wall clock is read once and carried on by the monotonic one: setting the clock moves no deadline of a run
        # under way. A process that opens the file later can only go by the clock that it finds.
        self._epoch = time.time() - time.monotonic()

    @classmethod
    def create(cls, path: Path, limits: Limits, *, margin: int = MARGIN_TOKENS) -> BudgetFile:
        """A new ledger with nothing spent.

        Raises:
            LedgerError: The file exists, or cannot be written.
        """
        ledger = cls(path, margin=margin)
        with ledger._storage.locked():
            if ledger.path.exists():
                raise LedgerError(f"{ledger.path}: there is a budget file already; open it, or choose another place")
            ledger._storage.write(Book.new(limits, ledger._now()).as_bytes())
        return ledger

    @classmethod
    def open(cls, path: Path, *, margin: int = MARGIN_TOKENS) -> BudgetFile:
        """The ledger that somebody created.

        Raises:
            LedgerError: There is none, it is damaged, or a newer version wrote it.
        """
        ledger = cls(path, margin=margin)
        ledger.limits()
        return ledger

    @classmethod
    def share(cls, path: Path, limits: Limits, run: str) -> tuple[BudgetFile, bool]:
        """The purse that several runs share, and whether it was made now; the limits of one that was there stay.

        Args:
            path: The purse.
            limits: For a new one.
            run: Who draws on it.

        Raises:
            LedgerError: It cannot be made, is damaged, or a newer version wrote it.
        """
        ledger = cls(path, run=run)
        with ledger._storage.locked():
            if made := not ledger.path.exists():
                ledger._storage.write(Book.new(limits, ledger._now()).as_bytes())
        ledger.limits()
        return ledger, made

    @classmethod
    def resume(cls, path: Path, limits: Limits, known: Mapping[str, tuple[int, Usage]]) -> BudgetFile:
        """The ledger of a run that goes on, with what it has spent, and under these limits from now on.

        Args:
            path: The budget file.
            limits: What may be spent in all, by now included.
            known: What calls took that were answered and not settled, by their leases: money and tokens. Of any other
                call under way nobody knows; all that it had reserved counts as spent.

        Raises:
            LedgerError: There is no such file, it is damaged, or a newer version wrote it.
        """
        ledger = cls(path)
        with ledger._storage.locked():
            book = _parsed(ledger.path, ledger._storage.read())
            for key, (cost, usage) in known.items():
                if lease := book.leases.pop(key, None):
                    book.charge(lease.payer, cost, usage)
            book.bury(is_alive)
            ledger._storage.write(book.under(limits).as_bytes())
        return ledger

    def spent_of(self, agent: str) -> Spent:
        """What an agent's own calls took so far, and whether it counts as an agent (`sandboxes`)."""
        with self._looking() as book:
            return book.agents.get(agent, Spent()).model_copy()

    def reserve_call(
        self,
        agent: str,
        price: Price,
        prompt_tokens: int,
        max_tokens: int,
        *,
        finishing: bool = False,
        aside: bool = False,
        cancel: Cancellation | None = None,
    ) -> Lease:
        """Set aside the worst case of one call, and of the finishing call that the agent may need after it.

        When not all of it fits, `max_tokens` is lowered, but not below `FLOOR_TOKENS`. A budget too small for both goes
        to the call alone, unless the agent was promised a finishing call before: a promise is never taken back.

        Args:
            agent: Who asks.
            price: What the model's tokens cost; more tokens never cost less.
            prompt_tokens: No fewer than the request can have.
            max_tokens: Wanted; the lease holds what can be paid.
            finishing: Whether this is the agent's last call, paid from what was set aside. It fits whenever it reads no
                more than the last call read and wrote, and `margin` on top.
            aside: Whether the call stands outside the agent's conversation, so that its finishing call grows no longer.
            cancel: When given, the call waits for others under way to give back what they did not need, before it is
                refused or gets a reply shorter than `USEFUL_TOKENS`.

        Raises:
            BudgetExceededError: Not even a short reply can be paid.
            CancelledError: `cancel` was set while the call waited.
        """
        call = Call(functools.cache(price), prompt_tokens, max_tokens, self._margin, finishing, aside)
        call.offer(max_tokens)  # looking prices up takes longer than the rest: do it before we hold the lock
        promise = self._promise(agent)
        while True:
            with self._changing() as book:
                if not (finishing or self._run):
                    book.check_time(self._now())
                room = book.room(without=None if aside else promise)
                if not (cancel and book.has_calls() and call.is_cramped(room)):
                    grant = call.grant(room, promised=promise in book.leases)
                    held = self._hold("call", agent, grant.call)
                    key = secrets.token_hex(6)
                    book.leases[key] = held
                    if grant.promise:
                        book.leases[promise] = self._hold("finishing", agent, grant.promise)
                    elif finishing:
                        book.leases.pop(promise, None)
                    return Lease(self, key, held, price, aside=aside)
            cancel.wait(0.2)
            cancel.check()

    @contextmanager
    def reserve_sandbox(self, agent: str) -> Iterator[Callable[[], None]]:
        """Count one agent against the limit while the block opens it.

        The block is given a function to call once the agent has really started; when the block ends before that,
        the slot comes back.

        Raises:
            SandboxLimitError: The run has had all the agents that it may have.
            RuntimeLimitError: The time is up.
        """
        key = secrets.token_hex(6)
        slot = Amount(sandboxes=1)
        with self._changing() as book:
            book.check_time(self._now())
            if error := book.room().breach(slot):
                raise error
            book.leases[key] = self._hold("opening", agent, slot)
        opening = True

        def started() -> None:
            nonlocal opening
            if opening:
                with self._changing() as book:
                    book.leases.pop(key, None)
                    book.count_agent(agent)
                opening = False

        try:
            yield started
        finally:
            if opening:
                with self._changing() as book:
                    book.leases.pop(key, None)

    def release_agent(self, agent: str) -> None:
        """Give back the finishing call that was kept for `agent`, which has ended."""
        with self._changing() as book:
            book.leases.pop(self._promise(agent), None)
        if not book.leases:
            self._storage.rest()

    def balance(self) -> Balance:
        """What is spent, reserved and left."""
        with self._looking() as book:
            return book.balance(self._now())

    def reserved_by(self) -> tuple[Reservation, ...]:
        """Everything that is reserved, in the order in which it was."""
        with self._looking() as book:
            return tuple(lease.model_copy() for lease in book.leases.values())

    def spent_by(self) -> dict[str, Amount]:
        """What each agent's own calls have cost."""
        with self._looking() as book:
            return {agent: spent.amount for agent, spent in book.agents.items()}

    def limits(self) -> Limits:
        """What may be spent in all."""
        with self._looking() as book:
            return book.limits

    @classmethod
    def look(cls, path: Path) -> Book:
        """What the file holds, the reservations of the dead included; nothing is changed.

        Raises:
            LedgerError: There is none, it is damaged, or a newer version wrote it.
        """
        storage = Storage(path)
        return _parsed(storage.path, storage.look())

    def _hold(self, kind: Kind, agent: str, amount: Amount) -> Reservation:
        pid, started = this_process()
        return Reservation(
            kind=kind,
            agent=agent,
            run=self._run,
            pid=pid,
            started=started,
            since=self._now(),
            cost=amount.cost,
            input_tokens=amount.input_tokens,
            output_tokens=amount.output_tokens,
        )

    def _promise(self, agent: str) -> str:
        """The key of the finishing call kept for `agent`; two runs that share a purse both have a `root`."""
        return f"finishing {agent} {self._serial}"

    def _now(self) -> float:
        return self._epoch + time.monotonic()

    @contextmanager
    def _looking(self) -> Iterator[Book]:
        """The book as it stands, for whoever changes nothing in it, and keeps nothing of it but copies."""
        with self._storage.looking() as text:
            book = self._known(text)
            self._latest = text, book
            yield book

    @contextmanager
    def _changing(self) -> Iterator[Book]:
        """The book, locked; when the block ends well, what it changed is written down."""
        with self._storage.locked():
            before = self._storage.read()
            book = self._known(before)
            self._latest = b"", None  # the block may leave a book that is not what the file holds
            yield book
            after = book.as_bytes()
            if after != before:
                self._storage.write(after)
            self._latest = after, book

    def _known(self, text: bytes) -> Book:
        """The book that this is the text of, without the dead."""
        # What we knew last and nobody has changed since need not be parsed, which is the most of a step's time.
        written, latest = self._latest
        book = latest if latest is not None and written == text else _parsed(self.path, text)
        book.bury(is_alive)
        return book


class Lease:
    """A reservation for one model call (`protocols.CallLease`): settled exactly once, by whoever made the call."""

    def __init__(self, ledger: BudgetFile, key: str, held: Reservation, price: Price, *, aside: bool) -> None:
        self.max_tokens = held.output_tokens
        self._ledger, self.key, self._held = ledger, key, held
        self._price, self._aside = price, aside
        self._settled = False
        self._lock = threading.Lock()

    def lower(self, max_tokens: int) -> None:
        """Ask for a shorter reply than was reserved."""
        with self._ledger._changing() as book:
            if held := book.leases.get(self.key):
                held.shrink(worst_call(self._price, held.input_tokens, max_tokens))
                self._held = held
        self.max_tokens = max_tokens

    def release(self) -> None:
        """Give everything back: the call is not made."""
        with self._ledger._changing() as book:
            book.leases.pop(self.key, None)
        self._settled = True

    def settle(self, usage: Usage | None) -> int:
        """Charge what was used, give back the rest, return micro-dollars; `None` keeps the whole reservation as spent.

        Raises:
            LedgerError: The lease was settled before, or the file cannot be used.
        """
        if usage is None:
            cost, usage = self._held.cost, self._held.amount.usage
        else:
            cost = self._price(usage)
        # What the agent's next prompt repeats is known exactly now, so that less may do for its finishing call.
        suffices = finishing_call(self._price, usage.prompt_tokens + usage.output_tokens, self._ledger._margin)
        with self._lock:
            if self._settled:
                raise LedgerError("this call was settled already")
            with self._ledger._changing() as book:
                if book.leases.pop(self.key, None) is None:
                    cost = self._held.cost  # taken for dead from outside its container, it was charged in full
                else:
                    book.charge(self._held.payer, cost, usage)
                promise = book.leases.get(self._ledger._promise(self._held.agent))
                if promise and usage.prompt_tokens and not self._aside:
                    promise.shrink(suffices)
            self._settled = True
        return cost


def _parsed(path: Path, text: bytes) -> Book:
    try:
        return Book.parse(text)
    except LedgerError as error:
        raise LedgerError(f"{path}: {error}") from None
