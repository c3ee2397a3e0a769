"""A model that says again what the agents of a recorded run were told, to try other tools or settings for nothing."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from pydantic import SecretStr

from rlm_nb.cancellation import Cancellation
from rlm_nb.config import Config
from rlm_nb.errors import ConfigError, ModelError, NotebookError
from rlm_nb.notebook.layout import prose
from rlm_nb.notebook.metadata import Recorded
from rlm_nb.notebook.reader import read
from rlm_nb.records import BridgeCall, CellResult, Iteration, Reply, Request, StopReason, Usage

PREFIX = "replay:"


class ReplayModel:
    """Says for each agent and turn what was said then, and for each prompt of an `llm_query` what was answered.

    Nothing is paid, and what is said does not depend on what it is told: an agent that comes to another turn than then,
    or asks something else, is refused.

    Args:
        folder: The folder of the run.
        name: What it is called.

    Raises:
        ConfigError: There is no run there.
    """

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self.name = name or f"{PREFIX}{folder}"
        self._turns: dict[tuple[str, int], Reply] = {}
        self._answers: dict[str, list[Reply]] = {}
        self._lock = threading.Lock()
        notebooks = sorted(folder.glob("root*.ipynb"))
        if not notebooks:
            raise ConfigError(f"model.name: {folder} holds no run (no root.ipynb)")
        for notebook in notebooks:
            try:
                self._take(read(notebook))
            except NotebookError as error:
                raise ConfigError(f"model.name: {error}") from error

    @classmethod
    def from_config(cls, config: Config, secrets: Mapping[str, SecretStr]) -> Self:
        """The run that `model.name` names, as `replay:FOLDER`."""
        return cls(Path(config.model.name.removeprefix(PREFIX)).expanduser(), config.model.name)

    def complete(self, request: Request, cancel: Cancellation, on_text: Callable[[str], None] | None = None) -> Reply:
        """Say it again; see `protocols.Model`.

        Raises:
            ModelError: Nothing was said to this then.
        """
        cancel.check()
        reply = self._reply(request)
        if on_text is not None:
            on_text(reply.text)
        return reply

    def _reply(self, request: Request) -> Reply:
        if request.turn:
            if (reply := self._turns.get((request.agent, request.turn))) is None:
                raise ModelError(
                    f"{self.name}: nothing is recorded of {request.agent} in turn {request.turn}", usage=Usage()
                )
            return reply
        prompt = request.messages[-1].content
        with self._lock:
            said = self._answers.get(prompt)
            if not said:
                raise ModelError(f"{self.name}: no answer is recorded to {prompt[:80]!r}", usage=Usage())
            return said.pop(0) if len(said) > 1 else said[0]

    def _take(self, recorded: Recorded) -> None:
        begun = [recorded.begun] if recorded.begun else []
        last = 0
        for iteration in (*recorded.iterations, *begun):
            theirs = [cell for cell in recorded.asides if last < cell.number]
            self._turns[recorded.task.agent, iteration.number] = _with(iteration, theirs)
            last = max([last, *(cell.number for cell in iteration.cells)])
            self._keep_answers(iteration.cells)
        self._keep_answers(recorded.asides)

    def _keep_answers(self, cells: Iterable[CellResult]) -> None:
        for call in (call for cell in cells for call in cell.calls if call.name == "llm_query"):
            for prompt, reply in _answers(call):
                self._answers.setdefault(prompt, []).append(reply)


AS_IT_WAS = (
    "await get_ipython().run_cell_async({code!r}, transformed_cell=get_ipython().transform_cell({code!r}), "
    "store_history=False);"
)
"""A cell that shows what another one raises, and ends well; that one may wait for something, too."""


def _with(iteration: Iteration, theirs: Sequence[CellResult]) -> Reply:
    """What was said, with what people who were attached ran before the last of its cells, where they ran it.

    A cell of theirs that failed ended nothing, and must not end the reply; one that did not end by itself is left out,
    and so is one that called `FINAL` in vain.
    """
    last = iteration.cells[-1].number if iteration.cells else 0
    theirs = [one for one in theirs if one.number < last and one.status in ("ok", "error") and not one.endless]
    if not theirs:
        return iteration.reply
    code = {cell.number: cell.code for cell in iteration.cells}
    for cell in theirs:
        code[cell.number] = cell.code if cell.status == "ok" else AS_IT_WAS.format(code=cell.code)
    parts = [prose(iteration.reply.text, [cell.code for cell in iteration.cells])]
    parts += [_fenced(code[number]) for number in sorted(code)]
    return replace(iteration.reply, text="\n\n".join(filter(None, parts)), stop_reason="end")


def _fenced(code: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"{fence}python\n{code}\n{fence}"


def _answers(call: BridgeCall) -> Iterator[tuple[str, Reply]]:
    """What the prompts of a call were answered, where they were."""
    for prompt, result in zip(call.arguments.get("prompts", ()), call.answer or (), strict=False):
        if result.get("error") is None:
            stop: StopReason = "max_tokens" if result.get("status") == "partial" else "end"
            yield prompt, Reply(result["text"], Usage(**result.get("usage", {})), stop)
