"""The magics in a stock kernel, as front ends run them."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from rlm_nb.notebook.reader import read, read_cells
from tests.jupyter.conftest import KEY, Kernel, write_script
from tests.whole_runs.conftest import cell, check_record

SCRIPT = {
    "root": [
        cell(
            "print('looked')",
            "import os; print(os.environ.get('ANTHROPIC_API_KEY'))",
            "edit_file('README.md', 'Says hello.', 'Says hello to everybody.')",
        ),
        cell("below = rlm_query('Help')", "Path('made.txt').write_text(below)"),
        cell("FINAL('It is **done**, <script>window.ran = 1</script>.')"),
    ],
    "root.1": [cell("FINAL('helped')")],
}


def test_a_task_in_a_cell(in_repository: Kernel, repository: Path, tmp_path: Path) -> None:
    """The tree, the answer and its links are shown; the result is left; the other magics know which run is meant."""
    model = write_script(tmp_path / "script.yaml", SCRIPT)
    run = in_repository.run
    ran = run(f"%%rlm -m {model}\nHelp everybody.")
    assert ran.reply["status"] == "ok", ran.text
    view, answer = ran.shown
    assert "root.1 1 iteration" in view["text/plain"]
    assert "completed: helped" in view["text/html"]
    assert "root.1.ipynb" in view["text/html"]
    assert "<strong>done</strong>" in answer["text/html"]
    assert "<script" not in ran.html
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert f"../runs/{folder.name}/root.ipynb" in answer["text/html"]
    assert f"../runs/{folder.name}/changes.patch" in answer["text/html"]
    assert "2 files; %rlm_apply merges them into yours" in answer["text/plain"]
    check_record(folder)
    assert (
        "'completed' 2 ['README.md', 'made.txt']"
        in run("print(repr(_rlm.status), len(_rlm.children) + 1, sorted(_rlm.patch.files))").text
    )
    assert run("type(_rlm).__name__").text == "'AgentResult'"
    shown = run("%rlm_tree")
    assert "└── root.1 · completed" in shown.text
    assert "root.1.ipynb" in shown.html
    assert "2 agents" in run("%rlm_budget").text.replace(" sandboxes", " agents") or "agents" in run("%rlm_budget").text
    assert "root: 3 cells ran again, all came out as before" in run("%rlm_replay").text
    assert "2 files changed" in run("%rlm_apply").text
    assert (repository / "README.md").read_text("utf-8").endswith("Says hello to everybody.\n")
    assert run("%rlm_apply --agent 1").text.strip() == "root.1 has changed nothing."
    assert KEY not in "".join(path.read_text("utf-8") for path in folder.glob("*.ipynb"))
    assert run("import os; os.environ.get('ANTHROPIC_API_KEY')").text == ""
    assert KEY.encode() not in Path(f"/proc/{in_repository.manager.provisioner.pid}/environ").read_bytes()


def test_what_goes_wrong_is_a_sentence(in_repository: Kernel, tmp_path: Path) -> None:
    """No lines of code of ours; the cell fails, so that "Run all" ends there."""
    run = in_repository.run
    for code, said in [
        ("%%rlm --model nobody\nHelp.", "ConfigError: model.name: nobody is known to provide 'nobody'"),
        ("%%rlm -m human\n ", "the cell holds no task"),
        ("%%rlm nowhere -m human\nHelp.", "SourceError: "),
        ("%%rlm --max-depth -1\nHelp.", "ConfigError: --max-depth: "),
        ("%%rlm --no-such-flag\nHelp.", "unrecognized arguments: --no-such-flag"),
        ("%%rlm --here\nHelp.", "--here wants the names of variables"),
        ("%%rlm --here --context nothing\nHelp.", "ContextError: there is no variable 'nothing'"),
        ("x = object()", ""),
        ("%%rlm --here --context x\nHelp.", "ContextError: x is a object, which is neither"),
        ("%rlm_step", "nothing was begun"),
        ("%rlm_tree", "RunFolderError: no runs are recorded"),
    ]:
        ran = run(code)
        assert said in ran.text
        assert (ran.reply["status"] == "error") == bool(said), code
        assert "Traceback" not in ran.text
    model = write_script(tmp_path / "useless.yaml", {"root": ["no cell"] * 3})
    ran = run(f"%%rlm -m {model} -o broken\nHelp.")
    assert "RLMError: there is no answer: The model gave 3 useless replies in a row." in ran.text
    assert run("broken.status").text == "'error'"


def test_variables_are_a_context(in_repository: Kernel, tmp_path: Path) -> None:
    """A text, a table, a value, several at once; the agent is told what it has, and the run's folder holds it."""
    show = "print(type(context).__name__, repr(str(context)[:200]), TASK.splitlines()[-1])"
    model = write_script(tmp_path / "script.yaml", {"root": [cell(show, "FINAL(str(context))")]})
    run = in_repository.run
    run(
        "text, value = 'ä' * 3, {'a': [1, None]}\n"
        "class Table:\n    def to_csv(self): return ',n\\n0,1\\n'\n"
        "table = Table()"
    )
    for names, given, said in [
        (["text"], "äää", "`context` holds the variable `text` of the user's notebook: a text."),
        (["table"], ",n\n0,1\n", "a table, as CSV"),
        (["value"], '{\n "a": [\n  1,\n  null\n ]\n}', "its value as JSON"),
        (
            ["text", "value"],
            '{"text": "äää", "value": {"a": [1, null]}}',
            "`text` (a text), `value` (its value as JSON)",
        ),
    ]:
        options = " ".join(f"--context {name}" for name in names)
        ran = run(f"%%rlm -m {model} --here {options}\nLook.")
        assert ran.reply["status"] == "ok", ran.text
        folder = max(
            (path for path in (tmp_path / "runs").iterdir() if path.is_dir()), key=lambda p: p.stat().st_mtime_ns
        )
        recorded = read(folder / "root.ipynb")
        assert recorded.outcome is not None
        assert recorded.outcome.answer.value == given
        assert (folder / "context.txt").read_text("utf-8") == given
        assert said in recorded.task.prompt
        assert "all came out as before" in run("%rlm_replay").text


