"""`rlm-nb replay`: run recorded cells again, with the answers that their calls got."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlm_nb.cli.streams import tell, write
from rlm_nb.notebook.wording import plural

if TYPE_CHECKING:
    from rlm_nb.replaying.headless import Replayed


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Its folder, its id or the beginning of that, or `last`.")],
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="PATH", help="Only this agent, such as 1.2; root for the first.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with code 1 when an output is another one.")] = False,
    runs_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where runs are recorded.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks of errors.")] = False,
) -> None:
    """Run the cells of a recorded run again, and show which outputs are other ones now.

    Each agent's cells run in a temporary copy of the files that it began with, and every call of theirs gets its
    recorded answer: no key, no model and no network is needed. Times, durations, addresses and the names of temporary
    folders count as equal. A cell that was interrupted or took its kernel along is named, and not run.
    """
    from rlm_nb.cli.door import door

    with door(verbose):
        from rlm_nb.cancellation import Cancellation
        from rlm_nb.cli.runs import find_run
        from rlm_nb.cli.signals import unwinding
        from rlm_nb.config import load
        from rlm_nb.kernel.launch import Launcher
        from rlm_nb.replaying import headless

        config = load(flags={"runs": {"dir": runs_dir}})
        folder = find_run(run, config.runs.dir)
        differs = False
        with unwinding(), Launcher(isolation=config.isolation) as launcher:
            tell(launcher.confinement().notice)
            for notebook in notebooks(folder, agent):
                replayed = headless.replay(notebook, launcher, Cancellation())
                for line in told(replayed):
                    tell(line)
                if shown := headless.difference(replayed):
                    write(shown)
                    differs = True
        sys.exit(1 if differs and check else 0)


def notebooks(folder: Path, agent: str | None) -> list[Path]:
    """The notebooks that are asked for, in the order of the tree."""
    from rlm_nb.errors import RunFolderError
    from rlm_nb.notebook.tree import everyone, tree

    found = [node.notebook for node in everyone(tree(folder)) if node.notebook.exists()]
    if agent is None:
        return found
    name = agent if agent.split(".")[0] == "root" else f"root.{agent}"
    wanted = [path for path in found if path.stem == name]
    if not wanted:
        raise RunFolderError(f"{folder} has no notebook of an agent {agent}; it has {', '.join(p.stem for p in found)}")
    return wanted


def told(replayed: Replayed) -> Iterator[str]:
    """How a replay came out, in lines."""
    ran = len(replayed.cells) - len(replayed.left_out)
    differing = len(replayed.differing)
    what = f"{differing} came out otherwise" if differing else "all came out as before"
    yield f"{replayed.agent}: {plural(ran, 'cell')} ran again, {what if ran else 'there is nothing to compare'}"
    names = replayed.past.ids
    for cell in (*replayed.differing, *replayed.left_out):
        yield f"  {names[cell.before.number]}: {cell.difference(to='person')}"
