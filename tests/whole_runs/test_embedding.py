"""Runs inside other programs: in event loops and threads, several at once, left half-way, with listeners that fail."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import rlm_nb
from rlm_nb.errors import KernelError, RLMError, RunFolderError
from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.notebook.reader import read
from rlm_nb.records import AgentStarted, CellOutput, Event, Iterated
from tests.conftest import Git
from tests.whole_runs.conftest import cell, check_record, state_of, until

TWO_TURNS = {
    "root": [cell("print('one')", "x = rlm_query('below').answer"), cell("print('two')", "FINAL(x)")],
    "root.1": [cell("print('three')", "FINAL(3)")],
}


@pytest.fixture
def config(tmp_path: Path) -> rlm_nb.Config:
    """Settings that record below the test's folder."""
    return rlm_nb.load_config(flags={"runs": {"dir": tmp_path / "runs"}})


def test_inside_an_event_loop(repository: Path, config: rlm_nb.Config) -> None:
    """From a coroutine, and from a thread that it waits for while the loop turns."""

    def run() -> object:
        return rlm_nb.run("Count.", repository, config, model=ScriptedModel.of(TWO_TURNS)).root.answer.value

    async def beside(ended: asyncio.Event) -> int:
        turns = 0
        while not ended.is_set():
            await asyncio.sleep(0.01)
            turns += 1
        return turns

    async def main() -> None:
        assert run() == 3
        ended = asyncio.Event()
        turning = asyncio.create_task(beside(ended))
        assert await asyncio.to_thread(run) == 3
        ended.set()
        assert await turning > 10

    asyncio.run(main())


