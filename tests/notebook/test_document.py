"""What a model or a kernel may put into a notebook, and what becomes of it on disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from rlm_nb.notebook.document import PAUSE, Document
from rlm_nb.notebook.markup import markdown
from rlm_nb.notebook.reader import read
from rlm_nb.records import CellResult, Iterated, Iteration, Output, Reply
from tests.notebook.scenes import check, iteration, opened, stream
from tests.whole_runs.conftest import until


def written(folder: Path, *outputs: Any, code: str = "x") -> tuple[Output, ...]:
    """The outputs of a cell after they have been on disk."""
    path = folder / "root.ipynb"
    with opened(path) as recorder:
        recorder.listen(Iterated("root", iteration(1, CellResult(code, "ok", outputs))))
    check(path)
    (cell,) = read(path).iterations[0].cells
    assert cell.code == code
    return cell.outputs


def test_lone_surrogates_become_the_text_of_their_escape(tmp_path: Path) -> None:
    """What UTF-8 cannot hold is still there to be seen, and the notebook can be saved by others."""
    outputs = written(tmp_path, stream("a\ud800b\udcff\\"), {**stream("x"), "name": "stderr"})
    assert outputs[0]["text"] == "a\\ud800b\\udcff\\"


def test_lone_surrogates_in_a_reply_do_not_stop_the_record(tmp_path: Path) -> None:
    """A reply that no file can hold is kept as near as can be."""
    path = tmp_path / "root.ipynb"
    with opened(path) as recorder:
        recorder.listen(Iterated("root", Iteration("root", 1, "\ud83d", Reply("say \udc80"))))
    check(path)
    (only,) = read(path).iterations
    assert (only.message, only.reply.text) == ("\\ud83d", "say \\udc80")


def test_numbers_that_json_does_not_have_become_their_names(tmp_path: Path) -> None:
    """A NaN in a JSON output would keep a browser from reading the notebook."""
    data = {"application/json": {"x": [float("nan"), float("inf"), -float("inf"), 1.0]}}
    (output,) = written(tmp_path, {"output_type": "display_data", "data": data, "metadata": {}})
    assert output["data"]["application/json"] == {"x": ["NaN", "Infinity", "-Infinity", 1.0]}


@pytest.mark.parametrize(
    "output",
    [
        {"output_type": "display_data", "data": {"text/plain": 5}, "metadata": {}},
        {"output_type": "display_data", "data": {}, "metadata": None},
        {"output_type": "stream", "name": "stdout", "text": None},
        {"output_type": "stream", "name": "stdout", "text": "x", "trusted": True},
        {"output_type": "error", "ename": 1, "evalue": "", "traceback": []},
        {"output_type": "surprise"},
        {},
    ],
)
def test_an_output_that_is_none_gives_way_to_a_sentence(output: Output, tmp_path: Path) -> None:
    """A kernel may send what it likes: the outputs beside it stay, and the notebook stays valid."""
    before, instead, after = written(tmp_path, stream("before"), output, stream("after"))
    assert (before, after) == (stream("before"), stream("after"))
    assert "left out here" in instead["text"]


@pytest.mark.parametrize("count", [-1, True, "3", 1.5, [1]])
@pytest.mark.parametrize("outputs", [(), (stream("kept"),), ({"output_type": "surprise"},)])
def test_a_number_that_is_none_is_left_out(count: Any, outputs: tuple[Output, ...], tmp_path: Path) -> None:
    """A cell's number is a whole one from 0 up, or there is none; its outputs are judged by themselves."""
    path = tmp_path / "root.ipynb"
    with opened(path) as recorder:
        recorder.listen(Iterated("root", iteration(1, CellResult("x", "ok", outputs, execution_count=count))))
    check(path)
    (cell,) = read(path).iterations[0].cells
    assert cell.execution_count is None
    assert [("kept" in str(output), "left out here" in str(output)) for output in cell.outputs] == [
        (output == stream("kept"), output != stream("kept")) for output in outputs
    ]


def test_text_that_a_kernel_sent_in_pieces_is_joined(tmp_path: Path) -> None:
    """The file has the form that nbformat would give it, whatever form the text came in."""
    data = {"text/plain": ["a", "b\nc"], "image/png": ["iVBO", "Rw0K"]}
    (output,) = written(tmp_path, {"output_type": "display_data", "data": data, "metadata": {}})
    assert output["data"] == {"text/plain": "ab\nc", "image/png": "iVBORw0K"}


@pytest.mark.parametrize("code", ["", "\n", "a\r\nb\rc", "\x00\x0b\x0c\x1c\x85\u2028", "x = '\ufeff🦊'\n\n"])
def test_code_stays_what_was_sent(code: str, tmp_path: Path) -> None:
    """Line ends and control characters of a cell are its own."""
    assert written(tmp_path, code=code) == ()


def test_what_changes_after_a_save_is_saved_soon(tmp_path: Path) -> None:
    """Each change is on disk in a while, though somebody saved between it and the one before; and only once."""
    path = tmp_path / "root.ipynb"
    document = Document(path)
    document.put(markdown("first", ["one"], [], {}))
    with document.saving():
        document.save_soon()
        document.save()
        document.put(markdown("second", ["two"], [], {}))
        document.save_soon()
        until(lambda: b"two" in path.read_bytes())
        saved = path.stat().st_ino
        document.save_soon()
        time.sleep(2 * PAUSE)
        assert path.stat().st_ino == saved
