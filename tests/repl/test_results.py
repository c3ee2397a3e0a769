"""What a query gives back: a string that knows where it came from, wherever it goes."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from rlm_nb.errors import SubAgentError
from rlm_nb.repl.results import QueryResult

GOOD = QueryResult.of(
    {
        "text": '{"todos": 3}',
        "value": {"todos": 3},
        "status": "partial",
        "error": None,
        "cost": 1_250_000,
        "patch": "diff --git a/x b/x\n",
        "files": ["x"],
        "notebook": "root.1.ipynb",
        "agent": "root.1",
    }
)
FAILED = QueryResult.of({"error": "root.2: The budget ended.", "status": "error"})


def test_an_answer() -> None:
    """It is its text, and has everything else beside it."""
    assert GOOD == '{"todos": 3}'
    assert GOOD.ok
    assert GOOD.answer == {"todos": 3}
    assert (GOOD.status, GOOD.error, GOOD.cost) == ("partial", None, 1.25)
    assert (GOOD.patch, GOOD.files) == ("diff --git a/x b/x\n", ("x",))
    assert (GOOD.notebook, GOOD.agent) == ("root.1.ipynb", "root.1")


def test_a_failure() -> None:
    """It never poses as an answer: its text says so, and asking for the answer raises."""
    assert FAILED == "[no answer: root.2: The budget ended.]"
    assert not FAILED.ok
    assert FAILED.status == "error"
    assert (FAILED.cost, FAILED.patch, FAILED.files, FAILED.notebook) == (0, "", (), None)
    with pytest.raises(SubAgentError, match="The budget ended"):
        FAILED.answer


def test_a_patch_too_large_to_be_sent() -> None:
    """The answer is there, and whoever wants the patch is told that it is not here."""
    result = QueryResult.of({"text": "done", "value": "done", "patch": None, "files": ["big"], "agent": "root.1"})
    assert (result.ok, result.answer, result.files) == (True, "done", ("big",))
    with pytest.raises(SubAgentError, match=r"the patch of root\.1 could not be sent"):
        result.patch


@pytest.mark.parametrize("value", ["", 0, None, False, [], {}], ids=repr)
def test_falsy_answers(value: object) -> None:
    """What is false or empty is an answer all the same."""
    result = QueryResult.of({"text": str(value), "value": value, "error": None})
    assert result.ok
    assert result.answer == value


@pytest.mark.parametrize("result", [GOOD, FAILED], ids=["good", "failed"])
def test_it_survives_copies(result: QueryResult) -> None:
    """Pickling and copying keep the class and all attributes."""
    for twin in (copy.copy(result), copy.deepcopy(result), *(pickle.loads(pickle.dumps(result, p)) for p in range(6))):
        assert type(twin) is QueryResult
        assert twin == result
        assert vars(twin) == vars(result)


def test_it_is_a_string_to_everybody_else() -> None:
    """As a key, in JSON, in a format and joined, it is its text."""
    assert json.dumps({"answer": GOOD}) == json.dumps({"answer": '{"todos": 3}'})
    assert {GOOD: 1}['{"todos": 3}'] == 1
    assert f"{GOOD}" + GOOD == "".join([GOOD, GOOD])
    assert repr(GOOD) == repr('{"todos": 3}')
