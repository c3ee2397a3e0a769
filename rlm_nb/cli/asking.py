"""Asks a person on the terminal about what a model proposes: what `rlm-nb step` and `rlm-nb run --approve` share."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.syntax import Syntax

from rlm_nb.cli import lines
from rlm_nb.cli.live import View
from rlm_nb.cli.wording import outputs_text, tokens
from rlm_nb.models.keyboard import END, Keyboard
from rlm_nb.notebook.layout import prose
from rlm_nb.notebook.wording import money, plural, printable
from rlm_nb.records import CellOutput, CellStarted, Event, Iterated

if TYPE_CHECKING:
    from rlm_nb.cancellation import Cancellation
    from rlm_nb.records import Proposal
    from rlm_nb.stepping import Session

NEXT_CELL = "# ---- the next cell ----"
"""The line between the cells of a reply in an editor."""

APPROVE, STEP = "resmq", "resmngvbuq"
"""What may be chosen, by the first letters of the words below."""

WORDS = {
    "r": ("run", "run it (or just press Enter)"),
    "e": ("edit", "edit it in $EDITOR; say then what becomes of it"),
    "s": ("skip", "do not run it, and tell the model so"),
    "m": ("message", "do not run it, and answer the model: m TEXT, or m and lines that end with one of only `.`"),
    "n": ("next", "go on to the next sub-agent that is new, and step through what it does, too"),
    "g": ("go", "go on alone to the end"),
    "v": ("variables", "show the variables, or the value of an expression: v EXPRESSION"),
    "b": ("budget", "show what is spent and what is left"),
    "u": ("undo", "undo all after an earlier iteration of this agent: u 3; u 0 for a new beginning"),
    "q": ("quit", "stop the run, and keep what there is"),
}


class Screen(View):
    """What happens, as plain lines, at once: a question comes after what it is about."""

    def __init__(self, max_iterations: int, redact: Callable[[str], str]) -> None:
        super().__init__(sys.stderr, tree=False, max_iterations=max_iterations, redact=redact)
        self._most, self._clean = max_iterations, redact
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._writing = threading.Lock()

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __call__(self, event: Event) -> None:
        """Show the event, if it is worth a line."""
        if isinstance(event, CellOutput | CellStarted):
            return
        for line in lines.told(event, self._most):
            self.say(f"{event.agent}: {line}")
        if isinstance(event, Iterated):
            for cell in event.iteration.cells:
                if text := outputs_text(cell.outputs).strip("\n"):
                    self.say(text)

    def paint(self) -> None:
        """Nothing waits to be shown."""

    def say(self, text: str) -> None:
        """Show a text; from any thread."""
        with self._writing:
            self._console.print(printable(self._clean(text)), markup=False)

    def show(self, proposal: Proposal) -> None:
        """Show what a model proposes, its cells highlighted."""
        reply = proposal.reply
        cost = f"{tokens(reply.usage)} tokens, {money(reply.cost)}"
        with self._writing:
            self._console.rule(f"{proposal.agent}, iteration {proposal.number}: {cost}", style="dim")
            self._console.print(printable(self._clean(prose(reply.text, proposal.code))), markup=False)
            for code in proposal.code:
                self._console.print(Syntax(printable(self._clean(code)), "python", background_color="default"))
            if not proposal.code:
                self._console.print(proposal.note or "There is no cell in this reply.", markup=False)

    def ask(self, question: str) -> None:
        """Show a question, and leave the cursor behind it."""
        with self._writing:
            self._console.print(question, markup=False, end="")


def follow(session: Session, screen: Screen, keyboard: Keyboard, cancel: Cancellation, choices: str) -> None:
    """Ask about each proposal until the run ends.

    Args:
        session: The run.
        screen: Where it is shown.
        keyboard: Where the answers come from; when there are none any more, the run is stopped.
        cancel: Ends the waiting.
        choices: The letters of what may be chosen, of `WORDS`.
    """
    from rlm_nb.errors import CancelledError, RLMError

    short = ", ".join(f"({letter}){WORDS[letter][0][1:]}" for letter in choices)
    while (proposal := session.propose()) is not None:
        screen.show(proposal)
        decided = False
        while not decided:
            screen.ask(f"{short}, (?): ")
            try:
                with session.while_it_waits(cancel) as still:
                    line = keyboard.line(still)
                decided = _do(
                    session, screen, keyboard, cancel, choices, proposal, "q" if line is None else line.strip()
                )
            except CancelledError:  # the run ends by itself, or somebody else decided
                decided = True
            except RLMError as error:
                screen.say(f"{error}.")


def _do(
    session: Session,
    screen: Screen,
    keyboard: Keyboard,
    cancel: Cancellation,
    choices: str,
    proposal: Proposal,
    line: str,
) -> bool:
    """Do what was typed; whether the proposal is decided about."""
    word, _, rest = line.partition(" ")
    letter, rest = (word[:1].lower() or "r"), rest.strip()
    if letter not in choices or not WORDS[letter][0].startswith(word.lower()):
        for one in choices:
            screen.say(f"  {WORDS[one][0]:10} {WORDS[one][1]}")
        return False
    match letter:
        case "r":
            session.execute()
        case "e":
            if (code := edited(proposal.code)) is not None:
                screen.show(session.edit(*code))
            return False
        case "s":
            session.skip()
        case "m":
            text = rest
            if not text:
                screen.say(f"What do you say? End it with a line of only {END!r}.")
                text = "\n".join(keyboard.lines(cancel) or [])
            if not text.strip():
                return False
            session.message(text)
        case "n":
            session.to_next_sub_agent()
        case "g":
            session.go_on()
        case "v":
            found = session.look(rest) if rest else session.look()
            screen.say(outputs_text(found.outputs).strip("\n") or "There is nothing to see.")
            return False
        case "b":
            screen.say(_budget(session))
            return False
        case "u":
            if not rest.isdecimal():
                screen.say(f"Undo to which iteration? `u {max(0, proposal.number - 1)}` asks the model once more.")
                return False
            session.rewind(int(rest))
        case _:
            cancel.cancel("the user ended it")
    return True


def _budget(session: Session) -> str:
    balance = session.balance
    left = "no limit of money" if balance.left_cost is None else f"{money(balance.left_cost)} left"
    agents = plural(balance.sandboxes, "agent")
    return f"{money(balance.spent_cost)} spent, {left}; {balance.calls} calls, {agents}, {tokens(balance.spent)} tokens"


def edited(code: Sequence[str]) -> list[str] | None:
    """The cells after a person has changed them in an editor; `None` when they are as they were."""
    before = f"\n{NEXT_CELL}\n".join(code)
    with tempfile.NamedTemporaryFile("w", suffix=".py", prefix="rlm-cell-", encoding="utf-8") as file:
        file.write(before + "\n")
        file.flush()
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
        # As git does: the variable may hold arguments, too.
        done = subprocess.run(["sh", "-c", f'{editor} "$@"', editor, file.name], check=False)
        after = Path(file.name).read_text(encoding="utf-8", errors="replace").rstrip("\n")  # some editors replace it
    if done.returncode or after == before:
        return None
    return [cell.strip("\n") for cell in after.split(NEXT_CELL) if cell.strip()]