def test_inside_a_notebook(repository: Path, tmp_path: Path) -> None:
    """In a cell of a stock Jupyter kernel, whose own event loop runs meanwhile; its output stays as it was."""
    cell = f"""
import rlm_nb
from rlm_nb.models.scripted import ScriptedModel
config = rlm_nb.load_config(flags={{"runs": {{"dir": {str(tmp_path / "runs")!r}}}}})
result = rlm_nb.run("Count.", {str(repository)!r}, config, model=ScriptedModel.of({TWO_TURNS!r}))
print(result.root.answer.value)
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in (cell, cell, "print(6)")])
    NotebookClient(notebook, kernel_name="python3", timeout=100).execute()
    said = [[output["text"] for output in cell["outputs"]] for cell in notebook.cells]
    assert said == [["3\n"], ["3\n"], ["6\n"]]


def test_two_at_once(repository: Path, config: rlm_nb.Config) -> None:
    """Two runs in one process have nothing of each other."""
    together = threading.Barrier(2, timeout=60)

    def meet(event: Event) -> None:
        if isinstance(event, Iterated) and event.agent == "root.1":
            together.wait()  # both are in the middle of their trees

    def run(number: int) -> rlm_nb.RunResult:
        script = {**TWO_TURNS, "root.1": [cell(f"FINAL({number})")]}
        return rlm_nb.run("Count.", repository, config, model=ScriptedModel.of(script), listen=meet)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run, (1, 2)))
    assert [result.root.answer.value for result in results] == [1, 2]
    assert len({result.folder for result in results}) == 2
    for result in results:
        assert result.balance.sandboxes == 2
        check_record(result.folder)


def test_a_context_that_vanishes(repository: Path, config: rlm_nb.Config, tmp_path: Path) -> None:
    """Before the agent exists, or while its kernel starts: one clear sentence, soon; a paid reply is kept."""
    context = tmp_path / "context.txt"
    said = r"context\.txt: the context cannot be read: No such file"

    def vanish(event: Event) -> None:
        if isinstance(event, AgentStarted):
            context.unlink()

    def begin_too_late() -> None:
        context.write_text("text")
        model = ScriptedModel.of(TWO_TURNS)
        with rlm_nb.open_run("Count.", repository, config, context=context, model=model) as opened:
            context.unlink()
            next(opened.iterations())

    with pytest.raises(RunFolderError, match=said):
        begin_too_late()
    assert [path.name for path in config.runs.dir.glob("*") if path.is_dir()] == []
    context.write_text("text")
    with pytest.raises(KernelError, match=said):
        rlm_nb.run("Count.", repository, config, context=context, model=ScriptedModel.of(TWO_TURNS), listen=vanish)
    (folder,) = (path for path in config.runs.dir.glob("*") if path.is_dir())
    assert state_of(folder)["status"] == "error"
    assert "the context cannot be read" in state_of(folder)["stop_reason"]


def test_iterations_as_they_come(repository: Path, config: rlm_nb.Config) -> None:
    """Each one is in the notebook when it is handed over."""
    with rlm_nb.open_run("Count.", repository, config, model=ScriptedModel.of(TWO_TURNS)) as opened:
        assert state_of(opened.folder)["status"] == "running"
        for number, iteration in enumerate(opened.iterations(), 1):
            assert read(opened.folder / "root.ipynb").iterations[-1] == iteration
            assert iteration.number == number
    assert opened.result.root.answer.value == 3
    check_record(opened.folder)


@pytest.mark.parametrize("held", [False, True], ids=["dropped", "held"])
def test_left_half_way(repository: Path, config: rlm_nb.Config, held: bool, git: Git) -> None:
    """The run ends with the block, whoever still holds the generator; what there is stays, edits too, and says so."""
    script = {"root": [cell("Path('README.md').write_text('edited')"), cell("FINAL(3)")]}
    with rlm_nb.open_run("Count.", repository, config, model=ScriptedModel.of(script)) as opened:
        iterations = opened.iterations()
        next(iterations)
        if not held:
            del iterations
    with pytest.raises(RLMError, match="has not ended"):
        opened.result
    assert state_of(opened.folder)["status"] == "partial"
    assert state_of(opened.folder)["stop_reason"] == "it was left before its end"
    assert len(read(opened.folder / "root.ipynb").iterations) == 1
    assert git(opened.folder / "ctl.git", "show", "refs/rlm/root:README.md") == "edited"


@pytest.mark.parametrize("turns", [0, 1])
def test_an_exception_of_the_callers(repository: Path, config: rlm_nb.Config, turns: int) -> None:
    """It passes through; before the first turn nothing is left, after it the notebook is."""

    def fail_after(turns: int) -> None:
        with rlm_nb.open_run("Count.", repository, config, model=ScriptedModel.of(TWO_TURNS)) as opened:
            for _ in range(turns):
                next(opened.iterations())
            raise Fault("of the caller's")

    with pytest.raises(Fault):
        fail_after(turns)
    folders = [path for path in config.runs.dir.glob("*") if path.is_dir()]
    assert len(folders) == turns
    for folder in folders:
        assert state_of(folder)["status"] == "error"
        assert state_of(folder)["stop_reason"] == "of the caller's"
        assert len(read(folder / "root.ipynb").iterations) == 1


class Fault(Exception):
    """What callers and listeners of these tests raise."""


@pytest.mark.parametrize(
    ("when", "kept"),
    [
        (lambda event: isinstance(event, AgentStarted), False),
        (lambda event: isinstance(event, CellOutput), True),
        (lambda event: event.agent == "root.1" and isinstance(event, Iterated), True),
        (lambda event: event.agent == "root" and isinstance(event, Iterated), True),
    ],
    ids=["at the start", "in a kernel's thread", "in a sub-agent", "after a turn"],
)
def test_a_listener_that_raises(
    repository: Path, config: rlm_nb.Config, when: Callable[[Event], bool], kept: bool
) -> None:
    """It stops the run, from whichever thread it raised, and its exception is the run's."""

    def listen(event: Event) -> None:
        if when(event):
            raise Fault("nobody listens")

    with pytest.raises(Fault):
        rlm_nb.run("Count.", repository, config, model=ScriptedModel.of(TWO_TURNS), listen=listen)
    folders = [path for path in config.runs.dir.glob("*") if path.is_dir()]
    assert len(folders) == kept
    for folder in folders:
        assert state_of(folder)["status"] == "partial"
        assert "its listener failed" in state_of(folder)["stop_reason"]
        check_record(folder)


def test_cancelled_from_another_thread(repository: Path, config: rlm_nb.Config) -> None:
    """There is a result all the same, and the caller's signal is only read."""
    cancel = rlm_nb.Cancellation()
    seen: list[Event] = []
    script = {"root": [cell("answer = 'so far'; print('begun'); import time; time.sleep(600)")]}
    model = ScriptedModel.of(script)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(rlm_nb.run, "Wait.", repository, config, model=model, cancel=cancel, listen=seen.append)
        until(lambda: any(isinstance(event, CellOutput) for event in seen))
        cancel.cancel("it was long enough")
        result = running.result()
    assert (result.root.status, result.root.answer.text) == ("partial", "so far")
    assert "it was long enough" in result.root.outcome.stop_reason
    check_record(result.folder)


def test_a_deadline_of_the_callers(repository: Path, config: rlm_nb.Config) -> None:
    """The earlier of the two counts: the signal's, or that of the settings."""
    model = ScriptedModel.of({"root": [cell("import time; time.sleep(600)")]})
    cancel = rlm_nb.Cancellation(deadline=time.monotonic() + 1)
    result = rlm_nb.run("Wait.", repository, config, model=model, cancel=cancel)
    assert result.root.status == "partial"
    assert "time limit" in result.root.outcome.stop_reason
