"""`rlm-nb init`: a folder to begin with."""

from __future__ import annotations

import errno
import os
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from rlm_nb.cli.streams import tell

FILES = {
    "config.yaml": "config.yaml",
    "env.example": ".env.example",
    "example_task.py": "tasks/example_task.py",
    "script.yaml": "tasks/script.yaml",
    "CLAUDE.md": "CLAUDE.md",
}
"""The files of the template, and where they go."""


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where; it is made if it is not there.")] = Path(),
) -> None:
    """Put settings, an example of a task and a policy for coding agents into a folder; never overwrites a file."""
    from rlm_nb.cli.door import door

    with door():
        from rlm_nb.errors import SourceError

        template = files("rlm_nb.cli") / "template"
        for name, place in FILES.items():
            path = folder / place
            try:
                _make_folder(path.parent)
                _write_new(path, (template / name).read_bytes())
            except FileExistsError:
                tell(f"kept  {path}, which is there already")
            except OSError as error:
                raise SourceError(f"{path}: cannot be written: {error.strerror}") from error
            else:
                tell(f"wrote {path}")
        where = "" if folder == Path() else f", in {folder}"
        tell(f"To try it{where}: rlm-nb task TEXT --task tasks.example_task:main_points")
        tell("Without a key:  … --model scripted:tasks/script.yaml")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # something else is there: no reason to believe that our file is, too
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, whole or not at all."""
    with path.open("xb", buffering=0) as file:
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            path.unlink()
            raise
