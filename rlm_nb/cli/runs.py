"""Which run a person means."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

import typer

from rlm_nb.config import load
from rlm_nb.errors import ConfigError, RunFolderError

FEW = 5
"""How many runs are named when more than one is meant."""


def find_run(name: str, runs_dir: Path) -> Path:
    """The folder of a run: given as a path, its id, the beginning of its id, or `last`.

    Raises:
        RunFolderError: There is none, or there are several, or it cannot be read.
    """
    if not name:
        raise RunFolderError("the name of a run is empty")
    try:
        if name != "last" and _is_run(Path(name)):
            return Path(name)
    except OSError as error:
        raise RunFolderError(f"{name} cannot be read: {error.strerror}") from None
    try:
        runs = _latest_first(runs_dir)
    except OSError as error:
        raise RunFolderError(f"no runs are recorded in {runs_dir}: {error.strerror}") from None
    if not runs:
        raise RunFolderError(f"no runs are recorded in {runs_dir}")
    if name == "last":
        return runs[0]
    found = [folder for folder in runs if folder.name == name] or [run for run in runs if run.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        more = f" and {len(found) - FEW} more" if len(found) > FEW else ""
        raise RunFolderError(f"several runs begin with {name}: {', '.join(run.name for run in found[:FEW])}{more}")
    raise RunFolderError(f"no run in {runs_dir} is called {name}; the last one is {runs[0].name}")


def parts(what: str) -> tuple[str, str, int | None]:
    """The run, the agent's path and the number of its iteration; no agent is the empty string."""
    # A path may hold colons of its own; what is there as it stands is meant as it stands.
    if ":" not in what or Path(what).exists():
        return what, "", None
    name, *rest = what.split(":")
    agent, number = (*rest, "", "")[:2]
    if len(rest) > 2 or (number and not number.isdecimal()):
        raise typer.BadParameter(f"{what!r} is not RUN:AGENT:ITERATION, as in last:root.1:3")
    agent = agent if agent.startswith("root") or not agent else f"root.{agent}"
    return name or "last", agent or "root", int(number) if number else None


def again(folder: Path) -> str:
    """How a person names a run to another verb, in the same folder: its id, and its place where that is needed."""
    try:
        known = load().runs.dir.resolve() == folder.parent.resolve()
    except ConfigError:
        known = False
    return folder.name if known else f"{folder.name} --runs-dir {shlex.quote(str(folder.parent))}"


def _latest_first(runs_dir: Path) -> list[Path]:
    """The runs; a folder that may not be looked at, or goes away meanwhile, is none."""
    found = []
    for folder in runs_dir.iterdir():
        with suppress(FileNotFoundError, PermissionError):
            if _is_run(folder):
                found.append((_begun(folder), folder))
    return [folder for _, folder in sorted(found, reverse=True)]


def _is_run(folder: Path) -> bool:
    return (folder / "run.json").is_file() or (folder / "root.ipynb").is_file()


def _begun(folder: Path) -> float:
    # The settings are written once, when the run begins; the other files go on changing.
    first = folder / "config.yaml"
    return (first if first.exists() else folder).stat().st_mtime
