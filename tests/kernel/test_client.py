"""A real kernel, and what cells do to it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import KernelDiedError, KernelStartError
from rlm_nb.kernel.launch import Launcher
from tests.kernel.conftest import Bench, Start, text

T = TypeVar("T")


@pytest.fixture(scope="session")
def launcher(confined: Launcher) -> Launcher:
    """What a confined kernel survives, one that is not does as well; tests of limits and endings show that."""
    return confined


def test_variables_stay(bench: Bench) -> None:
    """What a cell sets is there for the next one, also when the cell raised afterwards."""
    failed = bench.run("x = 41\nraise ValueError('no')")
    assert failed.status == "error"
    assert failed.error == "ValueError: no"
    result = bench.run("x + 1")
    assert result.status == "ok"
    assert result.outputs[0]["data"]["text/plain"] == "42"
    assert result.execution_count == (failed.execution_count or 0) + 1
    assert result.started <= result.ended


def test_shell_bash_and_await(bench: Bench) -> None:
    """`!shell`, `%%bash`, `%pip` and top-level `await` work."""
    assert "one" in text(bench.run("!echo one").outputs)
    assert text(bench.run("%%bash\necho two").outputs) == "two\n"
    assert text(bench.run("%pip --version").outputs).startswith("pip ")
    assert text(bench.run("import asyncio\nawait asyncio.sleep(0)\nprint('three')").outputs) == "three\n"


def test_rich_outputs_are_kept(bench: Bench) -> None:
    """Pictures, HTML and display updates arrive as nbformat stores them."""
    code = (
        "from IPython.display import HTML, Image, display\n"
        "import base64\n"
        "display(HTML('<b>bold</b>'))\n"
        "display(Image(base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg==')))\n"
        "handle = display('first', display_id=True)\n"
        "handle.update('second')"
    )
    outputs = bench.run(code).outputs
    assert outputs[0]["data"]["text/html"] == "<b>bold</b>"
    assert "image/png" in outputs[1]["data"]
    assert [output["data"]["text/plain"] for output in outputs[2:]] == ["'second'"]


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        (r"print('\ud800 \x00')", r"\ud800 \u0000"),
        (r"print('\udcff')", r"\udcff"),
        (r"'\ud800'", r"'\ud800'"),
        (r"raise ValueError('\ud800\x00')", r"ValueError: \ud800\u0000"),
        ("print('\ud800', len('\ud800'))", r"\ud800"),
    ],
)
def test_text_that_utf8_cannot_hold(bench: Bench, code: str, shown: str) -> None:
    """Lone surrogates and NULs arrive as visible text, in a notebook that is valid."""
    result = bench.run(code)
    assert result.status == ("error" if "raise" in code else "ok")
    notebook = new_notebook(cells=[new_code_cell(outputs=[nbformat.from_dict(o) for o in result.outputs])])
    nbformat.validate(notebook)
    assert json.dumps(shown)[1:-1] in nbformat.writes(notebook).encode("utf-8").decode()
    assert len(result.outputs) == 1


def test_a_flood_of_small_messages(bench: Bench) -> None:
    """None is lost, however fast they come: the last state of a display is what the cell left."""
    code = "h = display(0, display_id=True)\nfor i in range(5_001): h.update(i)"
    result = bench.run(code)
    assert [output["data"]["text/plain"] for output in result.outputs] == ["5000"]


def test_bytes_that_are_no_text(bench: Bench) -> None:
    """What programs print arrives as text, whatever it was; what goes past Python's streams goes to the log."""
    for code in (
        r"!printf 'a\377\n'",
        r"import os; os.write(1, b'\xff\xfe'); print('a')",
        r"print(b'a\xff'.decode('latin-1'))",
    ):
        result = bench.run(code)
        assert result.status == "ok", result
        assert "a" in text(result.outputs)
        cell = new_code_cell(outputs=[nbformat.from_dict(output) for output in result.outputs])
        nbformat.validate(new_notebook(cells=[cell]))


def test_input_fails_at_once(bench: Bench) -> None:
    """There is no keyboard."""
    result = bench.run("input('name? ')")
    assert result.status == "error"
    assert "StdinNotImplementedError" in str(result.error)


