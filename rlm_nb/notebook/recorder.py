"""Writes down what an agent does while it does it: events in, a whole notebook on disk after each of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType

from rlm_nb.errors import RunFolderError
from rlm_nb.notebook import layout
from rlm_nb.notebook.asides import Asides
from rlm_nb.notebook.calls import calls
from rlm_nb.notebook.document import Document
from rlm_nb.notebook.journal import Journal
from rlm_nb.notebook.metadata import Child, Head, Node, relative, write_notebook
from rlm_nb.notebook.names import place
from rlm_nb.notebook.reader import read, read_cells
from rlm_nb.notebook.replay_cell import replay_cell
from rlm_nb.notebook.timeline import drawn
from rlm_nb.notebook.wording import first_line
from rlm_nb.records import (
    JSON,
    AgentEnded,
    AgentResult,
    AgentStarted,
    Asked,
    Attended,
    BridgeCall,
    CellOutput,
    CellResult,
    CellStarted,
    Charged,
    Event,
    Iterated,
    Iteration,
    Kept,
    Notice,
    Patch,
    Replied,
    Task,
    Usage,
)

NOTICES = 100
"""How many notices a notebook keeps, the latest."""


SHORTEST = 5.0
"""Seconds of the shortest run whose timeline is drawn at its end; `rlm-nb report` draws any."""


class Recorder:
    """One agent's notebook while it grows; `open` makes one. Its `listen` is a `protocols.Listener`."""

    def __init__(self, document: Document, head: Head, journal: Journal, begun: int = 0) -> None:
        self._document, self._journal = document, journal
        self._folder = document.path.parent
        self._head, self._about = head, layout.about(head)
        self._code: dict[int, tuple[str, ...]] = {}
        self._running = ""
        self._late: set[str] = set()
        self._asides = Asides(document, begun, _of)
        self._lock = threading.Lock()  # events of children and late outputs come from threads of their own
        self._state_head()

    @classmethod
    @contextmanager
    def open(
        cls,
        path: Path,
        *,
        task: Task,
        system: str,
        about: Mapping[str, JSON],
        parent: str | None,
        start: Mapping[str, JSON] = MappingProxyType({}),
        settings: Mapping[str, JSON] = MappingProxyType({}),
    ) -> Iterator[Recorder]:
        """Start the notebook of an agent, and save what is left when the block ends.

        Args:
            path: Where it is written; the folder exists, the file does not.
            task: What the agent was asked.
            system: Its system prompt.
            about: What else should be kept, shown as a table.
            parent: A link to the cell that started it, `root.ipynb#cell-id=it-002-code-1`; `None` for the root.
            start: What its worktree is made from.
            settings: The settings in force.

        Raises:
            RunFolderError: There is a notebook already, or it cannot be written.
        """
        if path.exists():
            raise RunFolderError(f"{path}: already holds the record of an agent; choose another folder")
        head = Head(
            task=task,
            system=system,
            about=about,
            parent=parent,
            start=start,
            settings=settings,
            started=time.time(),
        )
        document = Document(path)
        with Journal(path) as journal:
            recorder = cls(document, head, journal)
            document.put(replay_cell(path.name, str(about.get("run", path.absolute().parent.name))))
            if system:
                document.put(layout.system(system))
            with recorder._writing():
                yield recorder

    @classmethod
    @contextmanager
    def resume(cls, path: Path, *, cost: int, usage: Usage, notice: str) -> Iterator[Recorder]:
        """Go on with the notebook of an agent that had not ended, or had not ended well.

        Its iterations stay as they are; one that is recorded again takes the place of what there is of it.

        Args:
            path: The notebook.
            cost: Micro-dollars that the agent's own calls took so far.
            usage: Their tokens.
            notice: What a person should know of this, in one sentence.

        Raises:
            NotebookError: It cannot be read.
            RunFolderError: It cannot be written.
        """
        recorded = read(path)
        before = {field.name: getattr(recorded, field.name) for field in fields(Head)}
        notices = (*recorded.notices, notice)[-NOTICES:]
        now = {"state": "running", "outcome": None, "patch": Patch(), "ended": 0.0, "total_cost": 0}
        head = Head(**{**before, **now, "cost": cost, "usage": usage, "notices": notices})
        begun = [*recorded.iterations, *([recorded.begun] if recorded.begun else [])]
        document = Document(path)
        gone = {layout.FINAL}
        stopped = recorded.outcome is None or recorded.outcome.stopped
        if stopped and recorded.iterations and _may_go_on(recorded.iterations[-1]):
            last = recorded.iterations[-1]
            gone |= {layout.calls_id(last.number, index) for index, _ in enumerate(last.cells, 1)}
        for node in read_cells(path):
            if node["id"] not in gone:
                document.put(node)
        with Journal(path) as journal:
            recorder = cls(document, head, journal, begun[-1].number if begun else 0)
            with recorder._writing():
                yield recorder

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._document.save()
        with self._document.saving():
            try:
                yield
            finally:
                self._leave()

    def listen(self, event: Event) -> None:
        """Record an event of this agent, or of a sub-agent that it started; all others are somebody else's.

        A complete iteration is in the notebook on disk when this returns, and so is what a person made of a reply, or
        ran himself between two iterations; a reply itself is in the journal by then. The rest follows within a second.

        Raises:
            RunFolderError: The notebook cannot be saved. Raised where an iteration begins or ends, never for an
                output, which comes from a thread that has a kernel to look after.
        """
        own, parent = event.agent == self._head.task.agent, event.agent.rpartition(".")[0]
        if own:
            with self._lock:
                self._record(event)
        elif parent == self._head.task.agent and isinstance(event, AgentStarted | AgentEnded):
            with self._lock:
                self._record_child(event)
        else:
            return
        if own and (isinstance(event, Iterated | Attended) or (isinstance(event, Replied) and event.edited)):
            self._document.save()
            if isinstance(event, Iterated) and not _may_go_on(event.iteration):
                self._journal.clear()
        elif own and isinstance(event, Asked):
            self._document.insist()  # before the next reply is paid for
        self._document.save_soon()

    def keep(self, kept: Kept) -> None:
        """Put a reply on record at once; see `models.metered.MeteredModel`.

        Raises:
            RunFolderError: The disk refused.
        """
        self._journal.keep(kept, self._running)

    def called(self, call: BridgeCall) -> None:
        """Put what the running cell was answered on record at once.

        Raises:
            RunFolderError: The disk refused.
        """
        self._journal.called(call, self._running)

    def here(self) -> str:
        """A link to the cell that is running, for the notebooks of the sub-agents that it starts."""
        with self._lock:
            return f"{self._document.path.name}#cell-id={self._running or layout.HEAD}"

    def finish(self, result: AgentResult) -> None:
        """Add the answer, and bring the header up to date.

        Raises:
            RunFolderError: The notebook cannot be saved.
        """
        with self._lock:
            known = {child.agent: child for child in self._head.subagents}
            started = [self._child(child, known.pop(child.agent, None)) for child in result.children]
            self._head = replace(
                self._head,
                state=result.status,
                outcome=result.outcome,
                patch=replace(result.patch, text=""),
                cost=result.cost,
                total_cost=result.total_cost,
                usage=result.usage,
                turn=result.iterations,
                subagents=tuple(sorted((*started, *known.values()), key=lambda child: place(child.agent))),
                ended=result.ended,
            )
            self._document.put(layout.final(result.outcome, result.patch))
            self._state_head()
        self._document.save()
        if not result.outcome.stopped:
            self._journal.clear()
        if self._head.task.depth == 0 and result.children and result.ended - result.started >= SHORTEST:
            # The answer is on disk by now. It takes a second, which a run that was shorter than a few is not worth.
            self._document.put(layout.timeline(*drawn(self._folder)), below=layout.HEAD)
            self._document.save()

    def _record(self, event: Event) -> None:
        before = self._head
        match event:
            case Asked(number=number):
                self._head = replace(self._head, turn=number)
            case Replied(number=number, message=message, reply=reply, code=code):
                self._code, self._asides.begun = {number: code}, number
                edited = code if event.edited else None
                begun = Iteration(event.agent, number, message, reply, finishing=event.finishing, code=edited)
                self._document.put(self._think(begun, code, complete=False))
                for index, source in enumerate(code, 1):
                    self._document.put(layout.waiting(number, index, source, "pending"))
                return
            case CellStarted(number=number, index=index, code=source):
                self._running = layout.code_id(number, index)
                self._document.put(layout.waiting(number, index, source, "running"))
                return
            case CellOutput():
                self._record_output(event)
                return
            case Iterated(iteration=iteration):
                self._record_iteration(iteration)
                self._head = replace(self._head, turn=max(self._head.turn, iteration.number))
            case Attended(cell=cell):
                self._asides.add(cell, among=bool(self._code))
                return
            case Charged(cost=cost, usage=usage):
                self._head = replace(self._head, cost=cost, usage=usage)
            case Notice(text=text):
                self._head = replace(self._head, notices=(*self._head.notices, text)[-NOTICES:])
            case _:
                return
        if self._head != before:
            self._state_head()

    def _record_output(self, event: CellOutput) -> None:
        name = layout.code_id(event.number, event.index)
        if name not in self._document:
            return
        if name != self._running:
            self._late.add(name)
        self._document.put({**self._document[name], "outputs": list(event.outputs)})

    def _record_iteration(self, iteration: Iteration) -> None:
        number = iteration.number
        code = self._code.pop(number, tuple(cell.code for cell in iteration.cells))
        self._document.put(self._think(iteration, code, complete=True))
        for index, cell in enumerate(iteration.cells, 1):
            name = layout.code_id(number, index)
            # What a thread printed while a later cell ran is missing in the result, which is as old as the cell's end.
            outputs = self._document[name]["outputs"] if name in self._late else cell.outputs
            self._document.put(_of(layout.ran(number, index, cell, self._folder, outputs), cell))
            if asked := calls(cell, number, index):
                self._document.put(asked, below=name)
        for index in range(len(iteration.cells) + 1, len(code) + 1):
            skipped = layout.waiting(number, index, code[index - 1], "skipped")
            self._document.put(_not_stopping(skipped))
        self._running = ""
        self._late.clear()
        self._asides.place(iteration)

    def _think(self, iteration: Iteration, code: Sequence[str], *, complete: bool) -> Node:
        model = str(self._head.about.get("model", ""))
        return layout.think(iteration, code, self._folder, complete=complete, model=model)

    def _record_child(self, event: AgentStarted | AgentEnded) -> None:
        known = {child.agent: child for child in self._head.subagents}
        if isinstance(event, AgentStarted):
            task = first_line(event.task.prompt)
            # Where it will be: its notebook is opened a moment after this.
            known[event.agent] = Child(event.agent, task, self._running or None, f"{event.agent}.ipynb")
        else:
            known[event.agent] = self._child(event.result, known.get(event.agent))
        self._head = replace(self._head, subagents=tuple(sorted(known.values(), key=lambda child: place(child.agent))))
        self._state_head()

    def _child(self, result: AgentResult, known: Child | None) -> Child:
        """A sub-agent that has ended, and those below it."""
        return Child(
            agent=result.agent,
            task=first_line(result.task) or (known.task if known else ""),
            cell=known.cell if known else None,
            notebook=relative(result.notebook, self._folder) if result.notebook.exists() else None,
            state=result.status,
            cost=result.total_cost,
            children=tuple(self._child(child, None) for child in result.children),
            own_cost=result.cost,
            iterations=result.iterations,
            read=result.usage.prompt_tokens,
            written=result.usage.output_tokens,
            started=result.started,
            ended=result.ended,
        )

    def _leave(self) -> None:
        """Say that it is unfinished if nobody said how it ended; what is unsaved is saved by the document."""
        with self._lock:
            if self._head.outcome is None:
                self._head = replace(self._head, state="unfinished", ended=time.time())
                self._state_head()

    def _state_head(self) -> None:
        head = self._head
        self._document.describe(lambda: (layout.head(head, self._about), write_notebook(head)))


def _of(node: Node, cell: CellResult) -> Node:
    """The cell, marked as what it is beside one that ran."""
    if cell.human:
        node = _tagged(node, "rlm-human")
    return node if cell.status == "ok" else _not_stopping(node)


def _not_stopping(node: Node) -> Node:
    """The cell; should it raise, those below it run all the same, when all are run again."""
    return _tagged(node, "raises-exception")


def _tagged(node: Node, tag: str) -> Node:
    metadata = node["metadata"]
    return {**node, "metadata": {**metadata, "tags": [*metadata["tags"], tag]}}


def _may_go_on(iteration: Iteration) -> bool:
    """Whether its last cell was stopped with the run, and is run again when that goes on."""
    return bool(iteration.cells) and iteration.cells[-1].may_go_on
