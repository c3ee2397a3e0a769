"""Git as we run it: deaf to everybody else, and easy to stop."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import CancelledError, GitError, SourceError
from rlm_nb.workspace import git as gits


def script(folder: Path, text: str) -> Path:
    """A program called `git`, in a folder of its own."""
    folder.mkdir()
    program = folder / "git"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return folder


def test_a_failure_carries_the_command_and_what_git_said(tmp_path):
    """The message alone tells what was tried and why it failed."""
    with pytest.raises(GitError, match=r"`git ls-tree nonsense` failed: fatal: not a git repository"):
        gits.controlled(tmp_path / "missing.git").run("ls-tree", "nonsense")


def test_variables_and_settings_of_others_do_not_count(repository, tmp_path, monkeypatch):
    """Neither GIT_DIR nor the configuration in HOME reaches a command of ours."""
    Path.home().joinpath(".gitconfig").write_text("[user]\n\tname = Eve\n")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "user.email")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "eve@example.org")
    try:
        settings = gits.controlled(repository / ".git").run("config", "--list").decode()
        assert "eve" not in settings.lower()
        assert gits.of_user(repository).run("rev-parse", "--show-toplevel").decode().strip() == str(repository)
    finally:
        Path.home().joinpath(".gitconfig").unlink()


def test_what_is_fed_may_be_longer_than_memory_should_hold(repository):
    """`feed` passes pieces on one by one, and returns what the command printed."""
    ours = gits.controlled(repository / ".git")
    oid = ours.feed("hash-object", "--stdin", chunks=(b"line\n" for _ in range(100_000))).strip()
    assert oid == ours.run("hash-object", "--stdin", stdin=b"line\n" * 100_000).strip()
    with pytest.raises(GitError, match="fast-import"):
        ours.feed("fast-import", chunks=(b"nonsense\n" for _ in range(100_000)))


def test_cancelling_kills_a_command_that_waits(tmp_path, repository):
    """A server that never answers holds nobody up."""
    cancel = Cancellation()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def cancel_once_asked() -> None:
            with server.accept()[0]:
                cancel.cancel("enough")

        watcher = threading.Thread(target=cancel_once_asked)
        watcher.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/repo"
        with pytest.raises(CancelledError, match="enough"):
            gits.over_network(repository / ".git", "", None, cancel).run("ls-remote", url)
        watcher.join()


def test_a_command_ends_at_the_deadline(tmp_path, monkeypatch):
    """A git that hangs, with a child that holds its output open, is gone with the time limit."""
    monkeypatch.setenv("PATH", f"{script(tmp_path / 'bin', 'sleep 60 & sleep 60')}:/usr/bin:/bin")
    started = time.monotonic()
    hanging = gits.over_network(tmp_path, "", None, Cancellation(deadline=started + 0.2))
    with pytest.raises(CancelledError, match="time limit"):
        hanging.run("status")
    assert time.monotonic() - started < 20


def test_without_git_the_user_is_told_to_install_it(tmp_path, monkeypatch):
    """An empty PATH gives a sentence, not a traceback about a file."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="install it"):
        gits.require()


def test_a_git_that_is_too_old_is_named(tmp_path, monkeypatch):
    """The message holds the version that was found and the one that is needed."""
    monkeypatch.setenv("PATH", str(script(tmp_path / "bin", "echo git version 2.11.0")))
    with pytest.raises(SourceError, match=r"git 2\.32 or newer is needed, found 'git version 2\.11\.0'"):
        gits.require()


def test_ctrl_c_is_not_for_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal's signals are blocked in it from the start, before it has a session of its own; here they are not."""
    folder = script(tmp_path / "bin", "")
    (folder / "git").write_text(f"#!{sys.executable}\nprint(open('/proc/self/status').read())\n")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    said = gits.controlled(tmp_path / "any.git").run("status").decode()
    blocked = int(said.partition("SigBlk:")[2].split()[0], 16)
    assert all(blocked >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
