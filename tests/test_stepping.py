"""A run that is gone through by hand: what is proposed waits, and what a person does to it is done and recorded."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import rlm_nb
from rlm_nb.config import Config
from rlm_nb.errors import RLMError, SourceError
from rlm_nb.notebook.reader import read, read_cells
from rlm_nb.stepping import Session
from tests.test_replaying import python
from tests.test_resuming import Asked
from tests.whole_runs.conftest import check_record


def stepping(tmp_path: Path, repository: Path, model: Any, **more: Any) -> Session:
    config = Config.model_validate({"runs": {"dir": tmp_path / "runs"}})
    return rlm_nb.session("Work", repository, config, model=model, **more)


def test_to_watch_is_to_iterate(tmp_path: Path, repository: Path) -> None:
    """Each iteration comes once it is complete, in order, and the run is over afterwards."""
    model = Asked([python("x = 1"), python("x += 1"), python("FINAL(x)")])
    session = stepping(tmp_path, repository, model)
    seen = [(iteration.number, iteration.cells[0].status) for iteration in session]
    assert seen == [(1, "ok"), (2, "ok"), (3, "ok")]
    assert session.result.root.answer.value == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rlm-session")]


def test_nothing_runs_before_it_is_decided(tmp_path: Path, repository: Path) -> None:
    """Edit, message, skip: what ran is recorded as whose it is, and the model is told each time."""
    model = Asked([python("x = 1", "y = 2"), python("open('no', 'w')"), python("x = 0"), python("FINAL([x, y])")])
    with stepping(tmp_path, repository, model) as session:
        proposal = session.propose()
        assert proposal == session.propose()
        assert proposal is not None
        assert proposal.code == ("x = 1", "y = 2")
        assert "NameError" in str(session.look("x").error)
        assert session.edit("x = 10", "y = 2").code == ("x = 10", "y = 2")
        first = session.execute()
        assert first is not None
        assert [(cell.code, cell.human) for cell in first.cells] == [("x = 10", True), ("y = 2", False)]
        assert "10" in str(session.look("x").outputs)
        assert session.balance.calls >= 1
        second = session.message("Leave the disk alone.")
        assert second is not None
        assert (second.cells, second.code) == ((), ())
        session.skip()
        fourth = session.execute()
        assert fourth is not None
        assert session.propose() is None
        with pytest.raises(RLMError, match="the run has ended"):
            session.execute()
    result = session.result
    assert result.root.answer.value == [10, 2]
    told = [request.messages[-1].content for request in model.requests]
    assert "the user changed them" in told[1]
    assert "x = 10" in told[1]
    assert "Leave the disk alone." in told[2]
    assert "did not let your cells run" in told[3]
    assert "no" not in result.root.patch.files
    cells = {cell["id"]: cell["metadata"]["tags"] for cell in read_cells(result.root.notebook)}
    assert "rlm-human" in cells["it-001-code-1"]
    assert "rlm-human" not in cells["it-001-code-2"]
    assert [cell.execution_count for turn in read(result.root.notebook).iterations for cell in turn.cells] == [1, 2, 3]
    check_record(result.folder)


def test_back_to_an_earlier_iteration(tmp_path: Path, repository: Path) -> None:
    """Variables, files and the conversation are as they were; what is undone is kept aside, and stays paid."""
    asked: list[str] = []

    def second(request: Any) -> str:
        asked.append(request.messages[-1].content)
        if len(asked) == 1:
            return python("x = 2\nPath('made.txt').write_text('x')\nresult = rlm_query('help')")
        return python("FINAL([x, Path('made.txt').exists(), 'result' in globals()])")

    model = Asked([python("x = 1"), second, python("x = 3")], [("help", [python("FINAL('helped')")])])
    with stepping(tmp_path, repository, model) as session:
        for _ in range(2):
            session.execute()
        proposal = session.propose()
        assert proposal is not None
        assert proposal.number == 3
        with pytest.raises(RLMError, match="2 iterations to go back to"):
            session.rewind(3)
        session.rewind(1)
        again = session.propose()
        assert again is not None
        assert again.number == 2
        session.execute()
        session.finish()
    result = session.result
    assert result.root.answer.value == [1, False, False]
    assert (result.root.status, result.root.iterations) == ("completed", 2)
    assert model.calls["root", 2, ""] == 2
    assert result.balance.calls == 5
    assert sorted(path.name for path in (result.folder / "undone" / "1").iterdir()) == ["root.1.ipynb", "root.ipynb"]
    assert [turn.number for turn in read(result.root.notebook).iterations] == [1, 2]


def test_a_person_ends_it(tmp_path: Path, repository: Path) -> None:
    """With an answer of his own, or with the best that there is."""
    model = Asked([python("answer = 'so far'"), python("while True: pass")])
    with stepping(tmp_path, repository, model) as session:
        session.execute()
        result = session.finish("mine")
    assert (result.root.status, result.root.answer.value) == ("completed", "mine")
    with stepping(tmp_path, repository, Asked([python("answer = 'so far'"), python("1")])) as session:
        session.execute()
        result = session.finish()
    assert (result.root.status, result.root.answer.value) == ("partial", "so far")
    assert result.root.outcome.stopped


def test_sub_agents_are_stepped_when_that_is_wanted(tmp_path: Path, repository: Path) -> None:
    """From the next one that is new on; two that run at the same time are asked about one after the other."""
    model = Asked(
        [python("a = rlm_query('one')"), python("b = rlm_query_batched(['one', 'one'])"), python("FINAL(len(b))")],
        [("one", [python("z = 1"), python("FINAL(z)")])],
    )
    agents = []
    with stepping(tmp_path, repository, model) as session:
        session.to_next_sub_agent()
        while proposal := session.propose():
            agents.append((proposal.agent, proposal.number))
            session.execute()
    assert agents == [("root.1", 1), ("root.1", 2), ("root", 2), ("root", 3)]
    agents = []
    with stepping(tmp_path, repository, model, sub_agents=True) as session:
        while proposal := session.propose():
            agents.append((proposal.agent, proposal.number))
            session.execute()
    assert sorted(agents) == sorted(
        [("root", 1), ("root", 2), ("root", 3), *((f"root.{child}", turn) for child in (1, 2, 3) for turn in (1, 2))]
    )
    with stepping(tmp_path, repository, model) as session:
        session.go_on()
        assert session.propose() is None
    assert session.result.root.answer.value == 2


def test_what_keeps_a_run_from_starting_is_raised(tmp_path: Path) -> None:
    """Wherever one asks first."""
    for ask in (Session.propose, lambda session: session.run, lambda session: list(session)):
        with stepping(tmp_path, tmp_path / "nowhere", Asked([])) as session, pytest.raises(SourceError):
            ask(session)


def test_a_session_that_is_left_stops(tmp_path: Path, repository: Path) -> None:
    """The run ends as a stopped one, and can be resumed."""
    with stepping(tmp_path, repository, Asked([python("x = 1"), python("FINAL(x)")])) as session:
        for iteration in session:
            assert iteration.number == 1
            break
    assert session.result.root.outcome.stopped
