"""Bad input gets a clear sentence and exit code 1 or 2, and leaves nothing behind."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

import rlm_nb
from rlm_nb.errors import ModelError
from tests.conftest import Git
from tests.servers.messages import Answer, Fails, MessagesServer, Says
from tests.whole_runs.conftest import HELLO, KEY, Ended, Shell, cell, check_record


def assert_nothing_began(ended: Ended, code: int, sentence: str) -> None:
    """One sentence, one exit code, no answer; no folder of a run, nor the one that it would be in."""
    assert (ended.code, ended.out) == (code, ""), ended.err
    assert sentence in ended.last_line
    assert ended.last_line.startswith("Error: ")
    assert "Traceback" not in ended.err
    assert ended.left == []


# What to work on.


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("nowhere", "no such folder: nowhere"),
        (__file__, "is a file: name the folder that it is in"),
        ("{empty}", "is empty: there is no commit and no file to start from"),
        ("{repository} --branch no-such-branch", "no-such-branch"),
        ("{repository} --commit 0123456789abcdef", "0123456789abcdef"),
        ("{bare}", "has no commit"),
        ("git://127.0.0.1:{port}/project", "project cannot be fetched: unable to connect"),
        ("http://127.0.0.1:{port}/project", "project cannot be fetched: unable to access"),
    ],
)
def test_source_that_cannot_be_used(
    shell: Shell, repository: Path, git: Git, tmp_path: Path, source: str, sentence: str
) -> None:
    """No such folder, a file, an empty repository, an unknown branch or commit, a port where nobody listens."""
    for name in ("empty", "bare"):
        (tmp_path / name).mkdir()
        git(tmp_path / name, "init", *(["--bare"] if name == "bare" else []))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    places = {"repository": repository, "empty": tmp_path / "empty", "bare": tmp_path / "bare", "port": port}
    ended = shell.run(*source.format(**places).split(), "--model", shell.script(HELLO))
    assert_nothing_began(ended, 1, sentence)


def test_server_that_never_answers(shell: Shell) -> None:
    """The time limit counts from the first moment."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"git://127.0.0.1:{silent.getsockname()[1]}/project"
        ended = shell.run(url, "--model", shell.script(HELLO), "--timeout", "0.5")
    assert_nothing_began(ended, 1, "the time limit of the run was reached")


def test_folder_without_git_is_copied(shell: Shell, tmp_path: Path) -> None:
    """That is said, its files are there, and an edit comes back as a patch."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "note.txt").write_text("old\n")
    code = cell("edit_file('note.txt', 'old', 'new')", "FINAL(Path('note.txt').read_text())")
    ended = shell.run(tmp_path / "plain", "--model", shell.script({"root": [code]}))
    assert (ended.code, ended.out) == (0, "new\n")
    assert "is not a git repository: its files were copied" in ended.err
    assert "+new" in (ended.run / "changes.patch").read_text()
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["note.txt"]


def test_bare_repository(shell: Shell, repository: Path, git: Git, tmp_path: Path) -> None:
    """There is no checkout, so the run starts from its commit, and says so."""
    git(tmp_path, "clone", "--quiet", "--bare", repository, "bare.git")
    ended = shell.run(
        tmp_path / "bare.git", "--model", shell.script({"root": [cell("FINAL(Path('README.md').read_text())")]})
    )
    assert (ended.code, ended.out) == (0, "# greeting\n\nSays hello.\n")
    assert "is a bare repository: the run starts from its commit" in ended.err


# What answers. The service is a real one, on loopback; the SDK is the real one.


def test_no_key(shell: Shell, repository: Path) -> None:
    """The variables that may hold one are named."""
    ended = shell.run(repository)
    assert_nothing_began(ended, 1, "no key for claude-sonnet-5-5: set ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Fails(401, "invalid x-api-key"), "does not accept ANTHROPIC_API_KEY (401: invalid x-api-key)"),
        (Fails(429, "slow down", {"retry-after": "0.01"}), "not available, tried 2 times (429: slow down)"),
        (Says("Here is the answer", cut=5), "the reply broke off"),
    ],
    ids=["401", "429", "lost in mid-stream"],
)
def test_model_that_does_not_answer(shell: Shell, repository: Path, answer: Answer, sentence: str) -> None:
    """Whatever keeps the first reply from coming, and lasts longer than we are patient."""
    with MessagesServer(respond=lambda request: answer) as server:
        ended = shell.run(repository, "-c", shell.served_by(server, retries=1), ANTHROPIC_API_KEY=KEY)
    assert_nothing_began(ended, 1, sentence)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Fails(404, "model: claude-sonnet-5-5"), "the service has no model claude-sonnet-5-5 .404"),
        (Fails(529, "overloaded", {"retry-after": "0.01"}), "not available, tried 2 times .529: overloaded"),
        (Says("Here is the answer", cut=0), "the connection was lost before the reply began"),
    ],
    ids=["404", "529", "lost before the reply"],
)
def test_model_that_does_not_answer_a_program(
    shell: Shell, repository: Path, tmp_path: Path, answer: Answer, sentence: str
) -> None:
    """The same from Python: the sentence is an exception's."""
    with MessagesServer(respond=lambda request: answer) as server:
        config = rlm_nb.load_config(shell.served_by(server, retries=1), {"runs": {"dir": tmp_path / "runs"}})
        with pytest.raises(ModelError, match=sentence):
            rlm_nb.run("Say hello.", repository, config, secrets={"ANTHROPIC_API_KEY": SecretStr(KEY)})
    assert not (tmp_path / "runs").exists()


