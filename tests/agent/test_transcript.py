"""What cells have put out, given back in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.agent import transcript
from rlm_nb.agent.transcript import Transcript
from rlm_nb.errors import BridgeError
from rlm_nb.records import CellResult

LIMIT = 1000


@pytest.fixture
def kept() -> Iterator[Transcript]:
    """Four cells: a short one, a long one, one without outputs, and one whose number is a higher one."""
    with Transcript(LIMIT) as kept:
        for number, text in ((1, "short\n"), (2, "long ☃\n" * 500), (3, ""), (5, "five")):
            kept.keep(cell(number, text))
        yield kept


def cell(number: int, text: str, **rest: Any) -> CellResult:
    outputs = ({"output_type": "stream", "name": "stdout", "text": text},) if text else ()
    return CellResult("code", "ok", outputs, number=number, **rest)


def whole(kept: Transcript, number: int | None) -> str:
    """All pieces, as a kernel asks for them."""
    pieces, at = [], 0
    while True:
        answer = kept.piece({"cell": number, "at": at})
        pieces.append(answer["text"])
        if answer["next"] is None:
            return "".join(pieces)
        assert answer["next"] > at
        at = answer["next"]


def test_which_cell_is_meant(kept: Transcript) -> None:
    """Its number, counted from the end, or the last long one."""
    assert whole(kept, 1) == "short"
    assert whole(kept, -1) == "five"
    assert whole(kept, 3) == ""
    assert whole(kept, None) == whole(kept, 2) == whole(kept, -4) == "\n".join(["long ☃"] * 500)
    assert kept.piece({"cell": None, "at": 0})["cell"] == 2


@pytest.mark.parametrize("number", [0, 4, 6, -2, -6])
def test_no_such_cell(kept: Transcript, number: int) -> None:
    """A sentence that says which is the last."""
    assert kept.piece({"cell": number, "at": 0}) == {
        "missing": f"no output of a cell {number} is kept; the last cell that ended is number 5"
    }


def test_nothing_long_nothing_at_all() -> None:
    """Before the first cell, and before the first long one."""
    with Transcript(LIMIT) as kept:
        assert "no cell has ended" in kept.piece({"cell": -1, "at": 0})["missing"]
        kept.keep(cell(1, "x"))
        assert "longer than 1,000 characters; output(-1)" in kept.piece({"cell": None, "at": 0})["missing"]


@pytest.mark.parametrize("arguments", [{}, {"cell": "1", "at": 0}, {"cell": 1, "at": -1}, {"cell": 1, "at": None}])
def test_what_is_no_question(kept: Transcript, arguments: dict[str, Any]) -> None:
    """A kernel may send anything."""
    with pytest.raises(BridgeError):
        kept.piece(arguments)


@pytest.mark.parametrize("line", ["☃ and 🐍\n", "☃🐍é"], ids=["lines", "one line"])
def test_long_outputs_come_in_pieces(tmp_path: Path, line: str) -> None:
    """Each of a bounded size, cut where neither a line nor a character is torn; from our file and from one beside."""
    text = line * (transcript.PIECE // 4)
    file = tmp_path / "root-cell-2.txt"
    file.write_text(text, encoding="utf-8")
    with Transcript(LIMIT) as kept:
        kept.keep(cell(1, text))
        kept.keep(cell(2, "its head", overflow=file))
        assert len(kept.piece({"cell": 1, "at": 0})["text"].encode()) <= transcript.PIECE
        assert kept.piece({"cell": 1, "at": 0})["next"] is not None
        assert whole(kept, 1) == whole(kept, 2) == text.rstrip("\n")
        assert kept.piece({"cell": 2, "at": 10**12})["text"] == ""


def test_a_file_is_shown_as_a_terminal_would(tmp_path: Path) -> None:
    """Progress bars and colours are carried out in what was too long, as they are in what is shown."""
    file = tmp_path / "root-cell-1.txt"
    file.write_bytes(b"10%\r100%\n\x1b[31mred\x1b[0m\n\xff")
    with Transcript(LIMIT) as kept:
        kept.keep(cell(1, "head", overflow=file))
        assert whole(kept, None) == "100%\nred\n\ufffd"
        file.unlink()
        with pytest.raises(BridgeError, match="No such file"):
            whole(kept, 1)
