from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_nb.errors import RunFolderError
from rlm_nb.notebook.reader import read
from rlm_nb.notebook.recorder import Recorder
from rlm_nb.records import (
    AgentEnded,
    AgentResult,
    AgentStarted,
    Answer,
    Asked,
    Attended,
    Balance,
    CellOutput,
    CellResult,
    CellStarted,
    Charged,
    Event,
    Iterated,
    Iteration,
    Notice,
    Outcome,
    Patch,
    Replied,
    Reply,
    Task,
    Usage,
)
from tests.notebook.scenes import Chance, check, iteration, opened, stream

TWO_CELLS = "First I look.\n\n```python\nls()\n```\nThen:\n```python\nx\n```\n"


def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_run_reads_as_heading_prose_cells_and_answer(tmp_path: Path) -> None:
    """The cells stand in order, with ids and tags that stay, and prose that does not repeat its cells."""
    path = tmp_path / "root.ipynb"
    reply = Reply(
        "First I look.\n\n```python\nls()\n```\nThen:\n```python\nx\n```\n", Usage(10, 20), model="m", cost=1500
    )
    cells = (CellResult("ls()", "ok", (stream("a.py\n"),), 1, 1e9, 1e9 + 2, final=Answer.of("3")),)
    with opened(path) as recorder:
        recorder.listen(Asked("root", 1))
        recorder.listen(Replied("root", 1, "Begin.", reply, ("ls()", "x")))
        recorder.listen(CellStarted("root", 1, 1, "ls()"))
        recorder.listen(Iterated("root", Iteration("root", 1, "Begin.", reply, cells, started=1e9, ended=1e9 + 3)))
        recorder.finish(Chance(0).result(path))
    notebook = check(path)
    assert [cell.id for cell in notebook.cells] == [
        "head",
        "replay",
        "system",
        "it-001-think",
        "it-001-code-1",
        "it-001-code-2",
        "final",
    ]
    skipped = ["rlm-skipped", "raises-exception"]
    tags = [["rlm-head"], ["rlm-replay"], ["rlm-system"], ["rlm-think"], ["rlm-code"], skipped, ["rlm-final"]]
    assert [cell.metadata.tags for cell in notebook.cells] == tags
    assert not any(cell.metadata.editable for cell in notebook.cells)
    took = "*\\$0.0015 · 3.0s (model 1.0s, cells 2.0s) · 10 tokens read, 20 written*"
    assert notebook.cells[3].source == f"## Iteration 1\n\n{took}\n\nFirst I look.\n\nThen:"
    assert notebook.cells[4].outputs[0].text == "a.py\n"
    assert notebook.cells[4].metadata.execution["iopub.status.idle"] == "2001-09-09T01:46:42.000000Z"
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info.file_extension == ".py"
    prompt = "<details>\n<summary>System prompt, 9 characters</summary>\n\n```text\nBe brief.\n```\n\n</details>"
    assert notebook.cells[2].source == prompt


def test_what_people_ran_stands_where_it_ran(tmp_path: Path) -> None:
    """On disk at once, and among the cells of an iteration when that is complete; all of it is read back in order."""
    path = tmp_path / "root.ipynb"
    numbers = iter(range(1, 100))

    def ran(code: str, *, human: bool = False) -> CellResult:
        return CellResult(code, "ok", number=next(numbers), human=human)

    with opened(path) as recorder:
        for number in (1, 2):
            recorder.listen(Replied("root", number, "", Reply(TWO_CELLS), ("ls()", "x")))
            early = ran("early", human=True)
            recorder.listen(Attended("root", early))
            recorder.listen(CellStarted("root", number, 1, "ls()"))
            first, middle, more, last = ran("ls()"), ran("middle", human=True), ran("more", human=True), ran("x")
            recorder.listen(Attended("root", middle))
            recorder.listen(Attended("root", more))
            known = ["early", "middle", "more", "after"] * number
            assert [cell.code for cell in read(path).asides] == known[:-1]
            recorder.listen(Iterated("root", Iteration("root", number, "", Reply(TWO_CELLS), (first, last))))
            recorder.listen(Attended("root", ran("after", human=True)))
        recorder.finish(Chance(0).result(path))
    cells = check(path).cells[3:]
    assert [cell.id for cell in cells[:2]] == ["aside-001-note", "aside-001"]
    assert cells[0].source == "*A person who was attached to the kernel ran this:*"
    ids = [cell.id for cell in cells if not cell.id.endswith("-note")]
    one = ["aside-001", "it-001-think", "it-001-code-1", "aside-003", "aside-004", "it-001-code-2", "aside-006"]
    two = ["aside-007", "it-002-think", "it-002-code-1", "aside-009", "aside-010", "it-002-code-2", "aside-012"]
    assert ids == [*one, *two, "final"]
    recorded = read(path)
    assert [(cell.code, cell.human) for cell in recorded.asides] == 2 * [
        ("early", True),
        ("middle", True),
        ("more", True),
        ("after", True),
    ]
    assert [cell.number for turn in recorded.iterations for cell in turn.cells] == [2, 5, 8, 11]


