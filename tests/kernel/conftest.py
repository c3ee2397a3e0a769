"""One launcher for all kernels of these tests, and a kernel that they share as long as none of them breaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.bridge.server import Call
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import IsolationSettings, KernelSettings
from rlm_nb.errors import IsolationError
from rlm_nb.kernel.client import KernelClient
from rlm_nb.kernel.launch import Launcher
from rlm_nb.records import CellResult, Output

Start = Callable[..., "Bench"]

FREE = IsolationSettings(level="none")
"""Nothing hides a kernel's processes and files from these tests; those of `confined` see to the rest."""


class Bench:
    """A kernel in a folder of its own, with somebody who answers its calls."""

    def __init__(self, stack: ExitStack, launcher: Launcher, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.workdir = folder / "work"
        self.workdir.mkdir(exist_ok=True)
        self.calls: list[Call] = []
        self.cancelled: list[str] = []
        self.attended: list[CellResult] = []
        self.cancel = Cancellation()
        self.client = stack.enter_context(
            KernelClient(
                launcher,
                folder,
                self.workdir,
                lambda number: folder / "outputs" / f"{number}.txt",
                KernelSettings(**settings),
                lambda: {"subagents": True, "context": None},
                self.answer,
                self.cancel,
                attended=self.attended.append,
            )
        )

    def answer(self, call: Call, cancel: Cancellation) -> Any:
        """Sub-agents that take as many seconds as their task says, and budgets that are known."""
        self.calls.append(call)
        if call.name == "rlm_query":
            for task in call.arguments["tasks"]:
                if cancel.wait(float(task)):
                    self.cancelled.append(cancel.reason)
            return [{"text": f"waited {task}", "value": f"waited {task}"} for task in call.arguments["tasks"]]
        if call.name == "llm_query":
            return [{"text": str(len(prompt)), "value": len(prompt)} for prompt in call.arguments["prompts"]]
        return {"left_usd": 1.5}

    def run(self, code: str, cancel: Cancellation | None = None) -> CellResult:
        return self.client.execute(code, cancel or Cancellation())


def text(outputs: tuple[Output, ...] | list[Output], name: str = "stdout") -> str:
    """All that came on a stream."""
    return "".join(output["text"] for output in outputs if output.get("name") == name)


@pytest.fixture(scope="session")
def launcher(clean_environment: Path) -> Iterator[Launcher]:
    with Launcher(isolation=FREE) as running:
        yield running


@pytest.fixture(scope="session")
def confined(clean_environment: Path) -> Iterator[Launcher]:
    """One whose kernels are confined as users get them, where the machine can hold that."""
    with ExitStack() as stack:
        running = stack.enter_context(Launcher(isolation=IsolationSettings(level="ns")))
        try:
            running.confinement()
        except IsolationError:
            running = stack.enter_context(Launcher(isolation=FREE))
        yield running


@pytest.fixture(scope="module")
def bench(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A kernel for cells that end well."""
    with ExitStack() as stack:
        yield Bench(stack, launcher, tmp_path_factory.mktemp("kernel"))


@pytest.fixture
def start(launcher: Launcher, tmp_path: Path) -> Iterator[Start]:
    """Starts kernels for cells that end badly; they are gone after the test."""
    with ExitStack() as stack:
        yield lambda **settings: Bench(stack, launcher, tmp_path, **settings)
