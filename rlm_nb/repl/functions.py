"""The names that the model finds in its REPL. Their docstrings are the help that the model reads."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlm_nb.bridge.client import Caller
from rlm_nb.errors import BridgeError
from rlm_nb.repl import editing
from rlm_nb.repl.results import CellOutput, QueryResult

if TYPE_CHECKING:  # a kernel's first cell waits for every import
    from rlm_nb.records import JSON

AGENT_FUNCTIONS = ("rlm_query", "rlm_query_batched")
"""Absent where sub-agents may not nest any deeper."""

FUNCTIONS = ("llm_query", "llm_query_batched", "FINAL", "FINAL_VAR", "edit_file", "budget", "output")
"""What every agent has."""


YIELDING = ("output",)
"""Names that people like to give to variables of their own: a cell that does so keeps what it made."""


class Functions:
    """The functions of one kernel, bound to its bridge and its worktree.

    Args:
        client: The bridge, or what stands in for it; `None` in a kernel that somebody started by hand.
        workdir: The agent's working folder.
        namespace: Where the model's variables live.
        place: Where the run's objects are, and the top of the worktree; without it, no edits can be applied.
    """

    def __init__(
        self,
        client: Caller | None,
        workdir: Path,
        namespace: dict[str, Any],
        place: tuple[str, str] | None = None,
    ) -> None:
        self._client, self._workdir, self._namespace, self._place = client, workdir, namespace, place

    def rlm_query(self, task: str) -> QueryResult:
        """Give a task to a sub-agent, which has a REPL and a copy of the worktree of its own; returns its answer.

        The sub-agent sees the files as they are now, and nothing of this conversation or your variables: tell it all
        that it needs. The result is a string with `.status` ("completed" or "partial"), `.answer` (typed: a dict stays
        a dict), `.cost` and `.notebook`. Its edits stay in its copy: `.files` and `.patch` show them, `.apply()` merges
        them into your worktree (on a conflict it raises and changes nothing), `.discard()` drops them. Raises if the
        sub-agent ends without an answer.
        """
        return self._queries("rlm_query", "tasks", [task], single=True)[0]

    def rlm_query_batched(self, tasks: Iterable[str]) -> list[QueryResult]:
        """Give each task to a sub-agent of its own, all at the same time; returns their answers in the same order.

        A failure stands in its place: check `.ok` (or `.status`); `.error` says what happened, and `.answer` raises.
        `.overlaps` names the files of a result that others of the batch changed, too.
        """
        results = self._queries("rlm_query", "tasks", tasks, single=False)
        if shared := _overlaps(results):
            what = "; ".join(f"{path} by {', '.join(map(str, numbers))}" for path, numbers in shared.items())
            print(f"Files that several results of this batch changed: {what}.", file=sys.stderr)  # noqa: T201
        return results

    def llm_query(self, prompt: str) -> QueryResult:
        """Ask a model once, without REPL or files: to read, judge or sum up a text of up to 100k characters."""
        return self._queries("llm_query", "prompts", [prompt], single=True)[0]

    def llm_query_batched(self, prompts: Iterable[str]) -> list[QueryResult]:
        """Ask a model each of the prompts at the same time; the answers in the same order, failures in their places."""
        return self._queries("llm_query", "prompts", prompts, single=False)

    def FINAL(self, answer: Any) -> None:
        """End this agent with `answer`: a string, a number, a list, a dict, …. It counts when its cell ends well."""
        value, text = _portable(answer)
        self._call("FINAL", value=value, text=text, type=type(answer).__name__)

    def FINAL_VAR(self, name: str) -> None:
        """End this agent with the value of the variable `name`, such as FINAL_VAR("report")."""
        if not isinstance(name, str):
            raise TypeError("FINAL_VAR takes the name of a variable as a string; FINAL takes the value itself")
        if name not in self._namespace:
            raise NameError(f"there is no variable {name!r}")
        self.FINAL(self._namespace[name])

    def edit_file(self, path: str | os.PathLike[str], old: str, new: str, replace_all: bool = False) -> str:
        """Replace the text `old`, which must be there exactly once, by `new` in a file of the worktree.

        With `replace_all=True` every occurrence is replaced; with `old=""` a new file is made.
        """
        return editing.edit_file(path, old, new, workdir=self._workdir, replace_all=replace_all)

    def budget(self) -> dict[str, Any]:
        """What the whole tree of agents has spent and has left: dollars, agents, seconds, tokens, calls, depth."""
        answer: dict[str, Any] = self._call("budget")
        return answer

    def output(self, cell: int | None = None) -> CellOutput:
        """All that an earlier cell of yours has put out, as a string, however little of it you were shown.

        Cells are numbered as in the head of their output; -1 is the last one, and without a number it is the last long
        output. Use slices: `print(output(3)[9000:15000])`; `output(3).search(r"pattern")` lists the lines that match
        with their numbers. A variable of yours named `output` hides this function until you `del output`.
        """
        if cell is not None and (not isinstance(cell, int) or isinstance(cell, bool)):
            raise TypeError(f"output takes the number of a cell, not {type(cell).__name__}")
        pieces, at = [], 0
        while True:
            answer = self._call("output", cell=cell, at=at)
            if "missing" in answer:
                raise LookupError(answer["missing"])
            cell = answer["cell"]  # the same one, whatever ends meanwhile
            pieces.append(answer["text"])
            if answer["next"] is None:
                return CellOutput.of(answer["cell"], "".join(pieces))
            at = answer["next"]

    def _queries(self, name: str, what: str, values: Iterable[str], *, single: bool) -> list[QueryResult]:
        if isinstance(values, str):
            raise TypeError(f"{name}_batched takes a list of {what}, not one string; {name} takes one")
        values = list(values)
        for value in values:
            if not isinstance(value, str):
                raise TypeError(f"each of the {what} must be a string, not {type(value).__name__}")
            if not value.strip():
                raise ValueError(f"one of the {what} is empty")
        if not values:
            return []
        # A batch is one call: a pool of threads in here could not be interrupted.
        results = [QueryResult.of(reply, self._place) for reply in self._call(name, **{what: values, "single": single})]
        failed = [number for number, result in enumerate(results) if not result.ok]
        if failed:
            print(f"{len(failed)} of {len(results)} {what} gave no answer: {failed}", file=sys.stderr)  # noqa: T201
        return results

    def _call(self, name: str, **arguments: JSON) -> JSON:
        if self._client is None:
            raise BridgeError(f"{name} needs a controller: this kernel was not started by rlm-nb")
        return self._client.call(name, **arguments)


def _overlaps(results: Sequence[QueryResult]) -> dict[str, list[int]]:
    """The files that several of the results changed, with their numbers; each result learns of its own."""
    changed: dict[str, list[int]] = {}
    for number, result in enumerate(results):
        for path in result.files:
            changed.setdefault(path, []).append(number)
    shared = {path: numbers for path, numbers in sorted(changed.items()) if len(numbers) > 1}
    for number, result in enumerate(results):
        result.overlaps = {
            path: tuple(other for other in shared[path] if other != number) for path in result.files if path in shared
        }
    return shared


def _portable(answer: Any) -> tuple[JSON, str | None]:
    """The answer as JSON and no text, or, where JSON has no form for it, no value and its text.

    JSON has tuples as lists, sets as sorted lists, and the keys of dicts as strings: `{1: "a"}` arrives as
    `{"1": "a"}`; a dict that has both 1 and "1" arrives as its text.
    """
    try:
        written = json.dumps(answer, allow_nan=False, default=_plainer)
        return json.loads(written, object_pairs_hook=_without_loss, parse_int=_readable), None
    except (TypeError, ValueError, RecursionError):
        return None, _text(answer)


def _text(answer: Any) -> str:
    as_table = getattr(answer, "to_string", None)  # a DataFrame's own text leaves rows out
    try:
        return str(as_table() if callable(as_table) else answer)
    except ValueError as error:  # numbers of thousands of digits
        raise ValueError(f"the answer cannot be written as text: {error}") from None


def _plainer(value: Any) -> Any:
    """What JSON can hold of a value that it does not know. Raises `TypeError` when nothing does it justice."""
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    # Numbers and arrays of numpy and its kin; of a table or a series, a list would lose the names.
    if callable(tolist := getattr(value, "tolist", None)) and not hasattr(value, "to_string"):
        return tolist()
    raise TypeError(type(value).__name__)


def _readable(digits: str) -> int:
    """A whole number, if every Python will read it: one of more digits travels as text."""
    if len(digits) > sys.int_info.default_max_str_digits:
        raise ValueError("too many digits")
    return int(digits)


def _without_loss(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("two keys have the same text")
    return made
