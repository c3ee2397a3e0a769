"""`rlm-nb fork`: a new run that goes on from an earlier iteration of a recorded one."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlm_nb.cli.run import LIMITS, announcement, check_writable, run_to_its_end, view_for

if TYPE_CHECKING:
    from rlm_nb.cancellation import Cancellation
    from rlm_nb.controller import RunResult
    from rlm_nb.protocols import Listener

_AT = re.compile(r"(?:(?P<agent>(?:root(?:\.\d+)*|\d+(?:\.\d+)*)):)?(?P<iteration>\d+)")


def fork(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Its folder, its id or the beginning of that, or `last`.")],
    at: Annotated[
        str,
        typer.Option(metavar="[AGENT:]N", help="The last iteration that both share: 3, or 1.2:3 for a sub-agent's."),
    ],
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="What the agent is told now, by you.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the answer there instead of stdout.")
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Once the task is completed, merge the edits into your files.")
    ] = False,
    runs_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where runs are recorded.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model that answers from there on.")] = None,
    max_cost: Annotated[
        float | None, typer.Option(metavar="USD", help="US dollars for the new run.", rich_help_panel=LIMITS)
    ] = None,
    max_iterations: Annotated[
        int | None, typer.Option(metavar="N", help="Turns of one agent, shared ones too.", rich_help_panel=LIMITS)
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Seconds for the new run.", rich_help_panel=LIMITS)
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show code and outputs, debug logging, tracebacks of errors.")
    ] = False,
) -> None:
    """Begin a new run that shares a recorded one's first iterations, and goes on from there.

    Kernels are built anew by running the shared cells again, with the answers that they got. The other run stays as it
    is; the new one has a budget of its own.
    """
    from rlm_nb.cli.door import door

    with door(verbose) as keys:
        found = _AT.fullmatch(at)
        if found is None:
            raise typer.BadParameter(f"{at!r} is no iteration: say 3, or 1.2:3 for one of root.1.2", param_hint="--at")
        name = found["agent"] or "root"
        agent = name if name.startswith("root") else f"root.{name}"
        check_writable(output)
        from rlm_nb import resuming
        from rlm_nb.cli.runs import find_run
        from rlm_nb.config import load
        from rlm_nb.kernel import environment

        folder = find_run(run, load(flags={"runs": {"dir": runs_dir}}).runs.dir)
        flags: dict[str, dict[str, Any]] = {
            "model": {"name": model},
            "rlm": {"max_iterations": max_iterations, "global_timeout": timeout},
            "budget": {"max_cost": max_cost},
            "runs": {"dir": folder.absolute().parent},
        }
        settings = resuming.settings_of(folder, flags)
        environment.hide(["RLM_MODEL_BASE_URL"])  # it may hold a login
        view = view_for(settings, keys, verbose)

        def begin(listen: Listener, cancel: Cancellation) -> RunResult:
            opening = resuming.fork(
                folder,
                settings,
                agent,
                int(found["iteration"]),
                secrets=keys.secrets,
                listen=listen,
                cancel=cancel,
                said=prompt or "",
            )
            with opening as opened:
                view.say(announcement(opened))
                for _ in opened.iterations():
                    pass
            return opened.result

        sys.exit(run_to_its_end(begin, view, keys, output, apply=apply))
