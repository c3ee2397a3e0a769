"""An agent whose cells a person runs in his own notebook: proposed one by one, edited at will, told to the model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rlm_nb.controller import RunResult
from rlm_nb.errors import RLMError
from rlm_nb.jupyter import view
from rlm_nb.jupyter.here import Here
from rlm_nb.notebook.wording import headline
from rlm_nb.protocols import Listener
from rlm_nb.records import CellResult, Event, Notice, Proposal
from rlm_nb.stepping import Session

ASKING = {"text/plain": "The model is asked …"}
ENDED = {"text/plain": "The run has ended."}


class Steps:
    """A run that goes on from one cell of a notebook to the next.

    Args:
        here: The kernel.
        open_: Makes the session, of a listener and of the hands that run its cells.
        shell: The kernel's `InteractiveShell`.
        redact: Applied to all that is shown.
    """

    def __init__(
        self, here: Here, open_: Callable[[Listener, Any], Session], shell: Any, redact: Callable[[str], str]
    ) -> None:
        self._shell, self._redact = shell, redact
        self._proposal: Proposal | None = None
        self._ran: list[CellResult] = []
        with ExitStack() as stack:
            self.here = stack.enter_context(here)
            self.session = stack.enter_context(open_(_tell_notices, here.hands))
            self._stack = stack.pop_all()

    def close(self) -> None:
        """End the run, if it goes on."""
        self._stack.close()

    def step(self) -> RunResult | None:
        """Tell the model what became of its cells, and propose the next one; the result, once the run has ended."""
        self._ran += self.here.ran()
        if self._proposal is not None and (self._ran or not self._proposal.code):
            if (following := self._following(self._proposal)) is not None:
                self._insert(following)
                return None
            return self._go_on(self._execute)
        return self._go_on()

    def skip(self) -> RunResult | None:
        """Tell the model that its cells were not run, and propose the next ones."""
        return self._go_on(self.session.skip)

    def message(self, text: str) -> RunResult | None:
        """The same, with a word of the person's."""
        return self._go_on(lambda: self.session.message(text))

    def finish(self, answer: str | None) -> RunResult:
        """End the run: with an answer, or with what there is."""
        return self.session.finish(answer)

    def _following(self, proposal: Proposal) -> str | None:
        """The next cell of a reply that has several, as long as those before it ran as they were proposed, and well."""
        done = len(self._ran)
        as_proposed = tuple(cell.code for cell in self._ran) == proposal.code[:done]
        well = all(cell.status == "ok" and cell.final is None for cell in self._ran)
        return proposal.code[done] if as_proposed and well and done < len(proposal.code) else None

    def _execute(self) -> None:
        """What the person ran is what the agent runs."""
        assert self._proposal is not None
        codes = tuple(cell.code for cell in self._ran)
        if codes != self._proposal.code[: len(codes)]:
            self.session.edit(*codes)
        self.here.feed(self._ran)
        self.session.execute()

    def _go_on(self, act: Callable[[], object] | None = None) -> RunResult | None:
        """Do something about the proposal, if there is one, and show the next one; else this one once more."""
        show = view.on_screen(ASKING)
        if act is not None:
            self._decide(act)
        # An interrupt ends the waiting only; the next step finds what has come by then.
        self._proposal = self.session.propose()
        if self._proposal is None:
            show(ENDED)
            return self.session.result
        show(view.proposed(self._proposal, self._redact, "%rlm_step"))
        if self._proposal.code:
            self._insert(self._proposal.code[0])
        return None

    def _decide(self, act: Callable[[], object]) -> None:
        if self._proposal is None and self.session.propose() is None:
            raise RLMError("the run has ended: there is nothing to decide about")
        try:
            act()
        finally:  # an interrupt ends the waiting for the end of the iteration, which has begun
            self._proposal, self._ran = None, []

    def _insert(self, code: str) -> None:
        self._shell.set_next_input(code, replace=False)


def _tell_notices(event: Event) -> None:
    if isinstance(event, Notice):
        print(headline(event.text))  # noqa: T201
