"""A planted key is found nowhere, and a kernel gets nothing from the bridge but what is its agent's."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

from rlm_nb.notebook.reader import read
from tests.conftest import Git
from tests.servers.messages import Fails, MessagesServer
from tests.servers.repositories import serving
from tests.whole_runs.conftest import HELLO, KEY, Shell, cell, check_record, conversations

OTHER_KEY = "sk-proj-planted-9876543210fedcba"
PIECE = re.compile(b"planted-(0123|9876)")

SEARCH = """
import re
# What a kernel can read of itself and of every process that it descends from, the controller among them.
found, read, pid = [], [], os.getpid()
while pid > 1:
    for name in ("environ", "cmdline"):
        text = Path(f"/proc/{pid}/{name}").read_bytes()
        read.append(text)
        if re.search(b"planted" + b"-(0123|9876)", text):
            found.append((pid, name))
    pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    if b"rlm_nb\\0run\\0" in read[-1]:
        break
print("the controller was searched:", b"rlm_nb\\0run\\0" in read[-1], b"ANTHROPIC_API_KEY" in read[-2])
FINAL({"found": found, "variables": dict(os.environ)})
"""


HUNT = """
import re
found, looked = [], 0
for place in PLACES:
    for folder, below, names in os.walk(place):
        below[:] = {*below} - {"task", "map_files", "sys"}  # of a process, the same many times over
        for name in names:
            try:
                file = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                continue
            try:
                looked += 1
                if re.search(b"planted" + b"-(0123|9876)", os.read(file, 1 << 16)):
                    found.append(os.path.join(folder, name))
            except OSError:
                pass
            finally:
                os.close(file)
FINAL({"found": found, "looked into": looked})
"""


def holding_a_key(folder: Path) -> list[str]:
    """The files below `folder` in which a key is found, names included."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if PIECE.search(path.read_bytes() + os.fsencode(path))]


def test_no_kernel_and_no_file_has_a_key(shell: Shell, repository: Path) -> None:
    """Neither the one in the environment nor the one in `.env`: no notebook, log, settings or ledger, no output."""
    (shell.here / ".env").write_text(f"OPENAI_API_KEY={OTHER_KEY}\n")
    look = cell(SEARCH)
    replies = {"Say hello": [cell("print(rlm_query('look'))"), look], "look": [look]}
    with MessagesServer(respond=conversations(replies)) as server:
        ended = shell.run(repository, "-v", "-c", shell.served_by(server), ANTHROPIC_API_KEY=KEY)
        assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    assert ended.code == 0, ended.err
    assert ended.err.count("the controller was searched: True True") == 2
    for name in ("root", "root.1"):
        outcome = read(ended.run / f"{name}.ipynb").outcome
        assert outcome is not None
        assert outcome.answer.value["found"] == []
        assert "ANTHROPIC_API_KEY" not in outcome.answer.value["variables"]
    assert not PIECE.search((ended.out + ended.err).encode())
    assert holding_a_key(shell.here) == [str(shell.here / ".env")]
    check_record(ended.run)


def test_no_confined_cell_finds_a_key(shell: Shell, repository: Path, confined: None) -> None:
    """Not in any process that it sees, nor in any file that is not the system's, however it looks for it."""
    (shell.here / ".env").write_text(f"OPENAI_API_KEY={OTHER_KEY}\n")
    places = f"PLACES = [{str(shell.here)!r}, {str(repository)!r}, '/tmp', '/dev/shm', '/proc', '..']"
    replies = {"Say hello": [cell("print(rlm_query('look'))", places, HUNT)], "look": [cell(places, HUNT)]}
    with MessagesServer(respond=conversations(replies)) as server:
        ended = shell.run(repository, "-v", "-c", shell.served_by(server), ANTHROPIC_API_KEY=KEY)
    assert ended.code == 0, ended.err
    for name in ("root", "root.1"):
        outcome = read(ended.run / f"{name}.ipynb").outcome
        assert outcome is not None
        assert outcome.answer.value["found"] == []
        assert outcome.answer.value["looked into"] > 50
    assert not PIECE.search((ended.out + ended.err).encode())
    assert holding_a_key(shell.here) == [str(shell.here / ".env")]


