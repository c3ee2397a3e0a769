"""What functions give back inside the kernel: strings that know where they came from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rlm_nb.errors import SubAgentError

if TYPE_CHECKING:  # a kernel's first cell waits for every import
    from rlm_nb.records import JSON

OTHERWISE = "apply(markers=True) takes over what fits, with conflict markers in the rest."
"""What the model is told when edits do not fit."""


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
        files: The paths that the sub-agent changed.
        notes: What of its work could not be taken, and why, in sentences.
        discarded: Whether `discard` was called.
        overlaps: Which of the files other results of the same batch changed, too: their numbers, by path.
        notebook: The recorded notebook's file name; `None` for a plain model call.
        agent: The sub-agent's path in the tree; `None` for a plain model call.
    """

    status: str
    error: str | None
    cost: float
    files: tuple[str, ...]
    notes: tuple[str, ...]
    overlaps: dict[str, tuple[int, ...]]
    discarded: bool
    notebook: str | None
    agent: str | None
    _value: JSON
    _patch: str | None
    _edits: tuple[str, ...]

    @classmethod
    def of(cls, reply: dict[str, Any], place: tuple[str, str] | None = None) -> Self:
        """The result for what the bridge sent back.

        Args:
            reply: What came.
            place: Where the run's objects are, and the top of the worktree that edits are applied to.
        """
        error = reply.get("error")
        result = cls(reply["text"] if error is None else f"[no answer: {error}]")
        result._value = reply.get("value", reply.get("text"))  # a text is sent once
        result.status = reply.get("status", "completed")
        result.error = error
        result.cost = reply.get("cost", 0) / 1e6
        result._patch = reply.get("patch", "")
        result.files = tuple(reply.get("files", ()))
        result.notes = tuple(reply.get("notes", ()))
        result.overlaps, result.discarded = {}, False
        base, commit = reply.get("base", ""), reply.get("commit", "")
        result._edits = (base, commit, *place) if place and base and commit else ()
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

    def apply(self, *, markers: bool = False) -> list[str]:
        """Put what the sub-agent changed into this worktree, merged with what is there now; returns the files changed.

        Args:
            markers: What to do in case of a conflict: take over what fits and leave conflict markers in the text files
                that do not, rather than changing nothing at all.

        Raises:
            EditConflictError: Not everything fits; `error.files` names what does not.
            SubAgentError: Nobody knows what the sub-agent changed, or it was discarded.
        """
        if self.discarded:
            raise SubAgentError(f"the edits of {self.agent} were discarded")
        if not self._edits:
            raise SubAgentError(self.error or f"there are no edits of {self.agent or 'a plain model call'} to apply")
        from rlm_nb.merging.edits import Edits

        base, commit, objects, worktree = self._edits
        top = Path(worktree)
        # Made ready beside the worktree: no snapshot sees it there.
        return Edits(str(self.agent), base, commit, Path(objects)).apply(
            top, top.parent, markers=markers, otherwise=OTHERWISE
        )

    def discard(self) -> None:
        """Forget what the sub-agent changed. The record of the run keeps it; here it is gone."""
        self._edits, self._patch, self.files, self.overlaps, self.discarded = (), "", (), {}, True

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickling a str subclass keeps its attributes only if told so.
        return _restored, (str(self), self.__dict__.copy())


def _restored(text: str, attributes: dict[str, Any]) -> QueryResult:
    result = QueryResult(text)
    result.__dict__.update(attributes)
    return result


EXCERPT = 200
"""Characters on either side of a match, in lines that are longer than both."""


class CellOutput(str):
    """All that a cell has put out, as one string; `print` it in slices.

    Attributes:
        cell: The number of the cell.
    """

    cell: int

    @classmethod
    def of(cls, cell: int, text: str) -> Self:
        """The output of the cell with this number."""
        output = cls(text)
        output.cell = cell
        return output

    def search(self, pattern: str | re.Pattern[str]) -> list[tuple[int, str]]:
        """The lines in which a regular expression is found, each with its number, from 1.

        Of a very long line, what stands around each match is given instead.
        """
        found = []
        for number, line in enumerate(self.split("\n"), start=1):
            if len(line) <= 2 * EXCERPT:
                found += [(number, line)] if re.search(pattern, line) else []
            else:
                for match in re.finditer(pattern, line):
                    found.append((number, line[max(0, match.start() - EXCERPT) : match.end() + EXCERPT]))
        return found

    def __repr__(self) -> str:
        # The whole of it, as the value of a cell, would be cut again, and so its output the last long one.
        lines = self.count("\n") + 1
        return (
            f"<output of cell {self.cell}: {len(self):,} characters in {lines:,} lines; slice it, or .search(pattern)>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return CellOutput.of, (self.cell, str(self))
