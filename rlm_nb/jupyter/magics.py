"""The magics of `%load_ext rlm_nb`: agents at work from a notebook, thin over what the commands and sessions do."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_cell_magic, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from rlm_nb import config
from rlm_nb.cancellation import Cancellation
from rlm_nb.cli import budget, replay
from rlm_nb.cli.apply import bring_home
from rlm_nb.cli.door import Keys
from rlm_nb.cli.following import followed
from rlm_nb.cli.run import FLAGS, announcement
from rlm_nb.cli.runs import find_run
from rlm_nb.cli.step import A_DAY
from rlm_nb.controller import RunResult, open_run
from rlm_nb.errors import RLMError, RunFolderError, SourceError
from rlm_nb.jupyter import view
from rlm_nb.jupyter.given import context_of
from rlm_nb.jupyter.here import Here
from rlm_nb.jupyter.interrupts import Interrupts
from rlm_nb.jupyter.steps import Steps
from rlm_nb.kernel import environment
from rlm_nb.kernel.launch import Launcher
from rlm_nb.ledger import BudgetFile
from rlm_nb.notebook.markup import in_html
from rlm_nb.notebook.tree import Node, as_text, facts, tree
from rlm_nb.protocols import Listener
from rlm_nb.replaying import headless
from rlm_nb.run_folder import goes_on
from rlm_nb.stepping import Session, session

RESULT = "_rlm"
"""The variable that holds the result of the last run."""

Function = Callable[..., Any]


def _text(argument: str) -> str:
    """An argument as it was meant: IPython leaves the quotes around it."""
    quoted = len(argument) > 1 and argument[0] == argument[-1] and argument[0] in "'\""
    return argument[1:-1] if quoted else argument


def _run_options(function: Function) -> Function:
    """What `%%rlm` and `%%rlm_step` share, named as for `rlm-nb run`."""
    options = [
        argument(
            "source", nargs="?", default=".", type=_text, help="The repository or folder to work on, or the URL of one."
        ),
        argument("--model", "-m", metavar="NAME", type=_text, help="The model that answers."),
        argument("--config", "-c", metavar="FILE", type=_text, help="Settings (default: config.yaml, if there)."),
        argument("--output", "-o", metavar="NAME", default=RESULT, help="The variable that gets the AgentResult."),
        argument("--here", action="store_true", help="--context names variables of this notebook."),
        argument(
            "--context",
            metavar="FILE_OR_NAME",
            type=_text,
            action="append",
            default=[],
            help="A text that the agent finds in its REPL as `context`: a file, or with --here a variable.",
        ),
        argument("--branch", "-b", metavar="NAME", type=_text, help="Start from this branch."),
        argument("--commit", metavar="SHA", help="Start from this commit."),
        argument("--runs-dir", metavar="DIR", type=_text, help="Where the run is recorded."),
        argument("--max-cost", metavar="USD", type=float, help="US dollars, all agents together."),
        argument("--max-iterations", metavar="N", type=int, help="Turns of one agent."),
        argument("--max-depth", metavar="N", type=int, help="How deep sub-agents may nest."),
        argument("--max-sandboxes", metavar="N", type=int, help="Agents in all, the first included."),
        argument("--max-parallel", metavar="N", type=int, help="Sub-agents of one agent at a time."),
        argument("--timeout", metavar="SECONDS", type=float, help="Seconds for the whole run."),
    ]
    for option in options:
        function = option(function)
    return function


def _which_run(function: Function) -> Function:
    option = argument("run", nargs="?", type=_text, help="A run's id, the beginning of one, its folder, or `last`.")
    decorated: Function = option(function)
    return decorated


@magics_class
class RLMMagics(Magics):  # type: ignore[misc]
    """Agents from a notebook."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._keys = Keys({})
        self._last: Path | None = None
        self._steps: Steps | None = None
        self._steps_output = RESULT

    @magic_arguments()
    @_run_options
    @argument("--apply", action="store_true", help="Once the task is completed, merge the edits into your files.")
    @cell_magic
    def rlm(self, line: str, cell: str) -> None:
        """Let an agent work on the task that stands in the cell, and show what it does.

        The interrupt of the kernel ends the run with what there is. The result is in `_rlm`, or in the variable that
        --output names: its `.answer.text`, `.status`, `.patch`, `.notebook`.
        """
        args = parse_argstring(self.rlm, line)
        with self._door() as keys:
            settings = _settings(args)
            task, context = self._task(args, cell)
            shown = view.NotebookView(view.on_screen, settings.rlm.max_iterations, keys.redact)

            def begin(listen: Listener, cancel: Cancellation) -> RunResult:
                with open_run(
                    task,
                    args.source,
                    settings,
                    secrets=keys.secrets,
                    branch=args.branch,
                    commit=args.commit,
                    context=context,
                    listen=listen,
                    cancel=cancel,
                ) as opened:
                    if args.apply and opened.source.top is None:
                        raise SourceError(f"{opened.source.origin} has no files to --apply edits to: leave that away")
                    shown.recorded_in(opened.folder)
                    shown.say(announcement(opened))
                    for _ in opened.iterations():
                        pass
                return opened.result

            with Interrupts() as interrupts:
                result = followed(begin, shown, interrupts)
            self._leave(result, args.output, keys)
            if args.apply and result.root.status == "completed":
                _bring_home(result.folder)
        if interrupts.signal:
            raise _told(KeyboardInterrupt(f"the run was stopped; {args.output} holds what there is"))

    @magic_arguments()
    @_run_options
    @argument("--skip", action="store_true", help="Do not run what is proposed, and tell the model so.")
    @argument("--say", metavar="TEXT", type=_text, help="Do not run what is proposed, and answer the model with this.")
    @argument("--answer", metavar="TEXT", type=_text, help="End with this answer.")
    @argument("--stop", action="store_true", help="End with what there is.")
    @line_cell_magic
    def rlm_step(self, line: str, cell: str | None = None) -> None:
        """Let a model propose cells that you run yourself, in this notebook, with your variables and your files.

        %%rlm_step with a task below it begins. What the model proposes is put below as a cell: change it if you want,
        and run it. %rlm_step tells the model what came of it, and puts the next one below. Other cells that you run in
        between are told to it as well.
        """
        args = parse_argstring(self.rlm_step, line)
        with self._door() as keys:
            if cell is not None:
                self._begin_steps(args, cell, keys)
            if self._steps is None:
                raise UsageError("nothing was begun: %%rlm_step with a task below it does")
            steps, ended = self._steps, True
            try:
                if args.stop or args.answer is not None:
                    result: RunResult | None = steps.finish(args.answer)
                elif args.say is not None:
                    result = steps.message(args.say)
                else:
                    result = steps.skip() if args.skip else steps.step()
                ended = result is not None
            except KeyboardInterrupt:  # of the waiting: the run goes on
                ended = False
                raise
            finally:
                if ended:
                    steps.close()
                    self._steps = None
            if result is not None:
                self._leave(result, self._steps_output, keys)

    @magic_arguments()
    @_which_run
    @line_magic
    def rlm_tree(self, line: str) -> None:
        """Show the agents of a run, by default of the last one: how each ended, what it cost, and its notebook."""
        args = parse_argstring(self.rlm_tree, line)
        with self._door():
            node = tree(self._folder(args.run))
            html = "".join(_branches(node, 0))
            view.on_screen({"text/plain": as_text(node), "text/html": f'<div style="{view.STYLE}">{html}</div>'})

    @magic_arguments()
    @_which_run
    @line_magic
    def rlm_budget(self, line: str) -> None:
        """Show the budget of a run, by default of the last one: its limits, what was spent, and what is reserved."""
        args = parse_argstring(self.rlm_budget, line)
        with self._door():
            path = self._folder(args.run) / "budget.json"
            print("\n".join(budget.lines(budget.facts(path, BudgetFile.look(path), time.time()))))  # noqa: T201

    @magic_arguments()
    @_which_run
    @argument("--agent", metavar="AGENT", default="root", help="Whose edits: root, or 1.2 for root.1.2.")
    @argument(
        "--branch",
        "-b",
        metavar="NAME",
        type=_text,
        help="Put them on a new branch instead, as a commit; touch no file.",
    )
    @line_magic
    def rlm_apply(self, line: str) -> None:
        """Merge what an agent of a run, by default of the last one, changed into your files: all of it or nothing."""
        args = parse_argstring(self.rlm_apply, line)
        with self._door():
            folder = self._folder(args.run)
            if goes_on(folder):
                raise RunFolderError(f"{folder} goes on: wait for its end, or stop it")
            _bring_home(folder, args.agent, args.branch)

    @magic_arguments()
    @_which_run
    @argument("--agent", metavar="PATH", help="Only this agent, such as 1.2; root for the first.")
    @line_magic
    def rlm_replay(self, line: str) -> None:
        """Run the cells of a run again, by default of the last one, and show which outputs are other ones now.

        They run in kernels of their own, in temporary copies of their files, and every call gets its recorded answer.
        """
        args = parse_argstring(self.rlm_replay, line)
        with self._door(), Launcher(isolation=config.load().isolation) as launcher:
            print(launcher.confinement().notice)  # noqa: T201
            for notebook in replay.notebooks(self._folder(args.run), args.agent):
                replayed = headless.replay(notebook, launcher, Cancellation())
                print("\n".join([*replay.told(replayed), headless.difference(replayed)]).rstrip())  # noqa: T201

    @contextmanager
    def _door(self) -> Iterator[Keys]:
        """Keys are taken off the environment on the way in; an error of ours becomes a sentence on the way out."""
        if self._steps is not None:
            self._steps.here.mine()
        try:
            self._keys = Keys({**self._keys.secrets, **config.secrets()})
            environment.hide(config.KEYS)
            yield self._keys
        except RLMError as error:
            error.args = (self._keys.redact(str(error)),)
            raise _told(error) from None

    def _begin_steps(self, args: Namespace, cell: str, keys: Keys) -> None:
        if self._steps is not None:
            raise UsageError("another task goes on: %rlm_step --stop ends it")
        if args.timeout is None:
            args.timeout = A_DAY
        settings = _settings(args)
        task, context = self._task(args, cell)

        def open_(listen: Listener, hands: Any) -> Session:
            return session(
                task,
                args.source,
                settings,
                secrets=keys.secrets,
                branch=args.branch,
                commit=args.commit,
                context=context,
                listen=listen,
                hands=hands,
            )

        here = Here(self.shell, settings.kernel.max_output_bytes)
        self._steps = Steps(here, open_, self.shell, keys.redact)
        self._steps_output = args.output
        self._steps.here.mine()

    def _task(self, args: Namespace, cell: str) -> tuple[str, Path | TextIO | None]:
        """The task and its context."""
        if not cell.strip():
            raise UsageError("the cell holds no task")
        if not args.output.isidentifier():
            raise UsageError(f"--output {args.output}: is no name of a variable")
        if args.here:
            if not args.context:
                raise UsageError("--here wants the names of variables: --here --context NAME")
            text, said = context_of(args.context, self.shell.user_ns)
            return f"{cell.rstrip()}\n\n{said}", text
        if len(args.context) > 1:
            raise UsageError("there is one --context; with --here, names of variables")
        return cell, Path(args.context[0]) if args.context else None

    def _leave(self, result: RunResult, name: str, keys: Keys) -> None:
        """Show how a run ended, and leave its result."""
        self.shell.user_ns[name] = result.root
        self._last = result.folder
        view.on_screen(view.ended(result, keys.redact, "%rlm_apply"))
        if result.root.status == "error":
            raise RLMError(f"there is no answer: {result.root.outcome.stop_reason}")

    def _folder(self, run: str | None) -> Path:
        """The folder of the run that is meant: the last one of this notebook, or of all."""
        if run is None and self._last is not None:
            return self._last
        return find_run(run or "last", config.load().runs.dir)