def test_rebinding_breaks_nothing(bench: Bench) -> None:
    """A cell that rebinds our names, empties the namespace or closes stdout harms itself only."""
    for code in (
        "FINAL = rlm_query = get_ipython = 3\nprint = 5",
        "import builtins; builtins.print = None",
        "globals().clear()",
        "import sys; sys.stdout.close(); sys.stderr.close()",
        "import sys; sys.stdout = None",
        "import os, tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)",
        "quit()",
        "exit()",
        "import sys; sys.exit(1)",
    ):
        bench.run(code)
        result = bench.run("print('alive', WORKDIR if 'WORKDIR' in globals() else '')\nFINAL('y')")
        assert result.status == "ok", (code, result)
        assert "alive" in text(result.outputs), code
        assert result.final is not None
        assert result.final.value == "y"
    assert bench.run("import os; os.getcwd()").status == "ok"


def test_final(bench: Bench) -> None:
    """What FINAL is given arrives with its type, falsy answers included; the last call of a cell counts."""
    for code, value in (
        ("FINAL({'a': [1, None]})", {"a": [1, None]}),
        ("FINAL(0)", 0),
        ("FINAL('')", ""),
        ("FINAL([])", []),
        ("FINAL(None)", None),
        ("FINAL(1); FINAL(2)", 2),
        ("report = (1, 2); FINAL_VAR('report')", [1, 2]),
        ("from pathlib import Path as P; FINAL({'p': P('a/b')})", {"p": "a/b"}),
    ):
        final = bench.run(code).final
        assert final is not None, code
        assert final.value == value
    assert bench.run("1").final is None


def test_final_of_what_json_cannot_hold(bench: Bench) -> None:
    """An object becomes its text, and 10 MB arrive whole."""
    final = bench.run("class Odd:\n    def __repr__(self): return 'odd one'\nFINAL(Odd())").final
    assert final is not None
    assert (final.value, final.text, final.type) == ("odd one", "odd one", "Odd")
    assert bench.run("FINAL(float('nan'))").final.text == "nan"  # type: ignore[union-attr]
    assert len(bench.run("FINAL('é' * 10_000_000)").final.text) == 10_000_000  # type: ignore[union-attr]
    too_large = bench.run("FINAL('x' * 100_000_000)")
    assert too_large.status == "error"
    assert "too many for the bridge" in str(too_large.error)


def test_final_of_a_number_of_thousands_of_digits(bench: Bench) -> None:
    """Python refuses to write it, and the model reads so in one sentence; where it is allowed, it arrives as text."""
    refused = bench.run("FINAL([10**6000])")
    assert refused.final is None
    assert str(refused.error).startswith(
        "ValueError: the answer cannot be written as text: Exceeds the limit (4300 digits)"
    )
    assert len(str(refused.outputs)) < 5000
    allowed = bench.run("import sys; sys.set_int_max_str_digits(0); FINAL([10**6000])").final
    assert allowed is not None
    assert allowed.text == f"[1{'0' * 6000}]"
    assert bench.run("sys.set_int_max_str_digits(4300); FINAL(10**4000)").final.value == 10**4000  # type: ignore[union-attr]


def test_an_exception_after_final(bench: Bench) -> None:
    """A cell that raises after FINAL does not finish the agent."""
    result = bench.run("FINAL('early')\n1 / 0")
    assert result.status == "error"
    assert result.final is None
    assert [call.name for call in result.calls] == ["FINAL"]


def test_a_cell_that_holds_all_connections(bench: Bench) -> None:
    """FINAL gets through although the cell has taken every connection of its bridge and keeps them."""
    began = time.monotonic()
    result = bench.run("held = [FINAL.__self__._client._connect() for _ in range(64)]\nFINAL('through')")
    assert time.monotonic() - began < 30
    assert result.final is not None
    assert bench.run("for line in held: line.close()").status == "ok"


