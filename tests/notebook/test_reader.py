"""A notebook that is not a record is refused in one sentence that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from rlm_nb.errors import NotebookError
from rlm_nb.notebook.reader import read
from rlm_nb.records import Iterated
from tests.notebook.scenes import iteration, opened


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "root.ipynb"
    with opened(path) as recorder:
        recorder.listen(Iterated("root", iteration(1)))
    return path


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is damaged: Expecting value"),
        (b"\xff\xfe\xff", "is damaged"),
        (b'{"cells": [', "is damaged"),
        (b"[]", "is not a notebook"),
        (b'{"name": "x"}', "is not a notebook"),
        (b'{"nbformat": 3, "nbformat_minor": 0, "worksheets": [], "metadata": {}}', "not one that rlm-nb recorded"),
        (b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}', "is damaged: 'cells' is a required property"),
        (nbformat.writes(nbformat.v4.new_notebook()).encode(), "not one that rlm-nb recorded"),
    ],
)
def test_what_is_no_record_is_said(content: bytes, sentence: str, tmp_path: Path) -> None:
    """Empty, cut off, another format, or somebody else's notebook."""
    path = tmp_path / "root.ipynb"
    path.write_bytes(content)
    with pytest.raises(NotebookError) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert sentence in str(raised.value)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """No file, and a folder in its place."""
    with pytest.raises(NotebookError, match="there is no such notebook"):
        read(tmp_path / "root.ipynb")
    with pytest.raises(NotebookError, match="cannot be read: Is a directory"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rlm: rlm.update(version=99), "newer version"),
        (lambda rlm: rlm.pop("task"), "the record in this notebook is damaged: KeyError('task')"),
        (lambda rlm: rlm.update(usage={"tokens": 1}), "damaged: TypeError"),
        (lambda rlm: rlm.update(patch=None), "damaged: TypeError"),
        (lambda rlm: rlm.update(task=["a"]), "damaged: task.prompt: Input should be a valid string"),
        (lambda rlm: rlm.update(cost=10**400), "damaged: ValueError"),
        (lambda rlm: rlm.pop("version"), "not one that rlm-nb recorded"),
    ],
)
def test_a_record_that_cannot_be_understood_is_said(
    change: Callable[[dict[str, Any]], object], sentence: str, recorded: Path
) -> None:
    """A newer format and missing or wrong values are told apart."""
    notebook = json.loads(recorded.read_text(encoding="utf-8"))
    change(notebook["metadata"]["rlm"])
    recorded.write_text(json.dumps(notebook), encoding="utf-8")
    with pytest.raises(NotebookError) as raised:
        read(recorded)
    assert sentence in str(raised.value)


def test_cells_of_a_person_are_not_part_of_the_record(recorded: Path) -> None:
    """Notes that somebody added in JupyterLab are passed over."""
    before = read(recorded)
    notebook = nbformat.read(recorded, as_version=4)
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell("my note"))
    notebook.cells.append(nbformat.v4.new_code_cell("1 + 1"))
    nbformat.write(notebook, recorded)
    assert read(recorded) == before
