"""What makes "Run all" work for a recorded notebook, in the ordinary kernel of whoever opened it."""

from __future__ import annotations

import ast
import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar

from rlm_nb.agent.transcript import Transcript
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import KEYS, RLMSettings
from rlm_nb.errors import BridgeError, GitError, NotebookError, RLMError, RunFolderError
from rlm_nb.notebook.reader import read, read_cells
from rlm_nb.rebuilding import NOT_AGAIN, UNRECORDED, Answers, answer
from rlm_nb.recalling import Recalled, recall
from rlm_nb.records import JSON, CellResult
from rlm_nb.repl.extension import furnish, without_colours
from rlm_nb.replaying.stage import Stage, greeting, stage
from rlm_nb.workspace.scratch import scratch

HERE = ("__vsc_ipynb_file__", "JPY_SESSION_NAME")
"""Where VS Code (a variable of the kernel's) and Jupyter (one of its environment) say which notebook is open."""


def replay(notebook: str | Path = "root.ipynb", run: str | None = None) -> None:
    """From here on, the cells of a recorded notebook run as they ran: the first cell of each notebook calls this.

    Calls such as `rlm_query`, `llm_query` and `budget` get their recorded answers, edits included. Cells run in a
    temporary copy of the files that the agent began with, which is gone when the kernel ends; HOME is a folder in it.

    Args:
        notebook: The notebook, or its name, where it lies in the kernel's folder, is the one that is open, or is in
            `runs/` here or above.
        run: The run that it belongs to; any, when it is not given.

    Raises:
        NotebookError: It is not found, or not the record of an agent.
        RLMError: It is not called in a notebook.
    """
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if shell is None:
        raise RLMError("rlm_nb.replay is for cells of a notebook; `rlm-nb replay RUN` does without one")
    _Replay.begin(shell, recall(_found(Path(notebook), run, shell.user_ns)))


def _found(notebook: Path, run: str | None, namespace: dict[str, Any]) -> Path:
    for path in _candidates(notebook, run, namespace):
        with suppress(NotebookError, OSError):
            if path.is_file() and run in (None, read(path).about.get("run")):
                return path.absolute()
    of = f" of the run {run}" if run else ""
    raise NotebookError(
        f"{notebook}{of} is not in {Path.cwd()}: call rlm_nb.replay with the path of this notebook, in the folder of "
        "its run"
    )


def _candidates(notebook: Path, run: str | None, namespace: dict[str, Any]) -> Iterator[Path]:
    here = _Replay.started_in or Path.cwd()
    yield here / notebook
    for said in (namespace.get(HERE[0]), os.environ.get(HERE[1])):
        if said:
            yield here / said
            yield here / Path(said).name
    for folder in (here, *here.parents):
        if run is not None:
            yield folder / "runs" / run / notebook.name


