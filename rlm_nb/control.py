"""What may be asked of a run from outside of its process, while it goes on: to stop, what a person decides, to let in.

A run has the folder `.control` in its own one, which only its owner can enter. Who wants something puts a file there,
and the run looks every moment; what waits for a decision lies beside it as a file, too. Files rather than a socket: a
kernel that is kept out of the run's folder is kept from these as well, while some ways of isolation let a process
connect to any socket whose path it knows.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlm_nb.cancellation import Cancellation
from rlm_nb.errors import CancelledError, RLMError, RunFolderError
from rlm_nb.notebook.names import AGENT, place
from rlm_nb.records import JSON, CellResult, Decision, Proposal
from rlm_nb.run_folder import goes_on, write_json
from rlm_nb.workspace.scratch import remove_tree

log = logging.getLogger(__name__)

FOLDER = ".control"
POLL = 0.2
"""Seconds between two looks at what is asked."""

LARGEST = 1 << 24
"""Bytes of a file; no reply of a model, and no cell that a person edits, is longer."""

PATIENCE = 15.0
"""Seconds until a run must have answered."""

KEY = re.compile("[0-9a-f]{16}")

NOT_AT_WORK = "{agent} of {run} is not at work, or has no kernel yet; {others}"

SKIPPED = "The user did not let your cells run."
SAID = "The user did not let your cells run, and says:\n\n{text}"

Review = Callable[[Callable[[str, Cancellation], CellResult], Proposal, Cancellation], Decision]
"""Decides about a proposal; see `controller.Reviewer`."""


class Control:
    """A run's end: hears what is asked for as long as it is open.

    Args:
        folder: The run's folder.
        cancel: Stops the run.
    """

    def __init__(self, folder: Path, cancel: Cancellation) -> None:
        self._folder, self._cancel = folder / FOLDER, cancel
        self._lock = threading.Lock()
        self._agents: dict[str, Cancellation] = {}
        self._asked: dict[str, _Asked] = {}
        self._open: dict[str, Callable[[], Path]] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="rlm-control")

    def __enter__(self) -> Self:
        try:
            remove_tree(self._folder)  # what was asked of a process that was killed is not asked of this one
            self._folder.mkdir(mode=0o700)
        except OSError as error:
            raise RunFolderError(f"{self._folder}: cannot be made: {error.strerror}") from error
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()
        remove_tree(self._folder)

    @contextmanager
    def stoppable(self, agent: str, cancel: Cancellation) -> Iterator[Cancellation]:
        """What stops this agent, and all below it, alone."""
        with cancel.child() as own:
            with self._lock:
                self._agents[agent] = own
            try:
                yield own
            finally:
                with self._lock:
                    self._agents.pop(agent, None)

    @contextmanager
    def attachable(self, agent: str, attach: Callable[[], Path]) -> Iterator[None]:
        """While the block runs, people may be attached to the agent's kernel: `attach` lets one in."""
        with self._lock:
            self._open[agent] = attach
        try:
            yield
        finally:
            with self._lock:
                del self._open[agent]

    def reviewing(self, review: Review) -> Review:
        """The same, while whoever is outside may decide as well: the first decision counts."""

        def reviewed(
            look: Callable[[str, Cancellation], CellResult], proposal: Proposal, cancel: Cancellation
        ) -> Decision:
            with cancel.child() as own, self._asking(proposal, own) as asked:
                try:
                    return review(look, proposal, own)
                except CancelledError:
                    if asked.decision is None:
                        raise
                    return asked.decision

        return reviewed

    @contextmanager
    def _asking(self, proposal: Proposal, cancel: Cancellation) -> Iterator[_Asked]:
        """While the block runs, the proposal lies there to be decided about."""
        asked = _Asked(secrets.token_hex(8), cancel)
        path = self._folder / f"{proposal.agent}.waiting"
        with self._lock:
            self._asked[proposal.agent] = asked
        value: dict[str, JSON] = {"key": asked.key, "agent": proposal.agent, "number": proposal.number}
        value |= {"text": proposal.reply.text, "code": list(proposal.code), "note": proposal.note}
        with suppress(RLMError):  # on a full disk, whoever is inside decides
            write_json(path, value)
        try:
            yield asked
        finally:
            with self._lock:
                del self._asked[proposal.agent]
            path.unlink(missing_ok=True)

    def _listen(self) -> None:
        while not self._closed.wait(POLL):
            for path in sorted(self._folder.glob("*.wanted")):
                try:
                    wanted = _read(path)
                    path.unlink(missing_ok=True)
                    self._do(wanted)
                except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                    log.warning("%s was asked, and cannot be understood: %s", path, error)
                    with suppress(OSError):
                        path.unlink()

    def _do(self, wanted: dict[str, Any]) -> None:
        if wanted["do"] == "attach":
            self._attach(wanted["agent"], wanted["key"])
            return
        with self._lock:
            agent = wanted["agent"]
            stopping = self._agents.get(agent) if agent is not None else self._cancel
            asked = self._asked.get(agent)
        if wanted["do"] == "stop" and stopping is not None:
            stopping.cancel("the user stopped it from outside")
        if wanted["do"] == "decide" and asked is not None and asked.key == wanted["key"]:
            code, said = wanted["code"], wanted["said"]
            asked.decision = Decision(None if code is None else tuple(map(str, code)), said=str(said))
            asked.cancel.cancel("it was decided about elsewhere")

    def _attach(self, agent: str, key: str) -> None:
        if not KEY.fullmatch(key):
            raise ValueError("that is no key")
        with self._lock:
            attach, others = self._open.get(agent), sorted(self._open, key=place)
        try:
            if attach is None:
                live = f"{', '.join(others)} can be attached to" if others else "no agent can be attached to"
                raise RunFolderError(NOT_AT_WORK.format(agent=agent, run=self._folder.parent.name, others=live))
            told: dict[str, JSON] = {"file": str(attach())}
        except RLMError as error:
            told = {"error": str(error)}
        with suppress(RLMError):  # on a full disk, who asked gives up
            write_json(self._folder / f"{key}.answer", told)


