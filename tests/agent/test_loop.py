"""The loop of one agent: a real kernel runs the cells, a script says the replies, a real ledger pays."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.agent.loop import Agent
from rlm_nb.agent.prompts import Prompts
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import BudgetSettings, KernelSettings, RLMSettings
from rlm_nb.errors import BudgetExceededError, KernelStartError, LedgerError, RefusedKeyError, RLMError
from rlm_nb.kernel.client import KernelClient
from rlm_nb.kernel.launch import Launcher
from rlm_nb.ledger import BudgetFile, Limits
from rlm_nb.models.metered import MeteredModel, price_for
from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.protocols import Kernel
from rlm_nb.records import (
    Asked,
    CellResult,
    CellStarted,
    Event,
    Iterated,
    Iteration,
    Outcome,
    Replied,
    Reply,
    Request,
    Task,
)
from tests.kernel.conftest import launcher  # noqa: F401 - one for all kernels of a test process


def python(*code: str) -> str:
    return "\n\n".join(f"```python\n{text}\n```" for text in code)


class Stage:
    """One agent at work, and all that was said."""

    def __init__(
        self,
        folder: Path,
        kernel: Kernel,
        replies: Sequence[Any],
        *,
        prompt: str = "Work.",
        cost: float | None = None,
        repeat: bool = False,
        **settings: Any,
    ) -> None:
        self.soft, self.hard = Cancellation(), Cancellation()
        self.requests: list[Request] = []
        self.finishing: list[bool] = []
        self.events: list[Event] = []
        self.iterations: list[Iteration] = []
        price = {"input": 100.0, "output": 100.0} if cost is not None else None
        model = ScriptedModel.of({"root": replies}, repeat=repeat, price=price)
        limits = Limits(
            cost=None if cost is None else round(cost * 1e6),
            input_tokens=None,
            output_tokens=None,
            calls=None,
            sandboxes=50,
            deadline=time.time() + 600,
        )
        self.ledger = BudgetFile.create(folder / "budget.json", limits)
        self._paid = MeteredModel(model, self.ledger, price_for(model, BudgetSettings()), "root", 1000)
        task, rlm = Task(prompt), RLMSettings(**settings)
        prompts = Prompts(task, rlm, {"FINAL(answer)": "Ends."}, ["Here."], lambda: f"{len(self.requests)} calls.")
        self.agent = Agent(task, self, kernel, prompts, rlm, self.events.append, 1000)

    def complete(self, request: Request, cancel: Cancellation, *rest: Any, finishing: bool = False) -> Reply:
        self.requests.append(request)
        self.finishing.append(finishing)
        return self._paid.complete(request, cancel, *rest, finishing=finishing)

    def run(self) -> Outcome:
        working = self.agent.iterate(self.soft, self.hard)
        while True:
            try:
                self.iterations.append(next(working))
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome

    @property
    def told(self) -> list[str]:
        """What the model was told from the second turn on."""
        return [request.messages[-1].content for request in self.requests[1:]]


Play = Callable[..., Stage]


@pytest.fixture(scope="module")
def shared(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelClient]:  # noqa: F811
    """A kernel for all scenes that do not end it."""
    with _kernel(launcher, tmp_path_factory.mktemp("kernel")) as kernel:
        yield kernel


@pytest.fixture
def play(shared: KernelClient, tmp_path: Path) -> Play:
    """Sets a scene in the shared kernel, without the variable `answer` of the last one."""
    shared.execute("globals().pop('answer', None)", Cancellation())

    def set_up(*replies: Any, kernel: Kernel = shared, **settings: Any) -> Stage:
        return Stage(Path(tempfile.mkdtemp(dir=tmp_path)), kernel, replies, **settings)

    return set_up


def _kernel(launcher: Launcher, folder: Path, **settings: Any) -> KernelClient:  # noqa: F811
    (folder / "work").mkdir()
    return KernelClient(
        launcher,
        folder,
        folder / "work",
        lambda number: folder / f"{number}.txt",
        KernelSettings(**settings),
        lambda: {"task": "Work.", "subagents": False, "context": None},
        lambda call, cancel: {"calls": 0},
        Cancellation(),
    )


def test_from_task_to_answer(play: Play) -> None:
    """Each turn brings what the last one's cell did; `FINAL` ends it; the watcher hears it all in order."""
    stage = play(python("x = 6 * 7\nprint(f'${x}')"), "Now I know.\n" + python("FINAL({'x': x})"), prompt="Find $x.")
    outcome = stage.run()
    assert (outcome.status, outcome.source, outcome.answer.value) == ("completed", "final", {"x": 42})
    assert "Find $x." in stage.requests[0].messages[0].content
    assert "```text\n$42\n```" in stage.told[0]
    assert "[49 turns left. 1 calls.]" in stage.told[0]
    assert [type(event) for event in stage.events if isinstance(event, Asked | Replied | CellStarted | Iterated)] == [
        Asked,
        Replied,
        CellStarted,
        Iterated,
    ] * 2
    assert [(turn.number, turn.message) for turn in stage.iterations] == [
        (number, request.messages[-1].content) for number, request in enumerate(stage.requests, 1)
    ]
    assert stage.agent.completed == 2


