"""Runs to start and folders for agents to work in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.workspace.scratch import scratch
from rlm_nb.workspace.source import Source
from rlm_nb.workspace.worktree import Worktree

Opener = Callable[..., Source]
CheckOut = Callable[..., Worktree]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes in the end what a test opens."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def open_source(tmp_path: Path, stack: ExitStack) -> Opener:
    """`open_source(where, …)`: `Source.open` in the folder of a new run."""
    count = iter(range(100))

    def opened(where: str | Path, **options: Any) -> Source:
        run_folder = tmp_path / f"run-{next(count)}"
        run_folder.mkdir()
        source: AbstractContextManager[Source] = Source.open(str(where), run_folder, **options)
        return stack.enter_context(source)

    return opened


@pytest.fixture
def check_out(stack: ExitStack) -> CheckOut:
    """`check_out(source, …)`: an agent's worktree in a new scratch folder."""

    def checked_out(source: Source, agent: str = "root", base: str | None = None) -> Worktree:
        folder = stack.enter_context(scratch())
        return stack.enter_context(source.checkout(agent, folder, base))

    return checked_out
