"""Every limit, reached by real agents: its own error where it is reached, and a partial result with what there is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

import rlm_nb
from rlm_nb.ledger import BudgetFile
from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.notebook.reader import read
from tests.whole_runs.conftest import Shell, agents_of, cell, check_record, spent

PRICE = {"input": 3, "output": 15}
REPLY = "yes " * 50
"""Any `llm_query` is answered so."""

ASK_ON = cell(
    "answer = []",
    "try:",
    "    while True: answer.append(str(llm_query('Is it? ' * 20)))",
    "except Exception as error:",
    "    answer = [type(error).__name__, len(answer)]",
    "    raise",
)
"""Asks until a limit is reached."""


def run(
    repository: Path, folder: Path, agents: Mapping[str, list[Any]], **sections: Mapping[str, Any]
) -> rlm_nb.RunResult:
    """A run of a script in which each agent repeats its last line."""
    config = rlm_nb.load_config(flags={"runs": {"dir": folder / "runs"}, "model": {"max_tokens": 1000}, **sections})
    model = ScriptedModel.of(agents, price=PRICE, repeat=True, prompts=[(".", REPLY)])
    result = rlm_nb.run("Do it.", repository, config, model=model)
    check_record(result.folder)
    return result


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        ({"max_cost": 0.5}, "CostLimitError"),
        ({"max_input_tokens": 60_000}, "TokenLimitError"),
        ({"max_output_tokens": 8000}, "TokenLimitError"),
        ({"max_calls": 6}, "CallLimitError"),
    ],
)
def test_a_limit_that_a_cell_reaches(repository: Path, tmp_path: Path, limit: dict[str, Any], error: str) -> None:
    """It is raised in the cell, recorded there, and the run ends as partial with what the cell had gathered."""
    result = run(repository, tmp_path, {"root": [ASK_ON, "```python\nprint('on')\n```"]}, budget=limit)
    assert result.root.status == "partial"
    assert result.root.outcome.source == "stored"
    name, gathered = result.root.answer.value
    assert name == error
    assert gathered > 0
    assert "The budget ended: limit reached: " in result.root.outcome.stop_reason
    first = read(result.root.notebook).iterations[0].cells[0]
    assert first.status == "error"
    assert first.error is not None
    assert first.error.startswith(f"{error}: limit reached: ")
    balance, top = result.balance, next(iter(limit.values()))
    used = {
        "max_cost": balance.spent_cost / 1e6,
        "max_input_tokens": balance.spent.prompt_tokens,
        "max_output_tokens": balance.spent.output_tokens,
        "max_calls": balance.calls,
    }
    assert 0 < used[next(iter(limit))] <= top


def test_a_limit_that_a_grandchild_reaches(repository: Path, tmp_path: Path) -> None:
    """It is raised in the grandchild's cell; what it had comes up through both of its parents, as partial results."""
    pass_on = cell("below = rlm_query('go on')", "answer = [below.status, below.answer]", "FINAL(answer)")
    on = cell("print('on')")
    agents = {"root": [pass_on, on], "root.1": [pass_on, on], "root.1.1": [ASK_ON, on]}
    result = run(repository, tmp_path, agents, budget={"max_calls": 12})
    agent = next(agent for agent in agents_of(result.root) if agent.agent == "root.1.1")
    assert (agent.status, agent.answer.value[0]) == ("partial", "CallLimitError")
    assert result.root.answer.value == ["completed", ["partial", agent.answer.value]]
    assert result.balance.calls <= 12


def test_too_many_agents_are_one_too_many_where_they_are_asked_for(repository: Path, tmp_path: Path) -> None:
    """The cell that asks has the error; its answers so far are the run's."""
    ask = cell("answer = [rlm_query('a').answer]", "answer.append(rlm_query('b').answer)")
    agents = {"root": [ask, cell("FINAL(answer)")], "root.*": [cell("FINAL('fine')")]}
    result = run(repository, tmp_path, agents, rlm={"max_sandboxes": 2})
    assert result.root.answer.value == ["fine"]
    first = read(result.root.notebook).iterations[0].cells[0]
    assert str(first.error).startswith("SandboxLimitError: limit reached: agents")


