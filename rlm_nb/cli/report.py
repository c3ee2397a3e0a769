"""`rlm-nb report`: a run as pages for a browser."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rlm_nb.cli.streams import tell, write


def report(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="A run's id, the beginning of one, its folder, or `last`."),
    ] = "last",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to (default: report/ in the run's folder)."),
    ] = None,
    runs_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where runs are recorded.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings (default: config.yaml, if there).")
    ] = None,
) -> None:
    """Write a run as static pages: its tree, its timeline, what it cost, its edits, and every notebook.

    They need nothing but themselves: no server, no network. What models and cells wrote is shown in them, and can do
    nothing. The path of the first page is printed.
    """
    from rlm_nb.cli.door import door

    with door():
        from rlm_nb.cli.runs import find_run
        from rlm_nb.config import load
        from rlm_nb.report.site import report as write_report

        folder = find_run(run, load(config, {"runs": {"dir": runs_dir}}).runs.dir)
        written = write_report(folder, output or folder / "report")
        for fault in written.faults:
            tell(f"Left out: {fault}")
        try:
            write(str(written.index))
        except OSError as error:
            tell(f"Error: the path could not be written to stdout: {error.strerror or error}")
            sys.exit(1)