@pytest.mark.parametrize("seed", range(12))
def test_what_was_recorded_is_read_back(seed: int, tmp_path: Path) -> None:
    """Whatever happened, each state on disk is a whole notebook, and the last one gives back the same values."""
    chance, path = Chance(seed), tmp_path / "root.ipynb"
    task = Task(chance.text(), context=tmp_path / "context.txt")
    about = {"model": chance.text(), "settings": {"z": 1, "a": [None, True]}}
    iterations = []
    with Recorder.open(path, task=task, system=chance.text(), about=about, parent=None) as recorder:
        for number in range(1, 5):
            for event in chance.iteration(number, tmp_path):
                recorder.listen(event)
                check(path)
                if isinstance(event, Iterated):
                    iterations.append(event.iteration)
                    assert read(path).iterations == tuple(iterations)
        recorder.listen(Notice("root", notice := chance.text()))
        recorder.finish(result := chance.result(path))
    check(path)
    recorded = read(path)
    assert recorded.iterations == tuple(iterations)
    assert (recorded.task, recorded.about, recorded.notices) == (task, about, (notice,))
    assert (recorded.outcome, recorded.patch, recorded.usage) == (result.outcome, result.patch, result.usage)
    assert (recorded.cost, recorded.total_cost, recorded.ended) == (result.cost, result.total_cost, result.ended)


def test_the_order_of_keys_survives_in_what_a_replay_says_again(tmp_path: Path) -> None:
    """Answers keep the order of their keys, and a NaN, although nbformat sorts and has none."""
    call = Chance(0).call()
    call = type(call)("rlm_query", {"z": 1, "a": float("inf")}, {"z": 1, "a": "\ud800"}, None, "k", 0, 1)
    with opened(tmp_path / "root.ipynb") as recorder:
        recorder.listen(Iterated("root", iteration(1, CellResult("x", "ok", calls=(call,)))))
    (cell,) = read(tmp_path / "root.ipynb").iterations[0].cells
    assert cell.calls == (call,)
    assert list(cell.calls[0].answer) == ["z", "a"]


def test_what_a_cell_prints_is_on_disk_while_it_runs(tmp_path: Path) -> None:
    """Streaming output is saved without any further event, and not for every line."""
    path = tmp_path / "root.ipynb"
    with opened(path) as recorder:
        recorder.listen(Replied("root", 1, "Begin.", Reply("…"), ("loop()",)))
        recorder.listen(CellStarted("root", 1, 1, "loop()"))
        saves, step, end = set(), 0, time.monotonic() + 0.8
        while time.monotonic() < end:
            step += 1
            recorder.listen(CellOutput("root", 1, 1, (stream(f"line {step}\n"),)))
            saves.add(path.stat().st_mtime_ns)
        assert 2 <= len(saves) <= 3
        wait_until(lambda: f"line {step}" in path.read_text())
        cell = check(path).cells[4]
        assert cell.metadata.rlm.status == "running"
        assert read(path).iterations == ()