def test_an_interrupt_ends_the_run_with_what_there_is(in_repository: Kernel, tmp_path: Path) -> None:
    """The kernel goes on, with its variables; the cell counts as interrupted."""
    model = write_script(
        tmp_path / "script.yaml",
        {"root": [cell("answer = 'so far'; print('be' + 'gun'); import time; time.sleep(600)")]},
    )
    ran = in_repository.run(
        f"mine = 3\nget_ipython().run_cell_magic('rlm', '-m {model}', 'Wait.')",
        until=lambda ran: "begun" in ran.html,
        then=in_repository.manager.interrupt_kernel,
    )
    assert ran.reply["ename"] == "KeyboardInterrupt"
    assert "Ending the run and keeping what there is." in ran.text
    assert "so far" in ran.shown[1]["text/plain"]
    assert in_repository.run("mine, _rlm.status, _rlm.answer.text").text == "(3, 'partial', 'so far')"
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    check_record(folder)


STEPS = {
    "root": [
        "I look at `seen`.\n\n```python\nprint(seen * 2)\n```",
        "Two cells.\n\n```python\ny = 1\n```\n\n```python\ny += 1; print(y)\n```",
        cell("answer = rlm_query('Help')", "Path('by_hand.txt').write_text(answer)"),
        cell("x = 1"),
        cell("FINAL([y, answer, output(1).strip()])"),
    ],
    "root.1": [cell("FINAL(Path('here.txt').read_text())")],
}