def test_an_error_that_echoes_the_key(shell: Shell, repository: Path) -> None:
    """Not even with `--verbose`, before and after the run has begun."""
    refused = Fails(401, f"invalid x-api-key: {KEY}")
    for answers in ([refused], [cell("x = 1"), refused]):
        with MessagesServer(*answers) as server:
            ended = shell.run(repository, "-v", "-c", shell.served_by(server), ANTHROPIC_API_KEY=KEY)
        assert ended.code == 1
        assert "401: invalid x-api-key: [key]" in ended.err
        assert not PIECE.search((ended.out + ended.err).encode())
        assert holding_a_key(shell.here) == []


def test_a_password_in_a_url(shell: Shell, repository: Path, git: Git, tmp_path: Path) -> None:
    """It reaches the server; the terminal, the notebooks and the files of the run have the URL without it."""
    with serving(repository, tmp_path / "www", git) as server:
        server.password = f"ada:{KEY}".encode()
        place = f"127.0.0.1:{server.server_port}/repo.git"
        ended = shell.run(f"http://ada:{KEY}@{place}", "-v", "--model", shell.script(HELLO))
        refused = shell.run(f"http://ada:{OTHER_KEY}@{place}", "-v", "--model", shell.script(HELLO))
    assert (ended.code, ended.out) == (0, "hello\n"), ended.err
    assert f"] http://{place} with scripted:" in ended.err
    assert f"recorded in runs/{ended.run.name}\n" in ended.err
    assert refused.code == 1
    assert not PIECE.search((ended.err + refused.err).encode())
    assert holding_a_key(shell.here) == []


def test_a_login_in_the_base_url(shell: Shell, repository: Path) -> None:
    """A gateway gets it; no kernel, file or error has it, whether it comes from a file or from a variable."""
    with MessagesServer(cell(SEARCH), cell(SEARCH), Fails(401, f"who is ada:{KEY}?")) as server:
        place = server.url.removeprefix("http://")
        url = f"http://ada:{KEY}@{place}"
        from_file = shell.run(repository, "-v", "-c", shell.settings(model={"base_url": url}), ANTHROPIC_API_KEY="any")
        from_variable = shell.run(repository, "-v", RLM_MODEL_BASE_URL=url, ANTHROPIC_API_KEY="any")
        refused = shell.run(repository, "-v", RLM_MODEL_BASE_URL=url, ANTHROPIC_API_KEY="any")
        login = base64.b64encode(f"ada:{KEY}".encode()).decode()
        assert {request.headers["authorization"] for request in server.requests} == {f"Basic {login}"}
    nobody = shell.run(repository, "-v", RLM_MODEL_BASE_URL=url, RLM_MODEL_RETRIES="0", ANTHROPIC_API_KEY="any")
    wrong = shell.run(repository, "-v", RLM_MODEL_BASE_URL=f"http://ada:8/{KEY}@{place}", ANTHROPIC_API_KEY="any")
    assert (from_file.code, from_variable.code) == (0, 0), from_file.err + from_variable.err
    assert "the controller was searched: True True" in from_variable.err
    assert "'found': []" in from_file.err.replace('"', "'")
    assert "'found': []" in from_variable.err.replace('"', "'")
    assert f"{place} cannot be reached" in nobody.last_line
    assert "model.base_url: expected an address" in wrong.last_line
    assert (refused.code, nobody.code, wrong.code) == (1, 1, 2)
    said = [ended.out + ended.err for ended in (from_file, from_variable, refused, nobody, wrong)]
    assert not PIECE.search("".join(said).encode())
    assert holding_a_key(shell.here) == []


def test_a_cell_that_prints_a_key(shell: Shell, repository: Path) -> None:
    """A key that somebody wrote into the repository is the model's to read, but not the terminal's to show."""
    (repository / "settings.ini").write_text(f"key = {KEY}\n")
    script = shell.script({"root": [cell("print(Path('settings.ini').read_text())", "FINAL('seen')")]})
    ended = shell.run(repository, "-v", "--model", script, ANTHROPIC_API_KEY=KEY)
    assert ended.code == 0
    assert "[ANTHROPIC_API_KEY]" in ended.err
    assert not PIECE.search(ended.err.encode())


