"""Trees of agents, with real kernels in real worktrees; only the model is scripted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

import rlm_nb
from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.notebook.reader import read
from rlm_nb.records import AgentEnded, Event
from tests.conftest import Git
from tests.whole_runs.conftest import agents_of, cell, check_record

PRICE = {"input": 3, "output": 15}


class Runner:
    """Runs scripts on one repository; all runs are recorded in one folder."""

    def __init__(self, repository: Path, folder: Path) -> None:
        self.repository, self.folder = repository, folder

    def __call__(
        self, agents: Mapping[str, Sequence[Any]], listen: Any = lambda event: None, **limits: object
    ) -> rlm_nb.RunResult:
        config = rlm_nb.load_config(flags={"rlm": limits, "runs": {"dir": self.folder}})
        model = ScriptedModel.of(agents, price=PRICE)
        result = rlm_nb.run("Do it.", self.repository, config, model=model, listen=listen)
        check_record(result.folder)
        return result


@pytest.fixture
def run(repository: Path, tmp_path: Path, confined: None) -> Runner:
    """See `Runner`."""
    return Runner(repository, tmp_path / "runs")


def test_nested_to_the_deepest_level(run: Runner) -> None:
    """Each level asks the next, until the function is absent; asked by hand, the bridge refuses."""
    ask = cell("FINAL(rlm_query('go on').answer)")
    last = cell(
        "try: llm_query.__self__._call('rlm_query', tasks=['one more'], single=True)",
        "except Exception as error: FINAL(['rlm_query' in globals(), type(error).__name__])",
    )
    result = run({"root": [ask], "root.1": [ask], "root.1.1": [ask], "root.1.1.1": [last]}, max_depth=3)
    assert result.root.answer.value == [False, "RecursionDepthError"]
    assert [agent.agent for agent in agents_of(result.root)] == ["root", "root.1", "root.1.1", "root.1.1.1"]
    assert [agent.task for agent in agents_of(result.root)] == ["Do it.", "go on", "go on", "go on"]
    assert read(result.root.notebook).subagents[0].children[0].task == "go on"
    assert result.balance.sandboxes == 4
    prompts = [read(agent.notebook).system for agent in agents_of(result.root)]
    assert ["rlm_query" in prompt for prompt in prompts] == [True, True, True, False]


@pytest.mark.parametrize(("depth", "functions"), [(0, []), (1, ["rlm_query", "rlm_query_batched"])])
def test_shallow_limits(run: Runner, depth: int, functions: list[str]) -> None:
    """With 0 the root works alone; with 1 it has sub-agents, which have none."""
    names = "[name for name in ('rlm_query', 'rlm_query_batched') if name in globals()]"
    below = " + [rlm_query('look').answer]" if depth else ""
    result = run({"root": [cell(f"FINAL({names}{below})")], "root.1": [cell(f"FINAL({names})")]}, max_depth=depth)
    assert result.root.answer.value == functions + ([[]] if depth else [])


def test_one_agent_too_many(run: Runner) -> None:
    """Alone it raises in its parent's cell; in a batch the error stands in its place, and the others answer."""
    count = cell(
        "batch = rlm_query_batched(['one', 'two', 'three', 'four'])",
        "try: rlm_query('five')",
        "except Exception as error: single = type(error).__name__",
        "FINAL([[part.error.partition(':')[0] if part.error else str(part) for part in batch], single])",
    )
    answer = cell("FINAL('fine')")
    result = run({"root": [count], "*": [answer]}, max_sandboxes=4, max_parallel=1)
    assert result.root.answer.value == [["fine", "fine", "fine", "SandboxLimitError"], "SandboxLimitError"]
    assert result.balance.sandboxes == 4


def test_the_limit_holds_for_the_whole_tree(run: Runner) -> None:
    """Cousins draw on the same places: with five, two branches of two get no further."""
    branch = cell(
        "batch = rlm_query_batched(['a', 'b'])",
        "FINAL([str(part.error).partition(':')[0] if part.error else 'fine' for part in batch])",
    )
    result = run(
        {"root": [cell("FINAL([part.answer for part in rlm_query_batched(['x', 'y'])])")]}
        | {"root.1": [branch], "root.2": [branch], "root.*": [cell("FINAL('fine')")]},
        max_sandboxes=5,
    )
    got = [one for branch in result.root.answer.value for one in branch]
    assert sorted(got) == ["SandboxLimitError", "SandboxLimitError", "fine", "fine"]
    assert result.balance.sandboxes == 5


