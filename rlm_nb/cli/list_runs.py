"""`rlm-nb runs`: what was run here, the latest first."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from rlm_nb.cli.streams import tell, write

NOTEBOOKS = ("run.json", "root.ipynb", "task.ipynb")
"""A folder with one of these is that of a run, or was meant to be."""

COLOURS = {"completed": "green", "partial": "yellow", "running": "cyan"}
"""By status; any other is red."""


def runs(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    runs_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where runs are recorded.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings (default: config.yaml, if there).")
    ] = None,
) -> None:
    """List the runs of agents and of bounded tasks, the latest first: how each ended, what it took, what was asked."""
    from rlm_nb.cli.door import door

    with door():
        import json

        from rlm_nb.config import load
        from rlm_nb.errors import RunFolderError

        folder = load(config, {"runs": {"dir": runs_dir}}).runs.dir
        try:
            listed = sorted(found(folder.iterdir()), key=lambda run: run["started"], reverse=True)
        except OSError as error:
            raise RunFolderError(f"no runs are recorded in {folder}: {error.strerror}") from None
        try:
            if as_json:
                write(json.dumps(listed, indent=2, ensure_ascii=False))
            elif not listed:
                tell(f"No runs are recorded in {folder}.")
            elif sys.stdout.isatty():
                _print(listed)
            else:
                write("\n".join(" · ".join(filter(None, _row(run))) for run in listed))
        except OSError as error:
            tell(f"Error: the runs could not be written to stdout: {error.strerror or error}")
            sys.exit(1)


def found(folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Each that is a run's, whatever state it is in."""
    from rlm_nb.errors import RunFolderError
    from rlm_nb.run_folder import summary

    for folder in folders:
        try:
            if not any(_is_there(folder / name) for name in NOTEBOOKS):
                continue
            run = vars(summary(folder))
        except (RunFolderError, OSError) as error:
            run = {"id": folder.name, "status": "damaged", "started": _changed(folder), "stop_reason": str(error)}
        yield {"folder": str(folder), **{name: value for name, value in run.items() if name != "answer"}}


def _is_there(path: Path) -> bool:
    """Whether there is anything of this name, be it a link that leads nowhere. Raises `OSError`."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _changed(folder: Path) -> float:
    try:
        return folder.lstat().st_mtime
    except OSError:
        return 0.0


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    """The run, its status, when it began, how long it took, what it cost, its agents, and what was asked."""
    from rlm_nb.notebook.wording import duration, first_line, money, plural

    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(run["started"]))
    name, status = first_line(run["id"]), first_line(run["status"])
    if run["status"] == "damaged":
        return name, status, begun, "", "", "", first_line(run["stop_reason"])
    took = duration(run["ended"] - run["started"]) if run["ended"] else ""
    cost = "" if run["cost"] is None else money(round(run["cost"] * 1e6))
    who = "task" if run["kind"] == "task" else plural(run["agents"], "agent") if run["agents"] else ""
    return name, status, begun, took, cost, who, first_line(run["task"])


def _print(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title, justify in {"run": "left", "status": "left", "begun": "left", "took": "right", "cost": "right"}.items():
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("", no_wrap=True)
    table.add_column("asked", no_wrap=True, overflow="ellipsis")
    for run in found:
        name, status, *rest = map(Text, _row(run))
        status.stylize(COLOURS.get(status.plain, "red"))
        table.add_row(name, status, *rest)
    Console(highlight=False).print(table)
