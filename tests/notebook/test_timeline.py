"""The picture of who worked when, and what it may cost a run."""

from __future__ import annotations

import base64
import io
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_nb.notebook.picture import MOST, Row, draw
from rlm_nb.notebook.timeline import drawn, rows, size
from rlm_nb.records import BridgeCall, CellResult, Iterated, Iteration, Replied, Reply, Task
from tests.notebook.scenes import Chance, check, opened

PNG = b"\x89PNG\r\n"


def record(path: Path, at: float = 1e9) -> None:
    """One iteration, begun at a moment: 2 s of the model, a cell that waits for 3 s of its 5, one that fails."""
    waiting = BridgeCall("rlm_query", {"tasks": ["x"]}, [{}], None, "key", at + 3, at + 6)
    cells = (
        CellResult("a", "ok", started=at + 2, ended=at + 7, waited=3, calls=(waiting,)),
        CellResult("b", "error", started=at + 7, ended=at + 8),
    )
    iteration = Iteration(path.stem, 1, "m", Reply("Look."), cells, started=at, ended=at + 8)
    with opened(path, Task("t", path.stem, path.stem.count("."))) as recorder:
        recorder.listen(Replied(path.stem, 1, "m", iteration.reply, ("a", "b")))
        recorder.listen(Iterated(path.stem, iteration))


def test_an_agent_asks_runs_waits_and_fails(tmp_path: Path) -> None:
    """Its time from the first to the last moment, each part with who had it."""
    record(tmp_path / "root.ipynb")
    (row,) = rows(tmp_path)
    spans = [(doing, round(began - 1e9), round(ended - 1e9)) for doing, began, ended in row.spans]
    kept = [("model", 0, 2), ("cell", 2, 3), ("waiting", 3, 6), ("cell", 6, 7), ("failed", 7, 8)]
    assert spans == kept


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    """Links, pipes, folders and damaged notebooks cost the picture of their agents only; the order is the tree's."""
    for name in ("root.10", "root", "root.2.1", "root.2"):
        record(tmp_path / f"{name}.ipynb")
    (tmp_path / "root.3.ipynb").symlink_to("root.2.ipynb")
    os.mkfifo(tmp_path / "root.4.ipynb")
    (tmp_path / "root.5.ipynb").mkdir()
    (tmp_path / "root.6.ipynb").write_text("{}")
    (tmp_path / "root.<b>.ipynb").write_text("{}")
    assert [row.agent for row in rows(tmp_path)] == ["root", "root.2", "root.2.1", "root.10"]
    picture, why = drawn(tmp_path)
    assert picture.startswith(PNG)
    assert why == ""


def test_a_picture_that_cannot_be_drawn_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever matplotlib has against it."""
    assert drawn(tmp_path) == (b"", "There is no timeline: no notebook could be read in time.")
    record(tmp_path / "root.ipynb")
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    picture, why = drawn(tmp_path)
    assert picture == b""
    assert why.startswith("There is no timeline: it cannot be drawn: ")
    assert "nonsense" in why


def test_more_agents_than_a_picture_can_show() -> None:
    """The first ones; and it is small, and the same each time."""
    row = Row("root", 1e9, 1e9 + 9, 5, (("model", 1e9, 1e9 + 1), ("cell", 1e9 + 1, 1e9 + 9)))
    many = [row, *(replace(row, agent=f"root.{number}") for number in range(1, 500))]
    first, second, few = io.BytesIO(), io.BytesIO(), io.BytesIO()
    draw(many, first)
    draw(many, second)
    draw(many[:MOST], few)
    assert first.getvalue() == second.getvalue()
    assert size(first.getvalue()) == size(few.getvalue())
    assert len(first.getvalue()) < 200_000


def test_a_run_that_took_a_while_has_its_timeline_on_top(tmp_path: Path) -> None:
    """Below the table, as an output that needs nobody's trust; the root of a tree has it, and nobody else."""
    path = tmp_path / "root.ipynb"
    child = Chance(0).result(tmp_path / "root.1.ipynb", "root.1")
    record(child.notebook, time.time())
    with opened(path) as recorder:
        began = time.time()
        recorder.finish(replace(Chance(0).result(path), children=(child,), started=began, ended=began + 9))
    cells = check(path).cells
    assert [cell.id for cell in cells] == ["head", "timeline", "replay", "system", "final"]
    (output,) = cells[1].outputs
    assert base64.b64decode(output.data["image/png"]).startswith(PNG)
    assert cells[1].metadata.jupyter == {"source_hidden": True}
    assert "timeline" not in child.notebook.read_text("utf-8")


@pytest.mark.parametrize("reason", ["short", "alone", "below", "refused"])
def test_a_run_without_a_timeline(reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short run, an agent alone and a sub-agent are not kept waiting; and if it fails, the answer is there still."""
    agent = "root.1" if reason == "below" else "root"
    path = tmp_path / f"{agent}.ipynb"
    result = Chance(0).result(path, agent)
    child = Chance(0).result(tmp_path / f"{agent}.1.ipynb", f"{agent}.1")
    result = replace(result, children=() if reason == "alone" else (child,))
    if reason == "short":
        result = replace(result, ended=result.started + 4)
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    with opened(path) as recorder:
        recorder.finish(result)
    cells = check(path).cells
    assert cells[-1].id == "final"
    shown = [cell.source for cell in cells if cell.id == "timeline"]
    assert [source[:23] for source in shown] == (["*There is no timeline: "] if reason == "refused" else [])
