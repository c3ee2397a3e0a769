"""People who are attached to an agent's kernel, with clients of Jupyter's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
import zmq
from jupyter_client import BlockingKernelClient

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import KernelError
from rlm_nb.records import BY_A_PERSON, CellResult
from tests.kernel.conftest import Bench, Start, text

PATIENCE = 30.0


@contextmanager
def person(file: Path) -> Iterator[BlockingKernelClient]:
    """A client that is ready."""
    client = BlockingKernelClient()
    client.load_connection_file(str(file))
    client.start_channels()
    try:
        client.wait_for_ready(PATIENCE)
        yield client
    finally:
        client.stop_channels()


def ran(client: BlockingKernelClient, identity: str) -> tuple[dict[str, Any], str]:
    """What a cell was answered, and what it has put out, up to its `idle`."""
    reply = {}
    while reply.get("parent_header", {}).get("msg_id") != identity:
        reply = client.get_shell_msg(timeout=PATIENCE)
    said = []
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["parent_header"].get("msg_id") != identity:
            continue
        content = message["content"]
        if content.get("execution_state") == "idle":
            return reply["content"], "".join(said)
        said.append(content.get("text") or content.get("data", {}).get("text/plain") or content.get("evalue") or "")


def run(client: BlockingKernelClient, code: str, **options: Any) -> tuple[dict[str, Any], str]:
    return ran(client, client.execute(code, **options))


@pytest.fixture(scope="module")
def attended(bench: Bench) -> Bench:
    """One with the sockets for people, which stay as long as it does."""
    bench.client.attach()
    return bench


class Agent:
    """A cell of the agent's, in a thread of its own."""

    def __init__(self, bench: Bench, code: str) -> None:
        self.result: CellResult | None = None
        self._thread = threading.Thread(target=self._run, args=[bench, code])
        self._thread.start()
        while bench.client._running is None and self._thread.is_alive():
            time.sleep(0.01)

    def _run(self, bench: Bench, code: str) -> None:
        self.result = bench.run(code)

    def end(self) -> CellResult:
        self._thread.join(PATIENCE)
        assert self.result is not None
        return self.result


def test_what_a_person_runs_is_in_the_agents_kernel(attended: Bench) -> None:
    """Variables are the same, outputs go to him and to the record, and what the agent prints is seen as well."""
    attended.run("x = 20")
    with person(attended.client.attach()) as client:
        reply, said = run(client, "print('hello'); x += 1; x", user_expressions={"twice": "2 * x"})
        assert (reply["status"], said) == ("ok", "hello\n21")
        assert reply["user_expressions"]["twice"]["data"]["text/plain"] == "42"
        [cell] = attended.attended
        assert (cell.human, cell.code, text(cell.outputs)) == (True, "print('hello'); x += 1; x", "hello\n")
        assert run(client, "  \n")[0]["status"] == "ok"
        assert run(client, "input()")[1].startswith("raw_input was called, but this frontend does not support input")
        assert len(attended.attended) == 2
        mine = attended.run("print('from the agent', x)")
        assert mine.number == cell.number + 2
        seen = ""
        while seen != "from the agent 21\n":
            message = client.get_iopub_msg(timeout=PATIENCE)
            seen += message["content"]["text"] if message["msg_type"] == "stream" else ""
        assert message["parent_header"]["session"] != client.session.session
        matches = client.complete("x.bit_l", reply=True, timeout=PATIENCE)["content"]["matches"]
        assert matches == ["bit_length"]
        assert client.inspect("x", reply=True, timeout=PATIENCE)["content"]["found"]
        client.is_complete("if x:")
        assert client.get_shell_msg(timeout=PATIENCE)["content"]["status"] == "incomplete"
        assert client.history(reply=True, timeout=PATIENCE)["content"]["status"] == "ok"
        known = client.kernel_info(reply=True, timeout=PATIENCE)["content"]
        assert (known["implementation"], known["supported_features"]) == ("rlm", [])


def test_no_terminal_is_commanded(attended: Bench) -> None:
    """Of what cells put out, and of what the kernel answers, colours are left, and no other escape sequence."""
    hostile = r"'\x1b]52;c;aGk=\x07a\x1b[31mred\x1b[0m\x1b[2Jb\x9b6n\x1bPq\x1b\\\x00c'"
    with person(attended.client.attach()) as client:
        reply, said = run(client, f"from IPython.display import Pretty\nprint({hostile})\nPretty({hostile})")
        assert (reply["status"], said.count("a\x1b[31mred\x1b[0mb6nc")) == ("ok", 2)
        assert said.count("\x1b") == 4
        reply, said = run(client, f"raise ValueError({hostile})")
        assert reply["evalue"] == "a\x1b[31mred\x1b[0mb6nc"


