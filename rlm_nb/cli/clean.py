"""`rlm-nb clean`: removes what killed runs have left behind, or a recorded run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rlm_nb.cli.streams import tell, write


def clean(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="The run to remove: its id, the beginning of one, its folder, or `last`."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove a run without asking.")] = False,
    runs_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where runs are recorded.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings (default: config.yaml, if there).")
    ] = None,
) -> None:
    """Remove what killed runs have left: temporary folders, processes that their cells had started, and kernelspecs.

    With RUN, remove that run instead: its notebooks, its patch, and the commits that its agents ended in.
    """
    from rlm_nb.cli.door import door

    with door():
        if run is None:
            _sweep(dry_run)
        else:
            from rlm_nb.cli.runs import find_run
            from rlm_nb.config import load

            _remove(find_run(run, load(config, {"runs": {"dir": runs_dir}}).runs.dir), dry_run, yes)


def _sweep(dry_run: bool) -> None:
    """Processes first: they may still write into the folders."""
    import psutil

    from rlm_nb.errors import RunFolderError
    from rlm_nb.live_specs import abandoned as abandoned_specs
    from rlm_nb.workspace.scratch import abandoned, remove_tree
    from rlm_nb.workspace.strays import strays

    processes, folders = strays(), [*abandoned(), *abandoned_specs()]
    for process in processes:
        try:
            name = process.name()
            if not dry_run:
                process.kill()
        except psutil.NoSuchProcess:  # it has ended by itself
            continue
        write(f"{'would kill' if dry_run else 'killed'} process {process.pid} ({name})")
    if not dry_run:
        psutil.wait_procs(processes, timeout=2)
    stay = []
    for folder in folders:
        if not dry_run and not remove_tree(folder):
            stay.append(str(folder))
            continue
        write(f"{'would remove' if dry_run else 'removed'} {folder}")
    if stay:
        raise RunFolderError(f"could not be removed: {', '.join(stay)}")
    if not processes and not folders:
        tell("Killed runs have left nothing behind.")


def _remove(folder: Path, dry_run: bool, yes: bool) -> None:
    from rlm_nb.errors import RunFolderError
    from rlm_nb.run_folder import goes_on
    from rlm_nb.workspace.scratch import remove_tree

    if folder.is_symlink():
        raise RunFolderError(f"{folder} is a link; what it leads to is not removed by that name")
    folder = folder.resolve()
    if goes_on(folder):
        raise RunFolderError(f"{folder} goes on; stop it first")
    if dry_run:
        write("\n".join(f"would remove {path}" for path in (folder, *sorted(folder.iterdir()))))
        return
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("nobody is there to be asked whether the run is to be removed: say --yes")
        tell(f"Remove {folder}, with its notebooks and commits? [y/N]")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            tell("It stays.")
            sys.exit(1)
    if not remove_tree(folder):
        raise RunFolderError(f"{folder} could not be removed")
    write(f"removed {folder}")
