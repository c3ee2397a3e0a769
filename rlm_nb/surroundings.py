"""What an agent is told of what is around it: its functions, its worktree, its context, and what is left to spend."""

from __future__ import annotations

import inspect
import stat
from functools import cache
from pathlib import Path

from rlm_nb.context_access import IN_MEMORY
from rlm_nb.errors import BridgeError, RunFolderError
from rlm_nb.kernel.isolation.choice import Choice
from rlm_nb.protocols import Price
from rlm_nb.records import JSON, Balance, Task, Usage
from rlm_nb.repl.functions import AGENT_FUNCTIONS, FUNCTIONS, Functions
from rlm_nb.workspace.source import Source

BY_HAND = (
    "Your REPL is the kernel of the user's own notebook. It holds variables of his; look at them, and leave them alone "
    "unless the task says otherwise.",
    "The user reads each cell of yours, may change it, and runs it himself: propose one cell at a time, a short one.",
)
"""What an agent is told whose cells a person runs in his own notebook."""


def help_texts(task: Task, max_depth: int) -> dict[str, str]:
    """The functions of an agent's REPL with their docstrings, as the model reads them."""
    return dict(_help_texts(may_delegate(task, max_depth)))


@cache
def _help_texts(delegating: bool) -> dict[str, str]:
    names = FUNCTIONS + (AGENT_FUNCTIONS if delegating else ())
    help_texts = {}
    for name in sorted(names, key=str.lower):
        function = getattr(Functions, name)
        signature = inspect.signature(function)
        parameters = ", ".join(
            parameter.name if parameter.default is parameter.empty else f"{parameter.name}={parameter.default!r}"
            for parameter in list(signature.parameters.values())[1:]
        )
        help_texts[f"{name}({parameters})"] = " ".join((inspect.getdoc(function) or "").split())
    return help_texts


def may_delegate(task: Task, max_depth: int) -> bool:
    """Whether an agent may have sub-agents."""
    return task.depth < max_depth


def facts(task: Task, source: Source, *, by_hand: bool = False) -> list[str]:
    """What an agent is told of its worktree and its context, one sentence each. Raises `RunFolderError`.

    Args:
        task: The agent.
        source: What the run works on.
        by_hand: Whether its cells are run by a person, in a kernel of his own.
    """
    facts = [f"The worktree is a copy of {source.origin}"]
    if by_hand and not task.depth:
        facts = [*BY_HAND, f"The worktree is {source.origin} itself, and no copy"]
    if source.head and not task.depth:
        facts[-1] += f" as it was checked out, at commit {source.head[:10]}"
    if task.depth:
        facts[-1] += " as the agent that asks you has it at this moment"
    facts[-1] += "."
    if str(source.subfolder) != ".":
        facts.append(f"Your working folder is {source.subfolder}/ in it.")
    if task.context:
        size = readable(task.context).stat().st_size
        facts.append(f"`context` holds a text of {size:,} bytes.")
        if size > IN_MEMORY:
            facts.append(
                "It is not in memory: `context` has length, slices and `in`, and the functions `context_search`, "
                "`context_slice` and `context_chunks` look into it; `str(context)` is all of it, as a string."
            )
    return facts


def readable(context: Path) -> Path:
    """The absolute path of a context that can be read. Raises `RunFolderError`."""
    try:
        if not stat.S_ISREG(context.stat().st_mode):  # opening a pipe would wait for whoever writes into it
            raise RunFolderError(f"{context}: the context is no file")
        with context.open("rb"):
            return context.absolute()
    except OSError as error:
        raise RunFolderError(f"{context}: the context cannot be read: {error.strerror}") from error


def about(run: str, model: str, source: Source, confinement: Choice) -> dict[str, JSON]:
    """What every notebook of a run says of that run."""
    return {
        "model": model,
        "repository": source.origin,
        "commit": source.head,
        **({"with uncommitted changes": source.base} if source.base != source.head else {}),
        "run": run,
        "isolation": confinement.sentence,
        **({"what isolation does not hold": "; ".join(confinement.gaps)} if confinement.gaps else {}),
    }


def budget(balance: Balance, depth: int, max_depth: int) -> dict[str, JSON]:
    """What `budget()` in a REPL gives."""
    left = balance.left_cost
    return {
        "spent_usd": balance.spent_cost / 1e6,
        "left_usd": None if left is None else left / 1e6,
        "agents_used": balance.sandboxes,
        "agents_limit": balance.limit_sandboxes,
        "seconds_left": balance.seconds_left,
        "calls": balance.calls,
        "input_tokens": balance.spent.prompt_tokens,
        "output_tokens": balance.spent.output_tokens,
        "depth": depth,
        "max_depth": max_depth,
    }


def priced(price: Price, counts: dict[str, JSON]) -> JSON:
    """What so many tokens cost in micro-dollars: for the guards of a task that an agent runs in its kernel.

    Raises:
        BridgeError: These are no counts.
    """
    known = vars(Usage()).keys()
    if not counts.keys() <= known or not all(type(count) is int and 0 <= count < 10**9 for count in counts.values()):
        raise BridgeError(f"a price is asked for with counts of {', '.join(known)}")
    return price(Usage(**counts))


def status(balance: Balance) -> str:
    """What is left, in a sentence for the model."""
    parts = []
    if balance.left_cost is not None and balance.limit_cost is not None:
        parts.append(f"${balance.left_cost / 1e6:.2f} of ${balance.limit_cost / 1e6:.2f}")
    if balance.limit_sandboxes is not None:
        parts.append(f"{balance.limit_sandboxes - balance.sandboxes} of {balance.limit_sandboxes} agents")
    if balance.seconds_left is not None:
        parts.append(f"{balance.seconds_left:.0f} seconds")
    return f"Left for the whole tree: {', '.join(parts)}."
