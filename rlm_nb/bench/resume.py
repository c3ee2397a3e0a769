"""Runs that are killed at random moments and go on: whether they end alike, whole, and with nothing paid for twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from rlm_nb.bench import source
from rlm_nb.bench.table import Row
from rlm_nb.lean import nbformat
from rlm_nb.notebook.journal import read_journal
from rlm_nb.notebook.reader import read
from rlm_nb.notebook.tree import everyone, tree
from rlm_nb.records import CellResult
from rlm_nb.workspace.scratch import remove_abandoned, scratch

MOMENTS, FEW = 30, 1
"""How often a run is killed, and how often when it is to be quick."""

PATIENCE = 120.0
"""Seconds after which a run that does not end is given up."""

SCRIPT = """
price: {input: 3, output: 15}
delay: 0.1
agents:
  root:
  - |
    ```python
    found = 6 * 7
    edit_file("package_0/module_0.py", "return 0", "return 42", replace_all=True)
    ```
  - |
    ```python
    word = llm_query("a word?")
    results = rlm_query_batched(["write a file", "ask around", "be quick"])
    print(*results, sep=", ")
    results[0].apply()
    ```
    ```python
    more = llm_query_batched(["first?", "second?", "third?"])
    print(*more)
    ```
  - "```python\\nprint(output(2), found)\\n```"
  - |
    ```python
    FINAL({
        "found": found,
        "words": [str(word), *map(str, more)],
        "results": [str(result) for result in results],
        "edited": Path("package_0/module_0.py").read_text().count("return 42"),
        "applied": Path("written.txt").read_text(),
    })
    ```
prompts:
- pattern: write a file
  replies:
  - "```python\\nPath('written.txt').write_text('by a sub-agent')\\n```"
  - "```python\\nanswer = rlm_query('dig deeper')\\nprint(answer)\\n```"
  - "```python\\nFINAL(f'written, {answer}')\\n```"
- pattern: dig deeper
  replies:
  - "```python\\nimport time\\ntime.sleep(0.2)\\ndepth = 2\\n```"
  - "```python\\nFINAL(f'deep as {depth}')\\n```"
- pattern: ask around
  replies:
  - "```python\\nheard = llm_query_batched(['a rumour?', 'another?'])\\n```"
  - "```python\\nFINAL(' and '.join(heard))\\n```"
- {pattern: be quick, replies: ["```python\\nFINAL('quick')\\n```"]}
- {pattern: "word|rumour|another|first|second|third", reply: "yes"}
"""


@dataclass(frozen=True)
class Ended:
    """How a run ended, that was killed or not.

    Args:
        answer: What it printed.
        fault: What is wrong with its record; empty for nothing.
    """

    answer: str
    fault: str = ""


def measure(quick: bool) -> Iterator[Row]:
    """A run with four sub-agents, killed at moments that are spread over all of its time, and resumed each time."""
    moments = FEW if quick else MOMENTS
    with scratch() as folder:
        repository = source.make(folder / "source")
        script = folder / "script.yaml"
        script.write_text(SCRIPT, encoding="utf-8")
        whole, seconds = _undisturbed(folder, repository, script)
        chance = random.Random(7)
        held, faults = 0, []
        for number in range(moments):
            # One in each part of the time, so that no stage of a run is spared.
            moment = seconds * (number + chance.random()) / moments
            ended = _killed(folder / f"runs-{number}", repository, script, moment)
            if ended.answer == whole and not ended.fault:
                held += 1
            else:
                faults.append(f"{moment:.2f} s: {ended.fault or ended.answer[:80]}")
        remove_abandoned()
    for fault in faults:
        print(f"a run that was killed after {fault}", file=sys.stderr)  # noqa: T201
    yield Row(
        "runs killed with SIGKILL at random moments that resume to the same answer, with every notebook valid and no "
        "call charged twice",
        f"{held} of {moments}",
        f"{seconds:.1f} s a run",
        f"{held} held",
        f"{moments} of {moments}",
        met=held == moments,
    )


def _undisturbed(folder: Path, repository: Path, script: Path) -> tuple[str, float]:
    """The answer of a run that nobody kills, and how long it goes on once it has begun."""
    with _begun(folder / "runs", repository, script) as run:
        began = time.monotonic()
        out, _ = run.communicate(timeout=PATIENCE)
        return out, time.monotonic() - began


def _killed(runs: Path, repository: Path, script: Path, moment: float) -> Ended:
    """A run that is killed after so many seconds, if it has not ended by then, and resumed."""
    with _begun(runs, repository, script) as run:
        try:
            out, _ = run.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
            _wait_for_orphans()
        else:
            return Ended(out, _fault(_folder(runs), 0))
    folder = _folder(runs)
    if json.loads((folder / "run.json").read_text("utf-8"))["status"] == "completed":  # just before it was killed
        result = json.loads((folder / "result.json").read_text("utf-8"))
        return Ended(json.dumps(result["answer"], indent=2) + "\n", _fault(folder, 0))
    lost = _lost(folder)
    command = [sys.executable, "-m", "rlm_nb", "resume", str(folder)]
    resumed = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if resumed.returncode:
        return Ended(resumed.stdout, f"resume ended with {resumed.returncode}: {resumed.stderr[-500:]}")
    return Ended(resumed.stdout, _fault(folder, lost))


def _begun(runs: Path, repository: Path, script: Path) -> subprocess.Popen[str]:
    """A run of which there is a record by now."""
    command = [sys.executable, "-m", "rlm_nb", "run", str(repository), "-p", "Work", "--model", f"scripted:{script}"]
    run = subprocess.Popen(
        [*command, "--runs-dir", str(runs)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    end = time.monotonic() + PATIENCE
    while not list(runs.glob("*/run.json")) and run.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    return run


def _folder(runs: Path) -> Path:
    return next(path.parent for path in runs.glob("*/config.yaml"))


def _wait_for_orphans() -> None:
    """Supervisors end what a killed run has started; this takes a moment."""
    psutil.wait_procs(psutil.Process().children(recursive=True), timeout=5)


def _lost(folder: Path) -> int:
    """How many calls were under way when the run was killed, whose replies nobody has: they stay charged."""
    leases = json.loads((folder / "budget.json").read_text("utf-8"))["leases"]
    calls = {key for key, lease in leases.items() if lease["kind"] == "call"}
    for notebook in folder.glob("root*.ipynb"):
        entries = read_journal(notebook)
        calls -= {kept.lease for kept in (*entries.turns, *(kept for _, kept in entries.asides))}
    return len(calls)


def _fault(folder: Path, lost: int) -> str:
    """What is wrong with the record of a run that has ended; empty for nothing."""
    replies = 0
    for node in everyone(tree(folder)):
        if node.fault:
            return f"{node.agent}: {node.fault}"
        nbformat.validate(nbformat.read(node.notebook, as_version=4))
        recorded = read(node.notebook)
        numbers = [iteration.number for iteration in recorded.iterations]
        if recorded.begun or numbers != list(range(1, len(numbers) + 1)):
            return f"{node.agent}: its iterations are {numbers}"
        replies += len(numbers) + sum(_asked(cell) for iteration in recorded.iterations for cell in iteration.cells)
    calls = json.loads((folder / "budget.json").read_text("utf-8"))["spent"]["calls"]
    return "" if calls == replies + lost else f"{calls} calls were charged for {replies} replies and {lost} lost ones"


def _asked(cell: CellResult) -> int:
    """How many prompts a cell has had answered."""
    return sum(len(call.answer or ()) for call in cell.calls if call.name == "llm_query")
