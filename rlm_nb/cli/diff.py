"""`rlm-nb diff`: what an agent of a run changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlm_nb.cli.streams import tell, write_bytes
from rlm_nb.notebook.wording import printable

if TYPE_CHECKING:
    from rich.text import Text

STYLES = {"+": "green", "-": "red", "@": "cyan"}
"""By the first character of a line below a file's head; all others are as they are."""


def diff(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="A run's id, the beginning of one, its folder, or `last`."),
    ] = "last",
    agent: Annotated[str, typer.Option(metavar="AGENT", help="Whose edits: root, or 1.2 for root.1.2.")] = "root",
    runs_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where runs are recorded.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings (default: config.yaml, if there).")
    ] = None,
) -> None:
    """Print what an agent changed since it started, up to the last state that was kept, as a patch for `git apply`.

    On a terminal it is coloured, and of binary files it says only that they differ.
    """
    from rlm_nb.cli.door import door

    with door():
        from rlm_nb.cli.runs import find_run
        from rlm_nb.config import load
        from rlm_nb.workspace import patch
        from rlm_nb.workspace.recorded import recorded

        settings = load(config, {"runs": {"dir": runs_dir}})
        shown = sys.stdout.isatty()
        with recorded(find_run(run, settings.runs.dir)) as commits:
            edits = commits.edits(agent)
            largest = settings.workspace.max_file_size
            found = patch.between(commits.git, edits.base, edits.commit, largest=largest, binary=not shown)
        for note in found.notes:
            tell(note)
        if not found.files:
            tell(f"{edits.agent} has changed nothing.")
        try:
            if shown:
                from rich.console import Console

                console = Console(highlight=False, emoji=False)
                for line in _coloured(found.text):
                    console.print(line, soft_wrap=True)
            else:
                write_bytes(found.text.encode("utf-8", "surrogateescape"))
        except OSError as error:
            tell(f"Error: the edits could not be written to stdout: {error.strerror or error}")
            sys.exit(1)


def _coloured(text: str) -> Iterator[Text]:
    """The lines of a patch, as they are fit for a terminal: what a model wrote commands nothing."""
    from rich.text import Text

    head = True
    for line in text.removesuffix("\n").split("\n") if text else ():
        if line.startswith("diff --git "):
            head = True
        elif line.startswith("@@ "):
            head = False
        # A carriage return would look like the beginning of another line.
        yield Text(printable(line.replace("\r", "")), "bold" if head else STYLES.get(line[:1], ""))
