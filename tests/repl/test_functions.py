"""The names in the REPL, over a real bridge: what they send, what they refuse, and what they raise."""

from __future__ import annotations

import array
import dataclasses
import inspect
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.bridge.client import Client
from rlm_nb.bridge.server import Call, Server
from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import BridgeError, SandboxLimitError, SubAgentError
from rlm_nb.repl.functions import AGENT_FUNCTIONS, FUNCTIONS, Functions


@dataclasses.dataclass
class Point:
    x: int
    where: Path


class Scalar:
    """A number of numpy's, as far as we look at it."""

    shape: tuple[int, ...] = ()

    def tolist(self) -> float:
        return 2.5


class Table:
    """A DataFrame, as far as we look at it: its own text leaves rows out."""

    def to_string(self) -> str:
        return "all rows"

    def tolist(self) -> list[int]:
        return [1]

    def __str__(self) -> str:
        return "some … rows"


class Mute:
    def __str__(self) -> str:
        raise LookupError("no words")


class Odd:
    def __str__(self) -> str:
        return "an odd one"


Pair = namedtuple("Pair", "a b")
LOOP: list[Any] = []
LOOP.append(LOOP)


class Console:
    """Functions over a bridge, and what arrives at its other end."""

    def __init__(self, workdir: Path) -> None:
        self.calls: list[Call] = []
        self.replies: dict[str, Any] = {"FINAL": None, "budget": {"left_usd": 1.5}}
        self.namespace: dict[str, Any] = {}
        self._workdir = workdir

    def answer(self, call: Call, cancel: Cancellation) -> Any:
        self.calls.append(call)
        reply = self.replies[call.name]
        if isinstance(reply, Exception):
            raise reply
        return reply(call.arguments) if callable(reply) else reply

    def functions(self, server: Server) -> Functions:
        return Functions(Client(server.kernel_end, lambda: "cell"), self._workdir, self.namespace)


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path)


@pytest.fixture
def repl(console: Console) -> Iterator[Functions]:
    with Server(console.answer, Cancellation()) as server:
        yield console.functions(server)