def test_edits_go_down_and_come_back(run: Runner, git: Git) -> None:
    """A child finds its parent's uncommitted edits; its own come back as a patch, and count once they are applied."""
    parent = cell(
        "Path('README.md').write_text('of the parent\\n'); Path('new.txt').write_text('of the parent\\n')",
        "child = rlm_query('edit')",
        "before = Path('README.md').read_text()",
        "subprocess.run(['git', 'apply'], input=child.patch, text=True, check=True)",
        "FINAL([child.answer, list(child.files), before, Path('README.md').read_text()])",
    )
    child = cell(
        "seen = [Path(name).read_text() for name in ('README.md', 'new.txt')]",
        "edit_file('README.md', 'parent', 'child')",
        "FINAL(seen)",
    )
    result = run({"root": [parent], "root.1": [child]})
    seen, files, before, after = result.root.answer.value
    assert seen == ["of the parent\n", "of the parent\n"]
    assert files == ["README.md"]
    assert (before, after) == ("of the parent\n", "of the child\n")
    assert result.root.patch.files == ("README.md", "new.txt")
    assert git(run.repository, "status", "--porcelain") == ""
    assert result.patch_file is not None
    git(run.repository, "apply", result.patch_file)
    assert (run.repository / "README.md").read_text() == "of the child\n"


def test_edits_of_a_batch_are_merged(run: Runner) -> None:
    """Each into what the parent has by then, without a repository of its own; what does not fit is named."""
    parent = cell(
        "import shutil",
        "batch = rlm_query_batched(['first', 'second', 'third'])",
        "shutil.rmtree(WORKDIR / '../git'); (WORKDIR / '.git').unlink()",
        "edit_file('README.md', '# greeting', '# Greeting')",
        "applied = [result.apply() for result in batch[:2]]",
        "try: batch[2].apply()",
        "except Exception as error: applied.append([type(error).__name__, *error.files])",
        "FINAL([applied, [result.overlaps for result in batch], Path('README.md').read_text()])",
    )
    edit = "edit_file('README.md', 'Says hello', {!r}); Path({!r}).touch(); FINAL('done')"
    result = run(
        {"root": [parent], "root.1": [cell("Path('new').touch(); FINAL('done')")]}
        | {"root.2": [cell(edit.format("Says hi", "a"))], "root.3": [cell(edit.format("Says ho", "b"))]}
    )
    applied, overlaps, text = result.root.answer.value
    assert applied == [["new"], ["README.md", "a"], ["EditConflictError", "README.md"]]
    assert overlaps == [{}, {"README.md": [2]}, {"README.md": [1]}]
    assert text == "# Greeting\n\nSays hi.\n"
    assert result.root.patch.files == ("README.md", "a", "new")
    printed = read(result.root.notebook).iterations[0].cells[0].outputs[0]["text"]
    assert "Files that several results of this batch changed: README.md by 1, 2." in printed


