"""The record of a task: its code, its searches, and each question as the call that asks it again, with its answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlm_nb.errors import RunFolderError
from rlm_nb.notebook import layout, markup
from rlm_nb.notebook.document import Document
from rlm_nb.notebook.metadata import VERSION, Node, front_end
from rlm_nb.notebook.wording import money
from rlm_nb.records import JSON, Access, Notice, Subcall

SEARCHES = 200
"""How many searches are shown; the file `audit.jsonl` beside the notebook has all that was looked at."""

FUNCTIONS = {
    "text": "semantic_subcall",
    "json": "semantic_subcall_json",
    "bool": "semantic_subcall_bool",
    "choice": "semantic_subcall_choice",
}


class TaskRecord:
    """A task's notebook while it grows; `open` makes one."""

    def __init__(self, document: Document, name: str, about: Mapping[str, JSON]) -> None:
        self._document, self._name, self._about = document, name, about
        self._steps = self._searches = 0
        self._notices: list[str] = []
        self._rlm: dict[str, Any] = {}
        self._state({"status": "running", "started": time.time()})

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, name: str, code: str, about: Mapping[str, JSON]) -> Iterator[TaskRecord]:
        """Start the notebook of a task, and save what is left when the block ends.

        Args:
            path: Where it is written; the folder exists, the file does not.
            name: The task's.
            code: Its source; empty when nobody has it.
            about: What else should be kept, shown as a table.

        Raises:
            RunFolderError: There is a notebook already, or it cannot be written.
        """
        if path.exists():
            raise RunFolderError(f"{path}: already holds the record of a task; choose another folder")
        document = Document(path)
        record = cls(document, name, about)
        if code:
            document.put(_code("task", code, [], {}))
        document.save()
        with document.saving():
            yield record

    def add(self, told: Access | Subcall | Notice) -> None:
        """Record what the task looked at or asked, or what a person should know of it."""
        match told:
            case Subcall():
                self._put(_asking(told), _answer(told), asdict(told))
            case Notice(text=text):
                self._notices.append(text)
                self._state({})
            case Access(operation="search"):
                self._searches += 1
                if self._searches <= SEARCHES:
                    self._put(f"context_search(context, {told.detail!r})", [], {"source": told.source})
        self._document.save_soon()

    def finish(self, result: Mapping[str, JSON]) -> None:
        """Add how it ended, as `run_task` gives it.

        Raises:
            RunFolderError: The notebook cannot be saved.
        """
        titles = {"completed": "Result", "partial": "Partial result", "error": "No result"}
        parts = [f"## {titles[result['status']]}", markup.quoted(result.get("error") or "")]
        parts.append(markup.fenced(json.dumps(result["result"], indent=2, ensure_ascii=False)))
        self._document.put(markup.markdown(layout.FINAL, parts, ["rlm-final"], {"status": result["status"]}))
        self._state({"status": result["status"], "result": dict(result), "ended": time.time()})
        self._document.save()

    def _put(self, code: str, outputs: list[dict[str, Any]], rlm: dict[str, Any]) -> None:
        self._steps += 1
        self._document.put(_code(f"step-{self._steps:04d}", code, outputs, rlm))

    def _state(self, news: dict[str, Any]) -> None:
        self._rlm |= news
        rlm = self._rlm | ({"notices": [*self._notices]} if self._notices else {})
        facts = {**self._about, **rlm.get("result", {}).get("budget_summary", {})}
        parts = [f"# Task {markup.escaped(self._name)}", f"**{rlm['status']}**", markup.facts(facts)]
        parts += map(markup.quoted, self._notices)
        cell = markup.markdown(layout.HEAD, parts, ["rlm-head"], {})
        metadata = {**self._about, "version": VERSION, "kind": "task", "task": self._name, **rlm}
        self._document.describe(lambda: (cell, {**front_end(), "rlm": metadata}))


def _asking(call: Subcall) -> str:
    """The call in Python, with the chunk as what gave it, as far as that is known."""
    basis = call.basis
    if not basis.source:
        chunk = (
            repr(call.chunk) if len(call.chunk) <= 200 else f"...,  # {len(call.chunk):,} characters that the task made"
        )
    elif basis.start < 0:
        chunk = f"context_tail(context, {basis.length})"
    else:
        chunk = f"context_slice(context, {basis.start}, {basis.start + basis.length})"
    lines = [f"# Subcall {call.number}" if call.number else "# A subcall without an answer"]
    if call.same_as is not None:
        lines = [f"# The same as subcall {call.same_as}, answered once"]
    elif call.cost:
        lines[0] += f", {money(call.cost)}"
    if "again" in call.given:
        lines.append(f"# Asked once more: {' '.join(str(call.given['again']).split())}")
    # What the function itself adds to a prompt, it would add again.
    arguments = [f"{call.given.get('prompt', call.prompt)!r},", chunk if chunk.startswith("...") else f"{chunk},"]
    arguments += [f"{name}={call.given[name]!r}," for name in ("choices", "schema") if name in call.given]
    return "\n".join([*lines, f"{FUNCTIONS[call.kind]}(", *(f"    {argument}" for argument in arguments), ")"])


def _answer(call: Subcall) -> list[dict[str, Any]]:
    if call.error is not None:
        return [{"output_type": "stream", "name": "stderr", "text": f"{call.error}\n"}]
    return [{"output_type": "stream", "name": "stdout", "text": f"{call.reply}\n"}]


def _code(name: str, source: str, outputs: list[dict[str, Any]], rlm: dict[str, Any]) -> Node:
    return {
        "cell_type": "code",
        "id": name,
        "metadata": {"editable": False, "tags": ["rlm-code"], "rlm": rlm},
        "source": source,
        "outputs": outputs,
        "execution_count": None,
    }
