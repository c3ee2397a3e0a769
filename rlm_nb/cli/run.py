"""`rlm-nb run`: put agents to work on a repository."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlm_nb.cli.streams import tell, write, write_file
from rlm_nb.cli.wording import tokens
from rlm_nb.notebook.wording import duration, headline, money, plural

if TYPE_CHECKING:
    from rlm_nb.cancellation import Cancellation
    from rlm_nb.cli.door import Keys
    from rlm_nb.cli.live import View
    from rlm_nb.config import Config
    from rlm_nb.controller import Run, RunResult
    from rlm_nb.protocols import Listener
    from rlm_nb.records import AgentResult, Status

EXIT_CODES = (
    "Exit codes: 0 the task is completed; 1 an error; 2 wrong usage or settings; 3 a partial result, since a "
    "limit was reached; 70 a fault of rlm-nb itself; 130 after Ctrl-C, 143 after SIGTERM."
)
EXIT_CODE: dict[Status, int] = {"completed": 0, "error": 1, "partial": 3}
LIMITS, WHERE = "Limits", "Where"
FLAGS = {
    "model.name": "--model",
    "rlm.max_sandboxes": "--max-sandboxes",
    "rlm.max_iterations": "--max-iterations",
    "rlm.max_depth": "--max-depth",
    "rlm.max_parallel": "--max-parallel",
    "rlm.global_timeout": "--timeout",
    "budget.max_cost": "--max-cost",
}
"""The flags by the settings that they set."""


def run(
    source: Annotated[
        str, typer.Argument(metavar="REPO_OR_URL", help="The repository or folder to work on, or the URL of one.")
    ],
    prompt: Annotated[str, typer.Option("--prompt", "-p", metavar="TEXT", help="The task; - reads it from stdin.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings (default: config.yaml, if there).")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the answer there instead of stdout.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Once the task is completed, merge the edits into your files.")
    ] = False,
    approve: Annotated[
        bool, typer.Option("--approve", help="Ask about the cells of each reply, of every agent, before they run.")
    ] = False,
    approve_in_lab: Annotated[
        bool, typer.Option("--approve-in-lab", help="The same, in the panel of JupyterLab only.")
    ] = False,
    while_stdin_is_open: Annotated[bool, typer.Option(hidden=True)] = False,
    branch: Annotated[
        str | None,
        typer.Option("--branch", "-b", metavar="NAME", help="Start from this branch.", rich_help_panel=WHERE),
    ] = None,
    commit: Annotated[
        str | None, typer.Option(metavar="SHA", help="Start from this commit.", rich_help_panel=WHERE)
    ] = None,
    context: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A text that the agent finds in its REPL as `context`.",
            exists=True,
            dir_okay=False,
            readable=True,
            rich_help_panel=WHERE,
        ),
    ] = None,
    runs_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the run is recorded.", rich_help_panel=WHERE)
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model that answers.")] = None,
    max_cost: Annotated[
        float | None, typer.Option(metavar="USD", help="US dollars, all agents together.", rich_help_panel=LIMITS)
    ] = None,
    max_iterations: Annotated[
        int | None, typer.Option(metavar="N", help="Turns of one agent.", rich_help_panel=LIMITS)
    ] = None,
    max_depth: Annotated[
        int | None, typer.Option(metavar="N", help="How deep sub-agents may nest.", rich_help_panel=LIMITS)
    ] = None,
    max_sandboxes: Annotated[
        int | None, typer.Option(metavar="N", help="Agents in all, the first included.", rich_help_panel=LIMITS)
    ] = None,
    max_parallel: Annotated[
        int | None, typer.Option(metavar="N", help="Sub-agents of one agent at a time.", rich_help_panel=LIMITS)
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Seconds for the whole run.", rich_help_panel=LIMITS)
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show code and outputs, debug logging, tracebacks of errors.")
    ] = False,
) -> None:
    """Let an agent work on a repository; its answer goes to stdout, its notebook and its edits are kept.

    The repository itself is only read: edits come home with `rlm-nb apply`, or with --apply.
    """
    from rlm_nb.cli.door import door

    with door(verbose) as keys:
        task = task_from(prompt)
        check_writable(output)
        from rlm_nb.config import load

        limits = {
            "max_sandboxes": max_sandboxes,
            "max_iterations": max_iterations,
            "max_depth": max_depth,
            "max_parallel": max_parallel,
            "global_timeout": timeout,
        }
        flags: dict[str, dict[str, Any]] = {
            "model": {"name": model},
            "rlm": limits,
            "budget": {"max_cost": max_cost},
            "runs": {"dir": runs_dir},
        }
        settings = load(config, flags, FLAGS)
        from rlm_nb import controller
        from rlm_nb.control import from_outside
        from rlm_nb.errors import SourceError
        from rlm_nb.kernel import environment

        environment.hide(["RLM_MODEL_BASE_URL"])  # it may hold a login
        view = view_for(settings, keys, verbose, asking=approve)

        def begin(listen: Listener, cancel: Cancellation) -> RunResult:
            def check(opened: Run) -> None:
                if apply and opened.source.top is None:
                    raise SourceError(f"{opened.source.origin} has no files to --apply edits to: leave that away")
                view.say(announcement(opened))

            if while_stdin_is_open:
                Thread(target=_until_stdin_ends, args=[cancel], daemon=True).start()
            named: dict[str, Any] = {"secrets": keys.secrets, "branch": branch, "commit": commit, "context": context}
            if approve:
                return _approved(task, source, settings, view, check, listen=listen, cancel=cancel, **named)
            if approve_in_lab:
                view.say("Cells wait for you in the panel of JupyterLab; rlm-nb lab starts it.")
                named["review"] = from_outside
            with controller.open_run(task, source, settings, listen=listen, cancel=cancel, **named) as opened:
                check(opened)
                for _ in opened.iterations():
                    pass
            return opened.result

        sys.exit(run_to_its_end(begin, view, keys, output, apply=apply))


def _until_stdin_ends(cancel: Cancellation) -> None:
    """Stop the run once whoever started it is gone, be it killed: its end of the pipe is closed then."""
    while os.read(0, 1024):
        pass
    cancel.cancel("what started it has ended")


def _approved(
    task: str,
    source: str,
    settings: Config,
    view: View,
    check: Callable[[Run], None],
    *,
    cancel: Cancellation,
    **named: Any,
) -> RunResult:
    """Run, and ask about each reply's cells."""
    from rlm_nb.cli.asking import APPROVE, Screen, follow
    from rlm_nb.models.keyboard import Keyboard
    from rlm_nb.stepping import session

    assert isinstance(view, Screen)
    with session(task, source, settings, cancel=cancel, sub_agents=True, **named) as stepping:
        check(stepping.run)
        follow(stepping, view, Keyboard(), cancel, APPROVE)
    return stepping.result


