"""The budget of a run: its own file, and the purse that it draws on where the settings name one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from rlm_nb.config import Config
from rlm_nb.ledger import BudgetFile, Limits, SharedBudget
from rlm_nb.protocols import Listener
from rlm_nb.records import Notice, Usage


def open_ledger(
    config: Config, folder: Path, listen: Listener, known: Mapping[str, tuple[int, Usage]] | None = None
) -> BudgetFile | SharedBudget:
    """The run's budget; where the settings name a purse, within what is in that.

    Args:
        config: The settings, with the limits.
        folder: The run's folder.
        listen: Told what the purse holds.
        known: For a run that goes on, what calls took of which the budget does not know it; see `BudgetFile.resume`.

    Raises:
        LedgerError: A file cannot be made, read or written.
    """
    path, limits = folder / "budget.json", _limits(config)
    own = BudgetFile.create(path, limits) if known is None else BudgetFile.resume(path, limits, known)
    if config.budget.file is None:
        return own
    both, holds = SharedBudget.open(own, config.budget.file, Limits.of(config.budget), folder.name)
    listen(Notice("root", holds))
    return both


def _limits(config: Config) -> Limits:
    return Limits.of(config.budget).model_copy(
        update={
            "sandboxes": config.rlm.max_sandboxes,
            "deadline": time.time() + config.rlm.global_timeout,
        }
    )
