"""Tasks as a program or an agent runs them: from the package's own names, with a builder, and in an agent's cell."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import openai  # noqa: F401 - takes most of a second, which is not to count in any test
import pytest

import rlm_nb
from rlm_nb.errors import ConfigError, CostLimitError, LedgerError, RecursionDepthError
from rlm_nb.models.metered import UNCOUNTED
from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.notebook.reader import read
from rlm_nb.notebook.tree import as_text, tree
from rlm_nb.records import Notice
from tests.servers.completions import CompletionsServer, Fails, Says
from tests.whole_runs.conftest import cell

PRICE = {"input": 3.0, "output": 15.0}


def first_word(context: str) -> str:
    return rlm_nb.semantic_subcall("Which word is first?", rlm_nb.context_head(context, 20))


def asking(server: CompletionsServer) -> rlm_nb.Config:
    """Settings that name a model of that server."""
    named = {"name": "gpt-test", "provider": "openai", "base_url": server.url}
    return rlm_nb.load_config(flags={"model": named, "budget": {"prices": {"gpt-test": PRICE}}})


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs are recorded below the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


PARTS = {
    "guards": ["GuardConfig", "init_guards"],
    "context_access": [
        *("SearchMatch", "context_head", "context_tail", "context_slice"),
        *("context_search", "context_chunks", "context_around_match"),
    ],
    "subcalls": ["semantic_subcall", "semantic_subcall_json", "semantic_subcall_bool", "semantic_subcall_choice"],
    "runtime": ["run_task", "TaskBuilder"],
}
"""Where programs look for names that come from the parts of the package."""


def test_every_name_is_there() -> None:
    """What the package promises can be imported from it, and from `rlm_nb.tasks`, as one and the same."""
    from rlm_nb import tasks

    for name in tasks.__all__:
        assert getattr(rlm_nb, name) is getattr(tasks, name)
    for part, names in PARTS.items():
        module = import_module(f"rlm_nb.tasks.{part}")
        assert all(getattr(module, name) is getattr(tasks, name) for name in names)
        assert set(names) <= set(tasks.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'run_tusk'"):
        _ = tasks.run_tusk


def test_the_builder(here: Path) -> None:
    """It sets each limit, and a model by name; what is not set is as the settings say."""
    (here / "script.yaml").write_text("prompts: [{pattern: ., reply: The}]\n")
    (here / "text.txt").write_text("The first word.")
    builder = (
        rlm_nb.TaskBuilder(first_word)
        .with_cost_budget(0.25)
        .with_runtime_limit(30.0)
        .with_token_limit(2000)
        .with_model("scripted:script.yaml")
    )
    for context in ("The first word.", here / "text.txt"):
        result = builder.run(context)
        assert (result["status"], result["result"]) == ("completed", "The")
        assert result["budget_summary"]["cost_budget_usd"] == 0.25
        assert result.folder is not None
        assert (result.folder / "task.ipynb").is_file()
    rlm = json.loads((result.folder / "task.ipynb").read_text())["metadata"]["rlm"]
    assert (rlm["max_runtime_seconds"], rlm["max_tokens_per_subcall"]) == (30.0, 2000)
    unrecorded = builder.run("The", record=False)
    assert unrecorded.folder is None
    assert len(list(here.glob("runs/*/"))) == 2


def test_in_an_agents_cell(here: Path, repository: Path) -> None:
    """The agent's model answers and its budget pays, within the task's own; each call is recorded with the cell."""
    code = cell(
        "from rlm_nb.tasks import *",
        "def ask(text):",
        "    for number in range(100):",
        "        yield semantic_subcall(f'word {number}?', context_slice(text, 0, 9))",
        "found = run_task(ask, context, GuardConfig(max_cost=0.006))",
        "print(budget()['spent_usd'])",
        "FINAL([found['status'], found['result'], found['budget_summary']])",
    )
    (here / "context.txt").write_text("The first word.")
    model = ScriptedModel.of({"root": [code]}, [("word", "The")], price=PRICE)
    ended = rlm_nb.run("Ask.", repository, rlm_nb.Config(), context=here / "context.txt", model=model)
    status, result, summary = ended.root.answer.value
    assert status == "partial"
    assert 0 < len(result) == summary["total_calls"] < 100
    assert set(result) == {"The"}
    assert 0 < summary["total_cost_usd"] <= 0.006
    (ran,) = read(ended.root.notebook).iterations[0].cells
    asked = [call for call in ran.calls if call.name == "llm_query"]
    assert len(asked) == len(result)
    turn = read(ended.root.notebook).iterations[0].reply.cost
    assert ended.balance.spent_cost == turn + round(summary["total_cost_usd"] * 1e6)


def test_guards_at_a_prompt(here: Path, clean_environment: Path) -> None:
    """Subcalls work from then on, within the limits; tasks have guards of their own; nothing is left in the end."""
    model = ScriptedModel.of({}, [(".", "The")], price=PRICE)
    heard: list[object] = []
    before = set(clean_environment.glob("rlm-*"))
    guards = rlm_nb.init_guards(rlm_nb.GuardConfig(max_cost=0.2), model=model, listen=heard.append)
    assert first_word("The first word.") == "The"
    assert [type(told).__name__ for told in heard] == ["Access", "Subcall"]
    result = rlm_nb.run_task(first_word, "The first word.", model=model)
    assert (result["result"], result["budget_summary"]["cost_budget_usd"]) == ("The", 0.5)
    summary = guards.summary()
    assert list(summary) == list(result["budget_summary"])
    assert (summary["total_calls"], summary["cost_budget_usd"]) == (1, 0.2)
    with rlm_nb.init_guards(rlm_nb.GuardConfig(max_cost=0.0001), model=model) as poorer, pytest.raises(CostLimitError):
        first_word("The first word.")
    assert poorer.summary()["total_calls"] == 0
    with pytest.raises(RuntimeError, match="or call init_guards"):
        first_word("The first word.")
    guards.close()
    assert not set(clean_environment.glob("rlm-*")) - before


def test_guards_that_are_not_closed(here: Path, clean_environment: Path) -> None:
    """They end with the process, and those whose place others took before that."""
    before = set(clean_environment.glob("rlm-*"))
    code = (
        "import rlm_nb, tempfile, pathlib\n"
        "from rlm_nb.models.scripted import ScriptedModel\n"
        "for _ in range(3):\n"
        "    rlm_nb.init_guards(model=ScriptedModel.of({}, [('.', 'fine')]))\n"
        "    print(rlm_nb.semantic_subcall('?', 'x'), len(list(pathlib.Path(tempfile.gettempdir()).glob('rlm-*'))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"fine {len(before) + 1}\n" * 3, "")
    assert not set(clean_environment.glob("rlm-*")) - before


def test_guards_in_a_task() -> None:
    """A task cannot give itself other limits."""
    model = ScriptedModel.of({}, [(".", "x")])

    def task(context: str) -> None:
        with pytest.raises(RecursionDepthError):
            rlm_nb.init_guards(rlm_nb.GuardConfig(max_cost=100), model=model)

    assert rlm_nb.run_task(task, "text", model=model)["status"] == "completed"


def test_what_keeps_a_task_from_starting(here: Path) -> None:
    """It is raised, and leaves no run."""
    (here / "team.json").write_text("{")
    settings = rlm_nb.load_config(flags={"budget": {"file": here / "team.json"}})
    with pytest.raises(LedgerError, match="damaged"):
        rlm_nb.run_task(first_word, "text", settings=settings, model=ScriptedModel.of({}, [(".", "x")]))
    assert not (here / "runs").exists()


def test_what_is_no_function_with_a_name(here: Path) -> None:
    """It is run and recorded all the same; limits of another kind are refused."""

    class Odd:
        __name__ = 5

        def __call__(self, context: str, version: object = None) -> str:
            return first_word(context)

    model = ScriptedModel.of({}, [(".", "The")])
    for task in (Odd(), functools.partial(functools.partial(Odd(), version="other"), version=here)):
        result = rlm_nb.run_task(task, "The first word.", model=model)
        assert (result["status"], result["result"], result.faults) == ("completed", "The", ())
        assert result.folder is not None
        assert json.loads((result.folder / "run.json").read_text())["task"] == "Odd"
        assert as_text(tree(result.folder)).startswith("task · completed · 1 call")
    with pytest.raises(ConfigError, match="the limits of a task are a GuardConfig, not dict"):
        rlm_nb.run_task(first_word, "text", {"max_cost": 1}, model=model)  # type: ignore[arg-type]


def test_time_that_is_up_in_an_agents_cell(here: Path, repository: Path) -> None:
    """The call under way is stopped; the task's own summary has it, at the price that the agent paid."""
    code = cell(
        "from rlm_nb.tasks import *",
        "def ask(text):",
        "    yield semantic_subcall('quick?', text)",
        "    yield semantic_subcall('slow?', text)",
        "found = run_task(ask, 'text', GuardConfig(max_runtime_seconds=1.5))",
        "FINAL([found['status'], found['result'], found['budget_summary'], [call.error for call in found.subcalls]])",
    )
    model = ScriptedModel.of({"root": [code]}, [("slow", {"text": "late", "delay": 100}), ("quick", "x")], price=PRICE)
    ended = rlm_nb.run("Ask.", repository, rlm_nb.Config(), model=model)
    status, result, summary, errors = ended.root.answer.value
    assert (status, result, summary["total_calls"]) == ("partial", ["x"], 2)
    assert summary["elapsed_seconds"] < 20
    assert [error and error.partition(":")[0] for error in errors] == [None, "RuntimeLimitError"]
    (ran,) = read(ended.root.notebook).iterations[0].cells
    assert [call.error and call.error["type"] for call in ran.calls if call.name == "llm_query"] == [
        None,
        "CancelledError",
    ]
    # Nobody knows what it took: each side counts it for the most that it can have, the agent with two line ends more.
    paid = ended.balance.spent_cost - read(ended.root.notebook).iterations[0].reply.cost
    assert 0 <= paid - round(summary["total_cost_usd"] * 1e6) <= 2 * PRICE["input"]


