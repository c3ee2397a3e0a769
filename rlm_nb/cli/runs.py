"""Which run a person means."""

from __future__ import annotations

from pathlib import Path

from rlm_nb.errors import RunFolderError


def find_run(name: str, runs_dir: Path) -> Path:
    """The folder of a run: given as a path, its id, the beginning of its id, or `last`.

    Raises:
        RunFolderError: There is none, or there are several.
    """
    if name != "last" and _is_run(Path(name)):
        return Path(name)
    try:
        runs = sorted(folder for folder in runs_dir.iterdir() if _is_run(folder))
    except OSError as error:
        raise RunFolderError(f"no runs are recorded in {runs_dir}: {error.strerror}") from None
    if not runs:
        raise RunFolderError(f"no runs are recorded in {runs_dir}")
    if name == "last":
        return max(runs, key=_begun)
    found = [folder for folder in runs if folder.name == name] or [run for run in runs if run.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise RunFolderError(f"several runs begin with {name}: {', '.join(folder.name for folder in found)}")
    raise RunFolderError(f"no run in {runs_dir} is called {name}; the last one is {max(runs, key=_begun).name}")


def _is_run(folder: Path) -> bool:
    return (folder / "run.json").is_file() or (folder / "root.ipynb").is_file()


def _begun(folder: Path) -> tuple[float, str]:
    # The settings are written once, when the run begins; the other files go on changing.
    first = folder / "config.yaml"
    return (first if first.exists() else folder).stat().st_mtime, folder.name
