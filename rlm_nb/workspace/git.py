"""Git, run so that nobody but us decides what it does: no configuration, hook, filter, prompt or pager of others."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import GitError, SourceError

MINIMUM = (2, 32)
"""The oldest git that knows `GIT_CONFIG_GLOBAL` and `--path-format`."""

TIMEOUT = 900.0
"""Seconds that one local command may take. None comes near it, save on a file system that hangs."""

FETCH_TIMEOUT = 4 * 3600.0
"""Seconds that a transfer may take; one that stands still is given up after a minute."""

SETTINGS = (
    "advice.detachedHead=false",
    "checkout.thresholdForParallelism=1000",
    "checkout.workers=0",
    "core.attributesFile=/dev/null",
    "core.autocrlf=false",
    "core.excludesFile=/dev/null",
    "core.fileMode=true",
    "core.fsmonitor=false",
    "core.fsync=none",
    "core.hooksPath=/dev/null",
    "core.protectHFS=false",
    "core.protectNTFS=false",
    "core.symlinks=true",
    "core.untrackedCache=false",
    "diff.renameLimit=2000",
    "fastimport.unpackLimit=1",
    "gc.auto=0",
    "init.defaultBranch=main",
    "maintenance.auto=false",
    "submodule.recurse=false",
)
"""For repositories of ours. A run's commits outlive whatever is killed; a power failure is not worth waiting for disks
(`core.fsync`), and a small checkout not worth further processes."""

READING = ("core.fsmonitor=false", "core.hooksPath=/dev/null", "core.untrackedCache=false")
"""What is set even when the user's own configuration counts: nothing that starts a program or writes a cache."""

KEPT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
"""What of our environment a command of our own needs."""

KEPT_FOR_USER = frozenset(
    {
        "GIT_CEILING_DIRECTORIES",
        "GIT_CONFIG_GLOBAL",
        "GIT_CONFIG_NOSYSTEM",
        "GIT_CONFIG_SYSTEM",
        "GIT_PROXY_SSL_CAINFO",
        "GIT_SSH",
        "GIT_SSH_COMMAND",
        "GIT_SSH_VARIANT",
        "GIT_SSL_CAINFO",
        "GIT_SSL_CAPATH",
    }
)
"""The `GIT_*` variables that say how the user reaches and reads repositories, not which one."""

QUIET = {
    "GIT_ALLOW_PROTOCOL": "",  # a missing object is never fetched behind our back
    "GIT_ASKPASS": "",
    "GIT_EDITOR": ":",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
    "SSH_ASKPASS_REQUIRE": "never",
}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: bytes
    err: str


@dataclass(frozen=True)
class Git:
    """Commands on one repository. Made by `controlled`, `of_user` or `over_network`.

    Args:
        options: What stands between `git` and the command.
        env: The whole environment.
        cancel: Ends a running command with `CancelledError`.
        timeout: Seconds after which a command is ended with `GitError`.
    """

    options: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cancel: Cancellation | None = None
    timeout: float = TIMEOUT

    def run(self, *arguments: str | Path, stdin: bytes = b"", ok: tuple[int, ...] = (0,), **env: str | Path) -> bytes:
        """What a command prints.

        Args:
            arguments: The command and its arguments.
            stdin: What it reads.
            ok: The exit codes that are no failure.
            env: Further variables.

        Raises:
            GitError: It failed, or took too long.
            CancelledError: `cancel` was set.
        """
        ended = self.attempt(*arguments, stdin=stdin, **env)
        if ended.code not in ok:
            raise _failed(arguments, ended.code, ended.err)
        return ended.out

    def attempt(self, *arguments: str | Path, stdin: bytes = b"", **env: str | Path) -> Ended:
        """Like `run`, for a command that may fail."""
        with self._started(arguments, env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            return self._ended(process, arguments, stdin)

    def attempt_all(self, *commands: Sequence[str]) -> list[Ended]:
        """Like `attempt`, for several commands at the same time: git takes longer to start than to answer."""
        with ExitStack() as stack:
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            begun = [stack.enter_context(self._started(tuple(command), {}, **streams)) for command in commands]
            return [self._ended(process, command) for process, command in zip(begun, commands, strict=True)]

    def feed(self, *arguments: str | Path, chunks: Iterable[bytes], **env: str | Path) -> bytes:
        """Like `run`, for a command that reads more than should be held in memory and prints little."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            with self._started(arguments, env, stdout=out, stderr=err) as process, self._in_time(process, arguments):
                assert process.stdin is not None
                with suppress(BrokenPipeError):  # it ended early: its exit code and stderr say why
                    for chunk in chunks:
                        process.stdin.write(chunk)
                with suppress(BrokenPipeError):
                    process.stdin.close()
                process.wait()
            out.seek(0)
            err.seek(0)
            if process.returncode:
                raise _failed(arguments, process.returncode, _text(err.read()))
            return out.read()

    @contextmanager
    def reading(self, *arguments: str | Path, **env: str | Path) -> Iterator[IO[bytes]]:
        """Like `run`, for a command that prints more than should be held in memory: read it to its end."""
        with tempfile.TemporaryFile() as err:
            streams = {"stdout": subprocess.PIPE, "stderr": err}
            with self._started(arguments, env, **streams) as process, self._in_time(process, arguments):
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.close()
                yield process.stdout
                process.wait()
            err.seek(0)
            if process.returncode:
                raise _failed(arguments, process.returncode, _text(err.read()))

    def _ended(self, process: subprocess.Popen[bytes], arguments: Sequence[str | Path], stdin: bytes = b"") -> Ended:
        try:
            out, err = process.communicate(stdin, self._seconds())
        except subprocess.TimeoutExpired:
            raise self._late(arguments) from None
        return Ended(process.returncode, out, _text(err))

    @contextmanager
    def _in_time(self, process: subprocess.Popen[bytes], arguments: Sequence[str | Path]) -> Iterator[None]:
        """Kills the command when the time is up, and says so at the end of the block."""
        late = threading.Event()

        def time_is_up() -> None:
            late.set()
            _kill(process)

        timer = threading.Timer(self._seconds(), time_is_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
        if late.is_set():
            raise self._late(arguments)

    def _seconds(self) -> float:
        left = self.cancel.seconds_left() if self.cancel else None
        return self.timeout if left is None else min(left, self.timeout)

    def _late(self, arguments: Sequence[str | Path]) -> GitError:
        if self.cancel:
            self.cancel.check()
        return GitError(f"git {arguments[0]} was stopped: it took longer than {self.timeout:g} s")

    @contextmanager
    def _started(
        self, arguments: Sequence[str | Path], env: Mapping[str, str | Path], **streams: object
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A running command that is killed, with all it started, when it is cancelled or the block is left early."""
        cancel = self.cancel or Cancellation()
        cancel.check()
        command = ["git", *self.options, *arguments]
        variables = {**self.env, **{name: str(value) for name, value in env.items()}}
        # A session of its own: no terminal to ask for a password on, and one group to kill.
        with _deaf_to_terminals():
            process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]
                command, cwd="/", env=variables, stdin=subprocess.PIPE, start_new_session=True, **streams
            )
        try:
            with cancel.calling(lambda: _kill(process)):
                yield process
        finally:
            _kill(process)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with suppress(BrokenPipeError):
                        stream.close()
            process.wait()
        if process.returncode < 0:
            cancel.check()


