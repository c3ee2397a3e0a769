"""What real kernels send becomes outputs that a notebook can bear, whatever a cell does."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm_nb.cancellation import Cancellation
from rlm_nb.kernel.outputs import MAX_OUTPUTS, MAX_OVERFLOW
from rlm_nb.records import CellResult, Iterated
from tests.kernel.conftest import Bench, Start, text
from tests.notebook.scenes import check, iteration, opened

LIMIT = 100_000


def saved(folder: Path, *cells: CellResult) -> int:
    """The size of the notebook that holds these cells, which is valid."""
    path = folder / "root.ipynb"
    path.unlink(missing_ok=True)
    with opened(path) as recorder:
        recorder.listen(Iterated("root", iteration(1, *cells)))
    check(path)
    return path.stat().st_size


@pytest.mark.parametrize("wait", [False, True])
def test_clearing_in_a_loop(bench: Bench, wait: bool) -> None:
    """A display that clears itself thousands of times is one output of each kind in the end."""
    result = bench.run(
        "import time\nfrom IPython.display import clear_output, display\n"
        f"for i in range(600): clear_output(wait={wait}); print('step', i); display(i); time.sleep(0.001)"
    )
    assert result.status == "ok"
    assert text(result.outputs) == "step 599\n"
    assert [output["data"]["text/plain"] for output in result.outputs[1:]] == ["599"]


def test_what_is_cleared_takes_no_room(start: Start) -> None:
    """After 1,000 clears there is as much room as before the first, and the file beside the notebook is bounded."""
    own = start(max_output_bytes=LIMIT)
    result = own.run(
        "import time\nfrom IPython.display import clear_output\n"
        "for i in range(1000):\n    clear_output(); print('x' * 1000)\n    if not i % 50: time.sleep(0.05)\n"
        "clear_output(); print('y' * 40_000)"
    )
    assert text(result.outputs) == "y" * 40_000 + "\n"
    assert result.overflow is None
    flood = own.run("for i in range(6): clear_output(wait=True); print('z' * 20_000_000, flush=True)")
    assert text(flood.outputs).endswith("z\n")
    assert flood.overflow is not None
    assert flood.overflow.stat().st_size == MAX_OVERFLOW


HOSTILE = {
    "alternating streams": "import sys\nfor i in range(600): print('o' * 30_000, file=(sys.stdout, sys.stderr)[i % 2])",
    "lines": "print('\\n' * 3_000_000)",
    "line ends of other kinds": "print('\\r\\x0b\\x85\\u2028' * 500_000)",
    "control characters": "print('\\x01\\x00' * 500_000)",
    "wide characters": "print('🦊é' * 500_000)",
    "displays": "for i in range(700): display({'text/plain': 'd' * 40_000}, raw=True)",
    "one display, updated": (
        "handle = display(0, display_id=True)\n"
        "for i in range(30): handle.update({'text/plain': 'u' * (i + 1) * 50_000}, raw=True)"
    ),
    "many displays, updated at once": (
        "for i in range(400): display(i, display_id='same')\n"
        "for i in range(5): display({'text/plain': 's' * 90_000}, raw=True, update=True, display_id='same')"
    ),
    "nested lists": (
        "deep = ['x'] * 2000\nfor i in range(90): deep = [deep]\n"
        "for i in range(50): display({'application/json': deep}, raw=True)"
    ),
    "metadata": "for i in range(50): display(i, metadata={'m': 'm' * 1_000_000})",
    "names of kinds": "for i in range(50): display({'k' * 1_000_000 + str(i): 'x'}, raw=True)",
    "small ones": "for i in range(700): display({'text/plain': 's' * 1800}, raw=True)",
    "a traceback": "raise ValueError('v' * 5_000_000)",
}


@pytest.mark.parametrize("code", HOSTILE.values(), ids=HOSTILE)
def test_the_notebook_is_bounded(start: Start, tmp_path: Path, code: str) -> None:
    """Whatever a cell puts out, the notebook on disk is no larger than a few times what is allowed."""
    result = start(max_output_bytes=LIMIT).run(code)
    assert result.overflow is not None
    assert result.overflow.stat().st_size <= MAX_OVERFLOW
    assert saved(tmp_path, result) < 4 * LIMIT


def test_all_of_it_in_one_cell(start: Start, tmp_path: Path) -> None:
    """Nor do different floods add up, in the cell itself or in an earlier one whose displays it updates."""
    own = start(max_output_bytes=LIMIT)
    late: list[CellResult] = []
    first = own.client.execute(
        "earlier = [display(i, display_id=True) for i in range(400)]",
        Cancellation(),
        lambda outputs: late.append(CellResult("", "ok", tuple(outputs))),
    )
    assert first.status == "ok"
    calm = [part for name, part in HOSTILE.items() if name != "a traceback"]
    assert saved(tmp_path, own.run("\n".join(calm))) < 4 * LIMIT
    own.run("for handle in earlier: handle.update({'text/plain': 'u' * 60_000}, raw=True)")
    assert any("u" * 60_000 in str(output) for output in late[-1].outputs)
    assert saved(tmp_path, late[-1]) < 4 * LIMIT


def test_head_and_tail_of_two_streams(start: Start) -> None:
    """The first and the last of what was printed are kept, whichever stream they came on."""
    result = start(max_output_bytes=LIMIT).run(
        "import sys\nfor i in range(200):\n"
        "    print('out', i, 'x' * 1000, flush=True)\n    print('err', i, 'x' * 1000, file=sys.stderr, flush=True)"
    )
    assert text(result.outputs[:1]).startswith("out 0 x")
    assert text(result.outputs[-1:], "stderr").startswith("err 199 x")
    assert "characters left out here" in text(result.outputs) + text(result.outputs, "stderr")
    assert result.overflow is not None
    assert all(f"err {number} x" in result.overflow.read_text() for number in range(50, 200))


def test_the_file_has_everything_in_order(start: Start) -> None:
    """What was kept before the limit was passed, what is left out, and what is kept afterwards; notes say where."""
    own = start(max_output_bytes=LIMIT)
    result = own.run(
        "import sys\nprint('first')\ndisplay('second')\nprint('third\\n' + '3' * 150_000)\n"
        "display({'text/plain': '4' * 150_000, 'text/html': '<b>four</b>'}, raw=True)\n"
        "print('fifth', file=sys.stderr)\n1 / 0"
    )
    assert result.overflow is not None
    written = result.overflow.read_text()
    marks = ("first\n", "'second'\n", "third\n333", "33\n444", "<b>four</b>", "fifth\n", "ZeroDivisionError")
    places = [written.index(mark) for mark in marks]
    assert places == sorted(places)
    assert len(written) < 2 * 150_000 + 2000
    assert "characters left out here: see output(1), or the file 1.txt" in text(result.outputs)
    assert "(text/plain, text/html) left out here: see output(1), or the file 1.txt" in str(result.outputs)


def test_a_file_that_cannot_be_written(start: Start) -> None:
    """Head and tail are kept all the same, and the notes say why there is no more."""
    own = start(max_output_bytes=LIMIT)
    (own.folder / "outputs").write_text("in the way")
    result = own.run("print('first\\n' + 'x' * 150_000)\ndisplay('y' * 150_000)\nprint('x' * 150_000 + '\\nlast')")
    assert (result.status, result.events, result.overflow) == ("ok", (), None)
    kept = text(result.outputs)
    assert kept.startswith("first\n")
    assert kept.endswith("\nlast\n")
    why = "the full text could not be written to 1.txt: File exists"
    assert f"characters left out here: {why}" in kept
    assert f"(text/plain) left out here: {why}]" in str(result.outputs)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_full_disk(start: Start) -> None:
    """No room for the full text costs neither head nor tail."""
    own = start(max_output_bytes=LIMIT)
    (own.folder / "outputs").mkdir()
    (own.folder / "outputs" / "1.txt").symlink_to("/dev/full")
    result = own.run("print('first' + 'x' * 150_000 + 'last')")
    assert "could not be written to 1.txt: No space left on device" in text(result.outputs)
    assert text(result.outputs).endswith("last\n")


def test_an_exception_after_too_many_displays(bench: Bench) -> None:
    """The traceback is kept although the displays before it are too many."""
    result = bench.run(f"for i in range({MAX_OUTPUTS * 2}): display(i)\n1 / 0")
    assert [output["output_type"] for output in result.outputs[-2:]] == ["display_data", "error"]
    assert "left out here" in result.outputs[-2]["data"]["text/plain"]
    assert len(result.outputs) == MAX_OUTPUTS + 2


def test_a_display_that_shrinks_gives_back_its_room(start: Start) -> None:
    """Only what stands there counts: a picture that is replaced again and again stays in the notebook."""
    result = start(max_output_bytes=LIMIT).run(
        "handle = display({'text/html': 'a'}, raw=True, display_id=True)\n"
        "for i in range(50): handle.update({'text/html': str(i % 10) * 90_000}, raw=True)"
    )
    assert result.outputs[0]["data"]["text/html"] == "9" * 90_000
    assert result.overflow is None


def test_the_state_of_widgets_is_not_kept(bench: Bench) -> None:
    """Messages of widgets leave nothing in the outputs, and do no harm."""
    result = bench.run(
        "from comm import create_comm\n"
        "c = create_comm('jupyter.widget', data={'state': {'_model_name': 'OutputModel',"
        " '_model_module': '@jupyter-widgets/output', 'outputs': [], 'msg_id': ''}, 'buffer_paths': []})\n"
        "for i in range(100): c.send({'method': 'update', 'state': {'x': 'x' * 100_000}})\n"
        "print('fine')"
    )
    assert (result.status, result.events) == ("ok", ())
    assert [output["output_type"] for output in result.outputs] == ["stream"]


def test_what_forked_processes_print(bench: Bench) -> None:
    """All of it is the cell's, in order: a process goes on only when it was heard."""
    code = (
        "import multiprocessing\nfork = multiprocessing.get_context('fork')\nfor _ in range(8):\n"
        "    child = fork.Process(target=print, args=(*range(50),), kwargs={'sep': '\\n'})\n"
        "    child.start(); child.join()"
    )
    assert text(bench.run(code).outputs) == "".join(f"{number}\n" for number in range(50)) * 8