def test_late_output_joins_the_cell_that_it_belongs_to(tmp_path: Path) -> None:
    """A thread that prints after its cell, even while the next one runs, loses nothing."""
    path = tmp_path / "root.ipynb"
    with opened(path) as recorder:
        recorder.listen(Replied("root", 1, "Begin.", Reply("…"), ("spawn()", "wait()")))
        recorder.listen(CellStarted("root", 1, 1, "spawn()"))
        recorder.listen(CellStarted("root", 1, 2, "wait()"))
        recorder.listen(CellOutput("root", 1, 1, (stream("while the next one ran"),)))
        done = iteration(1, CellResult("spawn()", "ok"), CellResult("wait()", "ok", (stream("waited"),)))
        recorder.listen(Iterated("root", done))
        first, second = read(path).iterations[0].cells
        assert first.outputs == (stream("while the next one ran"),)
        recorder.listen(Replied("root", 2, "Go on.", Reply("…"), ("x",)))
        recorder.listen(CellOutput("root", 1, 2, (stream("waited"), stream("much later"))))
    first, second = read(path).iterations[0].cells
    assert second.outputs == (stream("waited"), stream("much later"))
    assert first.outputs == (stream("while the next one ran"),)


def test_the_header_follows_the_run(tmp_path: Path) -> None:
    """Cost, notices and sub-agents stand in the first cell, and events of other agents do not."""
    path = tmp_path / "root.ipynb"
    child = tmp_path / "root.1.ipynb"
    with opened(path) as recorder:

        def header(event: Event) -> str:
            recorder.listen(event)
            recorder.listen(Iterated("root", iteration(1)))
            return check(path).cells[0].source

        assert "**running**" in header(Asked("root", 1))
        assert r"\$0.0100" in header(Charged("root", 10_000, Usage(5, 5), Balance()))
        assert "\\*not\\* a git repository" in header(Notice("root", "*not* a git repository"))
        recorder.listen(CellStarted("root", 1, 1, "rlm_query('…')"))
        assert "| [root.1](root.1.ipynb#cell-id=head) | running |" in header(
            AgentStarted("root.1", Task("Help", "root.1", 1))
        )
        assert read(path).subagents[0].cell == "it-001-code-1"
        assert "grandchild" not in header(AgentStarted("root.1.1", Task("grandchild", "root.1.1", 2)))
        assert "stranger" not in header(Notice("root.1", "stranger"))
        with opened(child, Task("Help", "root.1", 1)):
            pass
        result = Chance(0).result(child, "root.1")
        row = f"| [root.1](root.1.ipynb#cell-id=head) | {result.status} | 2 | 9.0s | 8 | 2 | \\$0.0000 | Help |"
        assert row in header(AgentEnded("root.1", result))
        without = AgentResult(
            "root.2", Outcome("error", Answer.of("-"), "none", "-"), Patch(), tmp_path / "root.2.ipynb"
        )
        assert "| root.2 | error |" in header(AgentEnded("root.2", without))
        below = replace(without, agent="root.2.1", task="Look\nin two lines")
        page = header(AgentEnded("root.2", replace(without, children=(below,))))
        assert "| root.2.1 | error |  |  |  |  |  | Look |\n" in page
    assert "**unfinished**" in check(path).cells[0].source
    assert read(path).children == ("root.1", "root.2")


def _failed(chance, path):
    result = chance.result(path, "root.2")
    return type(result)(
        "root.2", type(result.outcome)("error", Answer.of("none"), "none", "no kernel"), result.patch, path
    )


def test_a_disk_that_refuses_is_said_where_an_iteration_ends(tmp_path: Path) -> None:
    """An unwritable folder stops the loop, never the thread that brings outputs, and loses nothing."""
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "root.ipynb"
    with opened(path) as recorder:
        recorder.listen(Replied("root", 1, "Begin.", Reply("…"), ("x",)))
        shutil.rmtree(folder)
        recorder.listen(CellOutput("root", 1, 1, (stream("kept"),)))
        with pytest.raises(RunFolderError, match=r"root\.ipynb: cannot be saved: No such file or directory"):
            recorder.listen(Iterated("root", iteration(1, CellResult("x", "ok", (stream("kept"),)))))
        with pytest.raises(RunFolderError):  # before another reply is paid for
            recorder.listen(Asked("root", 2))
        folder.mkdir()
        recorder.listen(Asked("root", 2))
    assert read(path).iterations[0].cells[0].outputs == (stream("kept"),)


