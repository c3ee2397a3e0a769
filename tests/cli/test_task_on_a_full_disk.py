"""A disk that is full costs a task its record, and never its result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from rlm_nb.notebook.tree import as_text, tree

TASKS = """
import os
from contextlib import suppress
from rlm_nb.tasks import context_slice, semantic_subcall

def fill():
    with open("ballast", "wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass

def before_it_asks(text):
    yield "found"
    fill()
    yield semantic_subcall("What?", context_slice(text, 0, 10))

def between_two_questions(text):
    yield semantic_subcall("What?", context_slice(text, 0, 10))
    fill()
    for end in range(100):
        context_slice(text, 0, end)
    yield semantic_subcall("What else?", context_slice(text, 0, 10))

def at_its_end(text):
    yield semantic_subcall("What?", context_slice(text, 0, 10))
    fill()
"""

SCRIPT = "price: {input: 3, output: 15}\nprompts: [{pattern: ., reply: fine}]\n"


@pytest.mark.parametrize(
    ("name", "status", "found"),
    [
        ("before_it_asks", "error", ["found"]),
        ("between_two_questions", "completed", ["fine", "fine"]),
        ("at_its_end", "completed", ["fine"]),
    ],
)
def test_a_disk_that_fills_up(tmp_path: Path, name: str, status: str, found: list[str]) -> None:
    """The result is on stdout, what is missing is said by name, and what is on the disk is whole."""
    done = on_a_small_disk(tmp_path, f"{task(name)}; code=$?; rm ballast; cp -r runs {tmp_path}; exit $code")
    result = json.loads(done.stdout)
    assert (done.returncode, result["status"], result["result"]) == (1, status, found), done.stderr
    assert "should not have happened" not in done.stderr
    (run,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    missing = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    for file in ("task.ipynb", "run.json", "result.json"):
        assert any(f"{run.name}/{file}: cannot be" in line and "No space left" in line for line in missing)
    nbformat.validate(nbformat.read(run / "task.ipynb", as_version=4))
    assert as_text(tree(run)).startswith("task · unfinished · ")
    assert json.loads((run / "run.json").read_text())["status"] == "running"
    assert all(json.loads(line) for line in (run / "audit.jsonl").read_text().splitlines()[:-1])
    assert {path.name for path in run.iterdir()} == {
        "audit.jsonl", "budget.json", "budget.json.lock", "config.yaml", "run.json", "task.ipynb",
    }  # fmt: skip
    spent = json.loads((run / "budget.json").read_text())["spent"]["cost"]
    assert spent == round(result["budget_summary"]["total_cost_usd"] * 1e6)


def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    """Nothing is asked, and nothing is left."""
    done = on_a_small_disk(tmp_path, f"cat /dev/zero > ballast; {task('at_its_end')}; code=$?; ls -d runs; exit $code")
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "runs: runs cannot be recorded here: No space left on device; see --runs-dir" in done.stderr


def task(name: str) -> str:
    """The command that runs a task of the module above."""
    return f"{sys.executable} -m rlm_nb task tasks.py -t tasks:{name} --model scripted:script.yaml"


def on_a_small_disk(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a file system of its own, which ends with it; the module and its model's script are there."""
    disk = folder / "disk"
    disk.mkdir()
    (folder / "tasks.py").write_text(TASKS)
    (folder / "script.yaml").write_text(SCRIPT)
    script = f"mount -t tmpfs -o size=2m none {disk} && cp tasks.py script.yaml disk && cd disk && {{ {script}; }}"
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], cwd=folder, capture_output=True, text=True)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no file systems of our own on this system")
    return done