def test_history_only_grows(play: Play) -> None:
    """Each request begins with the one before, byte for byte, and ends with the user; the system prompt stays."""
    replies = [
        python("print(1)"),
        "",
        "Prose only.  \n\n",
        python("1/0"),
        {"text": python("2"), "error": "lost", "times": 1},
    ]
    stage = play(*replies, python("FINAL(1)"))
    assert stage.run().status == "completed"
    assert len(stage.requests) == 7
    assert_append_only(stage)
    assert [message.content for message in stage.requests[-1].messages if message.role == "assistant"] == [
        python("print(1)"),
        "(no text)",
        "Prose only.",
        python("1/0"),
        python("2"),
    ]


def assert_append_only(stage: Stage) -> None:
    for before, after in zip(stage.requests, stage.requests[1:], strict=False):
        assert after.messages[: len(before.messages)] == before.messages
        assert after.messages[-1].role == "user"
        assert after.system == before.system
        roles = [message.role for message in after.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert all(message.content.strip() for message in after.messages)


def test_the_second_cell_after_final_does_not_run(play: Play) -> None:
    """What a reply wrote after its answer is not done."""
    stage = play(python("FINAL('early')", "FINAL('late')"))
    assert stage.run().answer.value == "early"
    assert len(stage.iterations[0].cells) == 1


def test_the_second_cell_after_a_failure_does_not_run(play: Play) -> None:
    """A cell that rests on one that failed would only do harm."""
    stage = play(python("before = 1", "1 / 0", "FINAL('wrong')"), python("FINAL(before)"))
    assert stage.run().answer.value == 1
    assert [cell.status for cell in stage.iterations[0].cells] == ["ok", "error"]
    first, second = (cell.number for cell in stage.iterations[0].cells)
    assert second == first + 1
    assert f"Output of cell {first}, " in stage.told[0]
    assert f"Output of cell {second} (the cell raised)" in stage.told[0]
    assert "ZeroDivisionError" in stage.told[0]


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ("I will call FINAL(42).", "FINAL counts only when a cell calls it"),
        ("FINAL(42)", "FINAL counts only when a cell calls it"),
        ("", "Your reply was empty"),
        ({"text": "I cannot help with that.", "stop_reason": "refusal"}, "was a refusal"),
        ({"text": "```python\nFINAL(", "stop_reason": "max_tokens"}, "cut off in the middle of a cell"),
        (python("x = 1") + "\n\nOutput:\n```\n1\n```\n\n" + python("FINAL('invented')"), "made up the output"),
        (python("FINAL('early')\n1 / 0"), "FINAL does not count"),
        (python("raise SystemExit"), "(the cell raised)"),
        (python("x = 'FINAL(42)'"), "[no output]"),
    ],
    ids=["prose", "bare", "empty", "refusal", "cut off", "invented", "raises after", "exit", "in a string"],
)
def test_replies_that_do_not_end_it(play: Play, reply: Any, says: str) -> None:
    """The model learns what was wrong with its reply, and has another turn."""
    stage = play(reply, python("FINAL('in time')"))
    outcome = stage.run()
    assert (outcome.status, outcome.answer.value) == ("completed", "in time")
    assert says in stage.told[0]


@pytest.mark.parametrize("answer", ["None", "0", "''", "[]", "False"])
def test_falsy_answers(play: Play, answer: str) -> None:
    """An empty answer is one."""
    outcome = play(python(f"FINAL({answer})")).run()
    assert (outcome.status, outcome.source) == ("completed", "final")
    assert repr(outcome.answer.value) == answer


def test_useless_replies_in_a_row(play: Play) -> None:
    """After `max_failures` of them the run ends in an error; one that runs a cell begins the count anew."""
    stage = play("What?", "Hm.", python("print(1)"), "What?", "Hm.", "So.", python("FINAL(1)"), max_failures=3)
    outcome = stage.run()
    assert (outcome.status, outcome.source) == ("error", "none")
    assert outcome.stop_reason == "The model gave 3 useless replies in a row."
    assert outcome.answer.text == f"No answer was reached. {outcome.stop_reason}"
    assert len(stage.requests) == 6


