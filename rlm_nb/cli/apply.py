"""`rlm-nb apply`: take over what an agent of a run changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from rlm_nb.cli.streams import tell, write
from rlm_nb.notebook.wording import headline, plural


def apply(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the beginning of one, its folder, or `last`.")],
    agent: Annotated[str, typer.Option(metavar="AGENT", help="Whose edits: root, or 1.2 for root.1.2.")] = "root",
    branch: Annotated[
        str | None,
        typer.Option(
            "--branch", "-b", metavar="NAME", help="Put them on a new branch instead, as a commit; touch no file."
        ),
    ] = None,
    runs_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where runs are recorded.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Settings (default: config.yaml, if there).")
    ] = None,
) -> None:
    """Merge what an agent changed into the files that the run started from, as they are now: all of it or nothing.

    What you changed there meanwhile stays; where both of you changed the same lines, nothing is changed, and the files
    are named. Of your repository neither the index nor anything else is touched.

    With --branch, the edits become a commit on a new branch, on top of the commit that the run started from; what was
    not committed then is no part of it.
    """
    from rlm_nb.cli.door import door

    with door():
        from rlm_nb.cli.runs import find_run
        from rlm_nb.config import load
        from rlm_nb.errors import RunFolderError
        from rlm_nb.run_folder import goes_on
        from rlm_nb.workspace.files import named

        folder = find_run(run, load(config, {"runs": {"dir": runs_dir}}).runs.dir)
        if goes_on(folder):
            raise RunFolderError(f"{folder} goes on: wait for its end, or stop it")
        said, files = bring_home(folder, agent, branch)
        tell(said)
        if files:
            write("\n".join(named([os.fsencode(file)]) for file in files))


def bring_home(folder: Path, agent: str = "root", branch: str | None = None) -> tuple[str, list[str]]:
    """Take over the edits of an agent; returns what was done in a sentence, and the files that this changed.

    Raises:
        RLMError: They cannot be taken over, and nothing was changed.
    """
    from rlm_nb.cli.signals import unwinding
    from rlm_nb.run_folder import where_edits_belong
    from rlm_nb.workspace.apply import apply as apply_edits
    from rlm_nb.workspace.branch import branch as make_branch
    from rlm_nb.workspace.recorded import recorded

    home = where_edits_belong(folder)
    with unwinding(), recorded(folder) as run:
        edits = run.edits(agent)
        if edits.base == edits.commit:
            return f"{edits.agent} has changed nothing.", []
        if branch is None:
            files = apply_edits(edits, home)
            where = f"in {home.checkout}"
            return f"{plural(len(files), 'file')} changed {where}" if files else f"all of it is {where} already", files
        subject = headline(home.task)[:72]
        message = f"{subject}\n\nrlm-nb run {folder.resolve().name}, {edits.agent}\n"
        commit, files = make_branch(run, edits, home, branch, message)
    return f"branch {branch} is commit {commit[:10]}, on top of {home.commit[:10]}; {plural(len(files), 'file')}", files
