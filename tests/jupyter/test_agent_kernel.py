"""The kernel "RLM agent", as front ends speak to it."""

from __future__ import annotations

import os
import tempfile
import time
import unittest
from collections.abc import Iterator
from pathlib import Path

import jupyter_kernel_test
import psutil
import pytest
from jupyter_client.manager import start_new_kernel

from rlm_nb.ledger import BudgetFile
from rlm_nb.notebook.reader import read
from tests.jupyter.conftest import KEY, PLANTED, Kernel, started, write_script
from tests.whole_runs.conftest import cell, check_record, until

HELLO = cell("import sys\nprint('hello, world'); print('oh', file=sys.stderr)\n6 * 7", "FINAL('hello, world')")


class Protocol(jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    """What every kernel has to do; the tasks are all answered in the same way."""

    __test__ = False  # not by pytest: its kernel lasts for all of them

    kernel_name = "rlm-agent"
    language_name = "markdown"
    file_extension = ".md"
    code_hello_world = "Say hello."
    code_stderr = "Say it again."
    code_generate_error = "%nothing"
    code_inspect_sample = "%step"
    completion_samples = ({"text": "%st", "matches": {"%step"}}, {"text": "%m", "matches": {"%model"}})
    complete_code_samples = ("Do it.", "%tree")

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory(prefix="kernel-")
        place = Path(cls.folder.name)
        (place / "work").mkdir()
        (place / "work/README.md").write_text("# greeting\n")
        model = write_script(place / "script.yaml", {"root": [HELLO] * 9})
        variables = {**PLANTED, "RLM_MODEL_NAME": model, "RLM_RUNS_DIR": str(place / "runs")}
        cls.km, cls.kc = start_new_kernel(
            kernel_name=cls.kernel_name, cwd=str(place / "work"), env=os.environ | variables
        )

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()
        cls.km.cleanup_resources()
        cls.folder.cleanup()


def test_the_protocol_of_kernels() -> None:
    """What `jupyter_kernel_test` asks of every kernel."""
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Protocol).run(result)
    assert [why for _, why in (*result.errors, *result.failures)] == []
    assert result.testsRun - len(result.skipped) >= 7


@pytest.fixture
def agent(repository: Path, tmp_path: Path) -> Iterator[Kernel]:
    """The kernel at work in a small repository; its model says what `script.yaml` says at the first task."""
    variables = {"RLM_RUNS_DIR": str(tmp_path / "runs"), "RLM_MODEL_NAME": f"scripted:{tmp_path}/script.yaml"}
    with started("rlm-agent", repository, **PLANTED, **variables) as kernel:
        yield kernel
        pid = kernel.manager.provisioner.pid
        below = psutil.Process(pid).children(recursive=True)
    until(lambda: not [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE])


def _folder(tmp_path: Path) -> Path:
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    return folder


def test_a_conversation(agent: Kernel, repository: Path, tmp_path: Path) -> None:
    """A task, a word on the answer with the variables still there, the commands, the edits, and a word after that.

    While it waits for a word, no money is kept for it.
    """
    look = "import os; print(os.environ.get('ANTHROPIC_API_KEY'), 'looked')"
    edit = cell(
        look, "edit_file('README.md', 'Says hello.', 'Says hello to all.')\nkept = 20", "FINAL('It is **done**.')"
    )
    replies = [edit, cell("FINAL(kept + len(rlm_query('Help')))"), cell("FINAL(kept + 2)")]
    price = {"input": 3, "output": 15}
    write_script(tmp_path / "script.yaml", {"root": replies, "root.1": [cell("FINAL('1')")]}, price=price)
    ran = agent.run("Greet everybody.")
    assert ran.reply["status"] == "ok", ran.text
    assert "None looked" in ran.text
    assert "<strong>done</strong>" in ran.html
    assert "21" in agent.run("Count.").shown[-1]["text/plain"]
    folder = _folder(tmp_path)
    assert len(read(folder / "root.ipynb").iterations) == 2
    assert "root.1 · completed" in agent.run("%tree").text
    assert "agents" in agent.run("%budget").text
    balance = BudgetFile.look(folder / "budget.json").balance(time.time())
    assert balance.spent_cost > balance.reserved_cost == 0
    assert agent.run("%model").text.startswith("scripted:")
    assert "1 file changed" in agent.run("%apply").text
    assert "Says hello to all." in (repository / "README.md").read_text("utf-8")
    assert "22" in agent.run("And once more.").shown[-1]["text/plain"]
    assert _folder(tmp_path) == folder
    agent.run("%new")
    check_record(folder)
    assert [iteration.number for iteration in read(folder / "root.ipynb").iterations] == [1, 2, 3]
    assert KEY not in "".join(path.read_text("utf-8") for path in folder.glob("*.ipynb"))


def test_steps(agent: Kernel, tmp_path: Path) -> None:
    """%step shows what would run, and %run runs it, or what a person made of it; %auto lets go."""
    replies = ["I look.\n\n```python\nx = 1\n```", cell("x += 1"), cell("x += 1"), cell("FINAL(x)")]
    write_script(tmp_path / "script.yaml", {"root": replies})
    ran = agent.run("%step\nCount.")
    assert "I look." in ran.text
    assert ran.next_input == "%run\nx = 1"
    assert agent.run("%run\nx = 40").next_input == "%run\nx += 1"
    assert agent.run("%run").next_input == "%run\nx += 1"
    assert "42" in agent.run("%auto").shown[-1]["text/plain"]
    agent.run("%new")
    recorded = read(_folder(tmp_path) / "root.ipynb")
    assert recorded.iterations[0].cells[0].human
    assert not recorded.iterations[1].cells[0].human


def test_an_interrupt_and_what_goes_wrong(agent: Kernel, tmp_path: Path) -> None:
    """An interrupt ends the run with what there is, and the next word goes on with it; errors are sentences."""
    assert agent.run("%nothing").text == "ConfigError: %nothing is no command; %help lists them"
    assert "no agent is at work" in agent.run("%run").text
    waits = cell("print('be' + 'gun'); import time; time.sleep(600)")
    replies = [cell("answer = 'so far'"), waits, cell("FINAL(answer + ', and done')")]
    write_script(tmp_path / "script.yaml", {"root": replies})
    begun, stop = (lambda ran: "begun" in ran.html), agent.manager.interrupt_kernel
    ran = agent.run("Wait.", until=begun, then=stop)
    assert (ran.reply["status"], ran.reply["ename"]) == ("error", "KeyboardInterrupt")
    assert "so far" in ran.text
    ran = agent.run("Go on.")
    assert ran.reply["status"] == "ok", ran.text
    assert "so far, and done" in ran.shown[-1]["text/plain"]
