"""`rlm-nb step`: go through a run step by step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlm_nb.cli.run import FLAGS, LIMITS, WHERE, announcement, check_writable, run_to_its_end, task_from

if TYPE_CHECKING:
    from rlm_nb.cancellation import Cancellation
    from rlm_nb.controller import RunResult
    from rlm_nb.protocols import Listener

A_DAY = 24 * 3600.0
"""Seconds that a run may take in which a person thinks, when nobody says otherwise."""


def step(
    source: Annotated[
        str, typer.Argument(metavar="REPO_OR_URL", help="The repository or folder to work on, or the URL of one.")
    ],
    prompt: Annotated[str, typer.Option("--prompt", "-p", metavar="TEXT", help="The task.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings (default: config.yaml, if there).")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the answer there instead of stdout.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Once the task is completed, merge the edits into your files.")
    ] = False,
    branch: Annotated[
        str | None,
        typer.Option("--branch", "-b", metavar="NAME", help="Start from this branch.", rich_help_panel=WHERE),
    ] = None,
    commit: Annotated[
        str | None, typer.Option(metavar="SHA", help="Start from this commit.", rich_help_panel=WHERE)
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
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Seconds for the whole run.", rich_help_panel=LIMITS)
    ] = A_DAY,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks of errors.")] = False,
) -> None:
    """Let an agent work on a repository, and decide about each of its replies before anything of it runs.

    Each reply is shown, and you are asked: run it, edit it, skip it, answer the model instead, look at the variables,
    undo. What you change is recorded as yours, and the model is told.
    """
    from rlm_nb.cli.door import door

    with door(verbose) as keys:
        task = task_from(prompt)
        check_writable(output)
        from rlm_nb.cli.asking import STEP, Screen, follow
        from rlm_nb.config import load
        from rlm_nb.kernel import environment
        from rlm_nb.models.keyboard import Keyboard
        from rlm_nb.stepping import session

        flags: dict[str, dict[str, Any]] = {
            "model": {"name": model},
            "rlm": {"max_iterations": max_iterations, "global_timeout": timeout},
            "budget": {"max_cost": max_cost},
            "runs": {"dir": runs_dir},
        }
        settings = load(config, flags, FLAGS)
        environment.hide(["RLM_MODEL_BASE_URL"])  # it may hold a login
        screen = Screen(settings.rlm.max_iterations, keys.redact)

        def begin(listen: Listener, cancel: Cancellation) -> RunResult:
            opening = session(
                task,
                source,
                settings,
                secrets=keys.secrets,
                branch=branch,
                commit=commit,
                listen=listen,
                cancel=cancel,
            )
            with opening as stepping:
                screen.say(announcement(stepping.run))
                follow(stepping, screen, Keyboard(), cancel, STEP)
            return stepping.result

        sys.exit(run_to_its_end(begin, screen, keys, output, apply=apply))
