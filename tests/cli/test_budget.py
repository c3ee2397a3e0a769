"""`rlm-nb budget`: what a file or a run's budget holds, for people and for programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlm_nb.ledger import BudgetFile, Limits
from rlm_nb.records import Usage
from tests.cli.conftest import Command, without_privileges
from tests.ledger.spender import price

SPENDER = Path(__file__).parents[1] / "ledger" / "spender.py"


@pytest.fixture
def purse(tmp_path: Path) -> BudgetFile:
    """A purse that a run has drawn on; it has ended."""
    path = tmp_path / "here" / "team.json"
    path.parent.mkdir(exist_ok=True)
    ledger, made = BudgetFile.share(path, Limits(cost=5_000_000, input_tokens=100_000, calls=50), "20260101-aaaa")
    assert made
    ledger.reserve_call("root", price, 1000, 500).settle(Usage(1000, 500))
    ledger.release_agent("root")
    return ledger


def test_a_purse(rlm_nb: Command, purse: BudgetFile) -> None:
    """Limits, what was spent and by which run, and each reservation with its holder."""
    purse.reserve_call("root.1", price, 1000, 500)
    done = rlm_nb("budget", "team.json")
    assert (done.returncode, done.stderr) == (0, "")
    file, head, cost, read, written, calls, agents, *rest = done.stdout.splitlines()
    assert file == str(purse.path)
    assert head.split() == ["spent", "reserved", "limit", "left"]
    assert cost.split() == ["money", "$0.0105", "$0.11", "$5.00", "$4.88"]
    assert read.split()[:4] == ["tokens", "read", "1,000", "18,500"]
    assert written.split()[-2:] == ["none", "none"]
    assert calls.split() == ["calls", "1", "2", "50", "47"]
    assert agents.split() == ["agents", "0", "0", "none", "none"]
    by, call, last = rest
    assert by == "spent by 20260101-aaaa: $0.0105, 1,000 tokens read, 500 tokens written, 1 call"
    assert call.startswith("reserved by 20260101-aaaa root.1 for a call: $0.0115, 1,000 tokens read, 500 tokens")
    assert f"process {os.getpid()}, since " in call
    assert last.startswith("reserved by 20260101-aaaa root.1 for its last turn: $0.1")


def test_a_deadline_beyond_all_measure(rlm_nb: Command, purse: BudgetFile) -> None:
    """It is no number that fills the screen."""
    values = json.loads(purse.path.read_text())
    values["limits"]["deadline"] = 1e308
    purse.path.write_text(json.dumps(values))
    done = rlm_nb("budget", "team.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "time: more than 1,000 years left" in done.stdout.splitlines()


def test_places_that_hold_no_budget(rlm_nb: Command, tmp_path: Path) -> None:
    """A closed folder, a name that is too long, a pipe, links in a circle: one sentence each, at once."""
    (tmp_path / "closed").mkdir(mode=0)
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "circle.json").symlink_to("circle.json")
    settings = tmp_path / "settings.yaml"
    for name in ("closed/budget.json", "closed/run", "x" * 300, "x" * 300 + ".json", "pipe.json", "circle.json"):
        settings.write_text(f"budget: {{file: {tmp_path / name}}}\n")
        for arguments in ([tmp_path / name], ["-c", settings]):
            done = rlm_nb("budget", *arguments, before=without_privileges)
            assert (done.returncode, done.stdout) == (1, "")
            assert re.search("cannot be read|is no file", done.stderr)
            assert len(done.stderr.splitlines()) == 1


def test_for_programs(rlm_nb: Command, purse: BudgetFile) -> None:
    """JSON, with money in dollars."""
    purse.reserve_call("root.1", price, 1000, 500)
    told = json.loads(rlm_nb("budget", "team.json", "--json").stdout)
    assert told["limits"] == {
        "cost_usd": 5.0,
        "input_tokens": 100_000,
        "output_tokens": None,
        "calls": 50,
        "sandboxes": None,
    }
    assert told["spent"]["cost_usd"] == 0.0105
    assert told["left"]["calls"] == 47
    assert told["spent_by"]["20260101-aaaa"]["calls"] == 1
    call, last = told["reserved_by"]
    assert (call["agent"], call["run"], call["kind"], call["alive"]) == ("root.1", "20260101-aaaa", "call", True)
    assert (call["pid"], last["kind"]) == (os.getpid(), "finishing")


def test_the_dead_are_shown_as_such(rlm_nb: Command, tmp_path: Path) -> None:
    """What a killed process held is still there to be seen, and looking at it changes nothing."""
    path = tmp_path / "here" / "team.json"
    BudgetFile.create(path, Limits(cost=1_000_000))
    command = [sys.executable, str(SPENDER), "hold", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        holder.kill()
    before = path.read_bytes()
    done = rlm_nb("budget", "team.json")
    assert f"process {holder.pid} that has died" in done.stdout
    assert [held["alive"] for held in json.loads(rlm_nb("budget", "team.json", "--json").stdout)["reserved_by"]] == [
        False
    ] * 3
    assert path.read_bytes() == before


def test_names_that_command_a_terminal(rlm_nb: Command, purse: BudgetFile) -> None:
    """Whoever writes into a purse makes no other line of it, and no more than a line."""
    values = json.loads(purse.path.read_text())
    name = "a run\n\x1b[2Jspent by nobody: $0.00"
    values["agents"] = {name: values["spent"]}
    held = {"kind": "call", "agent": name, "run": name, "pid": 2**31 - 1, "started": 0.0}
    values["leases"] = {"a": held}
    purse.path.write_text(json.dumps(values))
    done = rlm_nb("budget", "team.json")
    assert (done.returncode, "\x1b" in done.stdout) == (0, False)
    assert [line.startswith("spent by a run spent by nobody") for line in done.stdout.splitlines()].count(True) == 1
    assert not any(line.startswith("spent by nobody") for line in done.stdout.splitlines())


def test_a_run(rlm_nb: Command, repository: Path) -> None:
    """The last run, by no name, by its own, and by its folder; each agent is told apart."""
    script = repository.parent / "script.yaml"
    script.write_text("price: {input: 3, output: 15}\nagents: {root: [\"```python\\nFINAL('hello')\\n```\"]}")
    assert rlm_nb("run", repository, "-p", "Say hello.", "--model", f"scripted:{script}").returncode == 0
    (run,) = (path for path in (repository.parent / "here" / "runs").iterdir() if path.is_dir())
    said = [rlm_nb("budget", *name).stdout for name in ([], ["last"], [run.name], [run.name[:8]], [run])]
    assert all(one.startswith(f"{run / 'budget.json'}\n") for one in said)
    assert "spent by root: $0.0" in said[0]
    assert "\ntime: " in said[0]
    assert "reserved by" not in said[0]


def test_the_purse_of_the_settings(rlm_nb: Command, purse: BudgetFile) -> None:
    """Where the settings name a purse, it is what is meant without a name."""
    purse.path.with_name("config.yaml").write_text("rlm: {}\nbudget:\n  file: team.json\n")
    assert rlm_nb("budget").stdout.startswith(f"{purse.path}\n")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("missing.json", None, "missing.json: there is no budget file"),
        ("cut.json", '{"version": 1, "crea', "cut.json: damaged ("),
        ("new.json", '{"version": 2}', "new.json: written by a newer rlm-nb"),
        ("notes.txt", "Buy milk.", "notes.txt: damaged ("),
        ("nothing", None, "no runs are recorded in runs"),
    ],
)
def test_what_cannot_be_shown(rlm_nb: Command, tmp_path: Path, name: str, text: str | None, says: str) -> None:
    """One sentence, exit code 1, and nothing made or changed."""
    here = tmp_path / "here"
    if text is not None:
        (here / name).write_text(text)
    done = rlm_nb("budget", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {path.name for path in here.iterdir()} <= {name}
