"""Runs an agent's recorded cells again in a kernel like the one that they ran in, and compares what comes of it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlm_nb.agent.transcript import Transcript
from rlm_nb.bridge.server import Call
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import KernelSettings, RLMSettings
from rlm_nb.errors import BridgeError, ConfigError
from rlm_nb.kernel.client import KernelClient
from rlm_nb.kernel.launch import Launcher
from rlm_nb.lean import nbformat
from rlm_nb.notebook.reader import read_cells
from rlm_nb.rebuilding import Answers, Compared, plain_outputs, rebuild
from rlm_nb.recalling import Recalled, recall
from rlm_nb.records import JSON, CellResult, Output
from rlm_nb.replaying.stage import greeting, stage


@dataclass(frozen=True)
class Replayed:
    """An agent whose cells ran again.

    Args:
        past: The agent.
        cells: Each cell, beside what came of it now.
    """

    past: Recalled
    cells: tuple[Compared, ...]

    @property
    def agent(self) -> str:
        """Its path in the tree."""
        return self.past.recorded.task.agent

    @property
    def differing(self) -> list[Compared]:
        """The cells that ran again and came out otherwise."""
        return [cell for cell in self.cells if cell.now is not None and cell.difference()]

    @property
    def left_out(self) -> list[Compared]:
        """The cells that were not run again, since they had no good end."""
        return [cell for cell in self.cells if cell.now is None]


def replay(
    notebook: Path, launcher: Launcher, cancel: Cancellation, tell: Callable[[Compared], None] = lambda compared: None
) -> Replayed:
    """Run the cells of a notebook again, in a worktree like the one that they began in.

    Args:
        notebook: An agent's notebook, in the folder of its run.
        launcher: Starts the kernel.
        cancel: Stops it.
        tell: Told of each cell.

    Raises:
        RLMError: What kept it from being done.
    """
    past = recall(notebook)
    settings = past.recorded.settings
    rlm = RLMSettings.model_validate(settings.get("rlm", {}))
    with stage(past) as place, Transcript(rlm.result_truncation_limit) as transcript:
        answers = Answers(place.folder, lambda number: place.folder / f"cell-{number}.txt")
        kernel = KernelClient(
            launcher,
            place.folder,
            place.workdir,
            answers.overflow,
            KernelSettings.model_validate(settings.get("kernel", {})),
            lambda: greeting(past, place),
            answers.before(_nobody, transcript, lambda call: None),
            cancel,
            (*place.borrowed, *([past.recorded.task.context] if past.recorded.task.context else [])),
        )
        with kernel:
            cells = rebuild(kernel, past.cells, answers, transcript, cancel, tell)
    return Replayed(past, tuple(cells))


def _nobody(call: Call, cancel: Cancellation) -> JSON:
    raise BridgeError(f"{call.name}: a replay asks nobody")


def difference(replayed: Replayed) -> str:
    """What came out otherwise, as nbdime shows the difference of two notebooks; empty for nothing.

    Times, addresses and folders of ours are no difference: see `rebuilding.CHANGING`.

    Raises:
        ConfigError: nbdime is not installed.
    """
    if not replayed.differing:
        return ""
    try:
        from nbdime import diff_notebooks
        from nbdime.prettyprint import PrettyPrintConfig, pretty_print_notebook_diff
    except ImportError as error:
        raise ConfigError("differences are shown by nbdime: pip install 'rlm-nb[replay]'") from error
    names = replayed.past.ids
    before = _notebook(replayed.past, {names[cell.before.number]: cell.before for cell in replayed.cells})
    after = _notebook(replayed.past, {names[cell.before.number]: cell.now or cell.before for cell in replayed.cells})
    out = io.StringIO()
    shown = PrettyPrintConfig(out=out, include={"outputs"}, use_color=False)
    name = replayed.past.notebook.name
    with contextlib.redirect_stdout(out):
        pretty_print_notebook_diff(f"{name} as recorded", f"{name} now", before, diff_notebooks(before, after), shown)
    return out.getvalue()


def _notebook(past: Recalled, results: Mapping[str, CellResult]) -> Any:
    """The agent's notebook with these outputs, and without what may be another each time."""
    cells = [
        {
            **node,
            "execution_count": None,
            "outputs": [_counted(output) for output in plain_outputs(results[node["id"]].outputs)],
        }
        if node["id"] in results
        else node
        for node in read_cells(past.notebook)
    ]
    return nbformat.from_dict({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells})


def _counted(output: Output) -> Output:
    return {**output, "execution_count": None} if output["output_type"] == "execute_result" else output