def told(name: str) -> Callable[[dict[str, Any]], Any]:
    """Answers each of the texts with itself, backwards; `bad` with a failure."""

    def reply(arguments: dict[str, Any]) -> Any:
        return [
            {"error": "it gave up", "status": "error"} if text == "bad" else {"text": text[::-1], "value": text[::-1]}
            for text in arguments[name]
        ]

    return reply


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("text", "text"),
        ("\ud800", "\ud800"),
        (None, None),
        (0, 0),
        (True, True),
        (2.5, 2.5),
        ((1, (2, 3)), [1, [2, 3]]),
        (Pair(1, "b"), [1, "b"]),
        ({"a": {1, 3, 2}}, {"a": [1, 2, 3]}),
        (frozenset("ba"), ["a", "b"]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        ({1: "a", None: "b", 2.5: "c"}, {"1": "a", "null": "b", "2.5": "c"}),
        ({True: "a"}, {"true": "a"}),
        (Path("a/b"), "a/b"),
        (Point(1, Path("p")), {"x": 1, "where": "p"}),
        ([Point(1, Path("p"))], [{"x": 1, "where": "p"}]),
        ({"n": Scalar()}, {"n": 2.5}),
        (array.array("i", [1, 2]), [1, 2]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_answers_that_keep_their_form(console: Console, repl: Functions, answer: Any, value: Any) -> None:
    """What JSON holds arrives as a value, with the name of its type."""
    repl.FINAL(answer)
    assert console.calls[0].arguments == {"value": value, "text": None, "type": type(answer).__name__}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (float("nan"), "nan"),
        ([float("inf")], "[inf]"),
        (Odd(), "an odd one"),
        (Table(), "all rows"),
        (Decimal("0.10"), "0.10"),
        (b"\xff", "b'\\xff'"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        ({1: "a", "1": "b"}, "{1: 'a', '1': 'b'}"),
        ({1, "a"} - {"a"} | {"b"}, None),
        (LOOP, "[[...]]"),
        (Point, "<class 'tests.repl.test_functions.Point'>"),
    ],
    ids=["nan", "inf", "object", "table", "decimal", "bytes", "tuple key", "two keys", "mixed set", "loop", "class"],
)
def test_answers_that_become_text(console: Console, repl: Functions, answer: Any, text: str | None) -> None:
    """What JSON has no form for, or would lose a part of, arrives as Python prints it."""
    repl.FINAL(answer)
    sent = console.calls[0].arguments
    assert (sent["value"], sent["text"]) == (None, text if text is not None else str(answer))


def test_an_answer_without_words(console: Console, repl: Functions) -> None:
    """What cannot even be printed is the cell's own error, and nothing is sent."""
    with pytest.raises(LookupError, match="no words"):
        repl.FINAL(Mute())
    assert console.calls == []


def test_an_answer_that_is_too_deep(repl: Functions) -> None:
    """The controller refuses what nobody could read, and the cell learns why."""
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(BridgeError, match="nested too deeply"):
        repl.FINAL(deep)


def test_final_var(console: Console, repl: Functions) -> None:
    """It takes the variable's present value; a name is wanted, and one that exists."""
    console.namespace["report"] = [1, 2]
    repl.FINAL_VAR("report")
    assert console.calls[0].arguments["value"] == [1, 2]
    with pytest.raises(NameError, match="there is no variable 'reprot'"):
        repl.FINAL_VAR("reprot")
    with pytest.raises(TypeError, match="takes the name of a variable as a string"):
        repl.FINAL_VAR([1, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "what"), [("rlm_query", "tasks"), ("llm_query", "prompts")])
def test_queries(console: Console, repl: Functions, name: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A batch is one call with the texts in order; failures stand in their places, and stderr says which."""
    console.replies[name] = told(what)
    assert getattr(repl, name)("abc") == "cba"
    answers = getattr(repl, f"{name}_batched")(text for text in ("ab", "bad", "cd"))
    assert answers == ["ba", "[no answer: it gave up]", "dc"]
    assert [answer.ok for answer in answers] == [True, False, True]
    assert capsys.readouterr().err == f"1 of 3 {what} gave no answer: [1]\n"
    assert [(call.name, call.arguments) for call in console.calls] == [
        (name, {what: ["abc"], "single": True}),
        (name, {what: ["ab", "bad", "cd"], "single": False}),
    ]
    assert getattr(repl, f"{name}_batched")([]) == []


@pytest.mark.parametrize("name", ["rlm_query", "llm_query"])
def test_queries_that_ask_for_nothing(console: Console, repl: Functions, name: str) -> None:
    """One string for a list, a number for a text, an empty text: refused here, before anything is paid for."""
    with pytest.raises(TypeError, match=f"{name}_batched takes a list of .*, not one string; {name} takes one"):
        getattr(repl, f"{name}_batched")("one text")
    for wrong in (3, None, b"bytes", ["list"]):
        with pytest.raises(TypeError, match="must be a string, not"):
            getattr(repl, name)(wrong)
    with pytest.raises(ValueError, match="is empty"):
        getattr(repl, f"{name}_batched")(["good", " \n"])
    assert console.calls == []


def test_what_the_controller_raises(console: Console, repl: Functions) -> None:
    """It is raised in the cell as what it is."""
    console.replies["rlm_query"] = SandboxLimitError("agents", 50, 50)
    with pytest.raises(SandboxLimitError, match="50 of 50 used") as caught:
        repl.rlm_query("x")
    assert caught.value.limit == 50
    console.replies["rlm_query"] = SubAgentError("root.1: it gave up")
    with pytest.raises(SubAgentError, match="it gave up"):
        repl.rlm_query("x")


def test_budget(repl: Functions) -> None:
    """It is what the controller says."""
    assert repl.budget() == {"left_usd": 1.5}


def test_a_kernel_without_a_controller(tmp_path: Path) -> None:
    """Files can be edited; whatever needs a controller says so."""
    alone = Functions(None, tmp_path, {})
    alone.edit_file("x", "", "text")
    assert (tmp_path / "x").read_text() == "text"
    for ask in (alone.budget, lambda: alone.FINAL(1), lambda: alone.llm_query("x")):
        with pytest.raises(BridgeError, match="was not started by rlm-nb"):
            ask()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", [*FUNCTIONS, *AGENT_FUNCTIONS])
def test_the_help_is_the_docstring(name: str) -> None:
    """Each name has one, in plain words, and short enough to be read by a model in each system prompt."""
    text = inspect.getdoc(getattr(Functions, name))
    assert text is not None
    assert text.endswith(".")
    assert 20 < len(text) < 700
    assert "`self" not in text


def test_an_output_comes_in_pieces(console: Console, repl: Functions) -> None:
    """The first answer decides which cell it is, and all of its pieces are put together."""
    pieces = {0: {"cell": 4, "text": "one ", "next": 4}, 4: {"cell": 4, "text": "two", "next": None}}
    console.replies["output"] = lambda arguments: pieces[arguments["at"]]
    output = repl.output(-1)
    assert (output, output.cell) == ("one two", 4)
    assert [call.arguments for call in console.calls] == [{"cell": -1, "at": 0}, {"cell": 4, "at": 4}]


def test_an_output_that_is_not_there(console: Console, repl: Functions) -> None:
    """The sentence of the controller is what the model reads, and what is no number is not asked for."""
    console.replies["output"] = {"missing": "no cell has ended yet"}
    with pytest.raises(LookupError, match="no cell has ended yet"):
        repl.output()
    with pytest.raises(TypeError, match="the number of a cell, not str"):
        repl.output("3")  # type: ignore[arg-type]
    assert len(console.calls) == 1


def test_files_that_several_of_a_batch_changed(
    console: Console, repl: Functions, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are pointed out before anything is applied: in a line, and in each result that is concerned."""
    files = [["a", "b"], ["c"], ["b", "a"], ["a"]]
    console.replies["rlm_query"] = [{"text": "", "files": names, "patch": "x"} for names in files]
    results = repl.rlm_query_batched(["w", "x", "y", "z"])
    assert capsys.readouterr().err == "Files that several results of this batch changed: a by 0, 2, 3; b by 0, 2.\n"
    assert [result.overlaps for result in results] == [
        {"a": (2, 3), "b": (2,)},
        {},
        {"b": (0,), "a": (0, 3)},
        {"a": (0, 2)},
    ]
    console.replies["rlm_query"] = [{"text": "", "files": [name], "patch": "x"} for name in "ab"]
    assert repl.rlm_query_batched(["w", "x"])[0].overlaps == {}
    assert capsys.readouterr().err == ""