def test_steps_in_the_kernel_of_the_person(in_repository: Kernel, repository: Path, tmp_path: Path) -> None:
    """Proposed, edited, run by hand with his variables and on his files, and recorded as what it was."""
    model = write_script(tmp_path / "script.yaml", STEPS)
    run = in_repository.run
    run("seen, budget = 20, 'mine'")
    ran = run(f"%%rlm_step -m {model}\nLook around.")
    assert ran.next_input == "print(seen * 2)", ran.text
    assert "I look at <code>seen</code>." in ran.html
    again = run("%rlm_step")  # nothing has run meanwhile
    assert again.next_input == "print(seen * 2)"
    assert run("print(seen * 3)").text == "60\n"
    ran = run("%rlm_step")
    assert ran.next_input == "y = 1", ran.text
    run("y = 1")
    run("%rlm_tree")  # is no cell of the agent's
    ran = run("%rlm_step")
    assert (ran.next_input, ran.html) == ("y += 1; print(y)", "")
    run("y += 1; print(y)")
    ran = run("%rlm_step")
    (repository / "here.txt").write_text("from the person")
    assert ran.next_input is not None
    assert run(ran.next_input).reply["status"] == "ok"
    assert (repository / "by_hand.txt").read_text() == "from the person"
    assert run("%rlm_step").next_input == "x = 1"
    assert run('%rlm_step --say "Leave x alone."').next_input == "FINAL([y, answer, output(1).strip()])"
    run("FINAL([y, answer, output(1).strip()])")
    ran = run("%rlm_step -o ignored")
    assert "The run has ended." in ran.text
    assert (
        run("_rlm.answer.value, budget, 'FINAL' in globals()").text == "([2, 'from the person', '60'], 'mine', False)"
    )
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    turns = read(folder / "root.ipynb").iterations
    assert [[(one.code, one.human) for one in turn.cells] for turn in turns[:2]] == [
        [("print(seen * 3)", True)],
        [("y = 1", False), ("y += 1; print(y)", False)],
    ]
    assert turns[0].cells[0].outputs[0]["text"] == "60\n"
    assert [call.name for call in turns[2].cells[0].calls] == ["rlm_query"]
    assert "the user changed them" in turns[1].message
    assert "Leave x alone." in turns[4].message
    nodes = {node["id"]: node["metadata"]["tags"] for node in read_cells(folder / "root.ipynb")}
    assert "rlm-human" in nodes["it-001-code-1"]
    assert "by_hand.txt" in (folder / "changes.patch").read_text()
    check_record(folder)


def test_steps_that_are_broken_off(in_repository: Kernel, tmp_path: Path) -> None:
    """An error goes to the model; the person ends it with an answer, or with what there is; a shutdown ends it, too."""
    model = write_script(tmp_path / "script.yaml", {"root": [cell("1 / 0"), cell("while True: pass"), cell("1")]})
    run = in_repository.run
    run(f"%%rlm_step -m {model} -o first\nLook.")
    assert run("1 / 0").reply["status"] == "error"
    assert "another task goes on" in run(f"%%rlm_step -m {model}\nLook.").text
    assert run("%rlm_step").next_input == "while True: pass"
    assert run("%rlm_step --skip").next_input == "1"
    run("%rlm_step --answer 'That is enough.'")
    assert run("first.status, first.answer.text, first.iterations").text == "('completed', 'That is enough.', 3)"
    run(f"%%rlm_step -m {model}\nLook.")
    ran = run("%rlm_step --stop")
    assert "There is no answer." in ran.text
    turns = read(Path(run("print(first.notebook)").text.strip())).iterations
    assert [one.status for one in turns[0].cells] == ["error"]
    assert "ZeroDivisionError" in turns[1].message
    run(f"%%rlm_step -m {model}\nLook.")


def test_in_nbclient(repository: Path, tmp_path: Path) -> None:
    """A notebook with a task runs from top to bottom, and keeps what was shown last."""
    model = write_script(tmp_path / "script.yaml", {"root": [cell("FINAL(3)")]})
    codes = ["%load_ext rlm_nb", f"%%rlm -m {model} --runs-dir {tmp_path / 'runs'}\nCount.", "print(_rlm.answer.value)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in codes])
    NotebookClient(notebook, kernel_name="python3", timeout=100, resources={"metadata": {"path": repository}}).execute()
    assert notebook.cells[2]["outputs"][0]["text"] == "3\n"
    view, answer = notebook.cells[1]["outputs"]
    assert "completed" in view["data"]["text/html"]
    assert "3" in answer["data"]["text/plain"]
    notebook.cells[1]["source"] = "%%rlm -m nobody\nCount."
    with pytest.raises(CellExecutionError, match="nobody is known to provide"):
        NotebookClient(
            notebook, kernel_name="python3", timeout=100, resources={"metadata": {"path": repository}}
        ).execute()
