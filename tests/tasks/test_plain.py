"""Whatever a task returns is delivered and recorded."""

from __future__ import annotations

import itertools
import json
from datetime import date
from typing import Any

import pytest

from rlm_nb.task_run import as_json
from rlm_nb.tasks.plain import LONGEST, PARTS, plain
from tests.tasks.conftest import Run


class Mute:
    """An object that will not be shown."""

    def __str__(self) -> str:
        raise ValueError("no")

    __repr__ = __str__


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def around() -> Any:
    value: dict[str, Any] = {"a": 1}
    value["self"] = value
    return value


def twice(levels: int) -> Any:
    value: Any = ["x"]
    for _ in range(levels):
        value = [value, value]
    return value


STRANGE = {
    "bytes": lambda: b"\xff",
    "cycle": around,
    "surrogate": lambda: "\ud800",
    "key": lambda: {"\ud800": 1, (1, 2): 2, None: 3},
    "endless": itertools.count,
    "deep": lambda: nested(3000),
    "mute": Mute,
    "number": lambda: 10**5000,
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_json_cannot_hold(run: Run, name: str) -> None:
    """The task is completed all the same, its value is there as it is, and as JSON on disk and for the command line."""
    value = STRANGE[name]()
    result = run(lambda _: value)
    assert result["status"] == "completed"
    assert result["result"] is value
    assert result.folder is not None
    recorded = json.loads((result.folder / "result.json").read_text("utf-8"))
    assert recorded == json.loads(as_json(result).encode("utf-8"))
    assert recorded["status"] == "completed"
    assert (result.folder / "task.ipynb").stat().st_size > 0


def test_the_forms() -> None:
    """What JSON has stays; the rest is its text, which is bounded."""
    assert plain({"a": (1, 2.5, None, True, "ü"), "b": {3}}) == {"a": [1, 2.5, None, True, "ü"], "b": [3]}
    assert plain([b"\xff", "\ud800", float("nan"), float("-inf")]) == ["\\xff", "\\ud800", "NaN", "-Infinity"]
    assert plain([date(2026, 1, 2), itertools.count()]) == ["2026-01-02", "count(0)"]
    assert str(dict(plain(around()))["self"]).startswith("{'a': 1, 'self': {")
    assert len(plain(list(range(PARTS + 9)))) == PARTS
    assert len(str(plain(twice(40)))) < 20 * PARTS
    assert plain(Mute()) == "<Mute, whose text cannot be had: ValueError>"
    assert len(str(plain(10**50_000))) <= LONGEST


def test_an_error_that_will_not_be_shown(run: Run) -> None:
    """It is an error, with what was found."""

    class Silent(Mute, Exception):
        pass

    def task(text: str) -> Any:
        yield 1
        raise Silent

    result = run(task)
    assert (result["status"], result["result"]) == ("error", [1])
    assert result["error"].startswith("Silent: ")


def test_an_answer_with_half_a_character(run: Run) -> None:
    """A lone surrogate in what the model says harms no record."""
    from rlm_nb.tasks import semantic_subcall

    result = run(lambda text: semantic_subcall("?", text), says=[(".", "a\ud800b")])
    assert (result["status"], result["result"]) == ("completed", "a\ud800b")
    assert result.folder is not None
    assert json.loads((result.folder / "result.json").read_text("utf-8"))["result"] == "a\\ud800b"
