"""One budget for a whole tree of agents: a file under a lock, in which every call is reserved before it happens.

Every limit is held by `spent + reserved + asked <= limit`, looked at and written down in one locked step. Three things
are reserved: a `call` under way, the `finishing` call that an agent can still make when a limit is reached, and the
`opening` of an agent that has not started yet.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import filelock
import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import (
    BudgetExceededError,
    CallLimitError,
    CostLimitError,
    LedgerError,
    RuntimeLimitError,
    SandboxLimitError,
    TokenLimitError,
)
from rlm_nb.protocols import Price
from rlm_nb.records import Balance, Usage

VERSION = 1
"""Of the file's form. Keys that we do not know are kept; a file with a higher number is refused."""

FLOOR_TOKENS = 256
"""A reply shorter than this is not worth paying its prompt for."""

USEFUL_TOKENS = 4096
"""Rather than shorten a reply below this, a call waits for others to give back what they did not need."""

FINISH_TOKENS = 2048
"""What a finishing call may write: a cell that calls `FINAL`."""

MARGIN_TOKENS = 16_000
"""What a finishing call may read beyond the last call: a cell's output, cut at 10,000 characters, and our words."""

PATIENCE = 60.0
"""Seconds after which a lock that is not given up is an error: its holder is not dead, but stopped."""

Kind = Literal["call", "finishing", "opening"]
Count = Annotated[int, Field(ge=0)]