def run_to_its_end(
    begin: Callable[..., RunResult], view: View, keys: Keys, output: Path | None, *, apply: bool = False
) -> int:
    """Run, report, hand over the answer, apply the edits if that is wanted; returns the exit code."""
    from rlm_nb.cli.following import followed
    from rlm_nb.cli.signals import Interruption
    from rlm_nb.errors import RLMError

    with Interruption() as interruption:
        try:
            result = followed(begin, view, interruption)
        except RLMError as error:  # cancelled, or a git that the same Ctrl-C had reached
            if interruption.signal is None:
                raise
            tell(keys.redact(f"Ended before the first agent began: {error}"))
            return interruption.exit_code
        for line in summary(result):
            tell(keys.redact(line))
        for fault in result.faults:
            tell(keys.redact(f"Error: {fault}"))
        whole = _deliver(result.root, output) and not result.faults
    # From here on a Ctrl-C unwinds: nothing is to stay half applied.
    whole = (not apply or _apply(result, keys)) and whole
    return interruption.exit_code or EXIT_CODE[result.root.status if whole else "error"]


def view_for(settings: Config, keys: Keys, verbose: bool, *, asking: bool = False) -> View:
    """What shows the run on standard error; with `verbose`, what rlm-nb logs, too; with `asking`, questions."""
    from rlm_nb.cli.live import View, can_draw

    if asking:
        from rlm_nb.cli.asking import Screen

        return Screen(settings.rlm.max_iterations, keys.redact)

    # A person who types the cells needs the terminal to stay as it is.
    human = "human" in (settings.model.provider, settings.model.name)
    view = View(
        sys.stderr,
        tree=can_draw(sys.stderr) and not human,
        max_iterations=settings.rlm.max_iterations,
        verbose=verbose,
        redact=keys.redact,
    )
    if verbose:
        # Ours only: other libraries log what they send, keys included.
        logger = logging.getLogger("rlm_nb")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(_ViewHandler(view))
    return view


