"""`rlm-nb resume`: go on with a run that was broken off."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlm_nb.cli.run import LIMITS, announcement, check_writable, run_to_its_end, view_for

if TYPE_CHECKING:
    from rlm_nb.cancellation import Cancellation
    from rlm_nb.controller import RunResult
    from rlm_nb.protocols import Listener


def resume(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Its folder, its id or the beginning of that, or `last`.")
    ] = "last",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the answer there instead of stdout.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Once the task is completed, merge the edits into your files.")
    ] = False,
    runs_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where runs are recorded.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model that answers from now on.")] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(metavar="USD", help="US dollars, with what was spent before.", rich_help_panel=LIMITS),
    ] = None,
    max_iterations: Annotated[
        int | None, typer.Option(metavar="N", help="Turns of one agent, with those before.", rich_help_panel=LIMITS)
    ] = None,
    max_depth: Annotated[
        int | None, typer.Option(metavar="N", help="How deep sub-agents may nest.", rich_help_panel=LIMITS)
    ] = None,
    max_sandboxes: Annotated[
        int | None, typer.Option(metavar="N", help="Agents in all, with those before.", rich_help_panel=LIMITS)
    ] = None,
    max_parallel: Annotated[
        int | None, typer.Option(metavar="N", help="Sub-agents of one agent at a time.", rich_help_panel=LIMITS)
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Seconds from now on.", rich_help_panel=LIMITS)
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show code and outputs, debug logging, tracebacks of errors.")
    ] = False,
) -> None:
    """Go on with a run that was killed, stopped, or ended by a limit, where it stands.

    What was finished and answered is not paid for again: kernels are built anew by running the recorded cells again,
    with the answers that they got. The settings are those of the run, save what is said here.
    """
    from rlm_nb.cli.door import door

    with door(verbose) as keys:
        check_writable(output)
        from rlm_nb import resuming
        from rlm_nb.cli.runs import find_run
        from rlm_nb.config import load
        from rlm_nb.kernel import environment

        folder = find_run(run, load(flags={"runs": {"dir": runs_dir}}).runs.dir)
        limits = {
            "max_sandboxes": max_sandboxes,
            "max_iterations": max_iterations,
            "max_depth": max_depth,
            "max_parallel": max_parallel,
            "global_timeout": timeout,
        }
        flags: dict[str, dict[str, Any]] = {"model": {"name": model}, "rlm": limits, "budget": {"max_cost": max_cost}}
        settings = resuming.settings_of(folder, flags)
        environment.hide(["RLM_MODEL_BASE_URL"])  # it may hold a login
        view = view_for(settings, keys, verbose)

        def begin(listen: Listener, cancel: Cancellation) -> RunResult:
            opening = resuming.resume(folder, settings, secrets=keys.secrets, listen=listen, cancel=cancel)
            with opening as opened:
                view.say(announcement(opened))
                for _ in opened.iterations():
                    pass
            return opened.result

        sys.exit(run_to_its_end(begin, view, keys, output, apply=apply))
