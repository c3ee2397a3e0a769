"""A cell holds its kernel's key and sockets: what it can forge with them, and what comes of that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.conftest import Start, text

FORGE = """
import time
from jupyter_client.session import Session
kernel = get_ipython().kernel
me = kernel.get_parent()["header"]

def shell(*frames):
    kernel.shell_stream.socket.send_multipart([*kernel._shell_parent_ident.get(), *frames])

def reply(content, session=kernel.session, parent=me):
    message = session.msg("execute_reply")
    shell(*session.serialize({**message, "content": content, "parent_header": parent}))

def iopub(kind, content, **more):
    message = kernel.session.msg(kind)
    message |= {"content": content, "parent_header": me, **more}
    kernel.iopub_socket.send_multipart(kernel.session.serialize(message, ident=b"x"))
"""
"""For cells: sends what no kernel sends, on its real sockets."""

NO_REPLIES = [
    "shell(b'garbage')",
    "shell(b'<IDS|MSG>')",
    "shell(b'<IDS|MSG>', b'no signature', b'[]')",
    "reply({'status': 'ok'}, session=Session(key=b'wrong'))",
    "reply({'status': 'ok'}, parent={'msg_id': [1]})",
    "reply({'status': 'ok'}, parent={'msg_id': 'another'})",
    "shell(*kernel.session.serialize({**kernel.session.msg('execute_reply'), 'header': {}}))",
    "shell(b'<IDS|MSG>', kernel.session.sign([b'[' * 50_000] * 4), *[b'[' * 50_000] * 4)",
]

NO_OUTPUTS = [
    "iopub('stream', {'name': 'stdout', 'text': 'x'}, parent_header={'msg_id': [1]})",
    "iopub('stream', {'name': 'stdout', 'text': 'x'}, parent_header={'msg_id': {}})",
    "iopub('stream', {'name': 'stdout', 'text': 'x'}, header={})",
    "iopub('stream', {'name': 'stdout', 'text': 'x'}, header={'msg_id': 'x', 'msg_type': []})",
    "kernel.iopub_socket.send_multipart([b'x', b'garbage'])",
    "kernel.iopub_socket.send_multipart([b'x', b'<IDS|MSG>', kernel.session.sign([b'[]'] * 4), *[b'[]'] * 4])",
]

MALFORMED = [
    "iopub('stream', {})",
    "iopub('stream', {'name': 'stdout', 'text': ['a', 1]})",
    "iopub('stream', {'name': ['stdout'], 'text': 'a'})",
    "iopub('status', {})",
    "iopub('error', {'ename': 1, 'evalue': None, 'traceback': 3})",
    "iopub('display_data', {'data': [], 'metadata': {}})",
    "iopub('display_data', {'data': {'text/plain': 5}, 'metadata': {}})",
    "iopub('display_data', {'data': {}, 'metadata': 7})",
    "iopub('update_display_data', {'data': {}, 'transient': [1]})",
]


@pytest.mark.parametrize("forged", NO_REPLIES)
def test_what_is_no_reply_is_passed_over(start: Start, forged: str) -> None:
    """The cell's own reply is waited for all the same."""
    own = start()
    result = own.run(f"{FORGE}\n{forged}\ntime.sleep(0.1)\nprint('after')")
    assert (result.status, result.events) == ("ok", ())
    assert text(result.outputs) == "after\n"
    assert own.run("'next'").status == "ok"


@pytest.mark.parametrize("content", ["{}", "{'status': 'fine'}", "{'status': {}}"])
def test_a_reply_without_content_ends_the_kernel(start: Start, content: str) -> None:
    """Nobody can tell what such a kernel is still doing: it is killed, and the model is told."""
    own = start()
    result = own.run(f"{FORGE}\nprint('before', flush=True)\ntime.sleep(0.1)\nreply({content})\ntime.sleep(60)")
    assert result.status == "died"
    assert "something that is no reply" in str(result.error)
    assert "variables and imports are gone" in " ".join(result.events)
    assert text(result.outputs) == "before\n"
    assert own.run("'next'").status == "ok"


@pytest.mark.parametrize("forged", NO_OUTPUTS)
def test_what_is_no_output_is_passed_over(start: Start, forged: str) -> None:
    """The reader goes on to read, in this cell and the next."""
    own = start()
    result = own.run(f"{FORGE}\n{forged}\nprint('after')")
    assert (result.status, result.events) == ("ok", ())
    assert text(result.outputs).endswith("after\n")
    assert text(own.run("print('next')").outputs) == "next\n"


@pytest.mark.parametrize("forged", MALFORMED)
def test_a_malformed_output_is_left_out(start: Start, forged: str) -> None:
    """What was well formed stays, and the model is told."""
    own = start()
    result = own.run(f"{FORGE}\nprint('before')\n{forged}\nprint('after')")
    assert result.status == "ok"
    assert result.events == ("A malformed output of this cell was left out.",)
    assert text(result.outputs) == "before\nafter\n"


def test_a_thousand_malformed_outputs_are_told_once(start: Start) -> None:
    """The model reads what happened, not how often."""
    result = start().run(f"{FORGE}\nfor i in range(1000): iopub('stream', {{}})\nprint('after')")
    assert result.events == ("A malformed output of this cell was left out.",)


@pytest.mark.parametrize("count", ["-3", "True", "'7'", "1.5", "[]", "None"])
def test_a_forged_number(start: Start, count: str) -> None:
    """What is no whole number from 0 up is no number of a cell, nor of its result."""
    result = start().run(
        f"{FORGE}\niopub('execute_input', {{'execution_count': {count}, 'code': ''}})\n"
        f"iopub('execute_result', {{'execution_count': {count}, 'data': {{'text/plain': 'x'}}, 'metadata': {{}}}})"
    )
    assert (result.status, result.execution_count) == ("ok", None)
    assert result.outputs[0]["execution_count"] is None


FORGER = f"""
import sys
from contextlib import ExitStack
from pathlib import Path
import rlm_nb.controller
from rlm_nb.kernel.launch import Launcher
from tests.kernel.conftest import FREE, Bench

with ExitStack() as stack:
    bench = Bench(stack, stack.enter_context(Launcher(isolation=FREE)), Path(sys.argv[1]))
    for forged in {NO_REPLIES + NO_OUTPUTS + MALFORMED!r}:
        bench.run({FORGE!r} + forged + "\\ntime.sleep(0.05)")
    print("done")
"""


def test_nothing_of_it_is_shown_to_the_user(tmp_path: Path, clean_environment: Path) -> None:
    """What cells forge leaves no trace on the terminal of whoever runs them."""
    done = subprocess.run(
        [sys.executable, "-c", FORGER, str(tmp_path)], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
