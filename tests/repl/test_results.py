"""What functions give back: strings that know where they came from, wherever they go."""

from __future__ import annotations

import copy
import json
import pickle
import re

import pytest

from rlm_nb.errors import SubAgentError
from rlm_nb.repl.results import EXCERPT, CellOutput, QueryResult

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


def test_an_output_is_a_string() -> None:
    """With slices and a length, and the number of its cell, also after a journey."""
    output = CellOutput.of(3, "one\ntwo\nthree")
    assert output[4:7] == "two"
    assert len(output) == 13
    for same in (copy.copy(output), pickle.loads(pickle.dumps(output))):
        assert (same, same.cell, type(same)) == (output, 3, CellOutput)


def test_an_output_as_a_value_is_named() -> None:
    """Not given as a whole: that would be cut again."""
    assert repr(CellOutput.of(3, "x" * 12_000 + "\ny")) == (
        "<output of cell 3: 12,002 characters in 2 lines; slice it, or .search(pattern)>"
    )


def test_searching_an_output() -> None:
    """Lines with their numbers; of a line without end, what stands around each match."""
    output = CellOutput.of(1, "one\ntwo\n" + "x" * 1000 + "needle" + "y" * 1000 + "needle\ntwofold")
    assert output.search("^two") == [(2, "two"), (4, "twofold")]
    assert output.search(re.compile("TWOFOLD", re.IGNORECASE)) == [(4, "twofold")]
    first, second = output.search("needle")
    assert first == (3, "x" * EXCERPT + "needle" + "y" * EXCERPT)
    assert second == (3, "y" * EXCERPT + "needle")
    assert output.search("nowhere") == []
    with pytest.raises(re.error):
        output.search("(")


def test_edits_that_are_not_wanted_or_not_known() -> None:
    """Discarded ones are gone, and applying them, or those that nobody knows, raises."""
    reply = {"text": "done", "patch": "diff", "files": ["x"], "base": "1", "commit": "2", "agent": "root.1"}
    result = QueryResult.of(reply, ("objects", "work"))
    result.overlaps = {"x": (1,)}
    result.discard()
    assert (result.patch, result.files, result.overlaps, result.discarded) == ("", (), {}, True)
    with pytest.raises(SubAgentError, match=r"the edits of root\.1 were discarded"):
        result.apply()
    with pytest.raises(SubAgentError, match="The budget ended"):
        FAILED.apply()
    with pytest.raises(SubAgentError, match="no edits of a plain model call"):
        QueryResult.of({"text": "x"}, ("objects", "work")).apply()
    with pytest.raises(SubAgentError, match=r"no edits of root\.1"):
        QueryResult.of(reply).apply()
