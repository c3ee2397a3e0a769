"""What is asked of a run from outside of its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rlm_nb import control
from rlm_nb.errors import RunFolderError
from rlm_nb.notebook.reader import read
from rlm_nb.notebook.tree import everyone, tree
from tests.whole_runs.conftest import Shell, cell, state_of, until

FOREVER = "import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.05)"


def run_of(shell: Shell) -> Path:
    """The folder of the run that goes on, once it can be asked for something."""
    until(lambda: list(shell.here.glob(f"runs/*/{control.FOLDER}")))
    return next(shell.here.glob("runs/*/"))


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_one_agent_and_then_the_whole_run_is_stopped(shell: Shell, repository: Path) -> None:
    """A sub-agent that is stopped leaves its parent at work; what is not understood is asked in vain."""
    agents = {"root": [cell("rlm_query_batched(['wait'])"), cell(FOREVER)], "root.1": [cell(FOREVER)]}
    with shell.start(repository, "--model", shell.script(agents)) as running:
        run = run_of(shell)
        assert (run / control.FOLDER).stat().st_mode & 0o777 == 0o700
        until(lambda: (run / "root.1.ipynb").exists() and "begun" in (run / "root.1.ipynb").read_text("utf-8"))
        (run / control.FOLDER / "1.wanted").write_text("[]")
        (run / control.FOLDER / "2.wanted").write_text(json.dumps({"do": "stop", "agent": ["root"]}))
        os.mkfifo(run / control.FOLDER / "3.wanted")
        control.stop(run, "root.7")
        control.stop(run, "root.1")
        until(lambda: "begun" in json.dumps(json.loads((run / "root.ipynb").read_text("utf-8"))["cells"]))
        control.stop(run)
        ended = running.end()
    assert ended.code == 3
    assert [(node.agent, node.status) for node in everyone(tree(run))] == [("root", "partial"), ("root.1", "partial")]
    outcome = read(run / "root.1.ipynb").outcome
    assert outcome is not None
    assert "the user stopped it from outside" in outcome.stop_reason
    assert not (run / control.FOLDER).exists()
    with pytest.raises(RunFolderError, match="does not go on"):
        control.stop(run)


def test_what_is_proposed_is_decided_about_from_outside(shell: Shell, repository: Path) -> None:
    """As it is, edited, or not at all with a word; an old key decides nothing, and the model is told."""
    replies = [cell("x = 1"), cell("x = 2"), cell("y = 3"), cell("FINAL([x, 'y' in globals()])")]
    model = shell.script({"root": replies})
    with shell.start(repository, "--model", model, "--approve-in-lab") as running:
        run, keys = run_of(shell), []
        for number, what in enumerate([{}, {"code": ["x = 22", "x += 1"]}, {"skip": True, "said": "No y."}, {}], 1):
            until(lambda: [one for one in control.waiting(run) if one["key"] not in keys])
            [proposal] = control.waiting(run)
            assert (proposal["agent"], proposal["number"]) == ("root", number)
            for key in keys:
                control.decide(run, "root", key, skip=True)
            keys.append(proposal["key"])
            control.decide(run, "root", str(proposal["key"]), **what)
        ended = running.end()
    assert ended.code == 0, ended
    recorded = read(run / "root.ipynb")
    assert recorded.outcome is not None
    assert recorded.outcome.answer.value == [23, False]
    assert [one.human for turn in recorded.iterations for one in turn.cells] == [False, True, True, False]
    assert "```python\nx = 22\n```\n\n```python\nx += 1\n```" in recorded.iterations[2].message
    assert "and says:\n\nNo y." in recorded.iterations[3].message


def test_a_confined_cell_reaches_none_of_it(shell: Shell, repository: Path) -> None:
    """It can neither ask for anything nor decide about itself, though it knows the way."""
    folder = f"glob.glob({str(shell.here)!r} + '/runs/*/{control.FOLDER}')"
    tries = f"import glob, json\nseen = {folder}\nfor one in seen: open(one + '/1.wanted', 'w').write('{{}}')"
    model = shell.script({"root": [cell(tries), cell("FINAL(seen)")]})
    ended = shell.run(repository, "--model", model, RLM_ISOLATION_LEVEL="auto")
    assert ended.code == 0, ended
    recorded = read(ended.run / "root.ipynb")
    assert recorded.outcome is not None
    tried = recorded.iterations[0].cells[0]
    assert recorded.outcome.answer.value == [] or tried.status == "error", tried


def test_a_run_ends_with_what_started_it(shell: Shell, repository: Path) -> None:
    """Also when that is killed."""
    model = shell.script({"root": [cell(FOREVER)]})
    command = [sys.executable, "-m", "rlm_nb", "run", str(repository), "-p", "Wait", "--model", model]
    program = (
        "import subprocess, sys, time\n"
        "process = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)\ntime.sleep(1e6)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, *command, "--while-stdin-is-open"], cwd=shell.here, stderr=subprocess.DEVNULL
    ) as starter:
        try:
            run = run_of(shell)
            until(lambda: (run / "root.ipynb").exists() and "begun" in (run / "root.ipynb").read_text("utf-8"))
        finally:
            starter.kill()
    until(lambda: json.loads((run / "run.json").read_text("utf-8"))["status"] == "partial")
    until(lambda: "ended" in json.loads((run / "run.json").read_text("utf-8")))
    process = state_of(run)["pid"]
    until(lambda: not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE)
    assert not (run / control.FOLDER).exists()
