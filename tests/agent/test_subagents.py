"""The controller's side of `rlm_query` and `llm_query`: order, parallel work, depth and failures."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.agent.subagents import MAX_BATCH, Queries, Spawn
from rlm_nb.bridge.messages import MAX_VALUE
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import RLMSettings
from rlm_nb.errors import (
    BridgeError,
    CancelledError,
    CostLimitError,
    GitError,
    ModelError,
    RecursionDepthError,
    SandboxLimitError,
    SubAgentError,
)
from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.protocols import Asker
from rlm_nb.records import AgentResult, Answer, Outcome, Patch, Reply, Request, Task, Usage
from rlm_nb.repl.results import QueryResult


class Payer:
    """A scripted model, with somebody to pay for it."""

    def __init__(self, *prompts: tuple[str, Any]) -> None:
        self._model = ScriptedModel.of({}, prompts)
        self.requests: list[Request] = []

    def complete(
        self,
        request: Request,
        cancel: Cancellation,
        on_text: Callable[[str], None] | None = None,
        *,
        finishing: bool = False,
    ) -> Reply:
        self.requests.append(request)
        return self._model.complete(request, cancel, on_text)


def ended(task: Task, outcome: Outcome | None = None) -> AgentResult:
    outcome = outcome or Outcome("completed", Answer.of({"did": task.prompt}), "final", "The agent called FINAL.")
    patch = Patch("diff", ("a.py",), "start", "end", ("left out",))
    return AgentResult(task.agent, outcome, patch, Path(f"/runs/{task.agent}.ipynb"), cost=5, total_cost=7)


class Family:
    """Starts sub-agents that do what `work` says."""

    def __init__(self, work: Callable[[Task, Cancellation], AgentResult]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self.prepared = self.inside = self.most = 0
        self.tasks: list[Task] = []

    def prepare(self, cancel: Cancellation) -> Spawn:
        self.prepared += 1
        return self.spawn

    def spawn(self, task: Task, cancel: Cancellation) -> AgentResult:
        with self._lock:
            self.tasks.append(task)
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            return self._work(task, cancel)
        finally:
            with self._lock:
                self.inside -= 1


def queries(family: Family, task: Task | None = None, model: Asker | None = None, **settings: Any) -> Queries:
    return Queries(task or Task("top"), RLMSettings(**settings), family.prepare, model or Payer(), 1000)


def test_order() -> None:
    """Answers and children stand in the order of the tasks, whoever ends first; a batch is prepared once."""
    turns = {"c": threading.Event(), "b": threading.Event(), "a": threading.Event()}
    after = {"c": "b", "b": "a"}
    turns["c"].set()

    def work(task: Task, cancel: Cancellation) -> AgentResult:
        assert turns[task.prompt].wait(10)
        if task.prompt in after:
            turns[after[task.prompt]].set()  # the last of the tasks ends first
        return ended(task)

    family = Family(work)
    asked = queries(family)
    answers = asked.rlm({"tasks": ["a", "b", "c"]}, Cancellation())
    assert [answer["value"] for answer in answers] == [{"did": "a"}, {"did": "b"}, {"did": "c"}]
    assert [child.agent for child in asked.children] == ["root.1", "root.2", "root.3"]
    assert family.prepared == 1
    asked.rlm({"tasks": ["a"], "single": True}, Cancellation())
    assert [child.agent for child in asked.children] == ["root.1", "root.2", "root.3", "root.4"]
    assert family.prepared == 2


def test_what_an_answer_says() -> None:
    """Text, typed value, cost with everything below, edits and notebook."""
    (answer,) = queries(Family(lambda task, cancel: ended(task))).rlm({"tasks": ["x"], "single": True}, Cancellation())
    assert answer == {
        "text": '{\n  "did": "x"\n}',
        "value": {"did": "x"},
        "status": "completed",
        "error": None,
        "cost": 7,
        "patch": "diff",
        "files": ["a.py"],
        "notes": ["left out"],
        "base": "start",
        "commit": "end",
        "notebook": "root.1.ipynb",
        "agent": "root.1",
    }


def test_a_text_is_sent_once() -> None:
    """An answer that is its own text goes to the kernel as that alone, and is the answer there."""
    said = Outcome("completed", Answer.of("a long text"), "final", "")
    asked = queries(Family(lambda task, cancel: ended(task, said)), model=Payer(("^why", "because")))
    (result,) = asked.rlm({"tasks": ["x"], "single": True}, Cancellation())
    (reply,) = asked.llm({"prompts": ["why"], "single": True}, Cancellation())
    assert "value" not in result
    assert "value" not in reply
    assert [QueryResult.of(one).answer for one in (result, reply)] == ["a long text", "because"]


def test_children_inherit() -> None:
    """A child is the parent's task with another prompt, one level down; what the arguments claim is not looked at."""
    family = Family(lambda task, cancel: ended(task))
    parent = Task("top", "root.2", 3, Path("/context.txt"))
    forged = {"tasks": ["x"], "depth": -5, "agent": "root", "max_depth": 99, "context": "/etc/passwd"}
    queries(family, parent, max_depth=4).rlm(forged, Cancellation())
    assert family.tasks == [Task("x", "root.2.1", 4, Path("/context.txt"))]