def _settings(args: Namespace) -> config.Config:
    flags: dict[str, dict[str, Any]] = {
        "model": {"name": args.model},
        "rlm": {
            "max_sandboxes": args.max_sandboxes,
            "max_iterations": args.max_iterations,
            "max_depth": args.max_depth,
            "max_parallel": args.max_parallel,
            "global_timeout": args.timeout,
        },
        "budget": {"max_cost": args.max_cost},
        "runs": {"dir": args.runs_dir},
    }
    return config.load(Path(args.config) if args.config else None, flags, FLAGS)


def _bring_home(folder: Path, agent: str = "root", branch: str | None = None) -> None:
    said, files = bring_home(folder, agent, branch)
    print("\n".join([said, *files]))  # noqa: T201


def _branches(node: Node, depth: int) -> Iterator[str]:
    label = " · ".join([view.link(node.agent, node.notebook), *map(in_html, facts(node))])
    yield f'<div style="padding-left: {2 * depth}em">{label}</div>'
    for child in node.children:
        yield from _branches(child, depth + 1)


def _told(error: BaseException) -> BaseException:
    """The error, which IPython shows in a sentence, without the lines of code that it came from."""
    said = f"{type(error).__name__}: {error}"
    error._render_traceback_ = lambda: [said]  # type: ignore[attr-defined]
    return error
