"""What a query gives back inside the kernel: a string that knows where it came from."""

from __future__ import annotations

from typing import Any, Self

from rlm_nb.errors import SubAgentError
from rlm_nb.records import JSON


class QueryResult(str):
    """The answer as text, with everything else about it as attributes.

    Attributes:
        status: `completed`, `partial` (a limit stopped it; the text is the best it had) or `error`.
        ok: Whether there is an answer at all.
        answer: The answer with its type (a dict stays a dict). Raises `SubAgentError` when there is none.
        error: What went wrong, or `None`.
        cost: US dollars, with everything below it.
        patch: What the sub-agent changed, as a git patch against the state that it started from; `""` for nothing.
            Raises `SubAgentError` when it could not be sent here.
        files: The paths that the patch touches.
        notebook: The recorded notebook's file name; `None` for a plain model call.
        agent: The sub-agent's path in the tree; `None` for a plain model call.
    """

    status: str
    error: str | None
    cost: float
    files: tuple[str, ...]
    notebook: str | None
    agent: str | None
    _value: JSON
    _patch: str | None

    @classmethod
    def of(cls, reply: dict[str, Any]) -> Self:
        """The result for what the bridge sent back."""
        error = reply.get("error")
        result = cls(reply["text"] if error is None else f"[no answer: {error}]")
        result._value = reply.get("value")
        result.status = reply.get("status", "completed")
        result.error = error
        result.cost = reply.get("cost", 0) / 1e6
        result._patch = reply.get("patch", "")
        result.files = tuple(reply.get("files", ()))
        result.notebook = reply.get("notebook")
        result.agent = reply.get("agent")
        return result

    @property
    def ok(self) -> bool:
        """Whether there is an answer."""
        return self.error is None

    @property
    def answer(self) -> JSON:
        """The answer with its type. Raises `SubAgentError` when there is none."""
        if self.error is not None:
            raise SubAgentError(self.error)
        return self._value

    @property
    def patch(self) -> str:
        """What the sub-agent changed. Raises `SubAgentError` when it could not be sent here."""
        if self._patch is None:
            raise SubAgentError(
                f"the patch of {self.agent} could not be sent here, or is too large for that; `.files` names what is "
                "known of it: ask for fewer or smaller files"
            )
        return self._patch

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickling a str subclass keeps its attributes only if told so.
        return _restored, (str(self), self.__dict__.copy())


def _restored(text: str, attributes: dict[str, Any]) -> QueryResult:
    result = QueryResult(text)
    result.__dict__.update(attributes)
    return result