@pytest.mark.parametrize(("depth", "max_depth"), [(0, 0), (1, 1), (5, 5)])
def test_depth(depth: int, max_depth: int) -> None:
    """At the deepest level nothing is prepared and nothing started, whatever the arguments claim."""
    family = Family(lambda task, cancel: ended(task))
    asked = queries(family, Task("x", depth=depth), max_depth=max_depth)
    with pytest.raises(RecursionDepthError, match=f"depth of sub-agents: {depth} of {max_depth} used"):
        asked.rlm({"tasks": ["x"], "depth": 0, "max_depth": 99}, Cancellation())
    assert family.prepared == 0


def test_at_most_so_many_at_a_time() -> None:
    """`max_parallel` holds for an agent, also when two of its threads ask at once; and so many do run."""
    three = threading.Barrier(3)

    def work(task: Task, cancel: Cancellation) -> AgentResult:
        three.wait(10)
        return ended(task)

    family = Family(work)
    asked = queries(family, max_parallel=3)
    batch = {"tasks": [str(number) for number in range(6)]}
    threads = [threading.Thread(target=asked.rlm, args=(batch, Cancellation())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert family.most == 3
    assert len(asked.children) == 12
    assert len({child.agent for child in asked.children}) == 12


def test_failures_stand_in_their_places(caplog: pytest.LogCaptureFixture) -> None:
    """No slot, no answer, a partial answer, a surprise: each in its place, and the others are not hurt."""

    def work(task: Task, cancel: Cancellation) -> AgentResult:
        if task.prompt == "no slot":
            raise SandboxLimitError("agents", 5, 5)
        if task.prompt == "surprise":
            raise OSError("/secret/path: disk full")
        if task.prompt == "nothing":
            return ended(task, Outcome("error", Answer.of("No answer was reached."), "none", "The kernel died."))
        if task.prompt == "partial":
            return ended(task, Outcome("partial", Answer.of(None), "finishing turn", "The budget ended."))
        return ended(task)

    asked = queries(Family(work))
    tasks = ["good", "no slot", "nothing", "partial", "surprise", "good"]
    with caplog.at_level(logging.ERROR, "rlm_nb"):
        answers = asked.rlm({"tasks": tasks}, Cancellation())
    assert [answer["status"] for answer in answers] == ["completed", "error", "error", "partial", "error", "completed"]
    assert [answer["error"] for answer in answers] == [
        None,
        "SandboxLimitError: limit reached: agents: 5 of 5 used",
        "root.3: The kernel died.",
        None,
        "the controller failed: OSError",
        None,
    ]
    assert "disk full" in caplog.text
    assert [child.agent for child in asked.children] == ["root.1", "root.3", "root.4", "root.6"]


def test_a_single_failure_is_raised() -> None:
    """What kept it from starting as it is; an end without answer as `SubAgentError`."""

    def work(task: Task, cancel: Cancellation) -> AgentResult:
        if task.prompt == "no slot":
            raise SandboxLimitError("agents", 5, 5)
        return ended(task, Outcome("partial", Answer.of("No answer."), "none", "The time was up."))

    asked = queries(Family(work))
    with pytest.raises(SandboxLimitError, match="5 of 5"):
        asked.rlm({"tasks": ["no slot"], "single": True}, Cancellation())
    with pytest.raises(SubAgentError, match=r"root\.2: The time was up"):
        asked.rlm({"tasks": ["x"], "single": True}, Cancellation())


def test_what_cannot_be_prepared() -> None:
    """A worktree that cannot be kept starts nobody."""

    def prepare(cancel: Cancellation) -> Spawn:
        raise GitError("git write-tree: disk full")

    asked = Queries(Task("x"), RLMSettings(), prepare, Payer(), 1000)
    with pytest.raises(GitError, match="disk full"):
        asked.rlm({"tasks": ["x"]}, Cancellation())
    assert asked.children == []


def test_cancelling() -> None:
    """Those who run are told, those who wait never start, and the call ends."""
    cancel, began = Cancellation(), threading.Barrier(3)

    def work(task: Task, cancelled: Cancellation) -> AgentResult:
        began.wait(10)
        assert cancelled.wait(10)
        return ended(task, Outcome("partial", Answer.of("x"), "stored", "It was stopped."))

    family = Family(work)
    asked = queries(family, max_parallel=2)
    answers: list[Any] = []
    call = threading.Thread(target=lambda: answers.extend(asked.rlm({"tasks": list("abcdef")}, cancel)))
    call.start()
    began.wait(10)
    cancel.cancel("somebody pressed stop")
    call.join(10)
    assert [answer["error"] for answer in answers] == [None, None] + ["CancelledError: somebody pressed stop"] * 4
    assert [task.prompt for task in family.tasks] == ["a", "b"]


@pytest.mark.parametrize("tasks", [None, "text", [], [3], ["good", " "], {"a": 1}])
def test_what_is_no_list_of_texts(tasks: Any) -> None:
    """A kernel that sends anything else gets an error, and nothing starts."""
    family = Family(lambda task, cancel: ended(task))
    asked = queries(family)
    with pytest.raises(BridgeError, match="tasks must be a list of texts"):
        asked.rlm({"tasks": tasks}, Cancellation())
    with pytest.raises(BridgeError, match="prompts must be a list of texts"):
        asked.llm({"prompts": tasks}, Cancellation())
    with pytest.raises(BridgeError, match="1,001 tasks are too many for one call: 1,000"):
        asked.rlm({"tasks": ["x"] * (MAX_BATCH + 1)}, Cancellation())
    assert family.tasks == []


def test_plain_questions() -> None:
    """Each prompt is asked alone, as turn 0 of this agent; replies in order, with their kinds of failure."""
    payer = Payer(
        ("^one", {"text": "1", "delay": 0.1}),
        ("^two", "2"),
        ("^no", {"text": "I will not.", "stop_reason": "refusal"}),
        ("^long", {"text": "and so", "stop_reason": "max_tokens"}),
        ("^empty", ""),
    )
    asked = queries(Family(lambda task, cancel: ended(task)), Task("top", "root.1", 5), payer, max_depth=5)
    answers = asked.llm({"prompts": ["one", "two", "no", "long", "empty", "unknown"]}, Cancellation())
    assert [(answer.get("text"), answer["status"]) for answer in answers] == [
        ("1", "completed"),
        ("2", "completed"),
        ("I will not.", "error"),
        ("and so", "partial"),
        ("", "error"),
        (None, "error"),
    ]
    assert [answer["error"] for answer in answers[2:5]] == ["the model refused", None, "the reply was empty"]
    assert answers[5]["error"].startswith("ModelError: ")
    assert {(request.agent, request.turn, request.system, request.max_tokens) for request in payer.requests} == {
        ("root.1", 0, "", 1000)
    }
    assert all(len(request.messages) == 1 for request in payer.requests)


def test_a_plain_question_that_fails() -> None:
    """A single one raises what was wrong, and what that took."""
    payer = Payer(("^no", {"text": "I will not.", "stop_reason": "refusal", "usage": {"input_tokens": 5}}))
    asked = queries(Family(lambda task, cancel: ended(task)), model=payer)
    with pytest.raises(ModelError, match="the model refused") as caught:
        asked.llm({"prompts": ["no"], "single": True}, Cancellation())
    assert caught.value.usage == Usage(5)
    stopped = Cancellation()
    stopped.cancel("stop")
    with pytest.raises(CancelledError, match="stop"):
        asked.llm({"prompts": ["no"], "single": True}, stopped)


def test_a_budget_that_ends_in_mid_batch() -> None:
    """Those that could be paid are answered."""

    class Poor(Payer):
        def complete(self, request: Request, *rest: Any, **more: Any) -> Reply:
            if request.messages[0].content == "dear":
                raise CostLimitError("cost in US dollars", 5, 5)
            return super().complete(request, *rest, **more)

    asked = queries(Family(lambda task, cancel: ended(task)), model=Poor(("cheap", "ok")))
    answers = asked.llm({"prompts": ["cheap", "dear", "cheap"]}, Cancellation())
    assert [answer["status"] for answer in answers] == ["completed", "error", "completed"]
    assert answers[1]["error"] == "CostLimitError: limit reached: cost in US dollars: 5 of 5 used"


def test_what_is_too_large_for_the_bridge() -> None:
    """One result that cannot be carried costs no other one: patches stay behind first, then the largest answer."""
    huge = "\N{DROMEDARY CAMEL}" * 3_000_000  # 12 bytes each, as the bridge writes them

    def work(task: Task, cancel: Cancellation) -> AgentResult:
        answer = huge if task.prompt in ("huge", "huge too") else "small"
        patch = Patch(huge if task.prompt == "patched" else "diff", ("a.py",))
        outcome = Outcome("completed", Answer(answer, "text"), "final", "")
        return AgentResult(task.agent, outcome, patch, Path("x.ipynb"), total_cost=7)

    asked = queries(Family(work))
    results = asked.rlm({"tasks": ["small", "huge", "patched", "huge too"]}, Cancellation())
    assert len(json.dumps(results)) < MAX_VALUE
    assert [result["error"] is None for result in results] == [True, True, True, False]
    assert [result.get("patch") for result in results] == ["diff", "diff", None, "diff"]
    assert "root.4: its answer of 36,000," in results[3]["error"]
    assert results[3]["cost"] == 7
    assert len(asked.children) == 4
    changed = queries(Family(lambda task, cancel: replace(work(task, cancel), patch=Patch(huge, ("a.py",)))))
    unknown = [QueryResult.of(result) for result in changed.rlm({"tasks": ["huge", "huge too"]}, Cancellation())]
    assert [result.files for result in unknown] == [("a.py",), ("a.py",)]
    for result in unknown:
        with pytest.raises(SubAgentError, match="could not be sent here"):
            result.patch
    with pytest.raises(SubAgentError, match="too large"):
        queries(Family(lambda task, cancel: ended(task, Outcome("completed", Answer(huge * 2, ""), "final", "")))).rlm(
            {"tasks": ["one"], "single": True}, Cancellation()
        )
