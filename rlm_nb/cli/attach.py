"""`rlm-nb attach`: a person's way into the kernel of an agent at work."""

from __future__ import annotations

import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from rlm_nb.cli.streams import tell, write

HOW = """\
{agent} is at work in {run}. To use its kernel beside it:

  rlm-nb attach {again} --console

or, where Ctrl-C need not interrupt its cell,

  jupyter console --existing {file}
{spec}
What you run there takes turns with its cells, is recorded in its notebook as yours, and is told to its model.
To quit is to detach: the agent goes on.
"""

IN_LAB = """\

or, in JupyterLab, choose the kernel "{title}" for a notebook or a console: {name}
"""


def attach(
    what: Annotated[
        str,
        typer.Argument(metavar="RUN[:AGENT]", help="A run as for `rlm-nb tree`; an agent of it, root.1 or 1."),
    ] = "last",
    console: Annotated[bool, typer.Option("--console", help="Open `jupyter console` in it, here.")] = False,
    runs_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where runs are recorded.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings (default: config.yaml, if there).")
    ] = None,
) -> None:
    """Use the kernel of an agent at work: prints its connection file, and how clients of Jupyter are attached."""
    from rlm_nb.cli.door import door

    before = dict(os.environ)
    with door():
        from rlm_nb import control, live_specs
        from rlm_nb.cli.runs import again, find_run, parts
        from rlm_nb.config import load
        from rlm_nb.errors import ConfigError

        name, agent, number = parts(what)
        if number is not None:
            raise typer.BadParameter(f"{what!r} is not RUN:AGENT, as in last:root.1")
        if console and find_spec("jupyter_console") is None:
            raise ConfigError("jupyter console is not installed here: pip install jupyter-console")
        run = find_run(name, load(config, {"runs": {"dir": runs_dir}}).runs.dir).resolve()
        agent = agent or "root"
        file = control.attach(run, agent)
        spec = live_specs.name_of(run, agent)
        if console:
            tell(f"The kernel of {agent}; Ctrl-C interrupts its cell, exit() detaches, and the agent goes on.")
            # A console interrupts a kernel only that it has started itself: so far as it knows, it does.
            how = f"--existing={file}" if spec is None else f"--kernel={spec}"
            # In our place: what reaches us, such as Ctrl-C, reaches it.
            os.execve(sys.executable, [sys.executable, "-m", "jupyter_console", how], before)
        shown = "" if spec is None else IN_LAB.format(title=live_specs.title(run, agent), name=spec)
        name = again(run).replace(run.name, f"{run.name}:{agent}", 1)
        tell(HOW.format(agent=agent, run=run.name, again=name, file=shlex.quote(str(file)), spec=shown))
        if not sys.stdout.isatty():
            write(str(file))  # for jupyter console --existing "$(rlm-nb attach last)"
