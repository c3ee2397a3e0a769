"""Every exception that rlm-nb raises.

RLMError
├── ConfigError                 a setting, a flag or a script cannot be used
├── SourceError                 the repository to work on cannot be read
├── RunFolderError              the folder of a run cannot be written or read
├── GitError                    git refused; carries what it said
├── NotebookError               a notebook is not the record of a run
├── ContextError                a context cannot be read, or not be searched in this way
│   └── SearchTimeoutError      a pattern takes too long
├── SubcallError                a model's answer to a subcall is none (also a ValueError)
├── ModelError                  the model gave no reply; carries what it charged
│   ├── MissingKeyError         no key is set
│   ├── RefusedKeyError         the service does not accept the key
│   ├── UnknownModelError       the service, or the price list, does not know the model
│   ├── RequestRefusedError     the service will not take this request, whoever sends it again
│   └── ModelUnavailableError   rate limits, overload or a lost connection outlasted every retry
├── BudgetExceededError         a limit was reached; carries what, used and limit
│   ├── CostLimitError
│   ├── TokenLimitError
│   ├── CallLimitError
│   ├── SandboxLimitError
│   ├── RecursionDepthError
│   └── RuntimeLimitError
├── LedgerError                 the budget file is damaged, or newer than this version
├── KernelError
│   ├── KernelStartError        the kernel never became ready
│   │   └── IsolationError      it cannot be confined as the settings want it, and so must not run
│   └── KernelDiedError         the kernel ended and was not restarted
├── BridgeError                 a message between kernel and controller was not understood
├── SubAgentError               a sub-agent ended without an answer
├── EditConflictError           an agent's edits do not fit to what is there now; carries the files
└── CancelledError              somebody stopped the run
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rlm_nb.records import Usage


class RLMError(Exception):
    """The root of the tree: `except RLMError` catches what rlm-nb itself raises."""


class ConfigError(RLMError):
    """A setting, a flag or a script cannot be used; the message names it."""


class SourceError(RLMError):
    """The repository, folder or URL to work on cannot be read."""


class RunFolderError(RLMError):
    """The folder of a run cannot be written or read."""


class GitError(RLMError):
    """Git refused; the message holds the command and what git said."""


class NotebookError(RLMError):
    """A notebook is missing, damaged, or not the record of a run."""


class ContextError(RLMError):
    """A context cannot be read, has changed under its reader, or cannot be searched in this way."""


class SearchTimeoutError(ContextError):
    """A pattern takes too long; most often two of its repetitions can share the same text in many ways."""

    def __init__(self, pattern: str, seconds: float) -> None:
        super().__init__(
            f"the pattern {pattern!r} takes longer than {seconds:g} s: make it simpler, or the limit longer"
        )


class SubcallError(RLMError, ValueError):
    """What a model answered to a subcall is not what was asked for, and there is no default."""


class ModelError(RLMError):
    """The model gave no reply.

    Args:
        message: What happened and what to do.
        usage: What the service charged; `None` when nobody knows (the ledger then keeps the whole reservation).
    """

    usage: Usage | None = None

    def __init__(self, message: str, *, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.usage = usage


class MissingKeyError(ModelError):
    """No key for the provider is set."""


class RefusedKeyError(ModelError):
    """The service does not accept the key (401, 403)."""


class UnknownModelError(ModelError):
    """The service (404), or the price list, does not know the model."""


class RequestRefusedError(ModelError):
    """The service will not take this request, however often it is sent (400, 413, 422)."""


class ModelUnavailableError(ModelError):
    """Rate limits (429), overload (529) or a lost connection outlasted every retry."""


class BudgetExceededError(RLMError):
    """A limit was reached.

    Args:
        what: The limit in words, with its unit: `"cost in US dollars"`.
        used: What is spent and reserved already, in that unit.
        limit: The limit, in that unit.
    """

    def __init__(self, what: str, used: float, limit: float) -> None:
        super().__init__(f"limit reached: {what}: {used:g} of {limit:g} used")
        self.what, self.used, self.limit = what, used, limit


class CostLimitError(BudgetExceededError):
    """The money is spent or reserved."""


class TokenLimitError(BudgetExceededError):
    """The tokens are spent or reserved."""


class CallLimitError(BudgetExceededError):
    """The model calls are used up."""


class SandboxLimitError(BudgetExceededError):
    """The run has started as many agents as it may."""


class RecursionDepthError(BudgetExceededError):
    """An agent at the deepest level asked for a sub-agent."""


class RuntimeLimitError(BudgetExceededError):
    """The time is up."""


class LedgerError(RLMError):
    """The budget file is damaged, or was written by a newer version."""


class KernelError(RLMError):
    """Something is wrong with a kernel."""


class KernelStartError(KernelError):
    """The kernel never became ready; the message holds the end of its log."""


class IsolationError(KernelStartError):
    """A kernel cannot be confined as the settings want it, and so must not run; the message says what can be done."""


class KernelDiedError(KernelError):
    """The kernel ended, and may not be restarted once more."""


class BridgeError(RLMError):
    """A message between a kernel and its controller was not understood, was too large, or came too late."""


class SubAgentError(RLMError):
    """A sub-agent ended without an answer."""


class EditConflictError(RLMError):
    """An agent's edits do not fit to what is there by now.

    Args:
        agent: Whose edits they are.
        files: Why each of the files does not fit, by its path.
        kept: Whether what fits was taken over all the same, and conflict markers were left in text files.
        otherwise: What can be done when nothing was changed: the end of the message.
    """

    def __init__(self, agent: str, files: Mapping[str, str], *, kept: bool = False, otherwise: str = "") -> None:
        what = "; ".join(f"{path if path.isprintable() else repr(path)}: {why}" for path, why in files.items())
        then = (
            "All else was taken over; where the same lines were changed, <<<<<<< and >>>>>>> stand around them."
            if kept
            else f"Nothing was changed; {otherwise}"
            if otherwise
            else "Nothing was changed."
        )
        super().__init__(f"the edits of {agent} do not fit to what is here now. {what}. {then}")
        self.files = tuple(files)


class CancelledError(RLMError):
    """Somebody stopped the run: Ctrl-C, the parent's cell was interrupted, or the time is up.

    Args:
        message: Who or what, as the end of a sentence.
        usage: What a model call that was stopped has charged; `None` when nobody knows.
    """

    def __init__(self, message: str, *, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.usage = usage