def test_they_take_turns(attended: Bench) -> None:
    """A person waits for the agent's cell, and the agent for a person's, while its clock stands still."""
    with person(attended.client.attach()) as client:
        agent = Agent(attended, "import time; time.sleep(0.5); order = ['agent']")
        assert client.kernel_info(reply=True, timeout=PATIENCE)["content"]["status"] == "ok"  # although it is busy
        client.is_complete("for x in y:")
        assert client.get_shell_msg(timeout=PATIENCE)["content"] == {"status": "incomplete", "indent": "    "}
        assert agent.result is None
        waits = client.execute("order.append('person'); time.sleep(0.7)")
        agent.end()
        again = Agent(attended, "order.append('agent'); print(order)")
        assert ran(client, waits)[0]["status"] == "ok"
        assert text(again.end().outputs) == "['agent', 'person', 'agent']\n"
        assert again.end().ended - again.end().started < 0.5


def test_a_person_interrupts(attended: Bench) -> None:
    """His own cell, and the agent's: which is told who did it, and keeps its kernel."""
    with person(attended.client.attach()) as client, person(attended.client.attach()) as other:
        attended.run("import time; kept = 1")
        identity = client.execute("print('begun', flush=True); time.sleep(60)")
        while client.get_iopub_msg(timeout=PATIENCE)["content"].get("text") != "begun\n":
            pass
        _interrupt(client)
        reply, _ = ran(client, identity)
        assert reply["ename"] == "KeyboardInterrupt"
        assert (attended.attended[-1].status, attended.attended[-1].error) == ("interrupted", BY_A_PERSON)
        agent = Agent(attended, "time.sleep(60)")
        queued = [client.execute("1 / 0"), client.execute("never = 1"), client.execute("kept")]
        time.sleep(0.2)
        others = other.execute("kept")
        time.sleep(0.2)
        _interrupt(client)
        assert (agent.end().status, agent.end().error, agent.end().may_go_on) == ("interrupted", BY_A_PERSON, False)
        assert [ran(client, one)[0]["status"] for one in queued] == ["error", "aborted", "aborted"]
        assert ran(other, others)[0]["status"] == "ok"  # who has nothing to do with it
        assert text(attended.run("print(kept, 'never' in globals())").outputs) == "1 False\n"


def _interrupt(client: BlockingKernelClient) -> None:
    client.control_channel.send(client.session.msg("interrupt_request"))
    assert client.get_control_msg(timeout=PATIENCE)["content"]["status"] == "ok"


def test_shutting_down_detaches(attended: Bench) -> None:
    """The kernel lives on; what is not for people is refused, and so is a forged message."""
    file = attended.client.attach()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    attended.run("alive = 'yes'")
    with person(file) as client:
        client.shutdown(reply=True, timeout=PATIENCE)
        assert run(client, "alive")[1] == "'yes'"
        client.control_channel.send(client.session.msg("execute_request", {"code": "alive = 'no'"}))
        assert client.get_control_msg(timeout=PATIENCE)["content"]["ename"] == "NotForPeople"
        odd = client.session.msg("execute_request", {"code": "alive = 'no'", "user_expressions": [1]})
        client.shell_channel.send(odd)
        assert ran(client, odd["msg_id"])[0]["ename"] == "NoCell"
        before = len(attended.attended)
        client.session.key = b"another"
        client.execute("alive = 'no'")
        with pytest.raises(Empty):
            client.get_shell_msg(timeout=0.3)
        assert len(attended.attended) == before
    assert text(attended.run("print(alive)").outputs) == "yes\n"


def test_what_a_person_asks_sub_agents_and_final(attended: Bench) -> None:
    """His cell may ask for sub-agents; the end of the agent is not his to call."""
    with person(attended.client.attach()) as client:
        assert "waited 0" in run(client, "print(rlm_query('0'))")[1]
        assert [call.name for call in attended.attended[-1].calls] == ["rlm_query"]
        reply, _ = run(client, "FINAL(1)")
        assert (reply["status"], "the agent's to call" in reply["evalue"]) == ("error", True)
        assert attended.attended[-1].final is None


def test_a_kernel_is_replaced_and_people_stay(start: Start) -> None:
    """Whoever ended it: the next cell runs in a new one, and what people did to it does not count."""
    bench = start(max_restarts=1)
    with person(bench.client.attach()) as client:
        for _ in range(3):
            reply, said = run(client, "import os; os._exit(3)")
            assert (reply["status"], "exit code 3" in said) == ("error", True)
        assert bench.attended[-1].status == "died"
        assert bench.run("import os; os._exit(4)").status == "died"
        assert client.kernel_info(reply=True, timeout=PATIENCE)["content"]["status"] == "ok"  # there is no kernel
        reply, said = run(client, "1 + 1")
        assert (reply["status"], said.startswith("2")) == ("ok", True)
        reply, said = run(client, "print('x' * 80_000_000)")
        assert reply["status"] == "ok"
        reply, said = run(client, "print('x' * 8_000_000)")
        assert "bytes is left out here" in said
        assert client.kernel_info(reply=True, timeout=PATIENCE)["content"]["status"] == "ok"


