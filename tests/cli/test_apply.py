"""`rlm-nb diff`, `rlm-nb apply` and `rlm-nb run --apply`, as a person types them after a run, or a killed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import PATIENCE, Command, Terminal
from tests.conftest import Git
from tests.whole_runs.conftest import Shell, cell, until
from tests.workspace import witness

EDIT = cell(
    'edit_file("README.md", "Says hello.", "Says hello to everybody.")', 'Path("new").write_text("x")', "FINAL(1)"
)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "shell").mkdir()
    return Shell(tmp_path / "shell")


def test_a_run_is_looked_at_and_applied(shell: Shell, rlm_nb: Command, repository: Path) -> None:
    """The summary names the command; with it the files are there, and `.git` is as it was."""
    ended = shell.run(repository, "--model", shell.script({"root": [EDIT]}))
    assert f"changes.patch (2 files); to have it: rlm-nb apply {ended.run.name}\n" in ended.err
    before = witness.everything(repository / ".git")
    shown = rlm_nb("diff", ended.run)
    assert shown.stdout == (ended.run / "changes.patch").read_text()
    done = rlm_nb("apply", ended.run)
    assert (done.returncode, done.stdout, done.stderr) == (0, "README.md\nnew\n", f"2 files changed in {repository}\n")
    assert (repository / "new").read_text() == "x"
    assert "to everybody" in (repository / "README.md").read_text()
    again = rlm_nb("apply", ended.run)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", f"all of it is in {repository} already\n")
    assert witness.everything(repository / ".git") == before


def test_edits_that_do_not_fit(shell: Shell, rlm_nb: Command, repository: Path, git: Git) -> None:
    """Exit code 1, the file is named, nothing is changed; a branch can be made of them all the same, once."""
    run = shell.run(repository, "--model", shell.script({"root": [EDIT]})).run
    (repository / "README.md").write_text("# greeting\n\nMine.\n")
    before = witness.everything(repository)
    refused = rlm_nb("apply", run)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "README.md: the same lines were changed on both sides. Nothing was changed; --branch NAME" in refused.stderr
    assert witness.everything(repository) == before
    done = rlm_nb("apply", run, "--branch", "agents/hello")
    assert (done.returncode, done.stdout) == (0, "README.md\nnew\n")
    assert done.stderr.startswith("branch agents/hello is commit ")
    assert (
        git(repository, "log", "-1", "--format=%B", "agents/hello") == f"Say hello.\n\nrlm-nb run {run.name}, root\n\n"
    )
    assert "has a branch agents/hello already" in rlm_nb("apply", run, "-b", "agents/hello").stderr
    assert (repository / "README.md").read_text() == "# greeting\n\nMine.\n"


def test_where_rlm_nb_would_look_elsewhere(shell: Shell, repository: Path, tmp_path: Path) -> None:
    """The command that the summary names says where the run is recorded."""
    runs = tmp_path / "my runs"
    ended = shell.run(repository, "--runs-dir", runs, "--model", shell.script({"root": [EDIT]}))
    (run,) = (path for path in runs.iterdir() if path.is_dir())
    assert f"to have it: rlm-nb apply {run.name} --runs-dir '{runs}'\n" in ended.err
    elsewhere = shell.run(repository, "--model", shell.script({"root": [EDIT]}), RLM_RUNS_DIR="kept")
    (run,) = (path for path in (shell.here / "kept").iterdir() if path.is_dir())
    assert f"to have it: rlm-nb apply {run.name}\n" in elsewhere.err


@pytest.mark.parametrize("commit", [True, False], ids=["repository", "folder"])
def test_run_and_apply(shell: Shell, repository: Path, git: Git, commit: bool) -> None:
    """In one go, the answer alone on stdout; what was not committed stays so."""
    (repository / "README.md").write_text("# greeting\n\nSays hello.\n\nMore.\n")
    if not commit:
        for path in sorted((repository / ".git").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (repository / ".git").rmdir()
    ended = shell.run(repository, "--apply", "--model", shell.script({"root": [EDIT]}))
    assert (ended.code, ended.out) == (0, "1\n")
    assert ended.last_line == f"applied:  2 files changed in {repository}"
    assert (repository / "README.md").read_text() == "# greeting\n\nSays hello to everybody.\n\nMore.\n"
    if commit:
        assert git(repository, "status", "--short") == " M README.md\n?? new\n"


def test_run_and_apply_what_is_not_done(shell: Shell, repository: Path) -> None:
    """A partial result is not applied, nor what no longer fits; where nothing could be applied, nothing is run."""
    before = witness.everything(repository)
    half = [cell('edit_file("README.md", "Says hello.", "Half.")')]
    ended = shell.run(repository, "--apply", "--max-iterations", "1", "--model", shell.script({"root": half}))
    assert ended.code in (1, 3)
    assert f"Not applied, since it is no complete result; `rlm-nb apply {ended.run.name}` does so" in ended.err
    assert witness.everything(repository) == before
    mine = cell(f'Path({str(repository / "README.md")!r}).write_text("# greeting\\n\\nMine.\\n")')
    ended = shell.run(repository, "--apply", "--model", shell.script({"root": [mine, EDIT]}))
    assert (ended.code, ended.out) == (1, "1\n")
    assert ended.last_line.startswith("Error: the edits were not applied: the edits of root do not fit")
    bare = shell.run(f"file://{repository}", "--apply", "--model", shell.script({"root": [EDIT]}))
    assert (bare.code, bare.out) == (1, "")
    assert bare.last_line == f"Error: file://{repository} has no files to --apply edits to: leave that away"


def test_the_edits_of_one_sub_agent(shell: Shell, rlm_nb: Command, repository: Path) -> None:
    """Named short or in full; an agent that there was not is answered with those that there were."""
    script = {
        "root": [cell('rlm_query("child")', 'Path("mine").write_text("x")', "FINAL(1)")],
        "root.1": [cell('Path("childs").write_text("x")', "FINAL(1)")],
    }
    run = shell.run(repository, "--model", shell.script(script)).run
    assert "+++ b/childs" in rlm_nb("diff", run, "--agent", "1").stdout
    assert "childs" not in rlm_nb("diff", run).stdout
    assert rlm_nb("apply", run, "--agent", "root.1").stdout == "childs\n"
    refused = rlm_nb("apply", run, "--agent", "2")
    assert refused.returncode == 1
    assert "kept nothing of an agent 2; it has root, root.1" in refused.stderr


def test_a_killed_run(shell: Shell, rlm_nb: Command, repository: Path) -> None:
    """While it goes on its edits can be looked at, not applied; after SIGKILL its last state is there to be had."""
    script = {
        "root": [cell('Path("mine").write_text("x")', 'rlm_query("child")')],
        "root.1": [cell('Path("childs").write_text("x")', 'rlm_query("wait")')],
        "root.1.1": [cell("import time; time.sleep(300)")],
    }
    with shell.start(repository, "--model", shell.script(script)) as going:
        until(lambda: list((shell.here / "runs").glob("*/root.1.1.ipynb")))
        (run,) = (path for path in (shell.here / "runs").iterdir() if path.is_dir())
        assert "+++ b/mine" in rlm_nb("diff", run).stdout
        refused = rlm_nb("apply", run)
        assert (refused.returncode, refused.stderr) == (1, f"Error: {run} goes on: wait for its end, or stop it\n")
        going.process.send_signal(signal.SIGKILL)
        going.end()
    assert rlm_nb("apply", run).stdout == "mine\n"
    assert rlm_nb("apply", run, "--agent", "1").stdout == "childs\n"
    assert rlm_nb("clean").returncode == 0


def test_edits_outlive_a_clone(shell: Shell, rlm_nb: Command, repository: Path, git: Git, tmp_path: Path) -> None:
    """The other side of a URL may go: the edits can be looked at, and what to do is told."""
    bare = tmp_path / "there.git"
    git(tmp_path, "clone", "--quiet", "--bare", repository, bare)
    run = shell.run(f"file://{bare}", "--model", shell.script({"root": [EDIT]})).run
    bare.rename(tmp_path / "gone")
    shown = rlm_nb("diff", run)
    assert shown.stdout == (run / "changes.patch").read_text()
    refused = rlm_nb("apply", run)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "clone it, and there say `rlm-nb diff RUN | git apply --3way`" in refused.stderr
    subprocess.run(["git", "-C", repository, "apply", "--3way"], input=shown.stdout, text=True, check=True)
    assert (repository / "new").read_text() == "x"


ODD = cell(
    'Path("evil.txt").write_text("\\x1b[31mred\\x1b]0;title\\x07\\x1b[2J\\r-gone\\u202etxt\\x9b1m [bold]x[/bold]\\n")',
    'Path("caf\\udce9").write_bytes(b"\\xff \\xe9\\r\\n")',
    'Path("binary").write_bytes(bytes(range(256)))',
    'Path("two\\nlines \\x1b[2J").write_text("theirs")',
    "FINAL(1)",
)


def test_a_terminal_is_not_commanded(
    shell: Shell, rlm_nb: Command, repository: Path, terminal: Terminal, git: Git
) -> None:
    """On it the edits are coloured by us alone; anywhere else they are what `git apply` needs, to the byte."""
    run = shell.run(repository, "--model", shell.script({"root": [ODD]})).run
    command = [sys.executable, "-m", "rlm_nb", "diff", str(run)]
    environment = os.environ | {"TERM": "xterm-256color"}
    with subprocess.Popen(command, stdout=terminal.slave, stderr=terminal.slave, env=environment) as process:
        terminal.read_until("[bold]x[/bold]")
        assert process.wait(PATIENCE) == 0
    shown = terminal.read_to_end()
    assert "\x1b[32m+red-gonetxt1m [bold]x[/bold]\x1b[0m" in shown
    assert "Binary files /dev/null and b/binary differ" in shown
    for harm in ("\x1b[31m", "\x1b]", "\x1b[2J", "\x07", "\u202e", "\x9b", "\r-"):
        assert harm not in shown
    plain = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["git", "-C", repository, "apply", "--index"], input=plain, check=True)
    assert (repository / os.fsdecode(b"caf\xe9")).read_bytes() == b"\xff \xe9\r\n"
    assert (repository / "evil.txt").read_bytes().startswith(b"\x1b[31mred")
    listed = rlm_nb("apply", run, "--branch", "odd").stdout
    assert listed == "binary\ncaf\\xe9\nevil.txt\n'two\\nlines \\x1b[2J'\n"
    (repository / "two\nlines \x1b[2J").write_text("mine\n")
    refused = rlm_nb("apply", run)
    assert "here now. 'two\\nlines \\x1b[2J': the same lines were changed on both sides. Nothing" in refused.stderr


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (None, "run.json is not there, or is no file"),
        ("{", "run.json is not the record of a run"),
        ({"status": "completed", "repository": "/x"}, "run.json is not the record of a run"),
        ({"status": "completed", "repository": "/x", "checkout": "/x", "commit": "", "task": "x"}, "has no ctl.git"),
    ],
)
def test_what_is_no_run(rlm_nb: Command, tmp_path: Path, state: object, said: str) -> None:
    """One sentence, exit code 1."""
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "root.ipynb").write_text("{}")
    (folder / "config.yaml").touch()
    if isinstance(state, dict):
        state = {"version": 1, "id": "some", "ended": 1.0, "pid": 1, "pid_started": 1.0, "pid_world": "here", **state}
    if state is not None:
        (folder / "run.json").write_text(state if isinstance(state, str) else json.dumps(state))
    done = rlm_nb("apply", folder)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert said in done.stderr