def test_a_save_in_the_background_that_failed_is_not_forgotten(tmp_path: Path) -> None:
    """The next call at a boundary raises what the timer met."""
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(RunFolderError), opened(folder / "root.ipynb") as recorder:  # noqa: PT012
        shutil.rmtree(folder)
        recorder.listen(Notice("root", "hello"))

        def refused() -> bool:
            try:
                recorder.listen(Asked("root", 1))
            except RunFolderError:
                return True
            return False

        wait_until(refused)


def test_an_error_of_the_run_is_not_hidden_by_one_of_the_disk(tmp_path: Path) -> None:
    """When both fail, the run's error comes out and names the other in a note."""
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(ZeroDivisionError) as raised, opened(folder / "root.ipynb"):  # noqa: PT012
        shutil.rmtree(folder)
        raise ZeroDivisionError
    assert "cannot be saved" in raised.value.__notes__[0]


def test_a_record_is_never_overwritten(tmp_path: Path) -> None:
    """A notebook that is there already stays as it is, and one that cannot be written is refused at once."""
    path = tmp_path / "root.ipynb"
    path.write_text("mine")
    with pytest.raises(RunFolderError, match="already holds"), opened(path):
        pass
    assert path.read_text() == "mine"
    with pytest.raises(RunFolderError, match="cannot be saved"), opened(tmp_path / "none" / "root.ipynb"):
        pass


def test_nothing_is_left_beside_the_notebook(tmp_path: Path) -> None:
    """When the recorder is closed there is one file, and no thread."""
    threads = threading.active_count()
    with opened(tmp_path / "root.ipynb") as recorder:
        recorder.listen(Iterated("root", iteration(1)))
        assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    assert [path.name for path in tmp_path.iterdir()] == ["root.ipynb"]


WRITER = """
import itertools, os, sys
from pathlib import Path
from rlm_nb.notebook.recorder import Recorder
from rlm_nb.records import *

def write(path):
    with Recorder.open(path, task=Task("t"), system="s", about={}, parent=None) as recorder:
        print(os.getpid(), flush=True)
        for number in itertools.count(1):
            outputs = ({"output_type": "stream", "name": "stdout", "text": f"{number}\\n" * 5000},)
            recorder.listen(Replied("root", number, "m", Reply("r"), ("x",)))
            recorder.listen(CellOutput("root", number, 1, outputs))
            cells = (CellResult("x", "ok", outputs),)
            recorder.listen(Iterated("root", Iteration("root", number, "m", Reply("r"), cells)))

for line in sys.stdin:  # forks one writer for each path: imports are paid once
    child = os.fork()
    if not child:
        write(Path(line.strip()))
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


def test_a_killed_writer_leaves_a_whole_notebook(tmp_path: Path) -> None:
    """SIGKILL at any moment: the file is valid, and holds every iteration before the last one or two."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as writer:
        for attempt in range(15):
            path = tmp_path / str(attempt) / "root.ipynb"
            path.parent.mkdir()
            print(path, file=writer.stdin, flush=True)
            pid = int(writer.stdout.readline())
            ready, _, _ = select.select([writer.stdout], [], [], Chance(attempt).uniform(0, 0.15))
            assert not ready, "the writer ended by itself"
            os.kill(pid, signal.SIGKILL)
            assert writer.stdout.readline() == "gone\n"
            check(path)
            recorded = read(path)
            assert [each.number for each in recorded.iterations] == list(range(1, len(recorded.iterations) + 1))
            assert recorded.state == "running"
        writer.stdin.close()


def test_nbconvert_renders_a_record_without_a_warning(tmp_path: Path) -> None:
    """Pictures, HTML, coloured tracebacks and streams become a page, and nothing is said about it."""
    chance, path = Chance(1), tmp_path / "root.ipynb"
    with opened(path, Task(chance.text())) as recorder:
        for number in range(1, 6):
            for event in chance.iteration(number, tmp_path):
                recorder.listen(event)
        recorder.finish(chance.result(path))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "nbconvert", "--to", "html", str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(tmp_path), "JUPYTER_PLATFORM_DIRS": "1"},
        check=True,
    )
    said = [
        line for line in done.stderr.splitlines() if "[NbConvertApp]" not in line or "WARN" in line or "ERROR" in line
    ]
    assert said == []
    page = (tmp_path / "root.html").read_text()
    assert "Iteration 5" in page
    assert "data:image/png;base64" in page
