"""Tasks with a model that answers by what it is asked, in a folder of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.models.scripted import ScriptedModel
from rlm_nb.tasks import GuardConfig, TaskResult, run_task

PRICE = {"input": 3.0, "output": 15.0}

Run = Callable[..., TaskResult]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs are recorded below the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run() -> Run:
    """`run(task, context="…", says=[(pattern, reply), …], **limits)`: the result of a task whose model says that."""

    def run(task: Any, context: Any = "some text", says: Any = ((".", "fine"),), **limits: Any) -> TaskResult:
        options = {name: limits.pop(name) for name in ("cancel", "listen", "record") if name in limits}
        model = ScriptedModel.of({}, list(says), price=PRICE)
        return run_task(task, context, GuardConfig(**limits), model=model, **options)

    return run
