"""Jupyter's way to an agent at work: a kernelspec, a connection file, and what becomes of what a person runs there."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pexpect
import pytest
from jupyter_client import BlockingKernelClient, KernelManager
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_core.paths import jupyter_data_dir

from rlm_nb import control, live_specs
from rlm_nb.errors import RunFolderError
from rlm_nb.notebook.reader import read
from rlm_nb.records import BY_A_PERSON
from tests.kernel.test_people import PATIENCE, person, run
from tests.test_control import run_of
from tests.whole_runs.conftest import Shell, cell, until

FOREVER = "import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.05)"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def specs() -> list[str]:
    """The kernelspecs of agents at work that Jupyter finds."""
    return sorted(name for name in KernelSpecManager().find_kernel_specs() if name.startswith(live_specs.PREFIX))


@contextmanager
def attached(name: str) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """A kernel manager, and a client of it, as a front end has them."""
    manager = KernelManager(kernel_name=name)
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(PATIENCE)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


def decide(run: Path, number: int) -> None:
    """Let what is proposed in this iteration run."""
    until(lambda: [one for one in control.waiting(run) if one["number"] == number])
    control.decide(run, "root", str(control.waiting(run)[0]["key"]))


def test_what_a_person_runs_is_recorded_told_and_replayed(shell: Shell, repository: Path) -> None:
    """As his, in its place; the agent goes on with what he left, and so does whoever runs it all again."""
    script = {"root": [cell("x = 20"), cell("y = x + z"), cell("FINAL(y)")], "root.1": [cell("FINAL('hi')")]}
    with shell.start(repository, "--model", shell.script(script), "--approve-in-lab") as running:
        folder = run_of(shell)
        decide(folder, 1)
        until(lambda: [one["number"] for one in control.waiting(folder)] == [2])
        [name] = specs()
        with attached(name) as (manager, client):
            assert run(client, "z = 22\nprint(x)")[1] == "20\n"
            assert run(client, "1 / 0")[0]["ename"] == "ZeroDivisionError"
            waiting = client.execute("print(rlm_query('Say hi'))")
            decide_child(folder)
            while (reply := client.get_shell_msg(timeout=PATIENCE))["parent_header"]["msg_id"] != waiting:
                pass
            assert reply["content"]["status"] == "ok"
            manager.restart_kernel()
            client.wait_for_ready(PATIENCE)
            assert run(client, "x + z")[1] == "42"
            assert "not that of a person" in run(client, "FINAL('mine')")[0]["evalue"]
        assert specs() == [name]
        at_a_prompt(shell, folder)
        decide(folder, 2)
        decide(folder, 3)
        ended = running.end()
    assert ended.code == 0, ended
    assert specs() == []
    recorded = read(folder / "root.ipynb")
    assert recorded.outcome is not None
    assert recorded.outcome.answer.value == 42
    theirs = [(one.code, one.status, one.human, one.number) for one in recorded.asides]
    assert theirs[:2] == [("z = 22\nprint(x)", "ok", True, 2), ("1 / 0", "error", True, 3)]
    assert [cell.name for cell in recorded.asides[2].calls] == ["rlm_query"]
    assert len(theirs) == 7
    assert [(status, "FINAL" in code) for code, status, *_ in theirs[4:5]] == [("error", True)]
    assert [turn.cells[0].human for turn in recorded.iterations] == [False] * 3
    nodes = [node for node in nbformat.read(folder / "root.ipynb", 4).cells if node.metadata.get("rlm")]
    order = [node.id for node in nodes if node.id[:2] in ("it", "as") and not node.id.endswith("-note")]
    assert order[:4] == ["it-001-think", "it-001-code-1", "aside-002", "aside-003"]
    assert order[-1] == "it-003-code-1"
    assert "rlm-human" in next(node for node in nodes if node.id == "aside-002").metadata.tags
    assert "# A person used your kernel" in recorded.iterations[2].message
    assert "```python\nz = 22\nprint(x)\n```" in recorded.iterations[2].message
    assert "ZeroDivisionError" in recorded.iterations[2].message
    assert [child.agent for child in recorded.subagents] == ["root.1"]
    again = subprocess.run(
        [sys.executable, "-m", "rlm_nb", "replay", folder], capture_output=True, text=True, timeout=PATIENCE
    )
    assert again.returncode == 0, again
    assert "all came out as before" in again.stdout + again.stderr
    (shell.here / "runs").rename(shell.here / "before")
    replayed = shell.run(repository, "--model", f"replay:{shell.here / 'before' / folder.name}")
    assert (replayed.code, replayed.state["answer"]) == (0, 42), replayed


@contextmanager
def prompt(shell: Shell, *command: str) -> Iterator[pexpect.spawn[str]]:
    """A console on a terminal, when it waits for a first line."""
    console = pexpect.spawn(
        sys.executable,
        ["-m", *command],
        cwd=shell.here,
        env={**os.environ, "TERM": "dumb"},
        encoding="utf-8",
        timeout=PATIENCE,
    )
    try:
        console.expect("The REPL of an RLM agent")
        console.expect(r"In \[\d+\]: ")
        yield console
    finally:
        console.close(force=True)


def at_a_prompt(shell: Shell, folder: Path) -> None:
    """`jupyter console --existing`, as `rlm-nb attach` says it; and `--console`, which can interrupt as well."""
    said = attach(shell, folder)
    assert (said.returncode, "jupyter console --existing" in said.stderr) == (0, True), said
    with prompt(shell, "jupyter", "console", "--existing", said.stdout.strip(), "--simple-prompt") as console:
        console.sendline("z + 1000")
        console.expect("1022")
        console.sendline("exit()")
        console.expect(pexpect.EOF)
    [told] = [shlex.split(line) for line in said.stderr.splitlines() if "--console" in line]
    assert told[:3] == ["rlm-nb", "attach", f"{folder.name}:root"]
    with prompt(shell, "rlm_nb", *told[1:]) as console:
        found = 1
        while found:  # what is typed while a prompt is just being drawn may be lost
            console.sendline("import time; print('as' + 'leep'); time.sleep(600)")
            found = console.expect(["asleep", pexpect.TIMEOUT], timeout=10)
        console.sendintr()
        console.expect("KeyboardInterrupt")
        console.sendline("exit()")
        console.expect(pexpect.EOF)
    unknown = attach(shell, f"{folder}:7")
    assert (unknown.returncode, "root.7" in unknown.stderr, "root can be attached to" in unknown.stderr) == (
        1,
        True,
        True,
    )


def decide_child(folder: Path) -> None:
    until(lambda: [one for one in control.waiting(folder) if one["agent"] == "root.1"])
    [proposal] = [one for one in control.waiting(folder) if one["agent"] == "root.1"]
    control.decide(folder, "root.1", str(proposal["key"]))


def test_an_agent_is_interrupted_and_detached_from(shell: Shell, repository: Path) -> None:
    """Its cell heeds the first, and not the second; its end is the end for who is still attached."""
    script = {"root": [cell(FOREVER), cell(FOREVER), cell("FINAL('done')")]}
    with shell.start(repository, "--model", shell.script(script)) as running:
        folder = run_of(shell)
        until(lambda: specs() and (folder / "root.ipynb").read_text("utf-8").count('"begun') == 1)
        [name] = specs()
        with attached(name) as (manager, _):
            manager.interrupt_kernel()
            until(lambda: (folder / "root.ipynb").read_text("utf-8").count('"begun') == 2)
        assert BY_A_PERSON in read(folder / "root.ipynb").iterations[0].cells[0].error
        with attached(name) as (manager, client):
            time.sleep(0.3)
            assert len(read(folder / "root.ipynb").iterations) == 1  # to detach has interrupted nothing
            assert manager.is_alive()
            manager.interrupt_kernel()
            ended = running.end()
            until(lambda: not manager.is_alive())
            until(lambda: client.get_iopub_msg(timeout=PATIENCE)["content"].get("execution_state") == "dead")
    assert ended.code == 0, ended
    assert BY_A_PERSON in read(folder / "root.ipynb").iterations[2].message
    assert specs() == []
    with pytest.raises(NoSuchKernel):
        KernelManager(kernel_name=name).start_kernel()
    late = attach(shell, folder)
    assert (late.returncode, "does not go on" in late.stderr) == (1, True), late


def attach(shell: Shell, what: Path | str) -> subprocess.CompletedProcess[str]:
    """`rlm-nb attach`."""
    command = [sys.executable, "-m", "rlm_nb", "attach", str(what)]
    return subprocess.run(command, capture_output=True, text=True, cwd=shell.here, timeout=PATIENCE)


def test_a_killed_run_leaves_a_kernelspec_for_the_next_one(shell: Shell, repository: Path) -> None:
    """Which removes it, and goes on with what a person had done; an agent that nobody is to be attached to is not."""
    script = {"root": [cell("x = 20"), cell("FINAL(x + z)")]}
    model = shell.script(script)
    with shell.start(repository, "--model", model, "--approve-in-lab") as running:
        folder = run_of(shell)
        decide(folder, 1)
        until(lambda: [one["number"] for one in control.waiting(folder)] == [2])
        [name] = specs()
        with attached(name) as (manager, client):
            run(client, "z = 22")
            running.process.kill()
            running.process.wait()
            until(lambda: not manager.is_alive())
    assert specs() == [name]
    assert live_specs.abandoned() == [Path(jupyter_data_dir(), "kernels", name)]
    resumed = subprocess.run(
        [sys.executable, "-m", "rlm_nb", "resume", folder], capture_output=True, text=True, timeout=PATIENCE
    )
    assert resumed.returncode == 0, resumed
    recorded = read(folder / "root.ipynb")
    assert recorded.outcome is not None
    assert recorded.outcome.answer.value == 42
    assert specs() == []
    closed = shell.settings(kernel={"attach": False})
    with shell.start(repository, "--model", model, "--approve-in-lab", "--config", closed) as running:
        until(lambda: len(list(shell.here.glob(f"runs/*/{control.FOLDER}"))) == 1)
        folder = next(shell.here.glob(f"runs/*/{control.FOLDER}")).parent
        decide(folder, 1)
        until(lambda: [one["number"] for one in control.waiting(folder)] == [2])
        assert specs() == []
        with pytest.raises(RunFolderError, match="no agent can be attached to"):
            control.attach(folder)
        control.stop(folder)
        running.end()


def test_a_second_ctrl_c_takes_it_all_away(shell: Shell, repository: Path) -> None:
    """The kernelspec, and the sockets of who was attached."""
    deaf = "print('begun', flush=True)\nwhile True:\n    try:\n        time.sleep(60)\n    except BaseException: pass"
    with shell.start(repository, "--model", shell.script({"root": [cell(f"import time\n{deaf}")]})) as running:
        folder = run_of(shell)
        until(lambda: specs() and '"begun' in (folder / "root.ipynb").read_text("utf-8"))
        file = control.attach(folder)
        running.press()
        until(lambda: "Ending the run" in running.err)
        time.sleep(0.4)
        assert file.exists()
        running.press()
        assert running.end().code == 130
    assert specs() == []
    assert not file.parent.exists()


def test_a_cell_that_waited_and_raised_is_replayed(shell: Shell, repository: Path) -> None:
    """As far as it came; where it awaited something, too."""
    script = {"root": [cell("x = 1"), cell("w"), cell("FINAL(w)")]}
    with shell.start(repository, "--model", shell.script(script), "--approve-in-lab") as running:
        folder = run_of(shell)
        decide(folder, 1)
        until(lambda: [one for one in control.waiting(folder) if one["number"] == 2])
        with person(control.attach(folder)) as client:
            assert run(client, "import asyncio\nawait asyncio.sleep(0)\nw = 5\n1 / 0")[0]["status"] == "error"
        decide(folder, 2)
        decide(folder, 3)
        assert running.end().state["answer"] == 5
    (shell.here / "runs").rename(shell.here / "before")
    replayed = shell.run(repository, "--model", f"replay:{shell.here / 'before' / folder.name}")
    assert (replayed.code, replayed.state["answer"]) == (0, 5), replayed
