"""Recursive Language Model agents whose REPL is a real IPython kernel and whose run is a real notebook.

    import rlm_nb

    config = rlm_nb.load_config(flags={"model": {"name": "scripted:script.yaml"}})
    result = rlm_nb.run("Find all TODO comments", "path/to/repository", config)
    print(result.root.answer.text, result.root.notebook)

Importing this package does nothing; the names below are loaded when they are first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, which takes longer to import than everything here: Ctrl-C shall not fall into it
if TYPE_CHECKING:
    from typing import Any

    from rlm_nb.cancellation import Cancellation
    from rlm_nb.config import Config, secrets
    from rlm_nb.config import load as load_config
    from rlm_nb.controller import Run, RunResult, open_run, run
    from rlm_nb.errors import RLMError
    from rlm_nb.records import AgentResult, Answer, Iteration
    from rlm_nb.replaying.run_all import replay
    from rlm_nb.stepping import Session, session
    from rlm_nb.tasks import (
        BudgetExceededError,
        Context,
        CostLimitError,
        GuardConfig,
        RecursionDepthError,
        RuntimeLimitError,
        SearchMatch,
        SubcallError,
        TaskBuilder,
        TaskResult,
        TokenLimitError,
        context_around_match,
        context_chunks,
        context_head,
        context_search,
        context_slice,
        context_tail,
        init_guards,
        partial,
        run_task,
        semantic_subcall,
        semantic_subcall_batched,
        semantic_subcall_bool,
        semantic_subcall_choice,
        semantic_subcall_json,
    )

__version__ = "0.1.0"

__all__ = [
    "AgentResult",
    "Answer",
    "BudgetExceededError",
    "Cancellation",
    "Config",
    "Context",
    "CostLimitError",
    "GuardConfig",
    "Iteration",
    "RLMError",
    "RecursionDepthError",
    "Run",
    "RunResult",
    "RuntimeLimitError",
    "SearchMatch",
    "Session",
    "SubcallError",
    "TaskBuilder",
    "TaskResult",
    "TokenLimitError",
    "context_around_match",
    "context_chunks",
    "context_head",
    "context_search",
    "context_slice",
    "context_tail",
    "init_guards",
    "load_config",
    "open_run",
    "partial",
    "replay",
    "run",
    "run_task",
    "secrets",
    "semantic_subcall",
    "semantic_subcall_batched",
    "semantic_subcall_bool",
    "semantic_subcall_choice",
    "semantic_subcall_json",
    "session",
]

_HOMES = {
    "AgentResult": "records",
    "Answer": "records",
    "BudgetExceededError": "tasks",
    "Cancellation": "cancellation",
    "Config": "config",
    "Context": "tasks",
    "CostLimitError": "tasks",
    "GuardConfig": "tasks",
    "Iteration": "records",
    "RLMError": "errors",
    "RecursionDepthError": "tasks",
    "Run": "controller",
    "RunResult": "controller",
    "RuntimeLimitError": "tasks",
    "SearchMatch": "tasks",
    "Session": "stepping",
    "SubcallError": "tasks",
    "TaskBuilder": "tasks",
    "TaskResult": "tasks",
    "TokenLimitError": "tasks",
    "context_around_match": "tasks",
    "context_chunks": "tasks",
    "context_head": "tasks",
    "context_search": "tasks",
    "context_slice": "tasks",
    "context_tail": "tasks",
    "init_guards": "tasks",
    "load_config": "config",
    "open_run": "controller",
    "partial": "tasks",
    "replay": "replaying.run_all",
    "run": "controller",
    "run_task": "tasks",
    "secrets": "config",
    "semantic_subcall": "tasks",
    "semantic_subcall_batched": "tasks",
    "semantic_subcall_bool": "tasks",
    "semantic_subcall_choice": "tasks",
    "semantic_subcall_json": "tasks",
    "session": "stepping",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"{__name__}.{_HOMES[name]}")
    return getattr(module, "load" if name == "load_config" else name)


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext rlm_nb`: the magics `%%rlm`, `%rlm_step` and their kin."""
    from rlm_nb.jupyter.magics import RLMMagics

    shell.register_magics(RLMMagics(shell))


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
