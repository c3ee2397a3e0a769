"""What a person reads below a cell that asked others."""

from __future__ import annotations

from pathlib import Path

from rlm_nb.notebook.calls import MOST, calls
from rlm_nb.notebook.reader import read
from rlm_nb.notebook.recorder import Recorder
from rlm_nb.records import BridgeCall, CellResult, Iterated, Iteration, Replied, Reply
from tests.notebook.scenes import check, opened


def told(*made: BridgeCall) -> str:
    node = calls(CellResult("x", "ok", calls=made), 1, 1)
    return node["source"] if node else ""


def asked(name: str, *questions: str, answer: object = None, error: dict[str, str] | None = None) -> BridgeCall:
    key = {"rlm_query": "tasks", "llm_query": "prompts"}.get(name, "x")
    return BridgeCall(name, {key: list(questions)}, answer, error, "key", 1e9, 1e9 + 2)


def test_what_each_sub_agent_was_asked_and_gave() -> None:
    """Who, how it ended, its price; the task and the answer on a line, or folded behind their first one."""
    answers = [
        {
            "text": "[1, 2]",
            "status": "completed",
            "error": None,
            "cost": 31398,
            "files": ["a", "b"],
            "notebook": "root.1.ipynb",
            "agent": "root.1",
        },
        {"text": "-", "status": "error", "error": "root.2: *time*", "agent": "root.2", "notebook": "root.2.ipynb"},
        {"error": "SandboxLimitError: limit", "status": "error"},
    ]
    page = told(asked("rlm_query", "Count.", "Look <b>\nat it.", "Third", answer=answers))
    first, second, third = page.split("**[root.2]")[0], *page.split("**[root.2]")[1].split("**a sub-agent**")
    assert first.startswith("**[root.1](root.1.ipynb#cell-id=head)** · completed · \\$0.0314 · 2 files changed\n\n")
    assert "Asked: Count.\n\nGave: \\[1, 2\\]\n\n" in first
    fold = "<details>\n<summary>Asked: Look &lt;b&gt; at it.</summary>\n\n```text\nLook <b>\nat it.\n```\n\n</details>"
    assert fold in second
    assert second.endswith("> root.2: \\*time\\*\n\n")
    assert third == " · error\n\nAsked: Third\n\n> SandboxLimitError: limit"


def test_a_question_for_the_model_and_one_that_failed() -> None:
    """Alone in their call they have its time; a call that raised has the reason."""
    page = told(asked("llm_query", "Who?", answer=[{"text": "Me.", "status": "completed", "cost": 2619}]))
    assert page == "**the model** · completed · \\$0.0026 · 2.0s\n\nAsked: Who?\n\nGave: Me."
    page = told(asked("rlm_query", "Who?", error={"type": "SubAgentError", "message": "it ended"}))
    assert page == "**a sub-agent** · error · 2.0s\n\nAsked: Who?\n\n> it ended"
    assert told(asked("FINAL", answer=None)) == ""


def test_many_questions_are_counted() -> None:
    """The first ones are shown; what a hundred others said does not make the page endless."""
    answers = [{"text": "x" * 100_000, "status": "completed"}] * 100
    page = told(asked("llm_query", *("y" * 100_000 for _ in range(100)), answer=answers))
    assert page.count("**the model**") == MOST
    assert page.endswith("*… and 80 questions more; the metadata of the cell above has them.*")
    assert len(page) < 250_000


def test_it_stands_below_its_cell(tmp_path: Path) -> None:
    """Between the cell that asked and the next one of the same reply; what is read back is the same."""
    path = tmp_path / "root.ipynb"
    cells = tuple(CellResult(code, "ok", calls=(asked("llm_query", "Who?", answer=[{}]),)) for code in ("a", "b"))
    iteration = Iteration("root", 1, "m", Reply("Look."), cells)
    with opened(path) as recorder:
        _record(recorder, iteration)
    notebook = check(path)
    names = ["it-001-think", "it-001-code-1", "it-001-calls-1", "it-001-code-2", "it-001-calls-2"]
    assert [cell.id for cell in notebook.cells][3:] == names
    assert notebook.cells[5].metadata.tags == ["rlm-calls"]
    assert read(path).iterations == (iteration,)


def _record(recorder: Recorder, iteration: Iteration) -> None:
    recorder.listen(Replied("root", 1, iteration.message, iteration.reply, tuple(c.code for c in iteration.cells)))
    recorder.listen(Iterated("root", iteration))