def test_final_in_a_thread(bench: Bench) -> None:
    """A thread may end the agent while its own cell runs; in a later one it is told that it is too late."""
    in_time = bench.run("import threading\nt = threading.Thread(target=FINAL, args=(1,))\nt.start(); t.join()")
    assert in_time.final is not None
    bench.run(
        "go, told = threading.Event(), []\n"
        "def late():\n    go.wait()\n    try: FINAL('late')\n    except Exception as error: told.append(repr(error))\n"
        "t = threading.Thread(target=late); t.start()"
    )
    later = bench.run("go.set(); t.join(); print(told)")
    assert (later.status, later.final) == ("ok", None)
    assert "BridgeError('FINAL was called by a thread of an earlier cell" in text(later.outputs)
    assert [(call.name, call.error is None) for call in later.calls] == [("FINAL", False)]


def test_final_var_of_nothing(bench: Bench) -> None:
    """A name that does not exist is the model's to repair."""
    assert "there is no variable 'nowhere'" in str(bench.run("FINAL_VAR('nowhere')").error)
    assert "takes the name" in str(bench.run("FINAL_VAR(3)").error)


def test_calls_are_recorded(bench: Bench) -> None:
    """Each call of a cell is kept with what was asked and what was given."""
    result = bench.run("r = rlm_query('0.01')\nprint(r, r.status, r.ok, r.answer)\nbudget()")
    assert text(result.outputs) == "waited 0.01 completed True waited 0.01\n"
    assert [call.name for call in result.calls] == ["rlm_query", "budget"]
    assert result.calls[0].arguments["tasks"] == ["0.01"]
    assert result.calls[0].answer[0]["text"] == "waited 0.01"
    assert result.waited >= 0.01


def test_a_cell_that_asks_without_end(bench: Bench) -> None:
    """The record of a cell's calls is bounded in number and size, and says so."""
    result = bench.run("for _ in range(2500): budget()")
    assert len(result.calls) == 2000
    assert "not all of it is recorded" in " ".join(result.events)
    large = bench.run("for _ in range(4): llm_query('x' * 5_000_000)")
    assert sum(len(str(call.arguments)) for call in large.calls) < 16_000_000
    assert "not all of it is recorded" in " ".join(large.events)


def test_queries_of_the_wrong_kind(bench: Bench) -> None:
    """A string where a list belongs, an empty task or a number: the model reads what to do instead."""
    assert "takes a list of tasks" in str(bench.run("rlm_query_batched('one task')").error)
    assert "is empty" in str(bench.run("rlm_query('  ')").error)
    assert "must be a string" in str(bench.run("llm_query_batched([3])").error)
    assert bench.run("rlm_query_batched([])").outputs[0]["data"]["text/plain"] == "[]"


def test_unknown_requests_are_refused(bench: Bench) -> None:
    """What the bridge carries is not what decides: a frame that is no call gets an error and nothing else."""
    result = bench.run("client = FINAL.__self__._client\nclient.call('FINAL', text=3, value={'x': 1}, type=9)")
    assert result.final is not None
    assert result.final.value == {"x": 1}


def test_output_of_a_thread_after_the_reply(bench: Bench) -> None:
    """What a thread prints late belongs to its own cell, and is told to whoever listens."""
    seen: list[str] = []
    arrived = threading.Event()

    def listen(outputs: object) -> None:
        seen.append(text(list(outputs)))  # type: ignore[call-overload]
        if "late" in seen[-1]:
            arrived.set()

    code = (
        "import threading\ngo = threading.Event()\n"
        "t = threading.Thread(target=lambda: (go.wait(), print('late')))\nt.start()"
    )
    bench.client.execute(code, Cancellation(), listen)
    assert "late" not in text(bench.run("go.set(); t.join(); print('own')").outputs)
    assert arrived.wait(5)


def test_a_display_is_updated_from_a_later_cell(bench: Bench) -> None:
    """A handle still works some cells later; after many cells it is forgotten, and nothing breaks."""
    seen: list[str] = []
    bench.client.execute(
        "from IPython.display import display\nhandle = display('one', display_id=True)",
        Cancellation(),
        lambda outputs: seen.append(str(outputs)),
    )
    bench.run("handle.update('two')")
    assert "two" in seen[-1]
    for number in range(40):
        bench.run(f"{number}")
    assert bench.run("handle.update('three'); print('fine')").status == "ok"


