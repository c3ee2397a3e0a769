"""A task ends when it should, whatever it does, and keeps what it had."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import ConfigError, RuntimeLimitError
from rlm_nb.tasks import (
    Context,
    CostLimitError,
    GuardConfig,
    context_chunks,
    context_search,
    context_slice,
    partial,
    semantic_subcall,
)
from rlm_nb.tasks.examples import ask_book
from tests.tasks.conftest import Run

LIMIT = 0.4
BOUND = 3.0
"""Seconds in which a task of that limit has returned, on a busy machine too."""


def in_a_subcall(text: str) -> Any:
    yield "found"
    semantic_subcall("slow?", text)


def in_a_loop(text: str) -> Any:
    partial(["found"])
    while True:
        pass


def in_a_sleep(text: str) -> Any:
    yield "found"
    time.sleep(2 * BOUND)


def in_a_comprehension(text: str) -> Any:
    found = partial([])
    found.append("found")
    return sum(1 for number in iter(int, 1))


def in_a_search(text: str) -> Any:
    yield "found"
    context_search("ab" * 2000, r"(.*a){20}x", timeout=60)


def in_an_event_loop(text: str) -> Any:
    async def wait() -> None:
        partial(["found"])
        while True:
            await asyncio.sleep(0.01)

    return wait()


@pytest.mark.parametrize(
    "task",
    [
        in_a_subcall,
        in_a_loop,
        in_a_sleep,
        in_a_comprehension,
        in_a_search,
        in_an_event_loop,
    ],
    ids=lambda task: task.__name__,
)
def test_the_time_is_up(run: Run, task: Any) -> None:
    """Within a subcall, in pure Python, and where no Python runs: the caller has its partial result soon after."""
    began = time.monotonic()
    result = run(task, says=[("slow", {"text": "late", "delay": 60})], max_runtime_seconds=LIMIT)
    assert time.monotonic() - began < LIMIT + BOUND
    assert (result["status"], result["result"]) == ("partial", ["found"])
    assert result["error"].startswith("limit reached: seconds of a task: 0.")
    assert result["budget_summary"]["elapsed_seconds"] < LIMIT + BOUND


STUBBORN = """
import contextlib, threading, time
from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.tasks import GuardConfig, partial, run_task

def a_loop():
    while True:
        try:
            while True: pass
        except BaseException:
            continue

def loops_in_loops():
    def inner():
        while True:
            try: time.sleep(0.001)
            except BaseException: count = 1
    while True:
        try: inner()
        except: pass

def a_block():
    while True:
        with contextlib.suppress(BaseException):
            while True: pass

def its_end():
    while True:
        try: sum(number for number in iter(int, 1))
        finally: continue

def a_generator():
    def values():
        while True:
            try: yield 1
            except Exception: yield 2
    while True:
        try:
            for value in values(): pass
        except BaseException:
            values()

