"""Runs recorded cells of an agent again, with the answers that their calls got, and says what came out otherwise."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rlm_nb.agent import view
from rlm_nb.agent.transcript import Transcript
from rlm_nb.bridge.client import as_raised
from rlm_nb.bridge.server import Call, Handler, details_of
from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import BridgeError, RLMError
from rlm_nb.kernel.client import ANEW, KernelClient
from rlm_nb.kernel.outputs import valid
from rlm_nb.merging.edits import Edits
from rlm_nb.protocols import Kernel
from rlm_nb.records import JSON, BridgeCall, CellResult, Output
from rlm_nb.workspace.files import named
from rlm_nb.workspace.worktree import Worktree

NOT_AGAIN = {"interrupted": "was interrupted", "timeout": "took too long", "died": "took its kernel along"}
"""The ends of cells that are not run a second time, and how they are told."""

UNRECORDED = "its answer is not in the record: this call was not made when the cell ran before"

CHANGING: Mapping[str, str] = {
    r"\brlm-\d+-\d+-[0-9a-f]+-\w+": "rlm-FOLDER",
    r"\b0x[0-9a-fA-F]{4,}\b": "0xADDRESS",
    r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?": "DATE",
    r"\b\d{1,2}:\d\d:\d\d(\.\d+)?\b": "TIME",
    r"\b\d+(\.\d+)?(e-\d+)? ?(ns|µs|us|ms|s|secs?|seconds|minutes|min)\b": "DURATION",
    r"\bkernel_\d+\b|\bipykernel_\d+/\d+\.py": "KERNEL",
}
"""What is another each time that a cell runs, and says nothing of what it did: folders of ours, addresses, times."""


class Answers:
    """The calls of a cell that ran before, each to be answered once more. Any thread may ask.

    Args:
        folder: The agent's own folder.
        overflow: Tells the file that takes the full text of the cell with this number.
    """

    def __init__(self, folder: Path, overflow: Callable[[int], Path]) -> None:
        self._folder, self._overflow = folder, overflow
        self._calls: list[BridgeCall] = []
        self._exact = True
        self._lock = threading.Lock()
        self._nobody_else = False

    def before(self, live: Handler, transcript: Transcript, record: Callable[[BridgeCall], None]) -> Handler:
        """Answers from the record as long as there is something in it, and lets `live` answer the rest.

        Args:
            live: Answers a call that was not made before, unless it is one of `output`.
            transcript: What cells have put out.
            record: Told of each call that `live` has answered, while whoever asked still waits.
        """

        def handle(call: Call, cancel: Cancellation) -> JSON:
            if (found := self.take(call.name, call.arguments)) is not None:
                return answer(found, transcript)
            if self._nobody_else:
                raise BridgeError(f"{call.name}: {UNRECORDED}")
            started, given, error = time.time(), None, None
            try:
                given = transcript.piece(call.arguments) if call.name == "output" else live(call, cancel)
            except RLMError as failure:
                error = {"type": type(failure).__name__, "message": str(failure), "details": details_of(failure)}
                raise
            finally:
                if not cancel.is_cancelled():  # who asked was stopped, and asks again when the run goes on
                    kept = given and {**given, "text": ""} if call.name == "output" else given
                    record(BridgeCall(call.name, call.arguments, kept, error, call.key, started, time.time()))
            return given

        return handle

    def overflow(self, number: int) -> Path:
        """Where the full text of a cell goes; of one that is run again, not over that of the first time."""
        if not self._nobody_else:
            return self._overflow(number)
        (self._folder / "again").mkdir(exist_ok=True)
        return self._folder / "again" / f"cell-{number}.txt"

    @contextmanager
    def only(self) -> Iterator[None]:
        """While the block runs, a call that was not made before is refused."""
        self._nobody_else = True
        try:
            yield
        finally:
            self._nobody_else = False

    @contextmanager
    def of(self, calls: Iterable[BridgeCall], *, exact: bool) -> Iterator[None]:
        """While the block runs, answer with these.

        Args:
            calls: In the order in which they were made.
            exact: Whether only a call with the same arguments is the same call. Where the whole cell is on record, the
                next one of its name is taken for a call whose arguments came out otherwise.
        """
        with self._lock:
            self._calls, self._exact = list(calls), exact
        try:
            yield
        finally:
            with self._lock:
                self._calls = []

    def take(self, name: str, arguments: Mapping[str, JSON]) -> BridgeCall | None:
        """The recorded call for one that is made now, if there is one left."""
        wanted = _written(arguments)
        with self._lock:
            named = [call for call in self._calls if call.name == name]
            same = [call for call in named if _written(call.arguments) == wanted]
            found = same or ([] if self._exact else named)
            if not found:
                return None
            self._calls.remove(found[0])
            return found[0]


def answer(call: BridgeCall, transcript: Transcript) -> JSON:
    """What a recorded call got: its answer, or its error, raised.

    Args:
        call: The call.
        transcript: Has what cells had put out, of which a call of `output` records only the number.
    """
    if call.error is not None:
        raise as_raised({"details": {}, **call.error})
    if call.name == "output" and isinstance(call.answer, dict) and "cell" in call.answer:
        return transcript.piece({**call.arguments, "cell": call.answer["cell"]})
    return call.answer


@dataclass(frozen=True)
class Compared:
    """A cell that ran before, beside what came of it now; `now` is `None` where it was not run again."""

    before: CellResult
    now: CellResult | None

    def difference(self, *, to: Literal["model", "person"] = "model") -> str | None:
        """What there is to know of it, in a sentence; `None` when all is as it was."""
        cell = f"Cell {self.before.number}" if to == "model" else "the cell"
        if self.now is None:
            how = NOT_AGAIN[self.before.status]
            lost = ": what it had set or written is missing" if to == "model" else ""
            return f"{cell} {how} then, and was not run again{lost}."
        if self.now.status != self.before.status:
            return f"{cell} ended with {_how(self.before)} then, and with {_how(self.now)} now."
        if _given(self.before) != _given(self.now):
            return f"{cell} gave to FINAL something else than then."
        if plain_outputs(self.before.outputs) != plain_outputs(self.now.outputs):
            return f"{cell} put out something else than what was shown then."
        return None


class GoingOn:
    """A kernel whose next cells had begun to run in an earlier process: what they were given is given again.

    Args:
        kernel: The kernel.
        given: Those cells in order, each with what is open while it runs. Once another cell runs, all of that is over.
    """

    def __init__(
        self, kernel: Kernel, given: Iterable[tuple[str, Callable[[], AbstractContextManager[object]]]]
    ) -> None:
        self._kernel, self._given = kernel, list(given)

    def execute(
        self, code: str, cancel: Cancellation, on_output: Callable[[Sequence[Output]], None] | None = None
    ) -> CellResult:
        """Run a cell; see `protocols.Kernel`."""
        begun, given = self._given.pop(0) if self._given else (code, nullcontext)
        if begun != code:
            self._given, given = [], nullcontext
        with given():
            return self._kernel.execute(code, cancel, on_output)


def rebuilt(
    cells: Sequence[CellResult],
    end: Edits | None,
    kernel: KernelClient,
    answers: Answers,
    transcript: Transcript,
    tree: Worktree,
    cancel: Cancellation,
) -> list[str]:
    """Bring a fresh kernel and its worktree to where those of an earlier process were; returns what is different.

    Args:
        cells: What has run, in order.
        end: What leads to the files as they were in the end; `None` where nobody knows.
        kernel: The kernel.
        answers: See `rebuild`.
        transcript: See `rebuild`.
        tree: The worktree, as it was in the beginning.
        cancel: Stops it.

    Raises:
        RLMError: What kept it from being done.
    """
    compared = rebuild(kernel, cells, answers, transcript, cancel)
    differing = [said for cell in compared if (said := cell.difference())]
    if end is not None:
        edits = replace(end, base=tree.snapshot("built anew", cancel))
        if restored := edits.apply(tree.path, tree.path.parent):
            files = named(map(os.fsencode, restored))
            differing.append(f"These files came out otherwise, and were put back as you had left them: {files}.")
    return differing


def rebuild(
    kernel: KernelClient,
    cells: Sequence[CellResult],
    answers: Answers,
    transcript: Transcript,
    cancel: Cancellation,
    tell: Callable[[Compared], None] = lambda compared: None,
) -> list[Compared]:
    """Run the cells in a kernel as they ran before, those aside that had no good end.

    Args:
        kernel: A fresh one, whose calls are answered from `answers`.
        cells: What is on record, in order.
        answers: Is given the calls of each cell while that runs.
        transcript: Is given what each cell had put out.
        cancel: Stops it.
        tell: Told of each cell.

    Raises:
        KernelDiedError: The kernel ended too often.
        CancelledError: `cancel` was set.
    """
    compared = []
    for before in cells:
        cancel.check()
        if ANEW in before.events:
            kernel.forget()
        kernel.skip(before.number - 1)
        now = None
        if before.status not in NOT_AGAIN:
            with answers.only(), answers.of(before.calls, exact=False):
                now = kernel.execute(before.code, cancel, endless=before.endless)
        cancel.check()
        kernel.skip(before.number)
        transcript.keep(before)
        compared.append(Compared(before, now))
        tell(compared[-1])
    return compared


def plain_outputs(outputs: Iterable[Output]) -> list[Output]:
    """Outputs without what is another each time: see `CHANGING`. Pictures and the like stay as they are."""
    joined: list[Output] = []
    for output in outputs:
        # Where a stream is cut into pieces is chance.
        if joined and output["output_type"] == "stream" and joined[-1].get("name") == output["name"]:
            joined[-1] = {**joined[-1], "text": joined[-1]["text"] + output["text"]}
        else:
            joined.append(output)
    return [_plain(output) for output in joined]


def _plain(output: Output) -> Output:
    def steady(value: JSON) -> JSON:
        if isinstance(value, str):
            return _steady(value)
        if isinstance(value, list):
            return [steady(item) for item in value]
        return {key: steady(item) for key, item in value.items()} if isinstance(value, dict) else value

    kept: Output = steady({key: value for key, value in output.items() if key != "execution_count"})
    return kept


def _steady(text: str) -> str:
    text = view.plain(text)
    for pattern, word in CHANGING.items():
        text = re.sub(pattern, word, text)
    return text


def _given(cell: CellResult) -> str | None:
    return _steady(cell.final.text) if cell.final else None


def _how(cell: CellResult) -> str:
    return f"`{cell.error}`" if cell.status == "error" and cell.error else f"'{cell.status}'"


def _written(arguments: Mapping[str, JSON]) -> str:
    return json.dumps(valid(arguments), sort_keys=True)
