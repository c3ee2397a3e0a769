"""What was recorded runs again, in a kernel of ours and in anybody's, and nobody is asked for anything."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import Config
from rlm_nb.controller import run
from rlm_nb.kernel.launch import Launcher
from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.notebook.reader import read
from rlm_nb.rebuilding import plain_outputs
from rlm_nb.replaying import headless
from tests.kernel.conftest import launcher  # noqa: F401 - one for all kernels of a test process

ROOT = [
    """
import os, time
print(os.environ.get("ANTHROPIC_API_KEY"), WORKDIR.name, Path("here.txt").exists())
edit_file("README.md", "A project", "Their project")
""",
    """
results = rlm_query_batched(["Write a file", "Fail"])
for result in results:
    print(result.agent, result.status, result.files, f"{result.cost:.6f}", result.ok)
print(results[0].apply(), Path("made.txt").read_text())
""",
    "print('-' * 300)\nprint(llm_query('What is it?'), llm_query_batched(['One?', 'Two?']))\nprint(budget())",
    "print(len(output(3)), output(3).search('What'))\n1 / 0",
    "time.sleep(60)",
    """
try:
    rlm_query('Fail')
except Exception as error:
    print(type(error).__name__, error)
from rlm_nb.tasks import run_task, semantic_subcall
task = run_task(lambda text: [semantic_subcall(question, text) for question in ("One?", "Two?")], "a text")
print(task["status"], task["result"], task["budget_summary"]["total_cost_usd"])
""",
    "Path('notes.txt').write_text('kept')\nFINAL({'files': sorted(path.name for path in WORKDIR.iterdir())})",
]


def python(*code: str) -> str:
    return "\n\n".join(f"```python\n{text.strip()}\n```" for text in code)


@pytest.fixture(scope="module")
def recorded(clean_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in which about everything happens that can be recorded."""
    folder = tmp_path_factory.mktemp("replaying")
    source = folder / "source"
    source.mkdir()
    (source / "README.md").write_text("# A project\n")
    replies = [python(cell) for cell in ROOT[:-1]]
    model = ScriptedModel.of(
        {"root": [*replies, python(ROOT[-1], "Path('never.txt').write_text('skipped')")]},
        [
            ("Write a file", [python("Path('made.txt').write_text('by hand')", "FINAL('made')")]),
            ("Fail", ["No cell.", "Nor here."]),
            ("What is it", "A project."),
            ("One|Two", "Yes."),
        ],
        price={"input": 3, "output": 15},
    )
    config = Config.model_validate(
        {"runs": {"dir": folder / "runs"}, "rlm": {"max_failures": 2}, "kernel": {"cell_timeout": 6}}
    )
    result = run("Look around", source, config, model=model)
    assert result.root.status == "completed", result.root
    statuses = [cell.status for turn in read(result.root.notebook).iterations for cell in turn.cells]
    assert statuses == ["ok", "ok", "ok", "error", "timeout", "ok", "ok"]
    return result.folder


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, by its contents."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_agent_runs_again_as_it_ran(recorded: Path, launcher: Launcher) -> None:  # noqa: F811
    """The same outputs, with errors, edits and calls; the cell that took too long is left out; the record stays."""
    before = contents(recorded)
    for notebook in sorted(recorded.glob("*.ipynb")):
        replayed = headless.replay(notebook, launcher, Cancellation())
        assert headless.difference(replayed) == ""
        assert replayed.differing == []
        assert [cell.before.number for cell in replayed.left_out] == ([5] if notebook.stem == "root" else [])
    assert contents(recorded) == before


def run_all(notebook: Path, folder: Path) -> tuple[list[Any], list[Any]]:
    """An agent's code cells, and the same after "Run all" in a stock kernel that works in `folder`."""
    before, after = (nbformat.read(notebook, as_version=4) for _ in range(2))
    NotebookClient(after, kernel_name="python3", timeout=60, resources={"metadata": {"path": str(folder)}}).execute()
    return code_cells(before), code_cells(after)


def code_cells(notebook: Any) -> list[Any]:
    """Those of the record; the picture, which is drawn anew, aside."""
    return [one for one in notebook.cells if one.cell_type == "code" and "rlm-timeline" not in one.metadata.tags]


def outputs(cell: Any) -> list[Any]:
    return plain_outputs([dict(output) for output in cell.outputs])


def test_run_all_works_in_a_stock_kernel(recorded: Path, clean_environment: Path) -> None:
    """The same outputs; what did not end well does nothing; the folder that cells ran in is gone with the kernel."""
    before_files, folders = contents(recorded), set(clean_environment.glob("rlm-*"))
    before, after = run_all(recorded / "root.ipynb", recorded)
    assert [cell.metadata.tags[0] for cell in before] == ["rlm-replay"] + ["rlm-code"] * 7 + ["rlm-skipped"]
    for old, new in zip(before[1:], after[1:], strict=True):
        if old.metadata.rlm.status in ("timeout", "skipped"):
            (said,) = new.outputs
            assert "is not run now" in said.text
        else:
            assert outputs(new) == outputs(old)
    assert contents(recorded) == before_files
    assert not set(clean_environment.glob("rlm-*")) - folders


def test_run_all_changes_nobodys_files(recorded: Path, repository: Path) -> None:
    """Without the run around it, in a stranger's checkout: cells run in an empty folder, and say so."""
    shutil.copy(recorded / "root.1.ipynb", repository)
    before = contents(repository)
    _, after = run_all(repository / "root.1.ipynb", repository)
    assert "Cells run in an empty folder" in after[0].outputs[0].text
    assert after[1].outputs[0]["data"]["text/plain"] == "7"
    assert contents(repository) == before


def test_a_notebook_that_is_not_found_is_named(recorded: Path, tmp_path: Path) -> None:
    """The first cell says what to do, and that is the end of it."""
    lonely = tmp_path / "elsewhere" / "renamed.ipynb"
    lonely.parent.mkdir()
    shutil.copy(recorded / "root.ipynb", lonely)
    with pytest.raises(Exception, match=r"call rlm_nb\.replay with the path of this notebook"):
        run_all(lonely, lonely.parent)


@pytest.fixture
def by_chance(tmp_path: Path, repository: Path) -> Path:
    """The folder of a run whose output is another each time."""
    model = ScriptedModel.of({"root": [python("import random; print(random.random())"), python("FINAL(1)")]})
    return run("Draw", repository, Config.model_validate({"runs": {"dir": tmp_path / "runs"}}), model=model).folder


def test_the_command_shows_what_is_other(by_chance: Path, tmp_path: Path) -> None:
    """As nbdime does, by cell; the exit code says it only when asked, and another agent is named."""

    def replay(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rlm_nb", "replay", str(by_chance), *more]
        return subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)

    shown = replay()
    assert shown.returncode == 0, shown.stderr
    assert "root: 2 cells ran again, 1 came out otherwise" in shown.stderr
    assert "it-001-code-1: the cell put out something else than what was shown then." in shown.stderr
    assert len(re.findall(r"/cells/\d+/outputs/0", shown.stdout)) >= 1
    assert len(re.findall(r"^[-+] +0\.\d+$", shown.stdout, re.MULTILINE)) == 2
    assert replay("--check").returncode == 1
    assert "no notebook of an agent 7" in replay("--agent", "7").stderr
