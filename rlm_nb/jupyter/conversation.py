"""A run as a conversation: a task, an answer, a word on it, and so on, with one agent and its kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rlm_nb import resuming
from rlm_nb.audience import ignore
from rlm_nb.cancellation import Cancellation
from rlm_nb.cli.door import Keys
from rlm_nb.config import Config
from rlm_nb.controller import RunResult
from rlm_nb.notebook.reader import read
from rlm_nb.protocols import Listener
from rlm_nb.records import Answer, Event, Proposal
from rlm_nb.stepping import Session, session


class Conversation:
    """What is said to one agent, and what it does about it, until it is left. Nothing is left running after `leave`.

    Args:
        open_: Makes the session, of a listener and a signal.
        max_iterations: What the agent's turns are counted against.
    """

    def __init__(self, open_: Callable[[Listener, Cancellation], Session], max_iterations: int) -> None:
        self._listen: Listener = ignore
        self._cancel = Cancellation()
        self._session = open_(self._hear, self._cancel)
        self.max_iterations = max_iterations
        self.steps = False
        self.proposal: Proposal | None = None
        self._result: RunResult | None = None

    @classmethod
    def begin(cls, task: str, where: str, settings: Config, keys: Keys) -> Conversation:
        """A new one, which begins with a task."""

        def open_(listen: Listener, cancel: Cancellation) -> Session:
            return session(task, where, settings, secrets=keys.secrets, listen=listen, cancel=cancel, conversation=True)

        return cls(open_, settings.rlm.max_iterations)

    @classmethod
    def resume(cls, folder: Path, text: str, keys: Keys) -> Conversation:
        """Go on with one that has ended: its kernel is built anew from the record. It gets as many turns again."""
        settings = resuming.settings_of(folder, {})
        most = len(read(folder / "root.ipynb").iterations) + settings.rlm.max_iterations
        settings = resuming.settings_of(folder, {"rlm": {"max_iterations": most}})

        def open_(listen: Listener, cancel: Cancellation) -> Session:
            def go_on(**more: object) -> object:
                said = {"root": text}  # a new word, in place of what was stopped
                return resuming.resume(folder, settings, secrets=keys.secrets, said=said, again=False, **more)  # type: ignore[arg-type]

            return Session(go_on, listen, cancel, conversation=True)

        return cls(open_, most)

    @property
    def goes_on(self) -> bool:
        """Whether the agent can be told something."""
        return self._result is None and (self.proposal is not None or self._session.answered is not None)

    @property
    def proposes(self) -> bool:
        """Whether it waits for what becomes of its cells."""
        return self.goes_on and self.proposal is not None

    @property
    def answered(self) -> Answer | None:
        """Its answer, while it waits for a word on it."""
        return self._session.answered

    @property
    def result(self) -> RunResult | None:
        """What the run leaves behind, once it has ended."""
        return self._result

    @property
    def has_begun(self) -> bool:
        """Whether there is a run."""
        return self._session.has_begun

    @property
    def folder(self) -> Path:
        """The run's. Raises what kept it from starting."""
        return self._session.run.folder

    @property
    def notebook(self) -> Path:
        """The agent's."""
        return self.folder / "root.ipynb"

    def propose(self) -> None:
        """Wait until the agent has answered, proposes something that is to be judged, or has ended."""
        while True:
            self.proposal = self._session.propose()
            if self.proposal is None or self.steps:
                break
            self._session.execute()
        if self.proposal is None and self._session.answered is None:
            self._result = self._session.result

    def say(self, text: str) -> None:
        """A word on its answer, or on what it proposes, which is not run then."""
        if self.proposal is not None:
            self._session.message(text)
        else:
            self._session.say(text)
        self.propose()

    def run(self, code: str) -> None:
        """Run what it proposes, or this in its place."""
        if self.proposal is not None:
            if code.strip() and code.strip("\n") != "\n\n".join(self.proposal.code).strip("\n"):
                self._session.edit(code.strip("\n"))
            self._session.execute()
        self.propose()

    def go_on(self) -> None:
        """Run what it proposes, and all that comes."""
        self.run("")

    def stop(self, reason: str) -> None:
        """End the run, and keep what there is."""
        self._cancel.cancel(reason)

    def leave(self) -> None:
        """End the conversation; the agent's last answer is that of the run."""
        if self._result is None and self.has_begun:
            self._result = self._session.finish()
        self._cancel.cancel("the conversation was left")

    @contextmanager
    def heard_by(self, listen: Listener) -> Iterator[None]:
        """Tell `listen` what happens while the block runs."""
        self._listen = listen
        try:
            yield
        finally:
            self._listen = ignore

    def _hear(self, event: Event) -> None:
        self._listen(event)