def test_a_service_that_does_not_count() -> None:
    """It is said to be so once, and each call costs the most that it can have cost."""
    heard: list[object] = []
    with CompletionsServer(respond=lambda request: "The", counts=False) as server:
        result = rlm_nb.run_task(
            lambda text: [first_word(text), rlm_nb.semantic_subcall("And the second?", text)],
            "The first word.",
            settings=asking(server),
            keys={},
            listen=heard.append,
        )
    assert result["result"] == ["The", "The"]
    assert [told.text for told in heard if isinstance(told, Notice)] == [f"gpt-test {UNCOUNTED}"]
    assert result["budget_summary"]["total_cost_usd"] > 2 * 3000 * PRICE["output"] / 1e6


def test_questions_that_fail_in_an_agents_cell(here: Path, repository: Path) -> None:
    """The task pays what the agent paid: nothing for a service that is away, and for a call that its budget refused."""
    code = cell(
        "from rlm_nb.tasks import *",
        "def ask(text):",
        "    for question in ('away', 'refuse', 'well 1', 'well 2', 'well 3'):",
        "        try: yield semantic_subcall(question, text)",
        "        except Exception as error: yield f'{type(error).__name__}: {error}'",
        "found = run_task(ask, 'text')",
        "FINAL([found['result'], found['budget_summary']])",
    )
    says = [
        ("away", {"error": "unavailable"}),
        ("refuse", {"text": "no", "stop_reason": "refusal"}),
        ("well", "x"),
    ]
    model = ScriptedModel.of({"root": [code]}, says, price=PRICE)
    settings = rlm_nb.load_config(flags={"budget": {"max_calls": 6}})  # one turn, one set aside, four for the task
    ended = rlm_nb.run("Ask.", repository, settings, model=model)
    result, summary = ended.root.answer.value
    assert [said.partition(": ")[0] for said in result] == [
        "ModelUnavailableError",
        "ModelError",
        "x",
        "x",
        "CallLimitError",
    ]
    assert summary["total_calls"] == 4
    paid = ended.balance.spent_cost - read(ended.root.notebook).iterations[0].reply.cost
    assert round(summary["total_cost_usd"] * 1e6) == paid > 0