def test_progress_bar_and_floods(bench: Bench) -> None:
    """10,000 steps of a progress bar are one output; a megabyte too much is kept beside the notebook."""
    bar = bench.run("for i in range(10_000): print(f'\\r{i}', end='')\nprint()")
    assert len(bar.outputs) == 1
    assert text(bar.outputs).endswith("9999\n")
    flood = bench.run("for i in range(50): print('x' * 1_000_000)\nprint('the end')")
    assert len(text(flood.outputs)) < 1_100_000
    assert text(flood.outputs).endswith("the end\n")
    assert "characters left out here" in text(flood.outputs)
    assert flood.overflow is not None
    assert flood.overflow.stat().st_size == 50_000_058
    many = bench.run("for i in range(2000): display(i)")
    assert len(many.outputs) <= 502
    assert many.overflow is not None


def test_a_huge_message(start: Start) -> None:
    """One print of 100 MB is not taken in whole; the cell ends, and the next one is not hurt."""
    own = start()
    result = own.run("print('x' * 100_000_000)")
    assert result.status == "ok"
    assert "too large to take" in "".join(result.events)
    assert text(own.run("print('again')").outputs) == "again\n"


def test_endless_loop(start: Start) -> None:
    """A cell that runs too long is interrupted, and its kernel lives on."""
    own = start(cell_timeout=1)
    own.run("x = 7")
    result = own.run("while True: pass")
    assert result.status == "timeout"
    assert "longer than 1 seconds" in str(result.error)
    assert result.events == ()
    assert own.run("x").outputs[0]["data"]["text/plain"] == "7"


def test_a_silent_cell(start: Start) -> None:
    """A cell that neither prints nor calls anything for too long is interrupted, and the model reads why."""
    own = start(inactivity_timeout=1)
    began = time.monotonic()
    result = own.run("import time\nprint('go')\ntime.sleep(60)")
    assert time.monotonic() - began < 10
    assert result.status == "timeout"
    assert result.error == "The cell neither printed nor called anything for 1 seconds and was interrupted."
    assert (text(result.outputs), result.events) == ("go\n", ())
    deaf = own.run("while True:\n    try: time.sleep(100)\n    except BaseException: pass")
    assert "neither printed nor called" in " ".join(deaf.events)
    assert "did not heed the interrupt" in " ".join(deaf.events)


@pytest.mark.parametrize(
    "sign_of_life", ["print('here', flush=True)", "budget()", "display(1)", "handle.update(i)", "comm.send(i)"]
)
def test_a_cell_that_gives_signs_of_life(start: Start, sign_of_life: str) -> None:
    """Output of any kind, updates and widgets, and calls: each begins the silence anew."""
    own = start(inactivity_timeout=1)
    code = "import time\nfrom comm import create_comm\ncomm, handle = create_comm('x'), display(0, display_id=True)\n"
    assert own.run(f"{code}for i in range(6): time.sleep(0.4); {sign_of_life}").status == "ok"


def test_waiting_is_no_silence(start: Start) -> None:
    """Waiting for sub-agents does not count as silence; what comes after it does."""
    own = start(inactivity_timeout=1)
    assert own.run("rlm_query('2.5')").status == "ok"
    result = own.run("import time; rlm_query('1.5'); time.sleep(60)")
    assert result.status == "timeout"
    assert result.waited >= 1.5


def test_a_cell_that_swallows_interrupts(start: Start) -> None:
    """It loses its kernel, and the model is told what is gone."""
    own = start(cell_timeout=1, interrupt_grace=0.5)
    began = time.monotonic()
    result = own.run(
        "import time\nprint('go', flush=True)\nwhile True:\n    try: time.sleep(100)\n    except BaseException: pass"
    )
    assert time.monotonic() - began < 4
    assert result.status == "timeout"
    assert "did not heed the interrupt" in " ".join(result.events)
    assert "variables and imports are gone" in " ".join(result.events)
    assert text(result.outputs) == "go\n"
    assert own.run("'fresh'").events == ("A new kernel was started for this cell.",)


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os; os._exit(3)", "exit code 3"),
        ("import ctypes; ctypes.string_at(0)", "signal SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal SIGKILL"),
    ],
)
def test_death_while_busy(start: Start, code: str, how: str) -> None:
    """Death is noticed at once, its cause named, and what the dying cell had put out is kept."""
    own = start()
    began = time.monotonic()
    # ZeroMQ sends from a thread of its own, which dies with the process: it gets a moment to send.
    result = own.run(f"import time; print('dying', flush=True); time.sleep(0.1)\n{code}")
    assert time.monotonic() - began < 2
    assert result.status == "died"
    assert how in str(result.error)
    assert text(result.outputs) == "dying\n"


