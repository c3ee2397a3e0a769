"""Processes that spend from one budget file, and are killed at it: what their model charges stays within the limit."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from rlm_nb.bench.table import Expectation, Row
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import TokenPrices
from rlm_nb.errors import BudgetExceededError
from rlm_nb.ledger import BudgetFile, Limits
from rlm_nb.models.metered import MeteredModel, configured_price
from rlm_nb.records import Message, Reply, Request, Usage
from rlm_nb.workspace.scratch import scratch

WITHIN = Expectation(1, unit="× the limit", note="(never more)")
SPEED = Expectation(500, unit=" operations/s", least=True)

PROCESSES, CALLS = 8, 200
KILLED = 3
"""Processes that are killed while a call of theirs is out."""

PRICE = configured_price(TokenPrices(input=3, output=15))
PLENTY = 10**12


def measure(quick: bool) -> Iterator[Row]:
    """The simulation, whose budget ends before its calls do; then how fast the ledger is when all contend for it."""
    calls = 10 if quick else CALLS
    with scratch() as folder:
        limit = 8_000 * PROCESSES * calls  # about two thirds of what all calls would cost
        ledger = BudgetFile.create(folder / "budget.json", Limits(cost=limit))
        with _Service(deadly=1 + calls // 8) as service:
            codes = _together(_spend, ledger.path, calls, service.port)
        killed, balance = codes.count(-signal.SIGKILL), ledger.balance()
        assert codes.count(0) + killed == PROCESSES, codes
        assert balance.reserved_cost == 0, balance
        assert service.charged <= balance.spent_cost, "the ledger knows of less than was charged"
        yield Row.judged(
            WITHIN,
            service.charged / limit,
            f"{PROCESSES} processes × {calls} calls of random cost, {killed} killed in mid-call: what was charged",
            f"${service.charged / 1e6:.4f}",
            f"${limit / 1e6:.4f}",
        )
        contended = BudgetFile.create(folder / "contended.json", Limits(cost=PLENTY))
        began = Path(folder, "began")
        codes = _together(_contend, contended.path, calls, str(began))
        assert codes == [0] * PROCESSES, codes
        spans = [tuple(map(float, path.read_text().split())) for path in folder.glob("began.*")]
        took = max(end for _, end in spans) - min(begin for begin, _ in spans)
        operations = 2 * PROCESSES * calls  # a reservation and a settlement for each
        assert contended.balance().calls == PROCESSES * calls
        what = f"operations of {PROCESSES} processes on one budget file, as fast as they can"
        yield Row.judged(SPEED, operations / took, what, f"{1000 * took / operations:.2f} ms each")


def _together(work: Callable[..., None], *arguments: Any) -> list[int | None]:
    """Have so many processes do it, each with its number and a barrier before the arguments; their exit codes."""
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(PROCESSES)
    processes = [spawn.Process(target=work, args=(number, barrier, *arguments)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _contend(number: int, barrier: Any, path: Path, calls: int, times: str) -> None:
    ledger = BudgetFile.open(path)
    barrier.wait()
    began = time.monotonic()  # the same clock for all processes
    for _ in range(calls):
        ledger.reserve_call(f"root.{number}", PRICE, 9000, 16384).settle(Usage(9000, 300))
    Path(f"{times}.{number}").write_text(f"{began} {time.monotonic()}", encoding="utf-8")


def _spend(number: int, barrier: Any, path: Path, calls: int, port: int) -> None:
    dice, agent = random.Random(number), f"root.{number}"
    model = MeteredModel(_Caller(port, number), BudgetFile.open(path), PRICE, agent, 2000)
    barrier.wait()
    for _ in range(calls):
        question = Message("user", "x" * dice.randrange(200, 4000))
        with suppress(BudgetExceededError):  # another call may be smaller
            request = Request((question,), agent=agent, max_tokens=dice.randrange(300, 2000))
            model.complete(request, Cancellation(time.monotonic() + 60))


class _Caller:
    """A model behind the service."""

    name = "simulated"

    def __init__(self, port: int, number: int) -> None:
        self._number = number
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def complete(self, request: Request, cancel: Cancellation, on_text: Callable[[str], None] | None = None) -> Reply:
        asked = {
            "number": self._number,
            "pid": os.getpid(),
            "prompt": len(request.messages[0].content),
            "max_tokens": request.max_tokens,
        }
        self._connection.request("POST", "/", json.dumps(asked))
        usage: dict[str, int] = json.loads(self._connection.getresponse().read())
        return Reply("", Usage(**usage))


class _Service:
    """Answers calls on loopback, and records what it charges; of some callers it kills the process in mid-call.

    Args:
        deadly: The number of its call in which a caller is killed, if it is one of the first `KILLED`.
    """

    def __init__(self, deadly: int) -> None:
        self.charged = 0
        self._deadly, self._dice = deadly, random.Random(0)
        self._counts = [0] * PROCESSES
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        # The default polls for its end every half second.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, asked: dict[str, int]) -> dict[str, int]:
        """Charge a call, before its caller is told, or killed."""
        with self._lock:
            number = asked["number"]
            self._counts[number] += 1
            usage = Usage(
                self._dice.randint(1, asked["prompt"]),
                self._dice.randint(1, asked["max_tokens"]),
            )
            self.charged += PRICE(usage)
            dies = number < KILLED and self._counts[number] == self._deadly
        if dies:
            os.kill(asked["pid"], signal.SIGKILL)
        return {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle(self) -> None:
                with suppress(ConnectionError):  # of the dead
                    super().handle()

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                data = json.dumps(service.answer(asked)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler
