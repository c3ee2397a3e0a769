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

__version__ = "0.1.0"

__all__ = [
    "AgentResult",
    "Answer",
    "Cancellation",
    "Config",
    "Iteration",
    "RLMError",
    "Run",
    "RunResult",
    "load_config",
    "open_run",
    "run",
    "secrets",
]

_HOMES = {
    "AgentResult": "records",
    "Answer": "records",
    "Cancellation": "cancellation",
    "Config": "config",
    "Iteration": "records",
    "RLMError": "errors",
    "Run": "controller",
    "RunResult": "controller",
    "load_config": "config",
    "open_run": "controller",
    "run": "controller",
    "secrets": "config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"{__name__}.{_HOMES[name]}")
    return getattr(module, "load" if name == "load_config" else name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