def test_an_agent_that_never_started_takes_no_place(repository: Path, tmp_path: Path, clean_environment: Path) -> None:
    """Where there is no folder for a sub-agent's kernel, its place is there for the next one."""
    away = clean_environment.with_name(f"{clean_environment.name}-away")
    ask = cell(
        f"home, away = Path({str(clean_environment)!r}), Path({str(away)!r})",
        "home.rename(away)",
        "try: rlm_query('a')",
        "except Exception as error: first = str(error)",
        "finally: away.rename(home)",
        "FINAL([first, rlm_query('b').answer])",
    )
    agents = {"root": [ask], "root.*": [cell("FINAL('fine')")]}
    result = run(repository, tmp_path, agents, rlm={"max_sandboxes": 2})
    first, second = result.root.answer.value
    assert "No such file or directory" in first
    assert second == "fine"
    assert result.balance.sandboxes == 2


def test_deeper_than_agents_may_nest(repository: Path, tmp_path: Path) -> None:
    """Who is at the deepest level has no function to ask with; who asks all the same has the error in his cell."""
    ask = cell("answer = 'so far'", "llm_query.__self__._call('rlm_query', tasks=['one more'], single=True)")
    agents = {"root": [cell("FINAL(rlm_query('go on').answer)")], "root.1": [ask, cell("FINAL(answer)")]}
    result = run(repository, tmp_path, agents, rlm={"max_depth": 1})
    assert result.root.answer.value == "so far"
    first = read(result.root.children[0].notebook).iterations[0].cells[0]
    assert str(first.error).startswith("RecursionDepthError: limit reached: depth of sub-agents: 1 of 1 used")


def test_time_that_is_up(repository: Path, tmp_path: Path) -> None:
    """The cell is interrupted, one last turn is granted, and what the agent had stored by then is the answer."""
    wait = cell("answer = 'so far'", "time.sleep(60)")
    began = time.monotonic()
    limit = {"global_timeout": 6}
    result = run(repository, tmp_path, {"root": [cell("import time"), wait, cell("print('on')")]}, rlm=limit)
    assert time.monotonic() - began < 30
    assert (result.root.status, result.root.answer.value) == ("partial", "so far")
    assert result.root.outcome.stop_reason.startswith("The time limit of the run was reached.")
    assert read(result.root.notebook).iterations[1].cells[0].status == "timeout"


def test_eight_children_under_one_limit(repository: Path, tmp_path: Path) -> None:
    """Whatever they do side by side, the sum never passes the limit, and each that ran has its share in the record."""
    ask = cell("answer = [part.ok for part in rlm_query_batched(['go on'] * 8)]", "FINAL(answer)")
    result = run(
        repository,
        tmp_path,
        {"root": [ask], "root.*": [ASK_ON, cell("print('on')")]},
        budget={"max_cost": 1.0},
        rlm={"max_parallel": 4},
    )
    assert 0.4e6 < result.balance.spent_cost <= 1e6
    assert sum(agent.cost for agent in agents_of(result.root)) == result.balance.spent_cost
    assert len(result.root.children) == 8


# A purse for several runs


def purse_of(shell: Shell, purse: Path, **budget: Any) -> Path:
    """Settings of a run that draws on `purse`."""
    return shell.settings(model={"max_tokens": 1000}, rlm={"global_timeout": 60}, budget={"file": str(purse), **budget})


def test_runs_draw_on_one_purse(repository: Path, shell: Shell, tmp_path: Path) -> None:
    """The first makes it; each says what is in it, and in the end what it has cost itself; a third finds it empty."""
    purse = tmp_path / "purse.json"
    prompts = [{"pattern": ".", "reply": REPLY}]
    model = shell.script({"root": [ASK_ON, cell("FINAL(answer)")]}, price=PRICE, repeat=True, prompts=prompts)
    runs = [
        shell.run(repository, "-c", purse_of(shell, purse, max_cost=top), "--model", model) for top in (0.4, 0.15, 5.0)
    ]
    # The third cannot make its first call, so that it never began, and leaves no record.
    assert [ended.code for ended in runs] == [3, 3, 1], runs[-1].err
    assert f"{purse} was made, and has $0.40 left of $0.40" in runs[0].err
    assert f"{purse} has $0.0" in runs[1].err
    assert "in purse.json: 0.3" in runs[2].last_line
    folders = [folder for folder in (shell.here / "runs").iterdir() if folder.is_dir()]
    assert len(folders) == 2
    costs = {folder.name: spent(json.loads((folder / "budget.json").read_text())) for folder in folders}
    shared = json.loads(purse.read_text())
    assert shared["limits"]["cost"] == 400_000
    assert sum(costs.values()) == shared["spent"]["cost"] <= 400_000
    assert {run: amount["cost"] for run, amount in shared["agents"].items()} == costs
    assert shared["leases"] == {}
    for folder in folders:
        check_record(folder)