def test_useless_replies_with_something_stored(play: Play) -> None:
    """What the model kept in `answer` is not thrown away."""
    outcome = play(python("answer = {'so': 'far'}"), "a", "b", "c").run()
    assert (outcome.status, outcome.source, outcome.answer.value) == ("partial", "stored", {"so": "far"})
    assert outcome.stop_reason.endswith("in a row. The answer is the variable `answer`.")


def test_iterations_run_out(play: Play) -> None:
    """One more turn is granted, and what it gives is partial; the history still only grew."""
    stage = play(python("print('1st')"), python("print('2nd')"), python("FINAL('nearly')"), max_iterations=2)
    outcome = stage.run()
    assert (outcome.status, outcome.source, outcome.answer.value) == ("partial", "finishing turn", "nearly")
    assert outcome.stop_reason == "The limit of 2 iterations was reached."
    assert stage.finishing == [False, False, True]
    assert "2nd" in stage.told[1]
    assert "**This is your last turn.** The limit of 2 iterations was reached." in stage.told[1]
    assert_append_only(stage)
    assert [turn.number for turn in stage.iterations] == [1, 2, 3]


@pytest.mark.parametrize("last", ["Sorry.", python("1 / 0"), {"error": "unavailable"}], ids=["prose", "raises", "none"])
def test_a_last_turn_that_gives_nothing(play: Play, last: Any) -> None:
    """Then the stored answer counts; without one, the result says that there is none."""
    stored = play(python("answer = 'draft'"), last, max_iterations=1).run()
    assert (stored.status, stored.source, stored.answer.value) == ("partial", "stored", "draft")
    nothing = play(python("answer = None"), last, max_iterations=1).run()
    assert (nothing.status, nothing.source) == ("partial", "none")
    assert nothing.answer.text == "No answer was reached. The limit of 1 iterations was reached."


def test_the_time_runs_out_in_a_cell(play: Play) -> None:
    """The cell is interrupted, and the last turn still has its kernel and its variables."""
    stage = play(python("kept = 'so far'\nimport time\ntime.sleep(60)"), python("FINAL(kept)"))
    stage.soft.deadline = time.monotonic() + 0.5
    outcome = stage.run()
    assert (outcome.status, outcome.source, outcome.answer.value) == ("partial", "finishing turn", "so far")
    assert outcome.stop_reason == "The time limit of the run was reached."
    assert stage.iterations[0].cells[0].status == "timeout"
    assert "(the cell took too long)" in stage.told[0]


def test_the_time_runs_out_in_a_call(play: Play) -> None:
    """The call is cancelled; what it would have been told is told in the last turn."""
    stage = play(python("print('seen')"), lambda request: late(request, stage))
    stage.soft.deadline = time.monotonic() + 100

    def late(request: Request, stage: Stage) -> str:
        if not stage.finishing[-1]:
            stage.soft.deadline = 0.0
            stage.soft.check()
        return python("FINAL('at last')")

    outcome = stage.run()
    assert (outcome.source, outcome.answer.value) == ("finishing turn", "at last")
    first, second = stage.told
    assert second.startswith(f"{first}\n\n**This is your last turn.**")
    assert [turn.number for turn in stage.iterations] == [1, 2]


def test_cancelled_in_a_cell(play: Play) -> None:
    """No model is asked any more; what is stored counts."""
    stage = play(python("answer = 'draft'\nimport time\nprint('on', flush=True)\ntime.sleep(60)"))
    timer = threading.Timer(0.5, lambda: [c.cancel("somebody pressed Ctrl-C") for c in (stage.soft, stage.hard)])
    timer.start()
    began = time.monotonic()
    outcome = stage.run()
    timer.join()
    assert time.monotonic() - began < 5
    assert (outcome.status, outcome.source, outcome.answer.value) == ("partial", "stored", "draft")
    assert "The run was stopped: somebody pressed Ctrl-C." in outcome.stop_reason
    assert stage.iterations[0].cells[0].status == "interrupted"
    assert len(stage.requests) == 1


def test_cancelled_in_a_call(play: Play) -> None:
    """The first turn may never come; there is a result all the same."""
    stage = play({"text": python("FINAL(1)"), "delay": 60})
    timer = threading.Timer(0.2, lambda: [c.cancel("somebody pressed Ctrl-C") for c in (stage.soft, stage.hard)])
    timer.start()
    outcome = stage.run()
    timer.join()
    assert (outcome.status, outcome.source) == ("partial", "none")
    assert outcome.answer.text == "No answer was reached. The run was stopped: somebody pressed Ctrl-C."
    assert stage.agent.completed == 0


def test_a_reply_that_breaks_off(play: Play) -> None:
    """It is asked for again with the same request, and both are paid for."""
    stage = play({"text": python("FINAL('whole')"), "error": "lost", "times": 2}, cost=5)
    assert stage.run().answer.value == "whole"
    assert stage.requests[0] == stage.requests[1] == stage.requests[2]
    assert stage.ledger.balance().calls == 3
    assert stage.ledger.balance().spent_cost > 2 * 1000 * 100  # nobody knows, so each counts as a whole reply