def test_what_a_kernel_says_of_itself_is_not_believed(shell: Shell, repository: Path, confined: None) -> None:
    """Asked by hand on the bridge: another agent's name, less depth, a larger budget change nothing."""
    forge = cell(
        "client = rlm_query.__self__._client if 'rlm_query' in globals() else llm_query.__self__._client",
        "claims = dict(agent='root', depth=-5, max_depth=99, max_cost=1e9, max_sandboxes=1000)",
        "report = {'budget': client.call('budget', **claims)}",
        "for name, given in [('rlm_query', dict(tasks=['grandchild'], single=True)), ('spawn', {}), ('release', {})]:",
        "    try: report[name] = client.call(name, **given, **claims)",
        "    except Exception as error: report[name] = type(error).__name__",
        "FINAL(report)",
    )
    script = shell.script(
        {
            "root": [cell("child = rlm_query('forge')", "FINAL(child.answer)")],
            "root.1": [forge],
            "*": [cell("FINAL('exists')")],
        }
    )
    ended = shell.run(repository, "--model", script, "--max-depth", "1", "--max-sandboxes", "7")
    assert ended.code == 0, ended.err
    child = ended.state["answer"]
    assert (child["budget"]["depth"], child["budget"]["max_depth"]) == (1, 1)
    assert (child["budget"]["agents_used"], child["budget"]["agents_limit"]) == (2, 7)
    assert child["rlm_query"] == "RecursionDepthError"
    assert child["spawn"] == child["release"] == "BridgeError"
    assert sorted(path.stem for path in ended.run.glob("*.ipynb")) == ["root", "root.1"]


ASK_ON = """
import socket, sys
from rlm_nb.bridge.client import Client
client = Client(socket.socket(fileno=int(sys.argv[1])), lambda: "")
with open(sys.argv[2], "a", buffering=1) as log:
    while True:
        log.write(client.call("llm_query", prompts=["more"], single=True)[0]["text"] + "\\n")
"""


def test_the_bridge_answers_nobody_after_the_end(shell: Shell, repository: Path, tmp_path: Path) -> None:
    """A daemon that a sub-agent leaves behind, with the bridge in its hands, is answered as long as that agent is."""
    log = tmp_path / "log"
    leave = cell(
        "import sys, time",
        f"log = Path({str(log)!r})",
        "wire = str(llm_query.__self__._client._wire.fileno())",
        f"daemon = [sys.executable, '-c', {ASK_ON!r}, wire, log]",
        "subprocess.Popen(daemon, pass_fds=[int(wire)], start_new_session=True)",
        "while not (log.exists() and log.read_text()): time.sleep(0.01)",
        "FINAL('left')",
    )
    count = cell(
        "import time",
        f"log = Path({str(log)!r})",
        "rlm_query('leave')",
        "before = len(log.read_text())",
        "time.sleep(0.5)",
        "FINAL(len(log.read_text()) - before)",
    )
    script = shell.script({"root": [count], "root.1": [leave]}, prompts=[{"pattern": "more", "reply": "said"}])
    ended = shell.run(repository, "--model", script)
    assert (ended.code, ended.out) == (0, "0\n"), ended.err
    assert "said" in log.read_text()
    check_record(ended.run)


def test_the_env_file_of_the_repository(shell: Shell, repository: Path, git: Git) -> None:
    """It is not handed to the agents, ignored or not; what was committed is no secret any more."""
    (repository / ".env").write_text(f"ANTHROPIC_API_KEY={KEY}\n")
    script = shell.script({"root": [cell("FINAL(Path('.env').exists())")]})
    ended = shell.run(repository, "--model", script)
    assert (ended.code, ended.out) == (0, "false\n")
    assert "left out, they may hold keys: .env" in ended.err
    assert holding_a_key(shell.here) == []
    git(repository, "add", "--all")
    git(repository, "commit", "--message=Publish the key")
    assert shell.run(repository, "--model", script).out == "true\n"