class Limits(BaseModel):
    """What may be spent in all; `None` where there is no limit.

    Args:
        cost: Micro-dollars.
        input_tokens: Everything read, from a cache or not.
        output_tokens: Everything written.
        calls: Model calls, those that failed included.
        sandboxes: Agents that were started.
        deadline: Seconds since the epoch, after which no agent and no call but a finishing one begins.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    cost: Count | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    calls: Count | None = None
    sandboxes: Count | None = None
    deadline: float | None = None


@dataclass(frozen=True)
class Amount:
    """So much of what the limits count."""

    cost: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0
    sandboxes: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.cost + other.cost,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.calls + other.calls,
            self.sandboxes + other.sandboxes,
        )


@dataclass(frozen=True)
class Reservation:
    """What an agent holds at the moment, and the process that it lives in."""

    kind: Kind
    agent: str
    pid: int
    amount: Amount


class BudgetFile:
    """The ledger in the file `path`, for any number of threads and processes; each process opens it for itself.

    The lock is `path` + `.lock`. It is the operating system's and ends with its holder, so it is never removed:
    unlinking a locked file would split its waiters across two inodes.

    Args:
        path: The budget file.
        margin: Tokens that a finishing call may read beyond the prompt and reply of the agent's last call.
    """

    def __init__(self, path: Path, *, margin: int = MARGIN_TOKENS) -> None:
        self.path = path.resolve()  # two names of one purse share one lock
        self._margin = margin
        self._serial = secrets.token_hex(3)
        self._known: dict[tuple[int, float], psutil.Process] = {}
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
        with ledger._locked():
            if ledger.path.exists():
                raise LedgerError(f"{ledger.path}: there is a budget file already; open it, or choose another place")
            limits_kept = _Limits(**limits.model_dump())
            ledger._write(_Book(version=VERSION, created=ledger._now(), limits=limits_kept).model_dump_json().encode())
        return ledger

    @classmethod
    def open(cls, path: Path, *, margin: int = MARGIN_TOKENS) -> BudgetFile:
        """The ledger that somebody created.

        Raises:
            LedgerError: There is none, it is damaged, or a newer version wrote it.
        """
        ledger = cls(path, margin=margin)
        ledger._look()
        return ledger

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
        ask = _Ask(functools.cache(price), prompt_tokens, max_tokens, finishing, aside, self._margin)
        ask.grant(max_tokens, None)  # looking prices up takes longer than the rest: do it before we hold the lock
        promise = self._promise(agent)
        while True:
            with self._changing() as book:
                if not finishing:
                    self._check_time(book)
                held, taken = book.leases.get(promise), book.taken(without=promise)
                grant = ask.fit(book.limits, taken, held)
                short = grant is None or grant.tokens < ask.useful
                if not (short and cancel and book.has_calls()):
                    grant = grant or ask.fit_alone(book.limits, taken, held)
                    key = secrets.token_hex(6)
                    book.leases[key] = _lease("call", agent, grant.call)
                    if grant.promise:
                        book.leases[promise] = _lease("finishing", agent, grant.promise)
                    else:
                        book.leases.pop(promise, None)
                    return Lease(self, key, agent, price, grant, aside)
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
            self._check_time(book)
            if error := _breach(book.limits, book.taken(), slot):
                raise error
            book.leases[key] = _lease("opening", agent, slot)
        opening = True

        def started() -> None:
            nonlocal opening
            if opening:
                with self._changing() as book:
                    book.leases.pop(key, None)
                    book.spent.sandboxes += 1
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

    def balance(self) -> Balance:
        """What is spent, reserved and left."""
        book = self._look()
        return Balance(
            spent_cost=book.spent.cost,
            reserved_cost=sum(lease.cost for lease in book.leases.values()),
            limit_cost=book.limits.cost,
            spent=book.spent.usage,
            calls=book.spent.calls,
            sandboxes=book.taken().sandboxes,
            limit_sandboxes=book.limits.sandboxes,
            seconds_left=None if book.limits.deadline is None else max(0.0, book.limits.deadline - self._now()),
        )

    def reserved_by(self) -> tuple[Reservation, ...]:
        """Everything that is reserved, in the order in which it was."""
        leases = self._look().leases.values()
        return tuple(Reservation(lease.kind, lease.agent, lease.pid, lease.amount) for lease in leases)

    def spent_by(self) -> dict[str, Amount]:
        """What each agent's own calls have cost."""
        return {agent: spent.amount for agent, spent in self._look().agents.items()}

    def _promise(self, agent: str) -> str:
        """The key of the finishing call kept for `agent`; two runs that share a purse both have a `root`."""
        return f"finishing {agent} {self._serial}"

    def _now(self) -> float:
        return self._epoch + time.monotonic()

    def _check_time(self, book: _Book) -> None:
        deadline = book.limits.deadline
        if deadline is not None and self._now() >= deadline:
            raise RuntimeLimitError("seconds", self._now() - book.created, deadline - book.created)

    def _look(self) -> _Book:
        """The book as it stands; a reader needs no lock, since the file is only ever replaced by a whole one."""
        book = self._parse(self._read())
        book.bury(self._is_alive)
        return book

    @contextmanager
    def _changing(self) -> Iterator[_Book]:
        """The book, locked; when the block ends well, what it changed is written down."""
        with self._locked():
            before = self._read()
            book = self._parse(before)
            book.bury(self._is_alive)
            yield book
            after = book.model_dump_json().encode()
            if after != before:
                self._write(after)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # A lock object for each step: one of them may not cross a fork. No soft lock where flock is missing: it would
        # outlive a holder that was killed.
        lock = filelock.FileLock(f"{self.path}.lock", PATIENCE, poll_interval=0.01, fallback_to_soft=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise LedgerError(
                f"{self.path}: locked for {PATIENCE:g} s; a process that shares it is stopped, resume or end it"
            ) from None
        except OSError as error:
            raise LedgerError(f"{self.path}: cannot be locked: {error.strerror}") from None
        try:
            yield
        finally:
            lock.release()

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            raise LedgerError(f"{self.path}: there is no budget file; create one, or was its run removed?") from None
        except OSError as error:
            raise LedgerError(f"{self.path}: cannot be read: {error.strerror}") from None

    def _parse(self, text: bytes) -> _Book:
        try:
            book = _Book.model_validate_json(text)
        except ValidationError as error:
            # A newer version may have another form altogether: its number is looked for first.
            if _version(text) <= VERSION:
                fault = error.errors()[0]
                where = ".".join(str(part) for part in fault["loc"])
                raise LedgerError(
                    f"{self.path}: damaged ({where + ': ' if where else ''}{fault['msg']}). What was spent cannot be "
                    "known from it: restore the file, or end the runs that share it, remove it and start anew"
                ) from None
        else:
            if book.version <= VERSION:
                return book
        raise LedgerError(f"{self.path}: written by a newer rlm-nb (version {_version(text)} of the file); upgrade")

    def _write(self, text: bytes) -> None:
        # Written beside and moved over, so that the file is whole whenever a process is killed; a rest of the killed
        # one's is overwritten by the next. No fsync: a killed process loses nothing that the system has taken, and a
        # power cut ends every holder too; at the worst it leaves a damaged file, which is refused, never reset.
        beside = self.path.with_name(f"{self.path.name}.new")
        try:
            beside.write_bytes(text)
            beside.replace(self.path)
        except OSError as error:
            raise LedgerError(f"{self.path}: cannot be written: {error.strerror}") from None

    def _is_alive(self, pid: int, started: float) -> bool:
        if pid == os.getpid():
            return abs(started - _my_start(pid)) < 1
        try:
            if (pid, started) not in self._known:
                process = psutil.Process(pid)
                if abs(started - _start(process)) >= 1:
                    return False  # the number went to another process
                self._known[pid, started] = process
            process = self._known[pid, started]
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True  # it exists, and only its owner may know more


class Lease:
    """A reservation for one model call (`protocols.CallLease`): settled exactly once, by whoever made the call."""

    def __init__(self, ledger: BudgetFile, key: str, agent: str, price: Price, grant: _Grant, aside: bool) -> None:
        self.max_tokens = grant.tokens
        self._ledger, self._key, self._agent, self._aside = ledger, key, agent, aside
        self._price, self._reserved = price, grant.call
        self._settled = False
        self._lock = threading.Lock()

    def settle(self, usage: Usage | None) -> int:
        """Charge what was used, give back the rest, return micro-dollars; `None` keeps the whole reservation as spent.

        Raises:
            LedgerError: The lease was settled before, or the file cannot be used.
        """
        if usage is None:
            cost, usage = self._reserved.cost, _worst_usage(self._reserved)
        else:
            cost = self._price(usage)
        # What the agent's next prompt repeats is known exactly now, so that less may do for its finishing call.
        repeats = usage.prompt_tokens + usage.output_tokens + self._ledger._margin
        suffices = _call(self._price, repeats, FINISH_TOKENS)
        with self._lock:
            if self._settled:
                raise LedgerError("this call was settled already")
            with self._ledger._changing() as book:
                if book.leases.pop(self._key, None) is None:
                    cost = self._reserved.cost  # taken for dead from outside its container, it was charged in full
                else:
                    book.charge(self._agent, cost, usage)
                promise = book.leases.get(self._ledger._promise(self._agent))
                if promise and usage.prompt_tokens and not self._aside:
                    promise.shrink(suffices)
            self._settled = True
        return cost


def worst_case(price: Price, prompt_tokens: int, max_tokens: int) -> int:
    """Micro-dollars of the dearest call that reads and writes so much: fresh, written to a cache or read from it.

    A mixture costs no more than the dearest of its parts, since what a list charges by size goes by the whole prompt.
    """
    ways = ("input_tokens", "cache_write_tokens", "cache_read_tokens")
    return max(price(Usage(**{way: prompt_tokens}, output_tokens=max_tokens)) for way in ways)


@dataclass(frozen=True)
class _Grant:
    """What a call may have, and what is promised for the finishing call after it."""

    tokens: int
    call: Amount
    promise: Amount | None

    @property
    def needs(self) -> Amount:
        return self.call + (self.promise or Amount())


@dataclass(frozen=True)
class _Ask:
    """What an agent wants to reserve; decides what of it fits, touches nothing."""

    price: Price
    prompt_tokens: int
    max_tokens: int
    finishing: bool
    aside: bool
    margin: int

    @property
    def floor(self) -> int:
        return min(FLOOR_TOKENS, self.max_tokens)

    @property
    def useful(self) -> int:
        return min(FINISH_TOKENS if self.finishing else USEFUL_TOKENS, self.max_tokens)

    def fit(self, limits: Limits, taken: Amount, held: _Lease | None) -> _Grant | None:
        """The longest reply that fits together with the promise; `taken` is all but what was promised so far."""
        return self._longest(limits, taken, lambda tokens: self.grant(tokens, held))

    def fit_alone(self, limits: Limits, taken: Amount, held: _Lease | None) -> _Grant:
        """The longest reply of an agent that can be promised nothing.

        Raises:
            BudgetExceededError: Even the shortest does not fit, or the agent holds a promise, which stays.
        """
        grant = None if held else self._longest(limits, taken, self._without_promise)
        if grant is None:
            least = self.grant(self.floor, held) if held else self._without_promise(self.floor)
            error = _breach(limits, taken, least.needs)
            assert error is not None, "refused although it fits"
            raise error
        return grant

    def grant(self, tokens: int, held: _Lease | None) -> _Grant:
        """What a reply of so many tokens asks for."""
        call = _call(self.price, self.prompt_tokens, tokens)
        if self.finishing:
            return _Grant(tokens, call, None)
        if self.aside:
            return _Grant(tokens, call, held.amount if held else None)
        return _Grant(tokens, call, _call(self.price, self.prompt_tokens + tokens + self.margin, FINISH_TOKENS))

    def _without_promise(self, tokens: int) -> _Grant:
        return _Grant(tokens, _call(self.price, self.prompt_tokens, tokens), None)

    def _longest(self, limits: Limits, taken: Amount, grant: Callable[[int], _Grant]) -> _Grant | None:
        def fits(tokens: int) -> _Grant | None:
            asked = grant(tokens)
            return None if _breach(limits, taken, asked.needs) else asked

        best = fits(self.max_tokens)
        if best is not None:
            return best
        best, low, high = fits(self.floor), self.floor, self.max_tokens
        while best and high - low > 1:
            middle = (low + high) // 2
            if better := fits(middle):
                best, low = better, middle
            else:
                high = middle
        return best


def _call(price: Price, prompt_tokens: int, max_tokens: int) -> Amount:
    return Amount(worst_case(price, prompt_tokens, max_tokens), prompt_tokens, max_tokens, calls=1)


_LIMITS: tuple[tuple[str, type[BudgetExceededError], str, int], ...] = (
    ("cost", CostLimitError, "cost in US dollars", 1_000_000),
    ("input_tokens", TokenLimitError, "input tokens", 1),
    ("output_tokens", TokenLimitError, "output tokens", 1),
    ("calls", CallLimitError, "model calls", 1),
    ("sandboxes", SandboxLimitError, "agents", 1),
)
"""The field, the error of its limit, its name with the unit for people, and how much of us makes one of it."""


def _breach(limits: Limits, taken: Amount, asked: Amount) -> BudgetExceededError | None:
    """The first limit that `asked` would pass; what asks for nothing of a kind is not held up by its limit."""
    for field, error, words, unit in _LIMITS:
        limit, more, used = getattr(limits, field), getattr(asked, field), getattr(taken, field)
        if limit is not None and more and used + more > limit:
            return error(f"{words} ({more / unit:g} more may be needed)", used / unit, limit / unit)
    return None


class _Kept(BaseModel):
    """A part of the file; what a later version of the same form adds to it is carried along."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Limits(Limits):
    model_config = ConfigDict(extra="allow")


class _Spent(_Kept):
    cost: Count = 0
    input_tokens: Count = 0
    output_tokens: Count = 0
    cache_read_tokens: Count = 0
    cache_write_tokens: Count = 0
    calls: Count = 0
    sandboxes: Count = 0

    @property
    def usage(self) -> Usage:
        return Usage(self.input_tokens, self.output_tokens, self.cache_read_tokens, self.cache_write_tokens)

    @property
    def amount(self) -> Amount:
        return Amount(self.cost, self.usage.prompt_tokens, self.output_tokens, self.calls, self.sandboxes)

    def add_call(self, cost: int, usage: Usage) -> None:
        self.cost += cost
        self.calls += 1
        for name, tokens in asdict(usage).items():
            setattr(self, name, getattr(self, name) + tokens)


class _Lease(_Kept):
    kind: Kind
    agent: str
    pid: int
    started: float
    cost: Count = 0
    input_tokens: Count = 0
    output_tokens: Count = 0

    @property
    def amount(self) -> Amount:
        calls, sandboxes = (0, 1) if self.kind == "opening" else (1, 0)
        return Amount(self.cost, self.input_tokens, self.output_tokens, calls, sandboxes)

    def shrink(self, to: Amount) -> None:
        self.cost = min(self.cost, to.cost)
        self.input_tokens = min(self.input_tokens, to.input_tokens)


class _Book(_Kept):
    """What the file holds. Settled leases vanish into the totals, so that it stays small."""

    version: int
    created: float
    limits: _Limits
    spent: _Spent = Field(default_factory=_Spent)
    agents: dict[str, _Spent] = Field(default_factory=dict)
    leases: dict[str, _Lease] = Field(default_factory=dict)

    def taken(self, without: str | None = None) -> Amount:
        """Spent and reserved, but for the lease `without`."""
        return sum((lease.amount for key, lease in self.leases.items() if key != without), self.spent.amount)

    def has_calls(self) -> bool:
        """Whether a call is under way that may give something back."""
        return any(lease.kind == "call" for lease in self.leases.values())

    def charge(self, agent: str, cost: int, usage: Usage) -> None:
        """Count a call as spent, in all and for its agent."""
        for spent in (self.spent, self.agents.setdefault(agent, _Spent())):
            spent.add_call(cost, usage)

    def bury(self, is_alive: Callable[[int, float], bool]) -> None:
        """Settle for the dead: their calls may have been billed in full, the rest never came about."""
        alive = functools.cache(is_alive)
        for key, lease in list(self.leases.items()):
            if not alive(lease.pid, lease.started):
                del self.leases[key]
                if lease.kind == "call":
                    self.charge(lease.agent, lease.cost, _worst_usage(lease.amount))


def _lease(kind: Kind, agent: str, amount: Amount) -> _Lease:
    pid = os.getpid()
    tokens = {"input_tokens": amount.input_tokens, "output_tokens": amount.output_tokens}
    return _Lease(kind=kind, agent=agent, pid=pid, started=_my_start(pid), cost=amount.cost, **tokens)


def _worst_usage(amount: Amount) -> Usage:
    return Usage(input_tokens=amount.input_tokens, output_tokens=amount.output_tokens)


def _version(text: bytes) -> int:
    """The number of the file's form, 0 when it has none that can be read."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        return 0
    version = found.get("version") if isinstance(found, dict) else None
    return version if isinstance(version, int) else 0


@functools.cache
def _my_start(pid: int) -> float:
    return _start(psutil.Process(pid))


def _start(process: psutil.Process) -> float:
    # Seconds since the boot: both halves move when the clock is set, their difference does not.
    return process.create_time() - psutil.boot_time()