def test_the_end_of_the_agent_is_the_end_for_all(start: Start) -> None:
    """While a person's cell runs; people are told, and nothing is left."""
    bench = start()
    with person(file := bench.client.attach()) as client:
        client.execute("while True: pass")
        while bench.client._running is None:
            time.sleep(0.01)
        began = time.monotonic()
        bench.client.close()
        assert time.monotonic() - began < 3
        states = []
        with suppress(Empty):
            while True:
                states.append(client.get_iopub_msg(timeout=0.3)["content"].get("execution_state"))
        assert states[-1] == "dead"
        assert not file.parent.exists()
        with pytest.raises(KernelError, match="has ended"):
            bench.client.attach()


def test_a_stopped_agent_does_not_wait_for_a_person(start: Start) -> None:
    """What he runs is interrupted."""
    bench = start(interrupt_grace=1)
    with person(bench.client.attach()) as client:
        identity = client.execute("import time; time.sleep(60)")
        while bench.client._running is None:
            time.sleep(0.01)
        result = bench.run("1", Cancellation(time.monotonic() + 0.3))
        assert result.status in ("timeout", "ok")
        assert ran(client, identity)[0]["ename"] == "KeyboardInterrupt"
        assert "the agent is to be stopped" in str(bench.attended[-1].error)


CONTROLLER = r"""
import sys, time
from pathlib import Path
from rlm_nb.cancellation import Cancellation
from rlm_nb.config import IsolationSettings, KernelSettings
from rlm_nb.kernel.client import KernelClient
from rlm_nb.kernel.launch import Launcher
folder = Path(sys.argv[1])
(folder / "work").mkdir()
with Launcher(isolation=IsolationSettings(level="none")) as launcher:
    with KernelClient(launcher, folder, folder / "work", lambda number: folder / "o", KernelSettings(),
                      lambda: {"subagents": False, "context": None}, print, Cancellation()) as client:
        print(client.attach(), flush=True)
        time.sleep(600)
"""


def test_a_killed_controller_leaves_nothing_to_connect_to(tmp_path: Path) -> None:
    """And a folder that the next run knows to be abandoned."""
    command = [sys.executable, "-c", CONTROLLER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as controller:
        assert controller.stdout is not None
        file = Path(controller.stdout.readline().strip())
        with person(file) as client:
            controller.kill()
            controller.wait()
            with pytest.raises(TimeoutError):
                client.kernel_info(reply=True, timeout=0.5)
    from rlm_nb.workspace.scratch import abandoned, remove_abandoned

    assert json.loads(file.read_text())["transport"] == "ipc"
    assert file.parent in abandoned()
    remove_abandoned()
    assert not file.parent.exists()


RAW = """
import json
def raw(kind, content, parent, metadata):
    kernel = get_ipython().kernel
    header = {**kernel.session.msg(kind)["header"], "date": "2026-01-01T00:00:00Z"}
    body = [json.dumps(part).encode() for part in (header, parent, metadata, content)]
    parts = [b"stream", b"<IDS|MSG>", kernel.session.sign(body), *body]
    kernel.iopub_thread.schedule(lambda: kernel.iopub_thread._really_send(parts))
"""


def test_nothing_that_is_said_is_the_last(start: Start) -> None:
    """Neither what a cell sends as the kernel's output, nor a heartbeat in two parts, nor what cannot be sent on."""
    bench = start()
    file = bench.client.attach()
    said = {"name": "stdout", "text": "a"}
    odd = [({"header": 5, "msg_id": "x"}, {}), ({"msg_id": "x"}, [1]), ({"msg_id": "x"}, 5)]
    bench.run("\n".join([RAW, *(f"raw('stream', {said}, {parent}, {metadata})" for parent, metadata in odd)]))
    connection = json.loads(file.read_text())
    with zmq.Context() as context, context.socket(zmq.REQ) as beating:
        beating.linger = 0
        beating.connect(f"{connection['transport']}://{connection['ip']}-{connection['hb_port']}")
        beating.send_multipart([b"a", b"b"])
        assert beating.poll(int(1000 * PATIENCE))
    with person(file) as client:
        client.session.pack = lambda value: json.dumps(value, default=str).encode()
        for more in ({"header": 5}, {"username": "\ud800"}, {"msg_id": "\ud800"}):
            message = client.session.msg("execute_request", {"code": "1", "stop_on_error": False})
            message["header"] |= more
            client.shell_channel.socket.send_multipart(client.session.serialize(message))
        client.execute("1", user_expressions={"a": "\ud800"}, stop_on_error=False)
        assert run(client, "print(5)", stop_on_error=False)[1] == "5\n"
    with person(file) as client:
        assert run(client, "print(6)")[1] == "6\n"