def test_model_that_nobody_serves(shell: Shell, repository: Path) -> None:
    """Nothing listens at the base URL."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    settings = shell.settings(model={"base_url": url, "retries": 0})
    ended = shell.run(repository, "-c", settings, ANTHROPIC_API_KEY=KEY)
    assert_nothing_began(ended, 1, f"{url.removeprefix('http://')} cannot be reached (tried once)")


def test_replies_without_a_cell(shell: Shell, repository: Path) -> None:
    """Empty, refused, cut off: the model is told what was wrong, and recovers."""
    useless = [Says(""), Says("No.", stop_reason="refusal"), Says("```python\nx = [1,", stop_reason="max_tokens")]
    with MessagesServer(*useless, cell("FINAL('recovered')")) as server:
        ended = shell.run(repository, "-c", shell.served_by(server, failures=4), ANTHROPIC_API_KEY=KEY)
        server.assert_prefix_stable()
        told = [request.json["messages"][-1]["content"] for request in server.requests]
    assert (ended.code, ended.out) == (0, "recovered\n"), ended.err
    assert "Your reply was empty" in told[1]
    assert "Your reply was a refusal" in told[2]
    assert "Your reply was cut off in the middle of a cell" in told[3]
    check_record(ended.run)


def test_replies_that_are_never_any_use(shell: Shell, repository: Path) -> None:
    """The run ends with an error; nothing poses as an answer; what was paid for is on record."""
    with MessagesServer(respond=lambda request: Says("")) as server:
        ended = shell.run(repository, "-c", shell.served_by(server), ANTHROPIC_API_KEY=KEY)
        assert len(server.requests) == 2
    assert (ended.code, ended.out) == (1, "")
    assert "error: The model gave 2 useless replies in a row." in ended.err
    assert ended.state["status"] == "error"
    assert ended.state["total_cost"] > 0
    check_record(ended.run)


def test_model_that_is_lost_in_the_middle_of_a_run(shell: Shell, repository: Path) -> None:
    """What there is by then is kept: the notebook, and the answer that the model had stored."""
    with MessagesServer(cell("answer = 'so far'"), Fails(401, "the key was revoked")) as server:
        ended = shell.run(repository, "-c", shell.served_by(server), ANTHROPIC_API_KEY=KEY)
    assert (ended.code, ended.out) == (3, "so far\n")
    assert "the key was revoked" in ended.err
    assert ended.state["status"] == "partial"
    check_record(ended.run)


# Settings.


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rlm:\n  max_depth: [1\n", "settings.yaml: line 3: not valid YAML"),
        ("rlm:\n  max_dpeth: 3\n", "settings.yaml: rlm.max_dpeth is not a setting; did you mean max_depth?"),
        ("rml:\n  max_depth: 3\n", "settings.yaml: rml is not a setting; did you mean rlm?"),
        ("rlm:\n  max_depth: deep\n", "settings.yaml: rlm.max_depth: expected a whole number, found 'deep'"),
        ("rlm: 3\n", "settings.yaml: rlm: expected a section with settings below it, found 3"),
        ("budget:\n  max_cost: 0\n", "settings.yaml: budget.max_cost: must be greater than 0"),
        ("rlm:\n  max_iterations: -1\n", "settings.yaml: rlm.max_iterations: must be greater than 0, found -1"),
        ("rlm:\n  global_timeout: .inf\n", "settings.yaml: rlm.global_timeout"),
        ("model:\n  name: nobodys-model\n", "nobody is known to provide 'nobodys-model'"),
    ],
)
def test_settings_that_cannot_be_used(shell: Shell, repository: Path, text: str, sentence: str) -> None:
    """Malformed, unknown, of a wrong type, out of range: the file, the setting's path and what was meant."""
    assert_nothing_began(shell.run(repository, "-c", shell.settings(text)), 2, sentence)


@pytest.mark.parametrize("where", ["file/runs", "file", "/proc/runs"])
def test_runs_folder_that_cannot_be_written(shell: Shell, repository: Path, tmp_path: Path, where: str) -> None:
    """A file is in the way, or the file system takes none; nothing is half made."""
    (tmp_path / "file").write_text("in the way")
    ended = shell.run(repository, "--model", shell.script(HELLO), "--runs-dir", tmp_path / where)
    assert_nothing_began(ended, 1, "runs cannot be recorded here: ")
    assert "see --runs-dir" in ended.last_line
    assert (tmp_path / "file").read_text() == "in the way"


def test_runs_folder_that_was_there_before(shell: Shell, repository: Path) -> None:
    """A run that never began takes away what it made, and nothing else."""
    (shell.here / "runs" / "earlier").mkdir(parents=True)
    ended = shell.run(repository, "--branch", "no-such-branch", "--model", shell.script(HELLO))
    assert ended.code == 1
    assert [path.name for path in (shell.here / "runs").iterdir() if path.is_dir()] == ["earlier"]


def test_time_that_is_up_before_the_first_reply(shell: Shell, repository: Path) -> None:
    """The run still ends in a result, and soon."""
    began = time.monotonic()
    ended = shell.run(repository, "--model", shell.script({"root": [cell("x = 1")]}, delay=600), "--timeout", "3")
    assert (ended.code, ended.out) == (3, "")
    assert ended.state["status"] == "partial"
    assert time.monotonic() - began < 30
    check_record(ended.run)
