"""Finds the few names that belong here and are at home above: what puts tasks together with models and ledgers."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def upward(module: str, *names: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module that looks `names` up in `rlm_nb/task_run.py`, which is not imported before."""

    def look_up(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(import_module("rlm_nb.task_run"), name)

    return look_up