@pytest.mark.parametrize(
    ("answer", "is_charged"),
    [(Fails(503, headers={"retry-after": "30"}), False), (Says("late", stall=0), True)],
    ids=["refused so far", "asked"],
)
def test_time_that_is_up_for_a_service(answer: Fails | Says, is_charged: bool) -> None:
    """Between two attempts a call has surely cost nothing; one that was sent counts for the most that it can cost."""
    with CompletionsServer(answer, "never") as server:
        limits = rlm_nb.GuardConfig(max_runtime_seconds=1.5, model=None)
        result = rlm_nb.run_task(first_word, "The first word.", limits, settings=asking(server), keys={})
        assert len(server.requests) == 1
    assert result["status"] == "partial"
    summary = result["budget_summary"]
    assert (summary["total_calls"], summary["total_cost_usd"] > 0) == (1, is_charged)


def test_a_long_context_in_a_cell(here: Path, repository: Path) -> None:
    """It is not loaded: the cell finds a context with the functions that look into it, and the model is told."""
    (here / "long.txt").write_text("größer als sonst\n" * 600_000 + "the needle\n", "utf-8")
    code = cell(
        "match = context_search(context, 'needle')[0]",
        "FINAL([type(context).__name__, len(context), match.line_number, context[-7:-1], 'needle' in context])",
    )
    model = ScriptedModel.of({"root": [code]})
    ended = rlm_nb.run("Look.", repository, rlm_nb.Config(), context=here / "long.txt", model=model)
    assert ended.root.answer.value == ["Context", 17 * 600_000 + 11, 600_001, "needle", True]
    assert "It is not in memory" in read(ended.root.notebook).iterations[0].message


def test_one_task_in_another(here: Path) -> None:
    """It is refused: depth is 1."""
    model = ScriptedModel.of({}, [(".", "x")])

    def outer(context: str) -> object:
        return rlm_nb.run_task(first_word, context, model=model)

    result = rlm_nb.run_task(outer, "text", model=model)
    assert (result["status"], result["result"]) == ("partial", None)
    assert result["error"] == str(RecursionDepthError("depth of tasks", 1, 1))
