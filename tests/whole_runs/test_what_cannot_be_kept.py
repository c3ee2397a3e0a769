"""An answer that is there is handed over, whatever else of the run cannot be written, read or waited for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlm_nb.notebook.reader import read
from rlm_nb.run_folder import make_in
from tests.whole_runs.conftest import Shell, cell, check_record

RUN = "(run,) = (path for path in Path(RUNS).iterdir() if path.is_dir())"


def in_the_run(shell: Shell, *lines: str) -> str:
    """A cell that does harm to the folder of its own run."""
    return cell(f"RUNS = {str(shell.here / 'runs')!r}", RUN, *lines)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("(run / '.root.ipynb.part').mkdir()", "root.ipynb: cannot be saved"),
        ("(run / '.run.json.new').mkdir()", "run.json: cannot be written"),
        ("(run / '.result.json.new').mkdir(); os.mkfifo(run / '.run.json.new')", "result.json: cannot be written"),
        ("Path('new').touch(); (run / '.changes.patch.new').mkdir()", "changes.patch: cannot be written"),
        ("(run / 'budget.json').unlink()", "there is no budget file"),
        ("import shutil; Path('new').touch(); shutil.rmtree(run / 'ctl.git')", "the edits could not be read"),
        ("config = run / 'ctl.git/config'; config.unlink(); os.mkfifo(config)", "the edits could not be read"),
    ],
    ids=["notebook", "state", "result", "patch", "budget", "repository", "fifo"],
)
def test_a_record_that_cannot_be_written(shell: Shell, repository: Path, harm: str, says: str) -> None:
    """The answer is on stdout, what is missing is said, and the exit code is no success."""
    ended = shell.run(repository, "--model", shell.script({"root": [in_the_run(shell, harm, "FINAL('the answer')")]}))
    assert (ended.out, ended.code) == ("the answer\n", 1), ended.err
    (fault,) = (line for line in ended.err.splitlines() if line.startswith("Error: "))
    assert says in fault


@pytest.mark.parametrize(
    "harm",
    [
        "shutil.rmtree(WORKDIR.parent)",
        "shutil.rmtree(WORKDIR.parent); WORKDIR.parent.touch()",
        "[(shutil.rmtree(p), p.touch()) for p in WORKDIR.parent.glob('s-*')]",
        "log.unlink(); log.mkdir()",
        "log.unlink(); os.mkfifo(log)",
        "log.unlink(); log.symlink_to('/dev/zero')",
        "shutil.rmtree(WORKDIR.parent / 'tmp'); (WORKDIR.parent / 'tmp').touch()",
    ],
    ids=["gone", "replaced", "sockets", "log a folder", "log a pipe", "log endless", "no TMPDIR"],
)
@pytest.mark.parametrize("dies", [True, False], ids=["dies", "lives"])
def test_an_agent_that_ruins_its_own_folder(shell: Shell, repository: Path, harm: str, dies: bool) -> None:
    """Its kernel may not start again, and its edits may be gone; the run ends with a sentence, and its record stays."""
    ruin = cell(
        "import shutil; answer = 'so far'; log = WORKDIR.parent / 'kernel.log'", harm, "os._exit(3)" if dies else ""
    )
    script = shell.script({"root": [ruin, cell("FINAL('the answer')")]})
    ended = shell.run(repository, "--model", script, "-c", shell.settings(kernel={"start_timeout": 5}))
    assert ended.code in (0, 1), ended.err
    assert dies or ended.out == "the answer\n", ended.err
    assert "this should not have happened" not in ended.err
    assert read(ended.run / "root.ipynb").outcome is not None


def test_edits_of_a_sub_agent_that_cannot_be_read(shell: Shell, repository: Path) -> None:
    """Its answer comes home; whoever wants the edits gets an error, not an empty patch."""
    child = in_the_run(shell, "import shutil; Path('new').touch(); shutil.rmtree(run / 'ctl.git'); FINAL('mine')")
    root = cell(
        "child = rlm_query('edit')",
        "try: child.patch",
        "except Exception as error: FINAL(f'{child}: {type(error).__name__}')",
    )
    ended = shell.run(repository, "--model", shell.script({"root": [root], "root.1": [child]}))
    assert ended.out == "mine: SubAgentError\n"


def test_a_sub_agent_that_nobody_waits_for(shell: Shell, repository: Path, tmp_path: Path) -> None:
    """It ends with the agent that asked for it, and every book has the same of both."""
    asks = cell(
        "import threading, time",
        "threading.Thread(target=rlm_query, args=('wait',), daemon=True).start()",
        f"while not Path({str(tmp_path)!r}, 'begun').exists(): time.sleep(0.01)",
        "FINAL('done')",
    )
    waits = cell(f"import time; Path({str(tmp_path)!r}, 'begun').touch(); time.sleep(600)")
    script = shell.script({"root": [asks], "root.1": [waits]}, price={"input": 1, "output": 1})
    ended = shell.run(repository, "--model", script)
    assert (ended.out, ended.code) == ("done\n", 0), ended.err
    check_record(ended.run)
    result = json.loads((ended.run / "result.json").read_text())
    assert [child["status"] for child in result["children"]] == ["partial"]
    assert "the agent that asked for it ended" in result["children"][0]["stop_reason"]
    assert result["total_cost"] == pytest.approx(result["cost"] + result["children"][0]["cost"])


def test_a_name_that_another_run_has(tmp_path: Path) -> None:
    """The other run keeps its folder, and the new one gets another name."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one/root.ipynb").touch()
    assert make_in(tmp_path, ["one", "two"]) == tmp_path / "two"
    with pytest.raises(FileExistsError):
        make_in(tmp_path, ["one", "two"])
    assert (tmp_path / "one/root.ipynb").exists()