class _Asked:
    """A proposal that waits for a decision."""

    def __init__(self, key: str, cancel: Cancellation) -> None:
        self.key, self.cancel = key, cancel
        self.decision: Decision | None = None


def from_outside(look: Callable[[str, Cancellation], CellResult], proposal: Proposal, cancel: Cancellation) -> Decision:
    """Decide nothing oneself: wait for whoever is outside. Raises `CancelledError`."""
    while not cancel.wait():
        pass
    raise CancelledError(cancel.reason)


def stop(run: Path, agent: str | None = None) -> None:
    """Ask a run to stop, or one of its agents with all below it; what there is of a result is kept.

    Raises:
        RunFolderError: The run does not go on, or cannot be reached.
    """
    _want(run, {"do": "stop", "agent": agent})


def attach(run: Path, agent: str = "root") -> Path:
    """Have a person let in to an agent's kernel; returns the connection file for a client of Jupyter's.

    Args:
        run: The folder of the run.
        agent: The agent's path in the tree.

    Raises:
        RunFolderError: The run does not go on, cannot be reached, or lets nobody in; or the agent is not at work.
    """
    key = secrets.token_hex(8)
    answer = run / FOLDER / f"{key}.answer"
    _want(run, {"do": "attach", "agent": agent, "key": key})
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and answer.parent.is_dir():
        with suppress(FileNotFoundError):
            told = _read(answer)
            answer.unlink()
            if "error" in told:
                raise RunFolderError(str(told["error"]))
            return Path(str(told["file"]))
        time.sleep(POLL / 10)
    raise RunFolderError(f"{run.name} does not answer: it may have ended, or be of an older version")


def waiting(run: Path) -> list[dict[str, JSON]]:
    """What of a run waits for a decision: `key`, `agent`, `number`, `text`, `code` and `note` of each proposal."""
    found = []
    for path in sorted((run / FOLDER).glob("*.waiting")):
        with suppress(OSError, ValueError, RecursionError):  # decided about meanwhile
            found.append(_read(path))
    return found


def decide(
    run: Path, agent: str, key: str, *, code: Sequence[str] | None = None, skip: bool = False, said: str = ""
) -> None:
    """Decide about a proposal: let it run as it is, or other cells in its place, or nothing of it.

    Args:
        run: The folder of the run.
        agent: Whose proposal it is.
        key: Which proposal; one that was decided about meanwhile is left alone.
        code: The cells that are run in its place.
        skip: Whether none is run.
        said: What the model is told with that.

    Raises:
        RunFolderError: The run does not go on, or cannot be reached.
    """
    if skip:
        told = SAID.format(text=said) if said else SKIPPED
        _want(run, {"do": "decide", "agent": agent, "key": key, "code": [], "said": told})
    elif code is not None:
        _want(run, {"do": "decide", "agent": agent, "key": key, "code": list(code), "said": as_changed(code)})
    else:
        _want(run, {"do": "decide", "agent": agent, "key": key, "code": None, "said": ""})


def as_changed(code: Sequence[str]) -> str:
    """What a model is told when other cells than its own ran."""
    cells = "\n\n".join(f"```python\n{cell}\n```" for cell in code)
    return f"Before your cells ran, the user changed them. This ran instead of them:\n\n{cells}"


def _want(run: Path, wanted: dict[str, JSON]) -> None:
    """Put a file where the run looks."""
    agent = wanted["agent"]
    if agent is not None and not (isinstance(agent, str) and AGENT.fullmatch(agent)):
        raise RunFolderError(f"{agent!r} is no agent of a run")
    folder = run / FOLDER
    if not goes_on(run) or folder.is_symlink() or not folder.is_dir():
        raise RunFolderError(f"{run.name} does not go on: there is nothing to ask of it")
    write_json(folder / f"{time.time_ns()}-{secrets.token_hex(4)}.wanted", wanted)


def _read(path: Path) -> dict[str, Any]:
    """A file of the folder, if it is ours, and one. Raises `OSError` and `ValueError`."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode) or state.st_uid != os.getuid() or state.st_size > LARGEST:
            raise ValueError("it is no file of ours, or too long")
        value = json.loads(file.read(LARGEST))
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    return value
