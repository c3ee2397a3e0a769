"""Real kernels on their way to their first cell, and some that never become ready."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.bridge.server import Call
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import IsolationSettings, KernelSettings
from rlm_nb.errors import GitError, KernelStartError
from rlm_nb.kernel.client import KernelClient
from rlm_nb.kernel.forkserver import QUIET
from rlm_nb.kernel.launch import Launcher
from rlm_nb.kernel.session import Session
from tests.kernel.conftest import Bench, Start, text


@pytest.mark.parametrize("last", ["hello", "ready"])
def test_death_while_starting(launcher: Launcher, tmp_path: Path, last: str) -> None:
    """A kernel that dies before or just after it has said that it is ready is not waited for."""
    pids: list[int] = []

    def answer(call: Call, cancel: Cancellation) -> Any:
        if call.name == "hello":
            pids.append(int(call.arguments["pid"]))
        if call.name == last:
            os.kill(pids[0], signal.SIGKILL)
        return {}

    began = time.monotonic()
    with closing(Session(launcher, tmp_path, tmp_path, answer, Cancellation(), KernelSettings())) as session:
        with pytest.raises(KernelStartError, match=r"ended while it was starting \(signal SIGKILL"):
            session.wait_until_ready(Cancellation())
    assert time.monotonic() - began < 20


def test_what_can_wait_is_imported_when_nobody_asks_for_kernels(tmp_path: Path) -> None:
    """A kernel that is forked at once goes without; a later one finds it."""

    def has(name: str) -> str:
        (tmp_path / name).mkdir()
        bench = Bench(stack, launcher, tmp_path / name)
        return text(bench.run("import sys; print('pexpect' in sys.modules)").outputs).strip()

    with ExitStack() as stack:
        launcher = stack.enter_context(Launcher(isolation=IsolationSettings(level="none")))
        assert has("early") == "False"
        answers = []
        while answers[-1:] != ["True"]:
            time.sleep(2 * QUIET)
            answers.append(has(f"late-{len(answers)}"))
            assert len(answers) < 10


def test_a_kernel_starts_while_its_files_are_still_written(launcher: Launcher, tmp_path: Path) -> None:
    """It says hello before there is a worktree, and its cells run there once there is one, also after a restart."""
    workdir, asked, written = tmp_path / "work/inner", threading.Event(), threading.Event()

    def greeting() -> dict[str, Any]:
        asked.set()
        assert written.wait(60)
        return {"workdir": str(workdir)}

    def folder(number: int) -> Path:
        return tmp_path / f"{number}.txt"

    client = KernelClient(
        launcher, tmp_path, tmp_path, folder, KernelSettings(), greeting, lambda call, cancel: None, Cancellation()
    )
    with closing(client):
        client.begin()
        assert asked.wait(60)
        workdir.mkdir(parents=True)
        written.set()
        client.wait_until_ready()
        here = "FINAL([str(Path.cwd()), str(WORKDIR), sys.path.count(str(WORKDIR)), str(_dh[0])])"
        first = client.execute(f"import sys\n{here}", Cancellation()).final
        assert first is not None
        assert first.value == [str(workdir), str(workdir), 1, str(workdir)]
        assert client.execute("import shutil\nshutil.rmtree(WORKDIR)\nos._exit(1)", Cancellation()).status == "died"
        again = client.execute(f"import sys\n{here}", Cancellation()).final
        assert again is not None
        assert again.value == first.value


def test_a_kernel_without_its_files_ends(launcher: Launcher, tmp_path: Path) -> None:
    """What keeps a worktree from being there ends the kernel that waits for it, and nobody waits for the kernel."""

    def greeting() -> dict[str, Any]:
        raise GitError("there is no such commit")

    client = KernelClient(
        launcher,
        tmp_path,
        tmp_path,
        lambda number: tmp_path / f"{number}.txt",
        KernelSettings(),
        greeting,
        lambda call, cancel: None,
        Cancellation(),
    )
    with pytest.raises(KernelStartError, match="there is no such commit"), client:
        pass


def test_kernels_do_not_share_what_they_were_forked_with(start: Start, bench: Bench) -> None:
    """Each has a session, and random numbers, of its own, and is its own process for who writes its messages."""
    asked = (
        "import os, random\nsession = get_ipython().kernel.session\n"
        "print(session.session, random.random(), session.pid == os.getpid())"
    )
    one, other = (text(kernel.run(asked).outputs).split() for kernel in (bench, start()))
    assert one[2] == other[2] == "True"
    assert {*one} & {*other} == {"True"}