def test_each_run_keeps_to_its_own_limit(repository: Path, tmp_path: Path) -> None:
    """A purse that holds more raises no run's limit, and the run is told what its own limit leaves."""
    purse = tmp_path / "purse.json"
    look = cell("FINAL(budget()['left_usd'])")
    for _ in range(2):
        result = run(repository, tmp_path, {"root": [look]}, budget={"file": purse, "max_cost": 2.0})
    assert BudgetFile.open(purse).balance().limit_cost == 2_000_000
    first_left = result.root.answer.value
    assert 0 < first_left < 2.0
    smaller = run(repository, tmp_path, {"root": [look]}, budget={"file": purse, "max_cost": 0.5})
    assert 0 < smaller.root.answer.value < 0.5
    larger = run(repository, tmp_path, {"root": [look]}, budget={"file": purse, "max_cost": 50.0})
    assert larger.root.answer.value < first_left  # what the others have spent is gone for this one, too


def test_time_and_agents_are_each_runs_own(repository: Path, tmp_path: Path) -> None:
    """Neither the deadline nor the agents of a run that has ended keep the next one from anything."""
    purse = tmp_path / "purse.json"
    agents = {"root": [cell("FINAL(rlm_query('x').answer)")], "root.1": [cell("FINAL('fine')")]}
    for _ in range(2):
        limits = {"global_timeout": 8, "max_sandboxes": 2}
        result = run(repository, tmp_path, agents, budget={"file": purse}, rlm=limits)
        assert result.root.answer.value == "fine"
        ended = time.time()
    held = json.loads(purse.read_text())
    assert held["limits"]["deadline"] is None
    assert held["limits"]["sandboxes"] is None
    # An older run's own budget as a purse: its deadline has passed, or will have.
    old = json.loads((result.folder / "budget.json").read_text())
    old["limits"]["deadline"] = ended - 1
    past = tmp_path / "past.json"
    past.write_text(json.dumps(old))
    assert run(repository, tmp_path, agents, budget={"file": past}).root.answer.value == "fine"


def test_two_processes_at_once(repository: Path, tmp_path: Path) -> None:
    """Two runs that start together share the purse that one of them makes; together they never pass its limit."""
    purse = tmp_path / "purse.json"
    script = tmp_path / "script.yaml"
    prompts = [{"pattern": ".", "reply": REPLY}]
    script.write_text(json.dumps({"price": PRICE, "repeat": True, "prompts": prompts, "agents": {"root": [ASK_ON]}}))

    def start(number: int) -> subprocess.CompletedProcess[str]:
        here = tmp_path / f"here-{number}"
        here.mkdir()
        (here / "config.yaml").write_text(
            yaml.safe_dump(
                {
                    "rlm": {"max_iterations": 5},
                    "model": {"name": f"scripted:{script}", "max_tokens": 1000},
                    "budget": {"file": str(purse), "max_cost": 0.6},
                }
            )
        )
        command = [sys.executable, "-m", "rlm_nb", "run", str(repository), "-p", "Go on."]
        return subprocess.run(command, capture_output=True, text=True, cwd=here)

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(start, range(2)))
    assert [ended.returncode for ended in done] == [3, 3], done[0].stderr + done[1].stderr
    assert sum("was made, and" in ended.stderr for ended in done) == 1
    shared = json.loads(purse.read_text())
    own = [spent(json.loads(path.read_text())) for path in tmp_path.glob("here-*/runs/*/budget.json")]
    assert len(own) == 2
    assert min(own) > 0
    assert sum(own) == shared["spent"]["cost"] <= 600_000
    assert shared["leases"] == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("half a fi", "purse.json: damaged ("),
        ('{"version": 9}', "purse.json: written by a newer rlm-nb (version 9 of the file); upgrade"),
    ],
)
def test_a_purse_that_cannot_be_used(repository: Path, shell: Shell, tmp_path: Path, text: str, says: str) -> None:
    """The run does not begin, says why, and leaves both the purse and the folder as they were."""
    purse = tmp_path / "purse.json"
    purse.write_text(text)
    model = shell.script({"root": [cell("FINAL(1)")]})
    ended = shell.run(repository, "-c", purse_of(shell, purse), "--model", model)
    assert ended.code == 1
    assert says in ended.last_line
    assert purse.read_text() == text
    assert ended.left == []
