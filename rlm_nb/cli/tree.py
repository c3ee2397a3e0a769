"""`rlm-nb tree`: the agents of a run, with links to their notebooks."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from rlm_nb.cli.streams import tell, write


def tree(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="A run's id, the beginning of one, its folder, or `last`."),
    ] = "last",
    runs_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where runs are recorded.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings (default: config.yaml, if there).")
    ] = None,
) -> None:
    """Print the tree of a run's agents: how each one ended, what it cost, and its notebook."""
    from rlm_nb.cli.door import door

    with door():
        from rlm_nb.cli.runs import find_run
        from rlm_nb.config import load
        from rlm_nb.errors import RunFolderError
        from rlm_nb.notebook.tree import as_rich, as_text, at_work
        from rlm_nb.notebook.tree import tree as read_tree
        from rlm_nb.run_folder import summary

        folder = find_run(run, load(config, {"runs": {"dir": runs_dir}}).runs.dir)
        node = read_tree(folder)
        with suppress(RunFolderError):  # without a run.json that says so, nobody is known to be at work
            node = at_work(node) if summary(folder).status == "running" else node
        try:
            if sys.stdout.isatty():
                from rich.console import Console

                Console(highlight=False).print(as_rich(node))
            else:
                write(as_text(node))
        except OSError as error:
            tell(f"Error: the tree could not be written to stdout: {error.strerror or error}")
            sys.exit(1)