class _ViewHandler(logging.Handler):
    """Log records as lines of the view."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view

    def emit(self, record: logging.LogRecord) -> None:
        """Show the record."""
        self._view.say(f"{record.name}: {self.format(record)}")


def task_from(prompt: str) -> str:
    """The task, read from standard input when it is given as `-`."""
    if prompt == "-":
        if sys.stdin is None:
            raise typer.BadParameter("standard input is closed", param_hint="--prompt")
        prompt = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    try:
        if prompt != prompt.encode("utf-8", "replace").decode():  # in another locale, arguments come as bytes
            prompt = os.fsencode(prompt).decode()
    except UnicodeError:
        raise typer.BadParameter("the task is not UTF-8", param_hint="--prompt") from None
    if not prompt.strip():
        raise typer.BadParameter("the task is empty", param_hint="--prompt")
    return prompt


def check_writable(output: Path | None) -> None:
    """Find out before any money is spent whether the answer will have a place."""
    if output is None:
        return
    try:
        there = output.absolute().exists()  # raises where we may not look, and for a name that is too long
        if output.is_dir():
            raise typer.BadParameter(f"{output} is a folder", param_hint="--output")
        if not output.parent.is_dir():
            raise typer.BadParameter(f"there is no folder {output.parent}", param_hint="--output")
    except OSError as error:
        raise typer.BadParameter(f"{output}: {error.strerror}", param_hint="--output") from None
    if not os.access(output if there else output.parent, os.W_OK):
        raise typer.BadParameter(f"{output} cannot be written", param_hint="--output")


def announcement(opened: Run) -> str:
    """What goes on, now that nothing keeps it from beginning; a URL is without its login by now."""
    rlm, cost = opened.config.rlm, opened.config.budget.max_cost
    limits = [
        "no cost limit" if cost is None else money(round(cost * 1_000_000)),
        plural(rlm.max_sandboxes, "agent"),
        duration(rlm.global_timeout),
    ]
    source = opened.source.origin
    where = _short(Path(source)) if source.startswith("/") else source
    return f"{where} with {opened.model.name}; at most {', '.join(limits)}; recorded in {_short(opened.folder)}"


def summary(result: RunResult) -> list[str]:
    """How the run ended, where its notebook and its patch are, and what it took."""
    root, agents = result.root, list(_everyone(result.root))
    took = [
        money(result.balance.spent_cost),
        f"{tokens(result.balance.spent)} tokens",
        plural(len(agents), "agent"),
        duration(root.ended - root.started),
    ]
    patch = "none" if root.patch.notes else "none, nothing was changed"
    if result.patch_file is not None:
        from rlm_nb.cli.runs import again
        from rlm_nb.workspace.apply import Home, instruction

        home = Home(result.repository, result.checkout)
        how = instruction(home, result.patch_file.absolute(), f"rlm-nb apply {again(result.folder)}")
        patch = f"{_short(result.patch_file)} ({plural(len(root.patch.files), 'file')}); {how}"
    return [
        f"{root.status}: {headline(root.outcome.stop_reason)}",
        f"notebook: {_short(root.notebook)}",
        f"patch:    {patch}",
        *(f"          {headline(note)}" for note in root.patch.notes if note not in result.faults),
        f"took:     {', '.join(took)}",
    ]


def _apply(result: RunResult, keys: Keys) -> bool:
    """Merge the root's edits into the user's files, if it is done; whether nothing went wrong."""
    from rlm_nb.cli.apply import bring_home
    from rlm_nb.cli.runs import again
    from rlm_nb.errors import RLMError

    root = result.root
    if root.status != "completed" or root.patch.error:
        tell(
            f"Not applied, since it is no complete result; `rlm-nb apply {again(result.folder)}` does so all the same."
        )
        return True
    try:
        tell(f"applied:  {bring_home(result.folder)[0]}")
    except RLMError as error:
        tell(keys.redact(f"Error: the edits were not applied: {error}"))
        return False
    return True


def _short(path: Path) -> Path:
    """As seen from the current folder, when it is below that."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was deleted under us
        return path
    return path.relative_to(here) if path.is_relative_to(here) else path


def _everyone(agent: AgentResult) -> Iterator[AgentResult]:
    yield agent
    for child in agent.children:
        yield from _everyone(child)


def _deliver(root: AgentResult, output: Path | None) -> bool:
    """Hand over the answer, if there is one; whether that went well. It is in the notebook in any case."""
    if root.outcome.source == "none":
        tell("There is no answer.")
        return True
    try:
        if output is None:
            write(root.answer.text)
        else:
            write_file(root.answer.text.rstrip("\n") + "\n", output)
    except OSError as error:
        tell(f"Error: the answer could not be written to {output or 'stdout'}: {error.strerror or error}")
        return False
    return True