for stubborn in (a_loop, loops_in_loops, a_block, its_end, a_generator):
    def task(text):
        partial(["found"])
        stubborn()

    began = time.monotonic()
    result = run_task(task, "text", GuardConfig(max_runtime_seconds=0.2), model=ScriptedModel.of({}), record=False)
    in_time = time.monotonic() - began < 3.2
    deadline = time.monotonic() + 10
    while any(thread.name == "rlm-task" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    print(stubborn.__name__, result["status"], result["result"], in_time, time.monotonic() < deadline)
"""


def test_a_loop_that_catches_everything(tmp_path: Path) -> None:
    """However it does that, its caller has the result in time, and nothing of it goes on."""
    # In a process of its own: what cannot be ended would disturb the tests that follow.
    done = subprocess.run([sys.executable, "-c", STUBBORN], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    names = ("a_loop", "loops_in_loops", "a_block", "its_end", "a_generator")
    assert done.stdout.splitlines() == [f"{name} partial ['found'] True True" for name in names], done.stderr
    assert (done.returncode, done.stderr) == (0, "")


def test_a_task_may_use_its_last_moment(run: Run) -> None:
    """It can catch the limit once, and return what it makes of its findings."""

    def task(text: str) -> Any:
        try:
            while True:
                pass
        except RuntimeLimitError as error:
            return f"{error.what}: {error.limit:g}"

    result = run(task, max_runtime_seconds=LIMIT)
    assert (result["status"], result["result"]) == ("completed", f"seconds of a task: {LIMIT:g}")


def test_the_money_is_up(run: Run) -> None:
    """The call that could pass the limit is not made; what was found is the result, and the sums add up."""

    def task(text: str) -> Any:
        for number in range(1000):
            yield semantic_subcall(f"question {number}", text)

    result = run(task, max_cost=0.02)
    assert result["status"] == "partial"
    assert 0 < len(result["result"]) == result["budget_summary"]["total_calls"] < 1000
    assert result["error"].startswith("limit reached: cost in US dollars")
    summary = result["budget_summary"]
    assert list(summary) == [
        "total_cost_usd",
        "cost_budget_usd",
        "cost_remaining_usd",
        "total_calls",
        "elapsed_seconds",
    ]
    assert 0 < summary["total_cost_usd"] <= 0.02
    assert summary["total_cost_usd"] + summary["cost_remaining_usd"] == pytest.approx(0.02)

    def hopeless(text: str) -> Any:
        with pytest.raises(CostLimitError):
            semantic_subcall("?", text)
        return "told"

    assert run(hopeless, max_cost=0.000_001)["result"] == "told"


def test_a_task_that_raises_keeps_its_findings(run: Run) -> None:
    """The status is an error, the sentence names it, and what was found before is there."""

    def task(text: str) -> Any:
        yield {"line": 1}
        raise KeyError("line 2")

    result = run(task)
    assert dict(result) | {"budget_summary": None} == {
        "status": "error",
        "result": [{"line": 1}],
        "error": "KeyError: 'line 2'",
        "budget_summary": None,
    }
    assert isinstance(result.raised, KeyError)
    assert run(lambda _: [][1])["result"] is None
    assert run(lambda _: exit(3))["error"] == "SystemExit: 3"


def test_how_findings_are_kept(run: Run) -> None:
    """The last ones that were stored; a generator's values, unless it returns something."""

    def values(text: str) -> Any:
        yield 1
        yield 2

    def returned(text: str) -> Any:
        yield 1
        return {"all": 1}

    def stored(text: str) -> Any:
        partial("old")
        found = partial({"new": []})
        found["new"].append(len(text))
        raise ValueError

    async def later(text: str) -> str:
        await asyncio.sleep(0)
        return semantic_subcall("?", text)

    async def both(text: str) -> Any:
        yield 1
        await asyncio.sleep(0)
        yield semantic_subcall("?", text)

    async def both_for_ever(text: str) -> Any:
        yield 1
        await asyncio.sleep(60)

    assert run(values)["result"] == [1, 2]
    assert run(both)["result"] == [1, "fine"]
    stopped = run(both_for_ever, max_runtime_seconds=LIMIT)
    assert (stopped["status"], stopped["result"]) == ("partial", [1])
    assert run(returned)["result"] == {"all": 1}
    assert run(stored, "four")["result"] == {"new": [4]}
    assert run(later)["result"] == "fine"
    for falsy in (0, "", [], None, False):
        assert (run(lambda _, value=falsy: value)["status"], run(lambda _, value=falsy: value)["result"]) == (
            "completed",
            falsy,
        )


@pytest.mark.parametrize("limits", [{"max_runtime_seconds": LIMIT}, {"max_cost": 0.012}])
def test_a_book_that_is_half_read(run: Run, limits: dict[str, Any]) -> None:
    """The passages whose answers are paid for are findings, when time or money end a batch."""
    book = "".join(f"The butler, number {number}. " + f"{number} and so on. " * 300 for number in range(5))
    slow = {"text": "late", "delay": 60 if "max_runtime_seconds" in limits else 0}
    result = run(
        functools.partial(ask_book, question="Where is the butler?"),
        book,
        [("number [34]", slow), (".", "He did it.")],
        **limits,
    )
    assert result["status"] == "partial"
    assert 0 < len(result["result"]) < 5
    assert len(result["result"]) == sum(call.error is None for call in result.subcalls)
    assert result["error"].startswith("limit reached")


def test_an_end_at_the_end_of_a_task(tmp_path: Path) -> None:
    """What is sent to end a task that ends by itself at that moment leaves no traceback."""
    code = (
        "from rlm_nb.models.scripted import ScriptedModel\n"
        "from rlm_nb.tasks import GuardConfig, run_task\n"
        "def task(text):\n    try:\n        while True: pass\n    except BaseException: return 1\n"
        "for _ in range(12):\n"
        "    run_task(task, 't', GuardConfig(max_runtime_seconds=0.01), model=ScriptedModel.of({}), record=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_very_many_looks(run: Run) -> None:
    """They do not keep the caller waiting; how many were left out of the record is in it."""

    def task(text: str) -> Any:
        for _ in context_chunks(text, 1):
            pass

    began = time.monotonic()
    result = run(task, "x" * 300_000, max_runtime_seconds=2 * LIMIT)
    assert time.monotonic() - began < 2 * LIMIT + BOUND
    assert result.folder is not None
    lines = (result.folder / "audit.jsonl").read_text("utf-8").splitlines()
    assert all("access" in json.loads(line) or "left_out" in json.loads(line) for line in lines)


def test_somebody_stops_it(run: Run) -> None:
    """It is partial, with its findings, and says why."""
    cancel = Cancellation()
    timer = threading.Timer(0.2, cancel.cancel, ["interrupted by the user"])
    timer.start()
    result = run(in_a_loop, cancel=cancel)
    timer.join()
    assert (result["status"], result["result"], result["error"]) == ("partial", ["found"], "interrupted by the user")


def test_two_tasks_at_once(run: Run) -> None:
    """In threads and under an event loop: each has its own limits, money and findings."""

    def task(text: str) -> Any:
        partial(f"of {text}")
        for number in range(10):
            semantic_subcall(f"{text} {number}", text)
            time.sleep(0.01)
        return text

    def limited(number: int) -> Any:
        limits = {"max_cost": 0.0055} if number % 2 else {"max_cost": 5.0}
        return run(task, f"text {number}", **limits)

    with ThreadPoolExecutor(4) as pool:
        in_threads = list(pool.map(limited, range(4)))

    async def together() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(limited, number) for number in range(4)))

    for results in (in_threads, asyncio.run(together())):
        assert [result["status"] for result in results] == ["completed", "partial"] * 2
        assert [result["result"] for result in results] == ["text 0", "of text 1", "text 2", "of text 3"]
        assert [result["budget_summary"]["cost_budget_usd"] for result in results] == [5.0, 0.0055] * 2
        assert results[0]["budget_summary"]["total_calls"] == 10