def test_death_while_idle(start: Start) -> None:
    """A kernel that ends between two cells is replaced, and the next cell's result says so."""
    own = start()
    own.run("import os, threading\nthreading.Timer(0.2, lambda: os._exit(4)).start()")
    result = _until(lambda: own.run("1 + 1"), lambda r: bool(r.events))
    assert "ended" in result.events[0]
    assert "exit code 4" in " ".join(result.events)


def test_a_kernel_that_does_not_start_in_time(start: Start) -> None:
    """An error that says so, and nothing is left of it."""
    with pytest.raises(KernelStartError, match=r"not ready after 0\.001 seconds"):
        start(start_timeout=0.001)


def test_restarts_are_bounded(start: Start) -> None:
    """After `max_restarts` there is no kernel any more, and that is an error."""
    own = start(max_restarts=1)
    own.run("import os; os._exit(1)")
    own.run("import os; os._exit(1)")
    with pytest.raises(KernelDiedError, match="ended 2 times"):
        own.run("1")


def test_cancelling_interrupts_the_cell_and_what_it_waits_for(start: Start) -> None:
    """Who cancels a cell cancels the sub-agents that it waits for."""
    own = start()
    cancel = Cancellation()
    timer = threading.Timer(0.5, cancel.cancel, ["somebody pressed stop"])
    timer.start()
    began = time.monotonic()
    result = own.run("rlm_query_batched(['30', '30'])", cancel)
    timer.join()
    assert time.monotonic() - began < 3
    assert result.status == "interrupted"
    assert "somebody pressed stop" in str(result.error)
    _until(lambda: own.cancelled, bool)
    assert "no longer waits" in own.cancelled[0]


def test_the_clock_stands_still_while_waiting(start: Start) -> None:
    """Waiting for sub-agents does not count towards the time limit of a cell."""
    own = start(cell_timeout=1)
    result = own.run("rlm_query('1.5')")
    assert result.status == "ok"
    assert result.waited >= 1.5


def test_processes_of_a_cell_end_with_the_kernel(start: Start) -> None:
    """Children of a cell are ended with their kernel, those in a session of their own included."""
    own = start()
    own.run("import subprocess\np = subprocess.Popen(['sleep', '300'], start_new_session=True)")
    (child,) = psutil.Process(own.client._session.process.pid).children()  # type: ignore[union-attr]
    own.client.__exit__(None, None, None)
    _until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, bool)


def test_a_repository_full_of_module_names(start: Start) -> None:
    """The worktree's own `types.py` does not break the kernel; its packages can be imported."""
    own = start()
    for name in ("types.py", "json.py", "socket.py"):
        (own.workdir / name).write_text("raise SystemExit(9)")
    (own.workdir / "ours.py").write_text("value = 5")
    own.run("import os; os._exit(0)")
    assert own.run("import ours, json; ours.value, json.dumps(1)").outputs[0]["data"]["text/plain"] == "(5, '1')"


def test_the_environment_holds_no_secret(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key in the controller's environment is in none of the kernel's."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "planted-key-0123456789")
    monkeypatch.setenv("SOME_TOKEN", "planted-token")
    own = start()
    shown = text(own.run("import os\nprint(dict(os.environ))\nprint(open('/proc/self/environ').read())").outputs)
    assert "planted" not in shown
    assert str(own.folder) in shown  # HOME and TMPDIR are the agent's own


def _until(look: Callable[[], T], good: Callable[[T], bool], seconds: float = 10.0) -> T:
    end = time.monotonic() + seconds
    while not good(found := look()):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found