def test_an_agent_that_ended_leaves_its_notebook_only(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its parent is told, its kernel and its worktree are gone already, and its notebook says how it ended."""
    monkeypatch.setenv("RLM_ISOLATION_LEVEL", "none")  # a confined kernel does not know the number that it has here
    seen: list[tuple[bool, bool, str]] = []

    def look(event: Event) -> None:
        if isinstance(event, AgentEnded) and event.agent != "root":
            pid, workdir = event.result.answer.value
            outcome = read(event.result.notebook).outcome
            assert outcome is not None
            seen.append((psutil.pid_exists(pid), Path(workdir).exists(), outcome.status))

    child = cell("FINAL([os.getpid(), str(WORKDIR)])")
    result = run({"root": [cell("FINAL(len(rlm_query_batched(['a', 'b'])))")], "*": [child]}, listen=look)
    assert result.root.answer.value == 2
    assert seen == [(False, False, "completed")] * 2


def test_a_child_that_dies_leaves_its_siblings_answers(run: Runner) -> None:
    """Its kernel ends as often as it may; what stands in its place says so, and the batch is complete."""
    die = cell("os._exit(3)")
    batch = cell(
        "batch = rlm_query_batched(['live', 'die', 'live'])",
        "FINAL([[part.ok, str(part) if part.ok else part.error] for part in batch])",
    )
    live = cell("FINAL('alive')")
    result = run({"root": [batch], "root.1": [live], "root.3": [live], "root.2": [die] * 8})
    first, second, third = result.root.answer.value
    assert first == third == [True, "alive"]
    assert second[0] is False
    assert "it is not restarted any more" in second[1]
    dead = next(agent for agent in agents_of(result.root) if agent.agent == "root.2")
    assert dead.status == "error"
    assert [turn.cells[0].status for turn in read(dead.notebook).iterations] == ["died"] * 4


def test_whatever_ends_an_agent_its_edits_are_kept(run: Runner, git: Git) -> None:
    """Its own `FINAL`, a kernel that is gone for good, a limit, a model that says nothing more: its ref has them."""
    edit = "Path('README.md').write_text('edited\\n')"
    ends = {
        "completed": [cell(edit, "FINAL(1)")],
        "a dead kernel": [cell(edit), *[cell("os._exit(3)")] * 4],
        "a limit": [cell(edit), *[cell("answer = 'so far'")] * 6],
        "no reply": [cell(edit)],
    }
    agents = {f"root.{number}": replies for number, replies in enumerate(ends.values(), start=1)}
    batch = cell("batch = rlm_query_batched(list('abcd'))", "FINAL([part.status for part in batch])")
    result = run({"root": [batch], **agents}, max_iterations=6)
    assert result.root.answer.value == ["completed", "error", "partial", "error"]
    reasons = [child.outcome.stop_reason for child in result.root.children]
    assert not [reason for reason in reasons if "could not begin" in reason]  # that would be an error of another kind
    assert [child.patch.error for child in result.root.children] == [None] * 4
    for agent in agents:
        assert git(result.folder / "ctl.git", "show", f"refs/rlm/{agent}:README.md") == "edited\n", agent


def test_the_same_money_is_in_every_place(run: Runner) -> None:
    """Ledger, notebooks, run.json, result.json and the result agree, for each agent and for the whole."""
    ask = cell("FINAL([str(part) for part in rlm_query_batched(['a', 'b'])])")
    result = run({"root": [cell("x = 1"), ask], "root.1": [ask], "root.*": [cell("FINAL('done')")]})
    agents = agents_of(result.root)
    assert len(agents) == 5
    ledger = json.loads((result.folder / "budget.json").read_text())
    for agent in agents:
        assert agent.cost == read(agent.notebook).cost == ledger["agents"][agent.agent]["cost"] > 0
        assert agent.total_cost == agent.cost + sum(child.total_cost for child in agent.children)
    assert result.balance.spent_cost == result.root.total_cost == sum(agent.cost for agent in agents)
    recorded = json.loads((result.folder / "result.json").read_text())
    assert recorded["total_cost"] == result.root.total_cost / 1e6


def test_jupyter_converts_every_notebook(run: Runner) -> None:
    """`jupyter nbconvert --to html` does not warn, pictures, errors, links and dead kernels included."""
    show = cell(
        "from IPython.display import HTML, display",
        "display(HTML('<b>bold</b>')); print('\\x1b[1mansi\\x1b[0m \\ud800'); print(rlm_query('below'))",
    )
    result = run(
        {"root": [show, cell("1 / 0"), cell("os._exit(3)"), cell("FINAL({'a': 1})")], "root.1": [cell("FINAL(2)")]}
    )
    notebooks = sorted(result.folder.glob("*.ipynb"))
    command = [sys.executable, "-W", "error", "-m", "nbconvert", "--to", "html", "--log-level", "WARN", *notebooks]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "warn" not in done.stderr.lower()
    assert {path.stem for path in result.folder.glob("*.html")} == {"root", "root.1"}