class _Replay:
    """One notebook that runs again in this kernel; a second one, or the same once more, takes its place."""

    _now: ClassVar[_Replay | None] = None
    started_in: ClassVar[Path | None] = None

    def __init__(self, shell: Any, past: Recalled, stack: ExitStack) -> None:
        self._shell, self._past, self._stack = shell, past, stack
        rlm = RLMSettings.model_validate(past.recorded.settings.get("rlm", {}))
        self._transcript = stack.enter_context(Transcript(rlm.result_truncation_limit))
        self._cells = [(node["id"], str(node["source"])) for node in read_cells(past.notebook) if _is_code(node)]
        self._results = {past.ids[cell.number]: cell for cell in past.cells}
        self._next = 0
        self._current: CellResult | None = None
        self._runs = self._is_first = True
        place = self._place()
        self._answers = Answers(Path.cwd(), lambda number: Path.cwd() / f"cell-{number}.txt")
        self._given = ExitStack()
        stack.callback(self._given.close)
        stack.callback(furnish(shell, self, greeting(past, place)))
        shell.ast_transformers.append(self)
        stack.callback(shell.ast_transformers.remove, self)
        for event, hook in (("pre_run_cell", self._begin_cell), ("post_run_cell", self._end_cell)):
            shell.events.register(event, hook)
            stack.callback(shell.events.unregister, event, hook)

    @classmethod
    def begin(cls, shell: Any, past: Recalled) -> None:
        """Replay this notebook from now on."""
        if cls._now is not None:
            cls._now.end()
        else:
            atexit.register(cls._end_last)
        cls.started_in = cls.started_in or Path.cwd()
        with ExitStack() as stack:
            for key in KEYS:  # no cell had one, or needs one now
                os.environ.pop(key, None)
            shell.run_line_magic("colors", "nocolor")  # tracebacks as models read them
            shell.history_manager.enabled = False  # which takes no number twice
            replaying = cls(shell, past, stack)
            replaying._stack = stack.pop_all()
        cls._now = replaying

    def end(self) -> None:
        """Take everything back, and remove the folder."""
        os.chdir(self.started_in or "/")
        self._stack.close()

    @classmethod
    def _end_last(cls) -> None:
        if cls._now is not None:
            cls._now.end()

    def call(self, name: str, **arguments: JSON) -> JSON:
        """Answer what a cell asks; see `bridge.client.Caller`."""
        if name == "FINAL":
            return None
        found = self._answers.take(name, arguments)
        if found is None:
            raise BridgeError(f"{name}: {UNRECORDED}")
        return answer(found, self._transcript)

    def call_until(self, cancel: Cancellation, name: str, **arguments: JSON) -> JSON:
        """The same: what is recorded is there at once."""
        return self.call(name, **arguments)

    def visit(self, tree: ast.Module) -> ast.Module:
        """What IPython runs of a cell: nothing of one that did not come to a good end, or did not run at all."""
        return tree if self._runs else ast.Module([], [])

    def _place(self) -> Stage | None:
        """Go to where cells run: what a stranger's cells change is never a file of whoever runs them."""
        try:
            place = self._stack.enter_context(stage(self._past))
        except (RunFolderError, GitError) as error:
            print(f"Cells run in an empty folder: {error}.", file=sys.stderr)  # noqa: T201
            place = None
        folder = place.folder if place else self._stack.enter_context(scratch())
        workdir = place.workdir if place else folder / "work"
        for path in (workdir, folder / "home", folder / "tmp"):
            path.mkdir(exist_ok=True)
        before = dict(os.environ)
        self._stack.callback(_restore, before)
        os.environ |= {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
        without_colours()
        os.chdir(workdir)
        while "" in sys.path:  # `furnish` puts the folder where modules of its own do no harm
            sys.path.remove("")
        return place

    def _begin_cell(self, info: Any) -> None:
        """Before each cell: find out which of the recorded ones it is, and have its answers ready."""
        at = self._which(info)
        self._current = self._results.get(self._cells[at][0]) if at is not None else None
        self._runs = at is None or (self._current is not None and self._current.status not in NOT_AGAIN)
        if at is not None:
            self._next = at + 1
        if not self._runs:
            how = NOT_AGAIN[self._current.status] if self._current else "did not run"
            print(f"[This cell {how} when it was recorded, and is not run now.]", file=sys.stderr)  # noqa: T201
        self._given.enter_context(self._answers.of(self._current.calls if self._current else (), exact=False))

    def _end_cell(self, result: object) -> None:
        if self._is_first:
            self._is_first = False
            self._shell.execution_count = 1  # although the cell that called us stands before the first one
        self._given.close()
        self._runs = True
        if self._current is not None:
            self._transcript.keep(self._current)

    def _which(self, info: Any) -> int | None:
        """The place of the cell that is about to run, or `None` for one that is not of the record.

        Front ends that say which cell they run are believed; otherwise it is the next one with the same text.
        """
        code = str(info.raw_cell).rstrip()
        same = [at for at, (_, source) in enumerate(self._cells) if source.rstrip() == code]
        named = [at for at in same if self._cells[at][0] == getattr(info, "cell_id", None)]
        later = [at for at in same if at >= self._next]
        return next(iter((*named, *later, *same)), None)


def _is_code(node: dict[str, Any]) -> bool:
    return node["cell_type"] == "code" and "number" in node["metadata"].get("rlm", {})


def _restore(before: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(before)
