"""The file: cells as text, joined and put in place at once, so that whoever looks finds a whole notebook."""

from __future__ import annotations

import functools
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlm_nb.errors import RunFolderError
from rlm_nb.lean import nbformat
from rlm_nb.notebook import indented
from rlm_nb.notebook.metadata import Node

Head = Callable[[], tuple[Node, Mapping[str, Any]]]
"""Draws the cell that tells how things stand, and the notebook's own metadata."""

PAUSE = 0.5
"""Seconds between two saves while a cell streams."""

SHARE = 5
"""A save that took t is not repeated before SHARE × t has passed: a huge notebook must not keep the disk busy."""


class Document:
    """A notebook that grows, byte for byte in the form that nbformat itself would write.

    Every method may be called from any thread. Lone surrogates become their escapes as text (`\\udc80`), and NaN and
    infinities their names: a notebook, which is UTF-8 and JSON, has no form for either.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Hidden: not to be mistaken for one more notebook. Both as texts, since each iteration is saved.
        self._place, self._beside = str(path), str(path.with_name(f".{path.name}.part"))
        self._nodes: dict[str, Node] = {}
        self._texts: dict[str, bytes] = {}  # of the same cells in the same order, each with what stands after it
        self._stale: set[str] = set()
        self._metadata: Mapping[str, Any] = {}
        self._draw_head: Head | None = None
        self._frame: tuple[bytes, bytes] | None = None
        self._failed = False
        self._saved = True
        self._took = self._ended = 0.0
        self._lock = threading.Lock()  # the notebook in memory; never held while a disk is waited for
        self._writing = threading.Lock()  # the file; taken before `_lock`, so that saves land in order
        self._due = threading.Event()
        self._closed = threading.Event()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """While the block runs, `save_soon` works; its end waits for what is left to save.

        Raises:
            RunFolderError: At the end, when the last save failed. An error of the block itself goes first.
        """
        saver = threading.Thread(target=self._save_when_due, name=f"saves {self.path.name}", daemon=True)
        saver.start()
        try:
            yield
        except BaseException as error:
            self._stop(saver)
            try:
                self._save_rest()
            except RunFolderError as unsaved:
                error.add_note(str(unsaved))
            raise
        self._stop(saver)
        self._save_rest()

    def __contains__(self, cell: str) -> bool:
        return cell in self._nodes

    def __getitem__(self, cell: str) -> Node:
        """The cell with this id; to change it, `put` a new one."""
        return self._nodes[cell]

    def above(self, cell: str) -> str:
        """The id of the cell above the one with this id, which is not the first."""
        order = list(self._texts)
        return order[order.index(cell) - 1]

    def put(self, node: Node, *, below: str | None = None) -> None:
        """Add a cell below the others, or below the one with the id `below`; or replace the one with its id."""
        name = node["id"]
        with self._lock:
            known = name in self._nodes
            self._nodes[name] = node
            self._texts.setdefault(name, b"")
            self._stale.add(name)
            self._saved = False
            if below is not None and not known:
                self._move(name, below)

    def move(self, cell: str, below: str) -> None:
        """Put the cell with this id below another one."""
        with self._lock:
            self._move(cell, below)
            self._saved = False

    def _move(self, cell: str, below: str) -> None:
        order = [one for one in self._texts if one != cell]
        order.insert(order.index(below) + 1, cell)
        self._texts = {one: self._texts[one] for one in order}

    def describe(self, draw: Head) -> None:
        """Replace a cell and the notebook's own metadata by what `draw` gives, once somebody saves.

        What heads a notebook changes with every event, and is drawn no oftener than it is written. The first time it
        is drawn at once, so that its cell stands above those that are put later.
        """
        with self._lock:
            self._draw_head = draw
            self._saved = False
            if not self._nodes:
                self._draw()

    def save_soon(self) -> None:
        """Save within `PAUSE` seconds or so, together with whatever else changes until then."""
        if not self._due.is_set():
            self._due.set()

    def save(self) -> None:
        """Put everything on disk now.

        Raises:
            RunFolderError: The disk refused; the file holds what was saved before.
        """
        with self._writing:
            with self._lock:
                text = self._text()
                self._saved = True
            began = time.monotonic()
            try:
                # Without fsync: a killed process takes nothing back that it has handed to the system, and what a
                # power cut may cost is not worth waiting for a disk in every iteration.
                with suppress(FileNotFoundError):
                    os.unlink(self._beside)  # whatever stands there: opening a pipe would wait for its reader
                with open(self._beside, "xb", buffering=0) as file:
                    left = memoryview(text)
                    while left:
                        left = left[file.write(left) :]
                os.replace(self._beside, self._place)
            except OSError as error:
                with self._lock:
                    self._saved, self._failed = False, True
                with suppress(OSError):  # the half of it that fitted on a full disk
                    os.unlink(self._beside)
                raise RunFolderError(f"{self.path}: cannot be saved: {error.strerror or error}") from error
            self._failed = False
            self._ended = time.monotonic()
            self._took = self._ended - began

    def insist(self) -> None:
        """Save again if a save in the background failed.

        Raises:
            RunFolderError: It fails still.
        """
        if self._failed:
            self.save()

    def _text(self) -> bytes:
        """The whole file. Only what changed is written as JSON anew."""
        self._draw()
        for name in self._stale:
            self._texts[name] = _cell_text(self._nodes[name]) + b",\n"
        self._stale.clear()
        self._frame = self._frame or _frame(self._metadata)
        opening, closing = self._frame
        *cells, last = self._texts.values()
        return b"".join([opening, *cells, last.removesuffix(b",\n"), closing])

    def _draw(self) -> None:
        if self._draw_head is not None:
            node, self._metadata = self._draw_head()
            self._nodes[node["id"]] = node
            self._texts.setdefault(node["id"], b"")
            self._stale.add(node["id"])
            self._draw_head, self._frame = None, None

    def _save_when_due(self) -> None:
        while not self._closed.is_set():
            self._due.wait()
            due = time.monotonic() + max(PAUSE, SHARE * self._took)
            while (left := max(due, self._ended + PAUSE) - time.monotonic()) > 0 and not self._closed.wait(left):
                pass  # somebody may have saved meanwhile, and what has changed since is younger
            self._due.clear()
            try:
                self._save_rest()
            except RunFolderError:
                continue  # remembered, and told to the next caller of `save` or `insist`

    def _stop(self, saver: threading.Thread) -> None:
        self._closed.set()
        self._due.set()
        saver.join()

    def _save_rest(self) -> None:
        if not self._saved:
            self.save()


def _cell_text(node: Node) -> bytes:
    opening, closing = _empty_frame()
    return _written([_valid(node)], {}).removeprefix(opening).removesuffix(closing)


@functools.cache
def _empty_frame() -> tuple[bytes, bytes]:
    return _frame({})


def _frame(metadata: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """What stands before the first and after the last cell of a notebook that has any."""
    before, _, after = _written([], metadata).partition(b"[]")
    return before + b"[\n", b"\n ]" + after


def _written(nodes: list[Node], metadata: Mapping[str, Any]) -> bytes:
    """A notebook as nbformat writes it to a file."""
    notebook = {"cells": nodes, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    try:
        text = _dumped(notebook)
    except ValueError:  # a NaN somewhere: rare, so only now is it looked for
        text = _dumped(_finite(notebook))
    text += "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Surrogates can only stand inside strings, where a doubled backslash makes them the text of their escape.
        return _SURROGATE.sub(lambda found: f"\\\\u{ord(found[0]):04x}", text).encode()


def _dumped(notebook: Mapping[str, Any]) -> str:
    """What `nbformat.v4.writes` gives, with copies of no more than what its splitting of lines changes."""
    lines = nbformat.v4.rwbase
    cells = [_to_be_split(cell) for cell in notebook["cells"]]
    copied = nbformat.NotebookNode({**notebook, "cells": cells})
    return indented.dumps(lines.split_lines(lines.rejoin_lines(copied)))


def _to_be_split(cell: Node) -> Any:
    own = nbformat.NotebookNode(cell)
    if "outputs" in cell:
        own["outputs"] = [
            nbformat.NotebookNode({**output, "data": dict(output["data"])} if "data" in output else output)
            for output in cell["outputs"]
        ]
    return own


_SURROGATE = re.compile("[\ud800-\udfff]")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _valid(node: Node) -> Node:
    """The cell without a number that is none, and a sentence for each output that is none: kernels send what they like.

    Everything else in a cell is ours.
    """
    counted = node.get("execution_count") is not None
    if _is_plain(node) or _is_valid(node):
        return node
    mended = {
        **node,
        "outputs": [
            output if _is_valid({**node, "execution_count": None, "outputs": [output]}) else _REFUSED
            for output in node["outputs"]
        ],
    }
    if counted and not _is_valid({**node, "outputs": []}):
        mended["execution_count"] = None
    return mended


def _is_plain(node: Node) -> bool:
    """Whether a look shows that it is valid, as nearly all are: building nbformat's validator takes 0.15 s."""
    count = node.get("execution_count")
    return (count is None or (type(count) is int and count >= 0)) and all(
        output.keys() == {"output_type", "name", "text"}
        and output["output_type"] == "stream"
        and isinstance(output["name"], str)
        and isinstance(output["text"], str)
        for output in node.get("outputs", ())
    )


def _is_valid(node: Node) -> bool:
    try:
        nbformat.validate({"cells": [node], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    except nbformat.ValidationError:
        return False
    return True


_REFUSED = {
    "output_type": "stream",
    "name": "stderr",
    "text": "[An output was left out here: the kernel sent it in a form that notebooks do not have.]\n",
}