def controlled(
    git_dir: Path, *, work_tree: Path | None = None, index: Path | None = None, cancel: Cancellation | None = None
) -> Git:
    """Commands on a repository of ours: always named, never discovered, in an environment that holds nothing else."""
    options = [f"--git-dir={git_dir}"]
    if work_tree is not None:
        options += [f"--work-tree={work_tree}", "-C", str(work_tree)]
    env = {name: os.environ[name] for name in KEPT if name in os.environ}
    env |= QUIET
    env |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ATTR_NOSYSTEM": "1"}
    env |= {"HOME": "/nonexistent"}
    if index is not None:
        env["GIT_INDEX_FILE"] = str(index)
    return Git((*options, *_settings(SETTINGS)), env, cancel)


def of_user(folder: Path, cancel: Cancellation | None = None) -> Git:
    """Commands that read the user's repository at `folder` as the user's own git would find it, and never write.

    The user's configuration says what is ignored and which repositories of other owners may be read.
    """
    env = {**_users_environment(), **QUIET}
    return Git(("-C", str(folder), *_settings(READING)), env, cancel)


def over_network(git_dir: Path, server: str, login: tuple[str, str] | None, cancel: Cancellation | None = None) -> Git:
    """Commands that fetch into a repository of ours, with the user's proxies, certificates and credential helpers.

    Args:
        git_dir: The repository fetched into.
        server: `https://host:port`, the only place that hears the login.
        login: User and password. They reach git in its environment alone, so that no list of processes, no message
            and no file shows them.
        cancel: Kills the transfer.
    """
    settings = [*READING, "gc.auto=0", "maintenance.auto=false", "http.lowSpeedLimit=1", "http.lowSpeedTime=60"]
    env = {**_users_environment(), **QUIET, "GIT_ALLOW_PROTOCOL": "http:https:ssh:git:file"}
    if login:
        env |= {"RLM_GIT_USER": login[0], "RLM_GIT_PASSWORD": login[1]}
        says = r"""!printf 'username=%s\npassword=%s\n' "$RLM_GIT_USER" "$RLM_GIT_PASSWORD" #"""
        settings += ["credential.helper=", f"credential.{server}.helper={says}"]
    return Git((f"--git-dir={git_dir}", *_settings(settings)), env, cancel, FETCH_TIMEOUT)


def require() -> None:
    """Check that there is a git that we can work with.

    Raises:
        SourceError: There is none, or it is too old.
    """
    program = shutil.which("git")
    if program is None:
        raise SourceError("git was not found on PATH: install it (https://git-scm.com/downloads)")
    said = _version(program)
    found = re.search(r"(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < MINIMUM:
        needed = ".".join(map(str, MINIMUM))
        raise SourceError(f"git {needed} or newer is needed, found {said.strip() or 'one that gives no version'!r}")


@cache
def _version(program: str) -> str:
    """What a git says that it is; asked once."""
    return subprocess.run([program, "version"], capture_output=True, check=False).stdout.decode(errors="replace")


def _users_environment() -> dict[str, str]:
    dropped = ("GIT_", "SSH_ASKPASS", "RLM_", "ANTHROPIC_", "OPENAI_")
    return {name: value for name, value in os.environ.items() if name in KEPT_FOR_USER or not name.startswith(dropped)}


def _settings(settings: Iterable[str]) -> list[str]:
    return [part for setting in settings for part in ("-c", setting)]


@contextmanager
def _deaf_to_terminals() -> Iterator[None]:
    """Who is started in this block is not ended by a Ctrl-C, not even by one before it has a session of its own.

    Such a one would find it without the handlers of this process, and in its group. `_kill` is what ends it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _failed(arguments: tuple[str | Path, ...], code: int, err: str) -> GitError:
    command = " ".join(map(str, arguments))
    shown = command if len(command) <= 200 else f"{command[:200]}…"
    return GitError(f"`git {shown}` failed: {err or f'exit code {code}'}")


def _text(err: bytes) -> str:
    """What a command said, the last of it, as valid text."""
    return err.decode("utf-8", "replace").strip()[-2000:]
