"""The picture of who worked when: what is in it, and how a run comes to it without waiting long or risking anything."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rlm_nb.errors import NotebookError
from rlm_nb.notebook.names import notebooks
from rlm_nb.notebook.picture import Row
from rlm_nb.notebook.reader import read
from rlm_nb.records import Iteration

if TYPE_CHECKING:
    from IPython.display import Image

    from rlm_nb.notebook.picture import Doing

PATIENCE = 15.0
"""Seconds after which a picture is given up. The first one on a machine has matplotlib look for the fonts there."""

READING = 3.0
"""Seconds after which no further notebook is read for it."""

LARGEST = 16 * 1024 * 1024
"""Bytes of the largest notebook that is read for it."""

WITHOUT = "There is no timeline: it takes matplotlib, which `pip install 'rlm-nb[report]'` brings."


def drawn(run_folder: Path, form: Literal["png", "svg"] = "png", reading: float = READING) -> tuple[bytes, str]:
    """The picture of a run, drawn in a process of its own; or nothing, and a sentence that says why.

    Args:
        run_folder: Where its notebooks are.
        form: What kind of picture.
        reading: Seconds after which no further notebook is read.
    """
    if find_spec("matplotlib") is None:
        return b"", WITHOUT
    command = [sys.executable, "-I", "-m", "rlm_nb.notebook.picture", form]
    try:
        with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1) as process:
            try:  # matplotlib is imported there while the notebooks are read here
                found = [asdict(row) for row in rows(run_folder, reading)]
                if not found:
                    return b"", "There is no timeline: no notebook could be read in time."
                picture, said = process.communicate(json.dumps(found).encode(), PATIENCE)
            finally:
                process.kill()
    except subprocess.TimeoutExpired:
        return b"", f"There is no timeline: it was not drawn within {PATIENCE:g} seconds."
    except OSError as error:
        return b"", f"There is no timeline: it cannot be drawn: {error.strerror}."
    if process.returncode:
        last = (said.decode(errors="replace").strip() or f"exit code {process.returncode}").splitlines()[-1]
        return b"", f"There is no timeline: it cannot be drawn: {last}"
    return picture, ""


def show(run_folder: Path | str = ".") -> Image:
    """The picture of a run, for a notebook. Raises `NotebookError` with the reason when there is none."""
    from IPython.display import Image

    picture, why = drawn(Path(run_folder))
    if why:
        raise NotebookError(why)
    return Image(picture, **size(picture))


def size(picture: bytes) -> dict[str, int]:
    """Width and height in which a notebook should show it; it has more pixels, for screens that have more."""
    width, height = (int.from_bytes(picture[at : at + 4]) for at in (16, 20))
    return {"width": width * 2 // 3, "height": height * 2 // 3}


def rows(run_folder: Path, seconds: float = READING) -> list[Row]:
    """Every agent whose notebook can be read, and soon, in the order of the tree."""
    end = time.monotonic() + seconds
    found = []
    for path in notebooks(run_folder):
        if time.monotonic() > end:
            break
        try:
            if not path.is_symlink() and path.stat().st_size <= LARGEST:
                found.append(_row(path))
        except (NotebookError, OSError):  # `tree` names it
            continue
    return found


def _row(path: Path) -> Row:
    recorded = read(path)
    spans = tuple(span for iteration in recorded.iterations for span in _spans(iteration))
    last = max([recorded.started, recorded.ended, *(ended for _, _, ended in spans)])
    return Row(recorded.task.agent, recorded.started, last, recorded.cost, spans)


def _spans(iteration: Iteration) -> Iterator[tuple[Doing, float, float]]:
    """The model until the first cell, then cell for cell, with what each waited for cut out of it."""
    cells = [cell for cell in iteration.cells if cell.ended]
    yield "model", iteration.started, cells[0].started if cells else iteration.ended
    for cell in cells:
        at = cell.started
        for call in sorted(cell.calls, key=lambda call: call.started):
            if call.name in ("rlm_query", "llm_query") and call.ended > at:
                yield "cell", at, max(at, call.started)
                yield "waiting", max(at, call.started), call.ended
                at = call.ended
        yield "cell" if cell.status == "ok" else "failed", min(at, cell.ended), cell.ended
