"""Tasks in Python that narrow a long text down and ask a model about bounded pieces of it, under limits that halt.

    from rlm_nb.tasks import context_search, context_around_match, run_task, semantic_subcall

    def causes(context):
        matches = context_search(context, r"error|exception", max_hits=5)
        return [semantic_subcall("What is the cause?", context_around_match(context, match)) for match in matches]

    result = run_task(causes, text)

A task knows models and ledgers only through `protocols.py`. `run_task`, `TaskBuilder` and `init_guards`, which put
them together, are at home in `rlm_nb/task_run.py`, beside the controller; from here they can be reached by name, and
this package imports nothing of them before somebody does so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlm_nb.errors import (
    BudgetExceededError,
    CostLimitError,
    RecursionDepthError,
    RuntimeLimitError,
    SubcallError,
    TokenLimitError,
)
from rlm_nb.tasks.context_access import (
    Context,
    SearchMatch,
    context_around_match,
    context_chunks,
    context_head,
    context_search,
    context_slice,
    context_tail,
)
from rlm_nb.tasks.guards import GuardConfig
from rlm_nb.tasks.runtime import partial
from rlm_nb.tasks.subcalls import (
    semantic_subcall,
    semantic_subcall_batched,
    semantic_subcall_bool,
    semantic_subcall_choice,
    semantic_subcall_json,
)
from rlm_nb.tasks.upward import upward

if TYPE_CHECKING:
    from rlm_nb.task_run import TaskBuilder, TaskResult, init_guards, run_task

__all__ = [
    "BudgetExceededError",
    "Context",
    "CostLimitError",
    "GuardConfig",
    "RecursionDepthError",
    "RuntimeLimitError",
    "SearchMatch",
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
    "partial",
    "run_task",
    "semantic_subcall",
    "semantic_subcall_batched",
    "semantic_subcall_bool",
    "semantic_subcall_choice",
    "semantic_subcall_json",
]


__getattr__ = upward(__name__, "TaskBuilder", "TaskResult", "init_guards", "run_task")
