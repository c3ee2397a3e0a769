"""What people who are attached to an agent's kernel run there, put into its notebook where it ran."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlm_nb.notebook import layout
from rlm_nb.notebook.calls import calls
from rlm_nb.notebook.document import Document
from rlm_nb.notebook.metadata import Node
from rlm_nb.records import CellResult, Iteration


class Asides:
    """Those of one notebook.

    Args:
        document: The notebook.
        begun: The iteration whose reply came last; 0 for none.
        mark: Makes the cell what it is to be beside one that ran.
    """

    def __init__(self, document: Document, begun: int, mark: Callable[[Node, CellResult], Node]) -> None:
        self._document, self.begun, self._mark = document, begun, mark
        self._folder: Path = document.path.parent
        self._waiting: list[CellResult] = []

    def add(self, cell: CellResult, *, among: bool) -> None:
        """Put a cell below all else.

        Args:
            cell: The cell.
            among: Whether it may have run among those of an iteration; it has its place once that is complete.
        """
        self._put(cell, self.begun)
        if among:
            self._waiting.append(cell)

    def place(self, iteration: Iteration) -> None:
        """Put what ran among the cells of this iteration where it ran."""
        waiting, self._waiting = self._waiting, []
        lowest: dict[int, str] = {}  # below each cell of the iteration, by its index
        for cell in waiting:
            before = [at for at, ran in enumerate(iteration.cells, 1) if ran.number < cell.number]
            if before:
                at, names = before[-1], (layout.calls_id, layout.code_id)
                found = (name for name in (id_(iteration.number, at) for id_ in names) if name in self._document)
                lowest[at] = self._put(cell, iteration.number, lowest.get(at) or next(found))
            else:
                above = self._document.above(layout.think_id(iteration.number))
                self._put(cell, iteration.number - 1, above)

    def _put(self, cell: CellResult, number: int, below: str | None = None) -> str:
        """Put a cell below the one with this id, with what belongs to it; returns the id of the lowest of these."""
        note = layout.aside_note(number, cell, self._folder)
        node = self._mark(layout.aside(number, cell, self._folder), cell)
        self._document.put(note)
        self._document.put(node)
        if below is not None:
            self._document.move(note["id"], below)
            self._document.move(node["id"], note["id"])
        if (asked := calls(cell, number, 0)) is None:
            return str(node["id"])
        name = f"{node['id']}-calls"
        rlm = {"number": number, "aside": True}
        self._document.put({**asked, "id": name, "metadata": {**asked["metadata"], "rlm": rlm}})
        if below is not None:
            self._document.move(name, node["id"])
        return name
