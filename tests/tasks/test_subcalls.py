"""Questions about chunks: what counts as an answer, and what does not."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from rlm_nb.errors import ModelError, RecursionDepthError, SubcallError, TokenLimitError
from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.tasks import (
    TaskResult,
    context_slice,
    run_task,
    semantic_subcall,
    semantic_subcall_batched,
    semantic_subcall_bool,
    semantic_subcall_choice,
    semantic_subcall_json,
)
from tests.tasks.conftest import Run

AGAIN = "could not be used"


def test_text(run: Run) -> None:
    """The question and the chunk reach the model, and its words come back."""
    asked: list[str] = []

    def says(request: Any) -> str:
        asked.append(request.messages[-1].content)
        return "  A summary.\n"

    result = run(lambda text: semantic_subcall("Sum up.", context_slice(text, 0, 4)), says=[(".", says)])
    assert (result["status"], result["result"]) == ("completed", "A summary.")
    assert asked == ["Sum up.\n\nThe text:\n\nsome"]
    assert result["budget_summary"]["total_calls"] == 1


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        ({"text": "half a sent", "stop_reason": "max_tokens"}, TokenLimitError, "its answer was cut off"),
        ({"text": "I cannot", "stop_reason": "refusal"}, ModelError, "refused"),
        (" \n", ModelError, "is empty"),
        ({"error": "unavailable"}, ModelError, "."),
    ],
)
def test_what_is_no_answer(run: Run, reply: Any, kind: type[Exception], words: str) -> None:
    """A reply that is cut off, refused, empty or missing is raised, not returned."""

    def task(text: str) -> str:
        with pytest.raises(kind, match=words):
            semantic_subcall("Sum up.", text)
        return "noticed"

    assert run(task, says=[(".", reply)])["result"] == "noticed"


class Mood(BaseModel):
    sentiment: Literal["pos", "neg"]
    confidence: float = 1.0


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('```json\n{"a": [1, 2,],}\n```', {"a": [1, 2]}),
        ('Here it is:\n\n~~~\n["x", "}, ]",\n]\n~~~\nDone.', ["x", "}, ]"]),
        ('The answer is: {"a": "b, }"}', {"a": "b, }"}),
        ('{"a": [1]}\n\nThat is all.', {"a": [1]}),
        ("```\nls -l\n```\nsays\n```json\n[1]\n```", [1]),
        ("[]", []),
        ("null", None),
        ("12", 12),
    ],
)
def test_json(run: Run, reply: str, value: Any) -> None:
    """Fences, prose around it and trailing commas are forgiven; strings stay as they are."""
    result = run(lambda text: semantic_subcall_json("Give it.", text), says=[(".", reply)])
    assert (result["status"], result["result"]) == ("completed", value)
    assert result["budget_summary"]["total_calls"] == 1


@pytest.mark.parametrize(
    "reply",
    [
        "no idea",
        '{"a": NaN}',
        '{"a": 1e400}',
        "-1e400",
        "[1, 2",
        "{'a': 1}",
        '{"a": 1} or {"a": 2}',
        "I cannot answer [1].",
        "I cannot answer [1]",
        "[1] says nothing.",
        "Unknown {}",
        "Unknown: {}",
        "```\n[1]\n```\nor\n```\n[2]\n```",
        "[" * 100_000,
    ],
    ids=lambda reply: reply[:20],
)
def test_json_that_is_none(run: Run, reply: str) -> None:
    """It is asked for once more, with what was wrong; then comes the default, or an error."""
    good = run(lambda text: semantic_subcall_json("Give it.", text), says=[(AGAIN, '{"a": 1}'), (".", reply)])
    assert good["result"] == {"a": 1}
    assert good["budget_summary"]["total_calls"] == 2
    assert run(lambda text: semantic_subcall_json("Give it.", text, default=0), says=[(".", reply)])["result"] == 0
    bad = run(lambda text: semantic_subcall_json("Give it.", text), says=[(".", reply)])
    assert bad["status"] == "error"
    assert bad["error"].startswith("SubcallError: ")
    assert isinstance(bad.raised, ValueError)


def test_json_that_has_to_fit(run: Run) -> None:
    """A pydantic model gives an instance, a JSON schema a value; what does not fit is asked for again."""

    def task(text: str) -> Any:
        mood = semantic_subcall_json("mood?", text, schema=Mood)
        return mood.sentiment, semantic_subcall_json("number?", text, schema=SCHEMA)

    says = [
        ("mood.*at sentiment: Input should be 'pos' or 'neg'", '{"sentiment": "neg"}'),
        ("mood", '{"sentiment": "so-so"}'),
        (r"number.*at \$\.n: 'two' is not of type", '{"n": 2}'),
        ("number", '{"n": "two"}'),
    ]
    result = run(task, says=says)
    assert (result["result"], result["budget_summary"]["total_calls"]) == (("neg", {"n": 2}), 4)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("yes", True),
        ("Yes.", True),
        ("**No**", False),
        ("TRUE", True),
        ("0", False),
        ("Yes, because it fails.", True),
        ("No - it works.", False),
        *(
            (unclear, None)
            for unclear in (
                *("not yes", "Yes and no", "yes/no", "perhaps", "I would not say no", "yesterday"),
                *("No idea.", "No way to tell", "No information about that in the text.", "No one can say", "No data"),
                *("no clear answer", "Yes?", "Yes is wrong.", "Yes would be an overstatement", "-1", "0.5", "1. First"),
                *("Yes, if the disk is full", "No, but it may be", "No. Yes.", "Yes, no, I cannot tell"),
            )
        ),
    ],
)
def test_yes_or_no(run: Run, reply: str, value: bool | None) -> None:
    """What is neither is asked for once more, and never counts as either."""
    result = run(lambda text: semantic_subcall_bool("Is it?", text), says=[(".", reply)])
    if value is None:
        assert result["error"] == "SubcallError: it is neither yes nor no"
        assert result["budget_summary"]["total_calls"] == 2
        default = run(lambda text: semantic_subcall_bool("Is it?", text, default=True), says=[(".", reply)])
        assert default["result"] is True
    else:
        assert result["result"] is value


CHOICES = ["info", "information", "info desk", "critical", "positive", "A", "B"]


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("info", "info"),
        ("information", "information"),
        ("Information.", "information"),
        ("'INFO'", "info"),
        ("It's information.", "information"),
        ("The answer is **info desk**!", "info desk"),
        ("I choose critical", "critical"),
        ("Severity: critical", "critical"),
        ("Answer: B", "B"),
        ('"b"', "B"),
        *(
            (unclear, None)
            for unclear in (
                *("informal", "info or critical", "not critical", "It isn't info", "something else", "info?", "!info"),
                *("None of these is critical", "hardly critical", "anything but critical", "I'd rule out critical."),
                *("It is non-critical.", "This is a bug", "It is a false positive", "critical if the disk is full"),
            )
        ),
    ],
)
def test_one_of_several(run: Run, reply: str, choice: str | None) -> None:
    """Exact before lenient; a choice that begins another is not taken for it, and several or none are no answer."""
    result = run(lambda text: semantic_subcall_choice("Which?", text, CHOICES), says=[(".", reply)])
    if choice is None:
        assert result["error"].startswith("SubcallError: it ")
        default = run(
            lambda text: semantic_subcall_choice("Which?", text, CHOICES, default="info"), says=[(".", reply)]
        )
        assert default["result"] == "info"
    else:
        assert result["result"] == choice


class Unwritable(BaseModel):
    function: Callable[[], int]


@pytest.mark.parametrize(
    ("schema", "kind", "words"),
    [
        ({"type": "objekt"}, ValueError, "at $.type"),
        ({"type": "string", "pattern": "("}, ValueError, "is not a 'regex'"),
        ({"$schema": "https://example.org/own"}, ValueError, "no version that is known"),
        ({"$ref": "#"}, ValueError, "refers to itself"),
        ({"items": {"$ref": "#/$defs/missing"}}, ValueError, "leads to nothing in it"),
        (True, TypeError, "must be a pydantic model or a JSON schema"),
        (int, TypeError, "must be a pydantic model or a JSON schema"),
        (Unwritable, TypeError, "Unwritable has no JSON schema"),
    ],
)
def test_a_schema_that_is_none(run: Run, schema: Any, kind: type[Exception], words: str) -> None:
    """It is found before anything is paid for."""
    result = run(lambda text: semantic_subcall_json("Give it.", text, default=0, schema=schema), says=[(".", "1")])
    assert (type(result.raised), result["budget_summary"]["total_calls"]) == (kind, 0)
    assert words in result["error"]


def test_a_schema_that_is_elsewhere(run: Run, here: Path) -> None:
    """Neither the network nor a file is read for it, and the error says what to do; what it holds itself is found."""
    (here / "own.json").write_text('{"type": "integer"}')
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/own.json"
        for place in (address, (here / "own.json").as_uri()):
            schema = {"properties": {"n": {"$ref": place}}}
            result = run(
                lambda text, schema=schema: semantic_subcall_json("?", text, schema=schema), says=[(".", "{}")]
            )
            assert isinstance(result.raised, ValueError)
            assert f"'{place}' leads to nothing in it. Nothing is fetched, so put" in result["error"]
            assert result["budget_summary"]["total_calls"] == 0
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    within = {"$id": "https://example.org/a", "$defs": {"n": {"$id": "n", "type": "integer"}}, "$ref": "n"}
    assert run(lambda text: semantic_subcall_json("?", text, schema=within), says=[(".", "5")])["result"] == 5


def test_an_answer_that_its_schema_cannot_be_held_against(run: Run) -> None:
    """A pattern that explodes, and a schema that goes round in circles: the answer is none, and the task goes on."""
    around = {"properties": {"a": {"$ref": "#/properties/a"}}}
    explodes = {"type": "string", "pattern": "(.*a){20}x"}
    says = [("circles", '{"a": 1}'), (".", f'"{"ab" * 2000}"')]
    for question, schema in (("circles", around), ("pattern", explodes)):
        result = run(
            lambda text, question=question, schema=schema: semantic_subcall_json(question, text, "none", schema=schema),
            says=says,
        )
        assert (result["status"], result["result"]) == ("completed", "none")


def test_many_at_once(run: Run) -> None:
    """Answers come in the order of the chunks; a failure stands in its place, or is raised once all have ended."""
    says = [
        ("bad", {"error": "unavailable"}),
        *((f"chunk {n}", {"text": f"{n}", "delay": (5 - n) / 20}) for n in range(5)),
    ]
    chunks = [f"chunk {n}" for n in range(5)]
    assert run(lambda _: semantic_subcall_batched("?", chunks), says=says)["result"] == list("01234")

    def with_failures(_: str) -> Any:
        answers = semantic_subcall_batched("?", ["chunk 1", "bad", "chunk 2"], failures="keep")
        with pytest.raises(ModelError):
            semantic_subcall_batched("?", ["bad", "chunk 3"])
        return [type(answer).__name__ for answer in answers], semantic_subcall_batched("?", [])

    result = run(with_failures, says=says)
    assert result["result"] == (["str", "ModelUnavailableError", "str"], [])


def test_identical_calls_are_answered_once(run: Run) -> None:
    """One call is paid for, and the others say whose answer they were given; one that failed is asked again."""

    def task(text: str) -> Any:
        semantic_subcall_batched("same?", ["a", "b", "a"])
        return semantic_subcall("same?", "a")

    result = run(task)
    assert result["budget_summary"]["total_calls"] == 2
    assert sorted((call.same_as is None, call.chunk) for call in result.subcalls) == [
        (False, "a"),
        (False, "a"),
        (True, "a"),
        (True, "b"),
    ]

    def twice(text: str) -> str:
        with pytest.raises(ModelError):
            semantic_subcall("?", text)
        return semantic_subcall("?", text)

    assert run(twice, says=[(".", {"error": "unavailable", "times": 1, "text": "there"})])["result"] == "there"


def test_too_large_a_chunk(run: Run) -> None:
    """It is refused before it is paid for; findings stay."""

    def task(text: str) -> Any:
        yield "first"
        semantic_subcall("Sum up.", text)

    result = run(task, "x" * 20_000)
    assert (result["status"], result["result"]) == ("partial", ["first"])
    assert "tokens of a subcall (ask about a smaller chunk): 50" in result["error"]
    assert result["budget_summary"]["total_calls"] == 0


def test_a_subcall_within_a_subcall() -> None:
    """A model that is itself a program cannot ask in its turn, and a task cannot run a task."""
    refused: list[type[Exception]] = []

    def nested(request: Any) -> str:
        try:
            return semantic_subcall("deeper?", "x")
        except RecursionDepthError as error:
            refused.append(type(error))
            return "not deeper"

    model = ScriptedModel.of({}, [(".", nested)])

    def task(text: str) -> str:
        with pytest.raises(RecursionDepthError):
            run_task(task, text, model=model)
        return semantic_subcall("deep?", text)

    result: TaskResult = run_task(task, "text", model=model)
    assert result["result"] == "not deeper"
    assert refused == [RecursionDepthError]


@pytest.mark.parametrize(
    ("prompt", "chunk", "kind"), [("", "x", ValueError), (" ", "x", ValueError), ("?", 5, TypeError)]
)
def test_what_cannot_be_asked(run: Run, prompt: str, chunk: Any, kind: type[Exception]) -> None:
    """A prompt that says nothing, and a chunk that is no text."""
    assert isinstance(run(lambda _: semantic_subcall(prompt, chunk)).raised, kind)
    for choices in ([], [""], "ab", (), [1]):
        assert isinstance(run(lambda _, choices=choices: semantic_subcall_choice("?", "x", choices)).raised, ValueError)
    assert run(lambda _: semantic_subcall_choice("?", "x", iter(["no", "fine"])))["result"] == "fine"
    assert isinstance(run(lambda _: semantic_subcall_batched("?", ["x"], failures="kept")).raised, ValueError)  # type: ignore[call-overload]
    assert issubclass(SubcallError, ValueError)


def test_outside_of_a_task() -> None:
    """There is nobody to ask, and the error says what to do."""
    with pytest.raises(RuntimeError, match=r"inside of a task only: run it with run_task"):
        semantic_subcall("?", "x")
