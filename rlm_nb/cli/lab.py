"""`rlm-nb lab`: JupyterLab where the runs are."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from rlm_nb.cli.streams import tell


def lab(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="The run to open: its id, the beginning of one, its folder, or `last`."),
    ] = None,
    jupyter: Annotated[
        list[str] | None, typer.Argument(metavar="-- OPTIONS", help="What JupyterLab is to be told as well.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    runs_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where runs are recorded.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings (default: config.yaml, if there).")
    ] = None,
) -> None:
    """Start JupyterLab in the folder of the runs, with a run open.

    Its notebooks grow while their agents work, and the panel `Agents` in the left sidebar stops and starts runs.
    """
    from rlm_nb.cli.door import door

    before = dict(os.environ)  # with the key, which runs that the panel starts need
    with door():
        from rlm_nb.cli.runs import find_run
        from rlm_nb.config import load
        from rlm_nb.errors import ConfigError, RunFolderError

        if find_spec("jupyterlab") is None:
            raise ConfigError("JupyterLab is not installed here: pip install 'rlm-nb[lab]'")
        runs = load(config, {"runs": {"dir": runs_dir}}).runs.dir.absolute()
        options = jupyter or []
        if run is not None and run.startswith("-"):  # without a run, what is behind -- comes first
            options = [run, *options]
            run = None
        folder = None if run is None else find_run(run, runs).absolute()
        if folder is not None and folder.parent != runs:
            runs = folder.parent
        if not runs.is_dir():
            raise RunFolderError(f"no runs are recorded in {runs}: there is no such folder")
        # From the folder above, a run can be started as well.
        root = Path.cwd() if runs.is_relative_to(Path.cwd()) else runs
        shown = runs if folder is None else next((path for path in _notebooks(folder) if path.exists()), folder)
        told = [
            f"--ServerApp.root_dir={root}",
            f"--FileContentsManager.preferred_dir={runs}",
            f"--LabApp.default_url=/lab/tree/{quote(str(shown.relative_to(root)))}",
            *([] if browser else ["--no-browser"]),
            *options,
        ]
        tell(f"JupyterLab on {root}; Ctrl-C ends it.")
        # In our place: what reaches us, such as Ctrl-C, reaches it.
        os.execve(sys.executable, [sys.executable, "-m", "jupyterlab", *told], before)


def _notebooks(folder: Path) -> list[Path]:
    return [folder / "root.ipynb", folder / "task.ipynb"]