def test_what_a_task_looked_at(run: Run, here: Path) -> None:
    """Each access and subcall is told with source, offset, length and hash, and the result names its chunks."""
    (here / "log.txt").write_text("nothing\nan error here\n")
    heard: list[Any] = []

    def task(context: Context) -> str:
        (match,) = context_search(context, "error")
        semantic_subcall("made up", "x" + context_slice(context, 0, 7))
        return semantic_subcall("why?", context_slice(context, match.start - 3, match.end))

    result = run(task, here / "log.txt", listen=heard.append)
    assert result["status"] == "completed"
    made, cited = result.chunks
    assert (made.source, made.length) == ("", 8)
    assert (cited.source, cited.operation, cited.start, cited.length) == (str(here / "log.txt"), "slice", 8, 8)
    assert cited.sha256 == hashlib.sha256(b"an error").hexdigest()
    assert [told.operation for told in heard if hasattr(told, "operation")] == ["search", "match", "slice", "slice"]


@pytest.mark.parametrize(
    "limits",
    [
        *({"max_cost": 0}, {"max_cost": 1e300}, {"max_cost": "1"}, {"max_runtime_seconds": -1}),
        *({"max_runtime_seconds": float("inf")}, {"max_tokens_per_subcall": True}, {"max_tokens_per_subcall": 10**30}),
    ],
)
def test_limits_that_are_none(limits: dict[str, Any]) -> None:
    """They are refused by name."""
    with pytest.raises(ConfigError, match=f"{next(iter(limits))} must be a number above 0"):
        GuardConfig(**limits)


def test_parts_of_a_token() -> None:
    """They are refused."""
    with pytest.raises(ConfigError, match="max_tokens_per_subcall must be a whole number"):
        GuardConfig(max_tokens_per_subcall=4000.7)  # type: ignore[arg-type]