def test_replies_that_always_break_off(play: Play) -> None:
    """After `max_failures` attempts it is over; what is stored counts."""
    stage = play(python("answer = 1"), {"text": "x", "error": "lost"}, max_failures=2)
    outcome = stage.run()
    assert (outcome.status, outcome.source, outcome.answer.value) == ("partial", "stored", 1)
    assert outcome.stop_reason.startswith("The model gave no reply: ")
    assert len(stage.requests) == 3


def test_a_service_that_is_not_there(play: Play) -> None:
    """What its provider has tried often enough is not tried again."""
    stage = play(python("print(1)"), {"error": "unavailable"})
    outcome = stage.run()
    assert (outcome.status, outcome.source) == ("error", "none")
    assert len(stage.requests) == 2


def test_what_keeps_it_from_beginning(play: Play) -> None:
    """Before the first iteration, a failure is raised: there is nothing to save."""
    with pytest.raises(RefusedKeyError):
        play({"error": "refused key"}).run()
    with pytest.raises(BudgetExceededError):
        play(python("FINAL(1)"), cost=0.000001).run()


def test_the_budget_ends(play: Play) -> None:
    """The last turn is paid from what was set aside, and the limit holds."""

    def reply(request: Request) -> str:
        last = "This is your last turn" in request.messages[-1].content
        return python("FINAL('with the last cent')" if last else "print('on')")

    stage = play(reply, repeat=True, cost=5.0)
    outcome = stage.run()
    assert (outcome.status, outcome.source, outcome.answer.value) == ("partial", "finishing turn", "with the last cent")
    assert outcome.stop_reason.startswith("The budget ended: limit reached: ")
    assert stage.finishing == [False] * len(stage.iterations) + [True]  # one was refused before it was sent
    balance = stage.ledger.balance()
    assert balance.spent_cost + balance.reserved_cost <= 5_000_000
    assert 2 < len(stage.iterations) < 50


def test_the_kernel_is_gone_for_good(play: Play, launcher: Launcher, tmp_path: Path) -> None:  # noqa: F811
    """The run ends with what is recorded, and says why."""
    with _kernel(launcher, tmp_path, max_restarts=1) as kernel:
        stage = play(*[python("import os; os._exit(3)")] * 2, python("FINAL(1)"), python("FINAL(2)"), kernel=kernel)
        outcome = stage.run()
    assert (outcome.status, outcome.source) == ("error", "none")
    assert outcome.stop_reason == "There is no kernel: the kernel ended 2 times; it is not restarted any more."
    assert [turn.cells[0].status for turn in stage.iterations] == ["died", "died"]
    assert "(the kernel ended)" in stage.told[0]
    assert "variables and imports are gone" in stage.told[0]


class NoKernel:
    """What there is when a kernel cannot be started."""

    def __init__(self, error: RLMError) -> None:
        self._error = error

    def execute(self, code: str, cancel: Cancellation, on_output: Any = None) -> CellResult:
        raise self._error


def test_a_kernel_that_never_starts(play: Play) -> None:
    """Then there is no first iteration."""
    with pytest.raises(KernelStartError, match="no memory"):
        play(python("FINAL(1)"), kernel=NoKernel(KernelStartError("no memory"))).run()


def test_the_time_runs_out_before_there_is_a_kernel(play: Play, shared: KernelClient) -> None:
    """The last turn does not repeat the task, and says that the cell did not run."""

    class Slow(NoKernel):
        def execute(self, code: str, cancel: Cancellation, on_output: Any = None) -> CellResult:
            if stage.finishing[-1]:
                return shared.execute(code, cancel, on_output)
            stage.soft.deadline = 0.0
            cancel.check()
            raise AssertionError

    stage = play(python("x = 1"), python("FINAL('poor')"), kernel=Slow(RLMError()))
    outcome = stage.run()
    assert (outcome.source, outcome.answer.value) == ("finishing turn", "poor")
    assert stage.told[0].startswith("[Your last cells did not all run.]\n\n**This is your last turn.**")
    assert_append_only(stage)


def test_a_damaged_budget_in_mid_run(play: Play) -> None:
    """What nobody foresaw to fail ends the run with what was stored, once there is something to save."""

    def reply(request: Request) -> str:
        raise LedgerError("budget.json is damaged")

    outcome = play(python("answer = 'draft'"), reply).run()
    assert (outcome.status, outcome.source, outcome.answer.value) == ("partial", "stored", "draft")
    assert outcome.stop_reason.startswith("The run cannot go on: budget.json is damaged.")
    with pytest.raises(LedgerError, match="damaged"):
        play(reply).run()
